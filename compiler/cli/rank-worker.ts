/** One rank in a worker thread: opens its device, runs its part of the plan, reports once. */
import { parentPort, workerData } from "node:worker_threads";
import type { Device } from "../../runtime/device.ts";
import { formsOf } from "../../runtime/plan.ts";
import { runRank } from "../../runtime/run.ts";
import {
  type RankJob,
  type RankReport,
  type RankStep,
  WorkerTransport,
} from "../../runtime/transports/worker.ts";
import type { Transport } from "../../runtime/transport.ts";
import { ncclTransport } from "../../runtime/transports/nccl.ts";
import { slowTransport } from "../../runtime/transports/slow.ts";
import { type DeviceName, makeDevice } from "./devices.ts";

const job = workerData as RankJob;
const { plan, manifest, files, inputs, sizes, warmup } = job;
const own = new WorkerTransport(plan.rank, job.ports, job.timeoutMs);
let transport: Transport = job.link ? slowTransport(own, job.link) : own;

async function run(): Promise<RankReport> {
  let device: Device | null = null;
  try {
    device = await makeDevice(job.device as DeviceName, job.options);
    if (job.nccl) {
      transport = await ncclTransport({ device, control: own, timeoutMs: job.timeoutMs });
    }
    const encoder = new TextEncoder();
    const read = (path: string) => encoder.encode(files.get(path));
    await device.load({ manifest, read }, formsOf([plan]));
    const onStep = (step: string) => parentPort!.postMessage({ step } satisfies RankStep);
    const result = await runRank({
      plan,
      manifest,
      device,
      transport,
      inputs,
      sizes,
      warmup,
      onStep,
    });
    return { ok: true, result };
  } catch (error) {
    transport.abort((error as Error).message);
    const report: RankReport = { ok: false, error: (error as Error).message };
    // At once: what follows takes as long as the GPU takes to give up.
    if (job.nccl) parentPort!.postMessage(report);
    return report;
  } finally {
    // Before the device, whose streams it uses.
    if (job.nccl) await transport.close();
    await device?.close();
  }
}

parentPort!.postMessage(await run());
if (!job.nccl) await transport.close();
