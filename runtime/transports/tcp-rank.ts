/**
 * One rank in a process of its own. The rank's thread computes; this thread carries its messages and answers heartbeats,
 * so that a long kernel holds up neither.
 */
import { createHash } from "node:crypto";
import { MessageChannel, type MessagePort } from "node:worker_threads";
import type { LaunchSizes } from "../device.ts";
import { shapeOf } from "../device.ts";
import { bytesOf } from "../dtype.ts";
import { uniqueIdBytes } from "../devices/nccl-library.ts";
import type { Launch } from "../launch.ts";
import { rankInputs, rankSizes } from "../mesh.ts";
import { type Plan, type TensorSpec, worldSize } from "../plan.ts";
import { type RankResult, type RanksResult, checkSizes, joinResults } from "../run.ts";
import { readSafetensors, writeSafetensors } from "../safetensors.ts";
import { defaultTimeoutMs } from "../transport.ts";
import { connectRanks } from "./tcp/rendezvous.ts";
import { type Frame, fromJson, toJson } from "./tcp/wire.ts";
import { type RankMessage, type WorkersRun, startRank } from "./worker.ts";

export interface TcpRun extends WorkersRun {
  readonly launch: Launch;
  readonly bind: string;
  readonly token: string;
  readonly connectTimeoutMs?: number;
  /** More that must be the same on all ranks, by what it is called: { seed: "7" }. */
  readonly description?: Readonly<Record<string, string>>;
  /** Told who called and was refused, and why. */
  readonly onRefused?: (text: string) => void;
  readonly signal?: AbortSignal;
  /** Which of this host's ranks this one is; null: its number of all. */
  readonly localRank?: number | null;
  /** States travel over NCCL, everything else over TCP. */
  readonly nccl?: boolean;
}

/** A rank that could not go on. */
export class RankError extends Error {
  /** Its thread waits for a GPU that does not answer: only the end of the process will end it. */
  readonly isStuck: boolean;

  constructor(message: string, isStuck: boolean, cause: unknown) {
    super(message, { cause });
    this.isStuck = isStuck;
  }
}

/** How long a rank's thread may take to end what its GPU does, in milliseconds. */
const endingMs = 3000;

type Numbers = Omit<RankResult, "tensors">;

/**
 * Runs this process's rank: on rank 0 the joined result of all, elsewhere null, once rank 0 has everything.
 * **Errors:** those of the rank and of its peers, with the rank and the step that this one was in.
 */
export async function runRankOverTcp(run: TcpRun): Promise<RanksResult | null> {
  const { launch, plan, manifest, sizes } = run;
  const { rank, ranks } = launch;
  if (ranks !== worldSize(plan.mesh)) {
    throw new Error(`the plan is for ${worldSize(plan.mesh)} ranks, but ${ranks} were started`);
  }
  checkSizes(run);
  let where = "before the first step";
  const channels = plan.ranks.map(() => new MessageChannel());
  const near = channels.map(({ port1 }) => port1 as unknown as MessagePort);
  const collected = plan.ranks.map(
    (): { numbers?: Numbers; tensors?: RankResult["tensors"] } => ({}),
  );
  let finish = () => {};
  let lose = (_failure: Error) => {};
  // All results on rank 0, rank 0's word that it has them elsewhere.
  const finished = new Promise<void>((resolve) => (finish = resolve));
  const lost = new Promise<never>((_, reject) => (lose = reject));
  lost.catch(() => {});
  const store = (from: number, part: { numbers?: Numbers; tensors?: RankResult["tensors"] }) => {
    Object.assign(collected[from]!, part);
    if (collected.every(({ numbers, tensors }) => numbers && tensors)) finish();
  };
  const onFrame = (from: number, { kind, tag, bytes }: Frame) => {
    const memory = bytes.buffer as SharedArrayBuffer;
    if (kind === "message") {
      near[from]!.postMessage({ kind: "bytes", tag, memory } satisfies RankMessage);
    } else if (kind === "result") store(from, { numbers: numbersOf(bytes) });
    else if (kind === "tensors") store(from, { tensors: readSafetensors(bytes.slice()) });
    else if (kind === "done" && from === 0) finish();
  };
  const closePorts = () => channels.forEach(({ port1, port2 }) => (port1.close(), port2.close()));
  const inputs = rankInputs({ ...run, mesh: plan.mesh }, rank);
  const links = await connectRanks({
    ...launch,
    bind: run.bind,
    token: run.token,
    timeoutMs: run.connectTimeoutMs ?? defaultTimeoutMs,
    // What people chose comes first, then what follows from it.
    description: { ...run.description, ...descriptionOf(run) },
    limits: limitsOf(run),
    onFrame,
    onFailure: (failure) => lose(failure),
    ...(run.onRefused ? { onRefused: run.onRefused } : {}),
    ...(run.signal ? { signal: run.signal } : {}),
  }).catch((error: unknown) => {
    closePorts();
    throw new Error(`rank ${rank}: ${(error as Error).message}, ${where}`, { cause: error });
  });
  run.signal?.addEventListener("abort", () => links.fail(new Error(String(run.signal!.reason))));
  near.forEach((port, to) => {
    port.on("message", (message: RankMessage) => {
      if (message.kind !== "bytes") return;
      links.send(to, "message", message.tag, new Uint8Array(message.memory)).catch(lose);
    });
  });
  const worker = startRank(run.entry, {
    plan: plan.ranks[rank]!,
    ranks,
    manifest,
    files: run.files,
    device: run.devices[rank]!,
    options: { ...run.options, localRank: run.localRank ?? rank },
    inputs,
    sizes: rankSizes(sizes, plan.mesh, rank),
    warmup: run.warmup ?? 0,
    ports: channels.map(({ port2 }) => port2 as unknown as MessagePort),
    link: run.link ?? null,
    timeoutMs: run.timeoutMs ?? defaultTimeoutMs,
    nccl: run.nccl ?? false,
  });
  worker.onStep((step) => (where = `in step ${step}`));
  /** What the GPU waits for is known in the thread, which ends that first. */
  const stepOfFailure = async (message: string): Promise<string> => {
    near[rank]!.postMessage({ kind: "abort", reason: message } satisfies RankMessage);
    const report = await inTime(worker.report, endingMs);
    return report === null || report.ok || report.died ? message : report.error;
  };
  try {
    const report = await Promise.race([worker.report, lost]);
    if (!report.ok) throw new Error(report.error);
    where = "after the last step";
    const { tensors, ...numbers } = report.result;
    store(rank, { numbers, tensors });
    if (rank > 0) {
      await links.send(0, "result", 0, toJson(numbers));
      await links.send(0, "tensors", 0, writeSafetensors(tensors));
    }
    await Promise.race([finished, lost, lateEnd(run, collected)]);
    await links.leave();
  } catch (error) {
    let { message } = error as Error;
    if (run.nccl) message = await stepOfFailure(message);
    // The thread's own errors name the step already.
    const text = message.startsWith(`rank ${rank}: `)
      ? message
      : `rank ${rank}: ${message}, ${where}`;
    await links.abort(text.slice(`rank ${rank}: `.length));
    const isStuck = run.nccl === true && !(await hasEnded(worker));
    void worker.stop();
    throw new RankError(text, isStuck, error);
  } finally {
    closePorts();
  }
  if (rank > 0) return null;
  return joinResults(
    run,
    collected.map(({ numbers, tensors }) => ({ ...numbers!, tensors: tensors! })),
  );
}

/**
 * Rejects when what ends the run stays away: on rank 0 a rank's results, which a link may lose that its heartbeats pass;
 * elsewhere rank 0's word that it has all. Who waits for less, in a recv, gives up first, and so names the link: rank 0
 * waits that long again, and the others for rank 0.
 */
function lateEnd(
  { launch: { rank }, timeoutMs = defaultTimeoutMs }: TcpRun,
  collected: readonly { readonly numbers?: Numbers; readonly tensors?: RankResult["tensors"] }[],
): Promise<never> {
  const limitMs = (rank === 0 ? 2 : 3) * timeoutMs;
  return new Promise((_, reject) => {
    const giveUp = () => {
      const late = collected.flatMap((one, from) => (one.numbers && one.tensors ? [] : [from]));
      const what =
        rank === 0
          ? `the results of rank ${late.join(", ")}`
          : "rank 0's word that it has all results";
      reject(new Error(`waited ${limitMs} ms for ${what}`));
    };
    // It holds up nothing: connections keep the process alive while there is something to wait for.
    setTimeout(giveUp, limitMs).unref();
  });
}

/** Does the thread end by itself once it has reported, or when it is told to? */
async function hasEnded({ ended, stop }: ReturnType<typeof startRank>): Promise<boolean> {
  const told = async () => (await inTime(stop(), endingMs)) !== null;
  return (
    (await inTime(
      ended.then(() => true),
      endingMs,
    )) !== null || told()
  );
}

/** What the promise gives; null: it takes longer. */
async function inTime<T>(promise: Promise<T>, timeMs: number): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => (timer = setTimeout(() => resolve(null), timeMs)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** What a rank says of its run. **Errors:** the bytes say something else. */
function numbersOf(bytes: Uint8Array): Numbers {
  const said = fromJson(bytes) as Numbers;
  const areNumbers = (...values: readonly unknown[]) => values.every(Number.isFinite);
  const isRight =
    areNumbers(said?.bytesSent, said?.messagesSent, said?.startedMs) &&
    Array.isArray(said.times) &&
    said.times.every((of) => areNumbers(of?.rank, of?.step, of?.startMs, of?.endMs));
  if (!isRight) throw new Error("it does not say what it has sent and when");
  return said;
}

/** What all ranks must have alike, whole inputs before they are cut among it. */
function descriptionOf({ manifest, plan, sizes, inputs }: TcpRun): Record<string, string> {
  const { B, H, T } = sizes;
  const description: Record<string, string> = {
    ranks: String(worldSize(plan.mesh)),
    sizes: `B=${B}, H=${H}, T=${T} ${digestOf(JSON.stringify(sizes))}`,
    manifest: `${manifest.name} ${digestOf(JSON.stringify(manifest))}`,
    plan: `${plan.schedule} ${digestOf(JSON.stringify(plan))}`,
  };
  for (const [name, { dtype, shape, data }] of inputs) {
    const content = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    description[`input ${name}`] = `${dtype}[${shape.join(", ")}] ${digestOf(content)}`;
  }
  return description;
}

/** A short name of a content: 64 bits, which differ by chance once in 2^64 times. */
export function digestOf(content: string | Uint8Array): string {
  return createHash("sha256").update(content).digest("hex").slice(0, 16);
}

/** No buffer of a rank is larger than that of the whole sequence would be. */
function limitsOf({ manifest, plan, sizes }: TcpRun): { message: number; tensors: number } {
  const whole = (spec: TensorSpec) => bytesOf(spec.dtype, shapeOf(spec, sizes));
  const outputs = manifest.forms.flatMap((form) => form.outputs.map(whole));
  return {
    // What ranks find each other by in NCCL goes this way too.
    message: Math.max(uniqueIdBytes, largestBuffer(plan, sizes)),
    tensors: 65_536 + outputs.reduce((sum, size) => sum + size, 0),
  };
}

function largestBuffer(plan: Plan, sizes: LaunchSizes): number {
  const specs = plan.ranks.flatMap(({ steps }) =>
    steps.flatMap((step) => (step.kind === "alloc" ? [step.spec] : [])),
  );
  return Math.max(0, ...specs.map((spec) => bytesOf(spec.dtype, shapeOf(spec, sizes))));
}
