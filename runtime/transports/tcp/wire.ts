/** Bytes of a connection: read exactly so many, and frames of them once both ends know each other. */
import type { Socket } from "node:net";

/** What a frame says. A place in this list is its number on the wire. */
export const frameKinds = [
  "message",
  "ping",
  "abort",
  "hello",
  "peers",
  "result",
  "tensors",
  "done",
] as const;
export type FrameKind = (typeof frameKinds)[number];

export interface Frame {
  readonly kind: FrameKind;
  /** The message's tag; 0 for other kinds. */
  readonly tag: number;
  /** In shared memory, so that a thread can have it without a copy. */
  readonly bytes: Uint8Array;
}

/** The kind, the tag, and the number of bytes that follow: 4 + 4 + 8 bytes, big endian. */
const headerBytes = 16;

/** Reads a socket piece by piece. Throws when the connection ends before all is there. */
export class ByteReader {
  /** When something last came, as `performance.now()` counts. */
  heardMs = performance.now();
  readonly socket: Socket;
  private wake: () => void = () => {};
  private ended = false;

  constructor(socket: Socket) {
    this.socket = socket;
    const end = () => {
      this.ended = true;
      this.wake();
    };
    socket.on("readable", () => this.wake());
    socket.on("end", end).on("close", end).on("error", end);
  }

  async fill(target: Uint8Array): Promise<void> {
    let at = 0;
    while (at < target.byteLength) {
      const ready = Math.min(target.byteLength - at, this.socket.readableLength);
      const chunk = ready > 0 ? (this.socket.read(ready) as Buffer | null) : null;
      if (chunk) {
        target.set(chunk, at);
        at += chunk.byteLength;
        this.heardMs = performance.now();
      } else {
        if (this.ended) throw new Error("its connection closed");
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
    }
  }

  async bytes(size: number): Promise<Buffer> {
    const target = Buffer.alloc(size);
    await this.fill(target);
    return target;
  }

  /** The next frame. Memory is taken only once its length is known to be within `limitOf` its kind. */
  async frame(limitOf: (kind: FrameKind) => number): Promise<Frame> {
    const header = await this.bytes(headerBytes);
    const kind = frameKinds[header.readUInt32BE(0)];
    if (kind === undefined) throw new Error("it sent what is no frame");
    const length = Number(header.readBigUInt64BE(8));
    const limit = limitOf(kind);
    if (length > limit) {
      throw new Error(`it sent a ${kind} of ${length} bytes, where at most ${limit} are expected`);
    }
    const bytes = new Uint8Array(new SharedArrayBuffer(length));
    await this.fill(bytes);
    return { kind, tag: header.readUInt32BE(4), bytes };
  }
}

/** Resolves when the system has taken the bytes. */
export function writeFrame(
  socket: Socket,
  kind: FrameKind,
  tag: number,
  bytes: Uint8Array,
): Promise<void> {
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32BE(frameKinds.indexOf(kind), 0);
  header.writeUInt32BE(tag, 4);
  header.writeBigUInt64BE(BigInt(bytes.byteLength), 8);
  return new Promise((resolve, reject) => {
    const done = (error?: Error | null) => (error ? reject(error) : resolve());
    socket.cork();
    socket.write(header, bytes.byteLength === 0 ? done : undefined);
    if (bytes.byteLength > 0) socket.write(bytes, done);
    socket.uncork();
  });
}

export function toJson(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

export function fromJson<T>(bytes: Uint8Array): T {
  return JSON.parse(Buffer.from(bytes).toString("utf8")) as T;
}
