/**
 * A link that stalls: connections to it stay open, and it passes on what a test lets it. Ranks without a token take that
 * for a peer whose messages stall: who sees the handshake can make the seals, and so seal what is left.
 */
import { type Server, type Socket, connect, createServer } from "node:net";
import { handshakeBytes, handshakeOf } from "../../runtime/transports/tcp/handshake.ts";
import {
  type Seals,
  piecesOf,
  sealBytes,
  sealedBytes,
  sealsOf,
} from "../../runtime/transports/tcp/seal.ts";
import { type FrameKind, frameKinds, headerBytes } from "../../runtime/transports/tcp/wire.ts";

/**
 *   nothing      what the callers say is taken and goes nowhere, their proofs too
 *   freeze       with the first message that holds something everything stops, heartbeats too
 *   heartbeats   no such message passes, all else does
 *   drip         they pass byte by byte, a tenth of a second each, and what is behind them waits
 *   no-results   everything passes but what ranks send rank 0 at their end
 */
export type Stall = "nothing" | "freeze" | "heartbeats" | "drip" | "no-results";

/** What both ends have said before frames. */
interface Greetings {
  caller: Buffer;
  listener: Buffer;
}

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
      const greetings = { caller: Buffer.alloc(0), listener: Buffer.alloc(0) };
      for (const [from, to, side] of [
        [caller, listener, "caller"],
        [listener, caller, "listener"],
      ] as const) {
        this.sockets.add(from);
        // Of what is frozen no end is heard either.
        from.on("error", () => {}).on("close", () => this.isFrozen || to.destroySoon());
        this.pump(from, to, side, greetings);
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

  private pump(from: Socket, to: Socket, side: keyof Greetings, greetings: Greetings): void {
    let waiting = Buffer.alloc(0);
    let seals: Seals | null = null;
    let slow = Promise.resolve();
    from.on("data", (bytes: Buffer) => {
      waiting = Buffer.concat([waiting, bytes]);
      const missing = handshakeBytes[side] - greetings[side].byteLength;
      if (missing > 0) {
        const head = waiting.subarray(0, missing);
        waiting = waiting.subarray(head.byteLength);
        greetings[side] = Buffer.concat([greetings[side], head]);
        if (this.stall === "nothing" && side === "caller") this.stalledMs ??= performance.now();
        else to.write(head);
      }
      for (let frame = takeFrame(waiting); frame !== null; frame = takeFrame(waiting)) {
        waiting = waiting.subarray(sealedSizeOf(frame.header));
        seals ??= sealsOf("", handshakeOf(greetings.listener, greetings.caller));
        const seal = seals[side];
        slow = slow.then(() =>
          this.pass(frame, to, (pieces) =>
            Buffer.concat(pieces.flatMap((piece) => [piece, seal.next(piece)])),
          ),
        );
      }
    });
  }

  private async pass(
    { header, pieces }: SealedFrame,
    to: Socket,
    sealed: (pieces: readonly Uint8Array[]) => Buffer,
  ): Promise<void> {
    const kind = frameKinds[header.readUInt32BE(0)]!;
    // What is empty only says that a rank is ready.
    const isMeeting = kind === "message" && pieces.length === 0;
    const isHeld = heldKinds[this.stall].includes(kind) && !isMeeting;
    if (isHeld) this.stalledMs ??= performance.now();
    if (this.stall === "drip" && isHeld) {
      for (const byte of sealed([header, ...pieces])) {
        if (to.destroyed) return;
        to.write(Uint8Array.of(byte));
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      return;
    }
    if (!isHeld && !this.isFrozen) to.write(sealed([header, ...pieces]));
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

interface SealedFrame {
  readonly header: Buffer;
  readonly pieces: readonly Uint8Array[];
}

/** The first whole frame of some sealed bytes, or null. */
function takeFrame(bytes: Buffer): SealedFrame | null {
  if (bytes.byteLength < headerBytes || bytes.byteLength < sealedSizeOf(bytes)) return null;
  const pieces: Uint8Array[] = [];
  let at = headerBytes + sealBytes;
  for (const { byteLength } of piecesOf(new Uint8Array(lengthOf(bytes)))) {
    pieces.push(bytes.subarray(at, at + byteLength));
    at += byteLength + sealBytes;
  }
  return { header: bytes.subarray(0, headerBytes), pieces };
}

function lengthOf(header: Buffer): number {
  return Number(header.readBigUInt64BE(8));
}

function sealedSizeOf(header: Buffer): number {
  return sealedBytes(headerBytes) + sealedBytes(lengthOf(header));
}
