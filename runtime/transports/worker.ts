/**
 * Ranks in worker threads. A message is written once, into shared memory of its own, and handed over
 * through a port; the receiver reads it where it is.
 */
import { type MessagePort, Worker } from "node:worker_threads";
import type { HostTensor } from "../device.ts";
import {
  type RankResult,
  type RanksResult,
  type RanksRun,
  checkSizes,
  joinResults,
} from "../run.ts";
import type { LaunchSizes } from "../device.ts";
import { rankInputs, rankSizes } from "../mesh.ts";
import type { SegmentTokens } from "../segments.ts";
import type { Manifest, RankPlan } from "../plan.ts";
import type { SlowLink } from "./slow.ts";
import { Mailbox, failureOf, firstCause } from "../mailbox.ts";
import { inWorkFolder } from "../temporary.ts";
import { type WatchedTransport, defaultTimeoutMs } from "../transport.ts";

/** What goes through the ports between ranks' threads. */
export type RankMessage =
  | { readonly kind: "bytes"; readonly tag: number; readonly memory: SharedArrayBuffer }
  | { readonly kind: "abort"; readonly reason: string };

/** What a rank's thread is started with. */
export interface RankJob {
  readonly plan: RankPlan;
  readonly ranks: number;
  readonly manifest: Manifest;
  readonly files: ReadonlyMap<string, string>;
  readonly device: string;
  readonly options: {
    readonly threads: number | null;
    readonly poison: boolean;
    readonly segment?: SegmentTokens;
    /** Which of its host's ranks it is, for those of which a host has several devices. */
    readonly localRank?: number;
  };
  readonly inputs: ReadonlyMap<string, HostTensor>;
  readonly sizes: LaunchSizes;
  readonly warmup: number;
  /** A port to every other rank, and to whoever started the threads under its own rank. */
  readonly ports: readonly MessagePort[];
  readonly timeoutMs: number;
  /** Makes every message take longer. */
  readonly link?: SlowLink | null;
  /** NCCL moves what is on devices. */
  readonly nccl?: boolean;
}

/** What a rank's thread sends back, once. */
export type RankReport =
  | { readonly ok: true; readonly result: RankResult }
  | { readonly ok: false; readonly error: string; readonly died?: string };

/** What a rank's thread sends while it runs: the step that begins. */
export interface RankStep {
  readonly step: string;
}

/** The transport of one rank over ports. Rejects on another size, an abort, or when time is up. */
export class WorkerTransport implements WatchedTransport {
  bytesSent = 0;
  messagesSent = 0;
  readonly rank: number;
  readonly ranks: number;
  private readonly ports: readonly MessagePort[];
  private readonly mailbox: Mailbox;

  constructor(rank: number, ports: readonly MessagePort[], timeoutMs: number) {
    this.rank = rank;
    this.ranks = ports.length;
    this.ports = ports;
    this.mailbox = new Mailbox(rank, timeoutMs);
    ports.forEach((port, from) => {
      port.on("message", (message: RankMessage) => {
        if (message.kind === "abort") this.mailbox.fail(new Error(message.reason));
        else this.mailbox.put(from, message.tag, new Uint8Array(message.memory));
      });
    });
  }

  async send(to: number, tag: number, bytes: Uint8Array): Promise<void> {
    this.mailbox.check();
    const memory = new SharedArrayBuffer(bytes.byteLength);
    new Uint8Array(memory).set(bytes);
    this.bytesSent += bytes.byteLength;
    this.messagesSent += 1;
    this.ports[to]!.postMessage({ kind: "bytes", tag, memory } satisfies RankMessage);
  }

  recv(from: number, tag: number, sizeBytes: number): Promise<Uint8Array> {
    return this.mailbox.take(from, tag, sizeBytes);
  }

  onFailure(listener: (failure: Error) => void): void {
    this.mailbox.onFailure(listener);
  }

  abort(reason: string): void {
    const failure = failureOf(this.rank, reason);
    this.mailbox.fail(failure);
    const message: RankMessage = { kind: "abort", reason: failure.message };
    this.ports.forEach((port, to) => {
      if (to !== this.rank) port.postMessage(message);
    });
  }

  async close(): Promise<void> {
    for (const port of this.ports) port.close();
  }
}

export interface WorkersRun extends Omit<RanksRun, "devices" | "transports"> {
  /** The module that runs one rank: it calls `serveRank` of its own device. */
  readonly entry: URL;
  readonly files: ReadonlyMap<string, string>;
  /** The kind of each rank's device. */
  readonly devices: readonly string[];
  readonly options: RankJob["options"];
  readonly timeoutMs?: number;
  readonly link?: SlowLink | null;
}

/** Like `runRanks`, every rank in a thread of its own. A thread that dies fails all, with its name. */
export async function runRanksInWorkers(run: WorkersRun): Promise<RanksResult> {
  const ranks = run.plan.ranks.length;
  const ports: MessagePort[][] = Array.from({ length: ranks }, () => []);
  const controls: MessagePort[] = [];
  for (let a = 0; a < ranks; a++) {
    const own = new MessageChannel();
    ports[a]![a] = own.port1 as unknown as MessagePort;
    controls.push(own.port2 as unknown as MessagePort);
    for (let b = a + 1; b < ranks; b++) {
      const { port1, port2 } = new MessageChannel();
      ports[a]![b] = port1 as unknown as MessagePort;
      ports[b]![a] = port2 as unknown as MessagePort;
    }
  }
  const abortOthers = (rank: number, reason: string) =>
    controls.forEach((port, other) => {
      if (other !== rank) port.postMessage({ kind: "abort", reason } satisfies RankMessage);
    });
  checkSizes(run);
  const whole = { ...run, mesh: run.plan.mesh };
  const start = (env: NodeJS.ProcessEnv) =>
    Promise.all(
      run.plan.ranks.map((plan, rank) => {
        const job: RankJob = {
          plan,
          ranks,
          manifest: run.manifest,
          files: run.files,
          device: run.devices[rank]!,
          options: { ...run.options, localRank: rank },
          inputs: rankInputs(whole, rank),
          sizes: rankSizes(run.sizes, run.plan.mesh, rank),
          warmup: run.warmup ?? 0,
          ports: ports[rank]!,
          link: run.link ?? null,
          timeoutMs: run.timeoutMs ?? defaultTimeoutMs,
        };
        const { report } = startRank(run.entry, job, env);
        return report.then((found) => {
          if (!found.ok && found.died) abortOthers(rank, failureOf(rank, found.died).message);
          return found;
        });
      }),
    );
  // Threads hear of no signal: what they leave in a folder of this one goes with it.
  const reports = await inWorkFolder((work) => start({ ...process.env, TMPDIR: work }));
  for (const port of controls) port.close();
  const failures = reports.flatMap((report) => (report.ok ? [] : [report.error]));
  if (failures.length > 0) throw new Error(firstCause(failures));
  const results = reports.map((report) => (report as RankReport & { ok: true }).result);
  return joinResults(run, results);
}

/** A rank in a thread. A thread that dies without a report gets one that says so. */
export function startRank(entry: URL, job: RankJob, env: NodeJS.ProcessEnv = process.env) {
  const { rank } = job.plan;
  const transferList = [...job.ports] as never;
  const worker = new Worker(entry, { workerData: job, transferList, env });
  let onStep = (_step: string) => {};
  const report = new Promise<RankReport>((resolve) => {
    const died = (why: string) => resolve({ ok: false, error: `rank ${rank}: ${why}`, died: why });
    worker.on("message", (message: RankReport | RankStep) => {
      if ("step" in message) onStep(message.step);
      else resolve(message);
    });
    worker.on("error", (error) => died((error as Error).message));
    worker.on("exit", (code) => died(`its thread ended with code ${code}`));
  });
  return {
    report,
    onStep: (listener: (step: string) => void) => void (onStep = listener),
    /** Resolves when the thread is gone. */
    ended: new Promise<void>((resolve) => worker.once("exit", () => resolve())),
    stop: () => worker.terminate(),
  };
}
