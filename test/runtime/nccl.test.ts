/** States over NCCL, from device to device: CUDA and NCCL in software, through the real bindings. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cudaTarget } from "../../codegen/cuda/target.ts";
import { createReferenceDevice } from "../../codegen/reference/device.ts";
import type { Compiled } from "../../compiler/index.ts";
import { exchangeNames, peerNames, planOf } from "../../compiler/schedule/index.ts";
import type { Device } from "../../runtime/device.ts";
import { openNccl } from "../../runtime/devices/nccl-library.ts";
import { orderProblem } from "../../runtime/ordered.ts";
import type { Plan } from "../../runtime/plan.ts";
import { runRanks } from "../../runtime/run.ts";
import { inProcessTransports } from "../../runtime/transports/in-process.ts";
import { ncclTransport, ncclTransports } from "../../runtime/transports/nccl.ts";
import {
  artifactOf,
  compare,
  compileExample,
  exampleNames,
  randomInputs,
  ruleNames,
  sizesOf,
} from "../support/examples.ts";
import {
  available,
  createSoftwareCuda,
  softwareLibraries,
  why,
} from "../codegen/cuda/software/index.ts";
import { volumeOf } from "../support/volume.ts";

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);
const gpus = 3;
process.env["SOFTWARE_CUDA_DEVICES"] = String(gpus);
const library = available ? softwareLibraries().driver : undefined;

function openGpus(): Promise<Device[]> {
  return Promise.all(Array.from({ length: gpus }, (_, i) => createSoftwareCuda("auto", i)));
}

/** Runs a plan with one rank on each GPU. */
async function runOn(devices: readonly Device[], plan: Plan, compiled: Compiled, T: number) {
  const { manifest } = compiled;
  const sizes = sizesOf({ T, B: 2 });
  const inputs = randomInputs(compiled, sizes, { initial: true });
  const transports = await ncclTransports(devices, { library, timeoutMs: 20_000 });
  const result = await runRanks({ plan, manifest, devices, transports, inputs, sizes });
  await Promise.all(transports.map((transport) => transport.close()));
  return { inputs, sizes, result };
}

// A decay of a head, of every channel, a matrix; no mask.
const rules = ["lightning", "gla", "gated-delta-net", "linear-attention-bidirectional"];

describe.skipIf(!available).each(rules)(`%s${why}`, (name) => {
  let compiled: Compiled;
  let devices: Device[] = [];
  beforeAll(async () => {
    const options = {
      dims: { K: 16, V: 20 },
      targets: [cudaTarget],
      backward: true,
      overlap: true,
    };
    compiled = compileExample(name, options);
    devices = await openGpus();
    for (const device of devices) await device.load(artifactOf(compiled));
  });
  afterAll(() => Promise.all(devices.map((device) => device.close())));

  test.each(exchangeNames)(
    "%s: outputs, gradients and bytes, on 2 and 3 GPUs",
    async (schedule) => {
      for (const [ranks, T] of [
        [2, 70],
        [3, 70],
        [3, 2],
      ] as const) {
        const { manifest } = compiled;
        const plan = planOf(manifest, schedule, ranks, true);
        const { inputs, sizes, result } = await runOn(devices.slice(0, ranks), plan, compiled, T);
        const { ok, outputs } = await compare(compiled, inputs, sizes, result);
        expect(ok, `T ${T}, ${ranks} ranks: ${JSON.stringify(outputs)}`).toBe(true);
        const sent = { bytes: sum(result.bytesSent), messages: sum(result.messagesSent) };
        expect(sent).toEqual(volumeOf(manifest, schedule, ranks, sizes));
      }
    },
  );

  test("the forward in two parts, and states that never are on the host", async () => {
    for (const schedule of exchangeNames) {
      const plan = planOf(compiled.manifest, schedule, 3, false, true);
      let [downloads, isOver] = [0, false];
      const watched = devices.map((device) => {
        const own = Object.create(device) as Device;
        own.download = (buffer) => ((downloads += isOver ? 0 : 1), device.download(buffer));
        own.wait = () => device.wait().then(() => void (isOver = true));
        return own;
      });
      const { inputs, sizes, result } = await runOn(watched, plan, compiled, 70);
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      expect(ok, `${schedule}: ${JSON.stringify(outputs)}`).toBe(true);
      expect(downloads).toBe(0);
    }
  });
});

test("every schedule's messages are in an order that NCCL can match, on 1 to 16 ranks", () => {
  for (const name of [...exampleNames, ...ruleNames]) {
    const { manifest } = compileExample(name, {
      dims: { K: 4, V: 4 },
      backward: true,
      overlap: true,
    });
    for (let ranks = 1; ranks <= 16; ranks += ranks < 4 ? 1 : 3) {
      for (const schedule of exchangeNames) {
        for (const mesh of [
          { seq: ranks, data: 1 },
          { seq: ranks, data: 2 },
        ]) {
          expect(orderProblem(planOf(manifest, schedule, mesh, true))).toBeNull();
          expect(orderProblem(planOf(manifest, schedule, mesh, false, true))).toBeNull();
        }
      }
    }
  }
});

test("the peers' messages are as well", () => {
  const { manifest } = compileExample("gla", { dims: { K: 4, V: 4 }, backward: true });
  for (const ranks of [2, 4, 8]) {
    for (const schedule of peerNames) {
      const isForward = schedule === "ring-attention";
      expect(orderProblem(planOf(manifest, schedule, ranks, !isForward))).toBeNull();
    }
  }
});

test("a plan in which ranks wait for each other, or for other messages, is found", () => {
  const step = (id: number, kind: "send" | "recv", other: number, tag: number) =>
    ({
      id,
      kind,
      buffer: "S",
      to: other,
      from: other,
      tag,
      after: [],
      stream: "transfer",
    }) as const;
  const planOf = (...ranks: readonly (readonly ReturnType<typeof step>[])[]) =>
    ({
      name: "both",
      schedule: "both",
      mesh: { seq: 2, data: 1 },
      ranks: ranks.map((steps, rank) => ({ rank, steps })),
    }) as unknown as Plan;
  const both = [
    [step(0, "send", 1, 0), step(1, "recv", 1, 1)],
    [step(0, "send", 0, 1), step(1, "recv", 0, 0)],
  ] as const;
  expect(orderProblem(planOf(...both))).toBe("both: rank 0 never gets past step 0 (send)");
  const crossed = [
    [step(0, "send", 1, 0), step(1, "send", 1, 1)],
    [step(0, "recv", 0, 1), step(1, "recv", 0, 0)],
  ] as const;
  expect(orderProblem(planOf(...crossed))).toContain("rank 0 sends 0>1#0 where rank 1 receives");
});

test.skipIf(!available)(
  `a message that does not come ends the run in time, in its step${why}`,
  async () => {
    const compiled = compileExample("linear-attention", {
      dims: { K: 8, V: 8 },
      targets: [cudaTarget],
    });
    const devices = await openGpus();
    for (const device of devices) await device.load(artifactOf(compiled));
    const { manifest } = compiled;
    const plan = planOf(manifest, "ring", 3);
    const sizes = sizesOf({ T: 20 });
    const inputs = randomInputs(compiled, sizes);
    process.env["SOFTWARE_NCCL_STALL"] = "1";
    try {
      const transports = await ncclTransports(devices, { library, timeoutMs: 300 });
      const begunMs = performance.now();
      await expect(
        runRanks({ plan, manifest, devices, transports, inputs, sizes }),
      ).rejects.toThrow(
        // Both ends wait; on a busy machine the sender may have begun enough earlier to be the first to tell.
        /^rank (2: rank 2 waited 300 ms for rank 1, in step \d+ \(recv initial_S from 1\)|1: rank 1 waited 300 ms for rank 2, in step \d+ \(send passed_initial_S to 2\))$/,
      );
      await Promise.all(transports.map((transport) => transport.close()));
      // The GPUs wait for nothing any more.
      await Promise.all(devices.map((device) => device.close()));
      expect(performance.now() - begunMs).toBeLessThan(5000);
    } finally {
      delete process.env["SOFTWARE_NCCL_STALL"];
    }
  },
);

test.skipIf(!available)(`one GPU is not for two ranks, a CPU for none${why}`, async () => {
  const device = await createSoftwareCuda();
  await expect(ncclTransports([device, device], { library })).rejects.toThrow(
    "nccl: ncclCommGetAsyncError failed: invalid usage",
  );
  await device.close();
  const [control] = inProcessTransports(1);
  const reference = createReferenceDevice(new Map());
  await expect(ncclTransport({ device: reference, control: control! })).rejects.toThrow(
    "nccl moves what is on cuda devices, not on reference",
  );
});

test("a machine without NCCL is told what it needs", async () => {
  await expect(openNccl("/nowhere/libnccl.so.2")).rejects.toThrow(
    /the nccl transport needs NCCL, for which .* names \/nowhere\/libnccl.so.2; it was not found/,
  );
});
