/** A rank's connections to its peers: frames out, frames in, heartbeats, and one failure for all. */
import { failureOf } from "../../mailbox.ts";
import { printable } from "../../printable.ts";
import type { Channel, Frame, FrameKind } from "./wire.ts";

/** A peer that says nothing for so long counts as lost, in milliseconds. */
export const silenceMs = 6000;
const heartbeatMs = 1000;
const controlBytes = 2 ** 22;

export interface LinksOptions {
  readonly rank: number;
  /** The largest message, and the largest set of results, that a peer has reason to send. */
  readonly limits: { readonly message: number; readonly tensors: number };
  /** A frame that is no heartbeat has come. */
  readonly onFrame: (from: number, frame: Frame) => void;
  /** The first failure of any peer; nothing comes after it. */
  readonly onFailure: (failure: Error) => void;
}

export class Links {
  private readonly options: LinksOptions;
  private readonly peers = new Map<number, Channel>();
  /** Peers that have said they are done: they may go. */
  private readonly left = new Set<number>();
  private readonly heartbeat: NodeJS.Timeout;
  private failure: Error | null = null;
  private closing = false;

  constructor(options: LinksOptions) {
    this.options = options;
    this.heartbeat = setInterval(() => this.beat(), heartbeatMs);
  }

  has(peer: number): boolean {
    return this.peers.has(peer);
  }

  get count(): number {
    return this.peers.size;
  }

  /** Where the peer is, as this rank sees it. */
  addressOf(peer: number): string {
    return this.peers.get(peer)!.socket.remoteAddress!;
  }

  /** Takes over a connection whose other end has shown itself to be `peer`. */
  add(peer: number, channel: Channel): void {
    this.peers.set(peer, channel);
    channel.socket.setNoDelay(true);
    void this.pump(peer, channel);
  }

  private async pump(peer: number, channel: Channel): Promise<void> {
    const limitOf = (kind: FrameKind) =>
      kind === "message" || kind === "tensors" ? this.options.limits[kind] : controlBytes;
    try {
      while (!this.closing && this.failure === null) {
        const frame = await channel.read(limitOf);
        if (frame.kind === "abort") {
          return this.fail(new Error(printable(Buffer.from(frame.bytes).toString())));
        }
        if (frame.kind === "done") this.left.add(peer);
        if (frame.kind !== "ping") this.options.onFrame(peer, frame);
      }
    } catch (error) {
      if (!this.left.has(peer)) {
        // What is wrong with a peer's frame may quote it.
        this.fail(failureOf(peer, printable((error as Error).message)));
      }
    }
  }

  private beat(): void {
    const now = performance.now();
    for (const [peer, channel] of this.peers) {
      if (this.left.has(peer)) continue;
      if (now - channel.reader.heardMs > silenceMs) {
        return this.fail(failureOf(peer, `nothing came from it for ${silenceMs / 1000} s`));
      }
      channel.write("ping", 0, new Uint8Array()).catch(() => {});
    }
  }

  /** Rejects with the failure where there is one. */
  async send(to: number, kind: FrameKind, tag: number, bytes: Uint8Array): Promise<void> {
    if (this.failure) throw this.failure;
    const peer = this.peers.get(to);
    if (!peer) throw new Error(`there is no connection to rank ${to}`);
    await peer.write(kind, tag, bytes).catch((error: Error) => {
      throw this.failure ?? failureOf(to, error.message);
    });
  }

  /** Tells every peer that this rank needs nothing more of it, and closes. */
  async leave(): Promise<void> {
    const told = [...this.peers.values()].map((peer) =>
      peer.socket.writable ? peer.write("done", 0, new Uint8Array()).catch(() => {}) : null,
    );
    await this.close(Promise.all(told));
  }

  fail(failure: Error): void {
    if (this.failure || this.closing) return;
    this.failure = failure;
    clearInterval(this.heartbeat);
    this.options.onFailure(failure);
  }

  /** Tells every peer, and closes. */
  async abort(reason: string): Promise<void> {
    const bytes = Buffer.from(failureOf(this.options.rank, reason).message).subarray(0, 4096);
    const told = [...this.peers.values()].map((peer) =>
      peer.socket.writable ? peer.write("abort", 0, bytes).catch(() => {}) : null,
    );
    await this.close(Promise.all(told));
  }

  /** Closes once `sent` is, or a peer takes too long to read it. */
  async close(sent: Promise<unknown> = Promise.resolve()): Promise<void> {
    this.closing = true;
    clearInterval(this.heartbeat);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise((resolve) => (timer = setTimeout(resolve, 1000)));
    await Promise.race([sent, late]);
    clearTimeout(timer);
    for (const { socket } of this.peers.values()) socket.destroySoon();
  }
}
