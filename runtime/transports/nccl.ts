/**
 * States from GPU to GPU over NCCL. Ranks meet, tell each other of failures and move what is on the host over another
 * transport, `control`; NCCL carries buffers.
 *
 * NCCL matches messages by their order, and there is one communicator for all: the order is that of the plan's transfer
 * steps, for plans that `orderProblem` finds nothing wrong with. Nothing blocks this thread: communicators are of the
 * kind whose calls return at once, and what is on its way is asked for again and again.
 */
import { setImmediate, setTimeout } from "node:timers/promises";
import { meet, ownTags } from "../collectives.ts";
import type { Device, DeviceQueue, Mark } from "../device.ts";
import { isQueued } from "../device.ts";
import { CudaQueue, addressOf } from "../devices/cuda-queue.ts";
import {
  type Communicator,
  type Nccl,
  type Transfer,
  openNccl,
  uniqueIdBytes,
} from "../devices/nccl-library.ts";
import { failureOf } from "../mailbox.ts";
import {
  type DeviceTransport,
  type Move,
  type Moving,
  type WatchedTransport,
  defaultTimeoutMs,
} from "../transport.ts";
import { inProcessTransports } from "./in-process.ts";

export interface NcclOptions {
  /** A CUDA device; no two ranks of a host may have the same GPU. */
  readonly device: Device;
  /** Connects the same ranks. It is this transport's from now on: closed and aborted with it. */
  readonly control: WatchedTransport;
  /** The library or its folder, where it is not to be looked for. */
  readonly library?: string | undefined;
  /** How long a message that the GPU is ready for may take, in milliseconds. */
  readonly timeoutMs?: number;
}

/** How long to wait for the library when a rank closes. */
const closingMs = 5000;

/**
 * This rank's transport; resolves when all ranks of `control` have called it.
 * **Errors:** koffi or NCCL is missing, another device than CUDA's, what NCCL says, ranks that do not come in time.
 */
export async function ncclTransport(options: NcclOptions): Promise<DeviceTransport> {
  const { device, control, timeoutMs = defaultTimeoutMs } = options;
  const queue = isQueued(device) ? device.queues.transfer : null;
  if (!(queue instanceof CudaQueue)) {
    throw new Error(`nccl moves what is on cuda devices, not on ${device.kind}`);
  }
  const nccl = await openNccl(options.library);
  const id = await shareId(nccl, control);
  // NCCL takes the GPU that is current.
  queue.use();
  const comm = nccl.join(control.ranks, id, control.rank);
  const transport = new NcclTransport(nccl, comm, control, timeoutMs);
  await transport.ready();
  return transport;
}

/**
 * The transports of all ranks of this process, one for each device. They must be closed together: each waits for the
 * others.
 */
export function ncclTransports(
  devices: readonly Device[],
  options: Pick<NcclOptions, "library" | "timeoutMs"> = {},
): Promise<DeviceTransport[]> {
  // Within a process NCCL would reach into another GPU's memory, which ours does not open to it.
  process.env["NCCL_P2P_DIRECT_DISABLE"] ??= "1";
  const controls = inProcessTransports(devices.length, options);
  return Promise.all(
    devices.map((device, rank) => {
      const control = controls[rank]!;
      return ncclTransport({ ...options, device, control }).catch((error: unknown) => {
        control.abort((error as Error).message);
        throw error;
      });
    }),
  );
}

/** Rank 0 makes what the ranks find each other by, and tells the others. */
async function shareId(nccl: Nccl, control: WatchedTransport): Promise<Uint8Array> {
  if (control.rank > 0) return control.recv(0, ownTags.id, uniqueIdBytes);
  const id = nccl.newId();
  for (let peer = 1; peer < control.ranks; peer++) await control.send(peer, ownTags.id, id);
  return id;
}

/** Messages that are queued, between two marks. */
interface Underway {
  readonly began: Mark;
  readonly ended: Mark;
  /** Who has to come: "rank 1". */
  readonly peers: string;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  /** When the GPU came to them. */
  sinceMs: number | null;
}

class NcclTransport implements DeviceTransport {
  bytesSent = 0;
  messagesSent = 0;
  readonly rank: number;
  readonly ranks: number;
  private readonly nccl: Nccl;
  private readonly comm: Communicator;
  private readonly control: WatchedTransport;
  private readonly timeoutMs: number;
  private readonly underway: Underway[] = [];
  private isFollowed = false;
  /** Groups of calls are made one after the other, each once the one before is queued. */
  private tail: Promise<unknown> = Promise.resolve();
  private failure: Error | null = null;
  private aborted: Promise<void> = Promise.resolve();

  constructor(nccl: Nccl, comm: Communicator, control: WatchedTransport, timeoutMs: number) {
    this.nccl = nccl;
    this.comm = comm;
    this.control = control;
    this.timeoutMs = timeoutMs;
    this.rank = control.rank;
    this.ranks = control.ranks;
    control.onFailure((failure) => this.fail(failure));
  }

  /** Resolves when the communicator is there. */
  async ready(): Promise<void> {
    await this.settle("the others").catch((error: unknown) => {
      this.fail(error as Error);
      throw error;
    });
  }

  async exchange(
    queue: DeviceQueue,
    sends: readonly Move[],
    receives: readonly Move[],
  ): Promise<Moving> {
    this.check();
    for (const { range } of sends) {
      this.bytesSent += range.sizeBytes;
      this.messagesSent += 1;
    }
    const of = (kind: Transfer["kind"], moves: readonly Move[]) =>
      moves.map(({ rank, range }) => ({ kind, peer: rank, range }));
    // Both ends know the size: what is empty need not travel.
    const all = [...of("send", sends), ...of("recv", receives)].filter(
      ({ range }) => range.sizeBytes > 0,
    );
    if (all.length === 0) return { done: Promise.resolve() };
    const transfers = all.map(({ kind, peer, range }) => {
      return { kind, peer, address: addressOf(range), sizeBytes: range.sizeBytes };
    });
    const queued = this.tail.then(() => this.queue(queue as CudaQueue, transfers));
    this.tail = queued.catch(() => {});
    return queued;
  }

  private async queue(queue: CudaQueue, transfers: readonly Transfer[]): Promise<Moving> {
    this.check();
    const began = queue.mark();
    const ranks = [...new Set(transfers.map(({ peer }) => peer))].sort((a, b) => a - b);
    const peers = `rank ${ranks.join(", ")}`;
    try {
      this.nccl.queue(this.comm, transfers, queue.stream);
      await this.settle(peers);
    } catch (error) {
      this.fail(error as Error);
      throw this.failure!;
    }
    const ended = queue.mark();
    const done = new Promise<void>((resolve, reject) => {
      this.underway.push({ began, ended, peers, resolve, reject, sinceMs: null });
    });
    void this.follow();
    return { done };
  }

  /** Waits until NCCL has queued what it was told; it connects ranks that first talk to each other before. */
  private async settle(peers: string): Promise<void> {
    const begunMs = performance.now();
    for (let asked = 0; ; asked++) {
      this.check();
      if (this.nccl.isSettled(this.comm)) return;
      if (performance.now() - begunMs > this.timeoutMs) throw this.lateness(peers);
      await pause(asked);
    }
  }

  private lateness(peers: string): Error {
    return new Error(`rank ${this.rank} waited ${this.timeoutMs} ms for ${peers}`);
  }

  /** Looks after what is underway until nothing is, or something fails. */
  private async follow(): Promise<void> {
    if (this.isFollowed) return;
    this.isFollowed = true;
    try {
      for (let asked = 0; this.underway.length > 0 && !this.failure; asked++) {
        const [first] = this.underway as [Underway];
        this.nccl.isSettled(this.comm);
        if (first.ended.isDone()) {
          this.underway.shift();
          release(first);
          first.resolve();
          asked = 0;
          continue;
        }
        // The time that its own rank's computing takes does not count.
        if (first.sinceMs === null && first.began.isDone()) first.sinceMs = performance.now();
        if (performance.now() - (first.sinceMs ?? Infinity) > this.timeoutMs) {
          throw this.lateness(first.peers);
        }
        await pause(asked);
      }
    } catch (error) {
      this.fail(error as Error);
    } finally {
      this.isFollowed = false;
    }
  }

  private check(): void {
    if (this.failure) throw this.failure;
  }

  /** The first failure ends everything that is underway: the GPU must not wait for who does not come. */
  private fail(failure: Error): void {
    if (this.failure) return;
    this.failure = failure;
    this.aborted = this.nccl.abort(this.comm).catch(() => {});
    for (const { reject } of this.underway.splice(0)) reject(failure);
  }

  send(to: number, tag: number, bytes: Uint8Array): Promise<void> {
    this.bytesSent += bytes.byteLength;
    this.messagesSent += 1;
    return this.control.send(to, tag, bytes);
  }

  recv(from: number, tag: number, sizeBytes: number): Promise<Uint8Array> {
    return this.control.recv(from, tag, sizeBytes);
  }

  abort(reason: string): void {
    this.control.abort(reason);
    this.fail(failureOf(this.rank, reason));
  }

  /** Waits for all other ranks to close as well: their GPUs may still read what lies on this one. */
  async close(): Promise<void> {
    if (this.failure === null) {
      // As long as a message may take: some rank may still be computing.
      await meet(this.control, ownTags.leaving)
        .then(() => within(closingMs, this.leave()))
        .catch(() => {});
      this.fail(new Error("the other ranks did not close"));
    }
    await within(closingMs, this.aborted);
    await this.control.close();
  }

  private async leave(): Promise<void> {
    const { nccl, comm } = this;
    nccl.finish(comm);
    await this.settle("the others");
    // Nothing of it may be asked for any more.
    this.failure = new Error("the nccl transport was used after it was closed");
    await nccl.destroy(comm);
  }
}

function release({ began, ended }: Underway): void {
  began.release();
  ended.release();
}

/** What takes a moment is waited for closely, what takes longer without keeping a processor busy. */
function pause(asked: number): Promise<unknown> {
  return asked < 1000 ? setImmediate() : setTimeout(1);
}

/** Resolves with the promise, or when the time is up. */
async function within(timeMs: number, promise: Promise<unknown>): Promise<void> {
  const over = new AbortController();
  const late = setTimeout(timeMs, undefined, { signal: over.signal }).catch(() => {});
  await Promise.race([promise, late]).finally(() => over.abort());
}
