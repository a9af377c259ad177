/** A link that stalls: connections to it stay open, and it passes on what a test lets it. */
import { type Server, type Socket, connect, createServer } from "node:net";
import { type FrameKind, frameKinds } from "../../runtime/transports/tcp/wire.ts";

/**
 *   nothing      what the callers say is taken and goes nowhere, their proofs too
 *   freeze       with the first message that holds something everything stops, heartbeats too
 *   heartbeats   no such message passes, all else does
 *   drip         they pass byte by byte, a tenth of a second each, and what is behind them waits
 *   no-results   everything passes but what ranks send rank 0 at their end
 */
export type Stall = "nothing" | "freeze" | "heartbeats" | "drip" | "no-results";

/** Bytes before the first frame: what the caller sends, and what the listener. */
const handshakeBytes = { caller: 80, listener: 72 };
const headerBytes = 16;

export class StallingProxy {
  /** When something that should have passed first did not, as `performance.now()` counts. */
  stalledMs: number | null = null;
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();
  private readonly stall: Stall;

  constructor(target: number, stall: Stall) {
    this.stall = stall;
    this.server = createServer((caller) => {
      const listener = connect({ port: target, host: "127.0.0.1" });
      for (const [from, to, side] of [
        [caller, listener, "caller"],
        [listener, caller, "listener"],
      ] as const) {
        this.sockets.add(from);
        // Of what is frozen no end is heard either.
        from.on("error", () => {}).on("close", () => this.isFrozen || to.destroySoon());
        this.pump(from, to, side);
      }
    });
  }

  listen(): Promise<number> {
    return new Promise((resolve) => {
      this.server.listen(0, "127.0.0.1", () => {
        resolve((this.server.address() as { port: number }).port);
      });
    });
  }

  close(): void {
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
  }

  private pump(from: Socket, to: Socket, side: keyof typeof handshakeBytes): void {
    let waiting = Buffer.alloc(0);
    let greeting = handshakeBytes[side];
    let slow = Promise.resolve();
    from.on("data", (bytes: Buffer) => {
      waiting = Buffer.concat([waiting, bytes]);
      if (greeting > 0) {
        const head = waiting.subarray(0, greeting);
        waiting = waiting.subarray(head.byteLength);
        greeting -= head.byteLength;
        if (this.stall === "nothing" && side === "caller") this.stalledMs ??= performance.now();
        else to.write(head);
      }
      for (let frame = takeFrame(waiting); frame !== null; frame = takeFrame(waiting)) {
        waiting = waiting.subarray(frame.byteLength);
        const taken = frame;
        slow = slow.then(() => this.pass(taken, to));
      }
    });
  }

  private async pass(frame: Buffer, to: Socket): Promise<void> {
    const kind = frameKinds[frame.readUInt32BE(0)]!;
    // What is empty only says that a rank is ready.
    const isMeeting = kind === "message" && frame.byteLength === headerBytes;
    const isHeld = heldKinds[this.stall].includes(kind) && !isMeeting;
    if (isHeld) this.stalledMs ??= performance.now();
    if (this.stall === "drip" && isHeld) {
      for (const byte of frame) {
        if (to.destroyed) return;
        to.write(Uint8Array.of(byte));
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      return;
    }
    if (!isHeld && !this.isFrozen) to.write(frame);
  }

  private get isFrozen(): boolean {
    return this.stall === "freeze" && this.stalledMs !== null;
  }
}

const heldKinds: Readonly<Record<Stall, readonly FrameKind[]>> = {
  nothing: frameKinds,
  freeze: ["message"],
  heartbeats: ["message"],
  drip: ["message"],
  "no-results": ["result", "tensors"],
};

/** The first whole frame of some bytes, or null. */
function takeFrame(bytes: Buffer): Buffer | null {
  if (bytes.byteLength < headerBytes) return null;
  const size = headerBytes + Number(bytes.readBigUInt64BE(8));
  return bytes.byteLength < size ? null : bytes.subarray(0, size);
}
