/** Bytes of a connection: read exactly so many, and sealed frames of them once both ends know each other. */
import type { Socket } from "node:net";
import { type Seal, piecesOf, sealBytes } from "./seal.ts";

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
export const headerBytes = 16;

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
        // A stream whose end came behind bytes tells it to who asks for more.
        this.socket.read(0);
        await new Promise<void>((resolve) => (this.wake = resolve));
      }
    }
  }

  async bytes(size: number): Promise<Buffer> {
    const target = Buffer.alloc(size);
    await this.fill(target);
    return target;
  }
}

/** A connection whose ends know each other. A frame is a sealed header, and behind it the sealed pieces of its bytes. */
export class Channel {
  readonly reader: ByteReader;
  private readonly incoming: Seal;
  private readonly outgoing: Seal;
  /** Frames are sealed and written one after the other. */
  private tail: Promise<unknown> = Promise.resolve();

  constructor(reader: ByteReader, { incoming, outgoing }: { incoming: Seal; outgoing: Seal }) {
    this.reader = reader;
    this.incoming = incoming;
    this.outgoing = outgoing;
  }

  get socket(): Socket {
    return this.reader.socket;
  }

  /** The next frame. Memory is taken only once its length is known to be within `limitOf` its kind. */
  async read(limitOf: (kind: FrameKind) => number): Promise<Frame> {
    const header = Buffer.alloc(headerBytes);
    await this.open(header);
    const kind = frameKinds[header.readUInt32BE(0)];
    if (kind === undefined) throw new Error("it sent what is no frame");
    const length = Number(header.readBigUInt64BE(8));
    const limit = limitOf(kind);
    if (length > limit) {
      throw new Error(`it sent a ${kind} of ${length} bytes, where at most ${limit} are expected`);
    }
    const bytes = new Uint8Array(new SharedArrayBuffer(length));
    for (const piece of piecesOf(bytes)) await this.open(piece);
    return { kind, tag: header.readUInt32BE(4), bytes };
  }

  private async open(piece: Uint8Array): Promise<void> {
    await this.reader.fill(piece);
    this.incoming.check(piece, await this.reader.bytes(sealBytes));
  }

  /** Resolves when the system has taken the bytes. */
  write(kind: FrameKind, tag: number, bytes: Uint8Array): Promise<void> {
    const written = this.tail.then(() => this.writeNow(headerOf(kind, tag, bytes), bytes));
    this.tail = written.catch(() => {});
    return written;
  }

  private async writeNow(header: Uint8Array, bytes: Uint8Array): Promise<void> {
    let before = this.seal(header);
    for (const piece of piecesOf(bytes)) {
      // One piece is sealed while the system takes the one before.
      const next = this.seal(piece);
      await before;
      before = next;
    }
    await before;
  }

  private seal(piece: Uint8Array): Promise<void> {
    const seal = this.outgoing.next(piece);
    return new Promise((resolve, reject) => {
      this.socket.cork();
      this.socket.write(piece);
      this.socket.write(seal, (error) => (error ? reject(error) : resolve()));
      this.socket.uncork();
    });
  }
}

function headerOf(kind: FrameKind, tag: number, bytes: Uint8Array): Buffer {
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32BE(frameKinds.indexOf(kind), 0);
  header.writeUInt32BE(tag, 4);
  header.writeBigUInt64BE(BigInt(bytes.byteLength), 8);
  return header;
}

export function toJson(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

export function fromJson(bytes: Uint8Array): unknown {
  return JSON.parse(Buffer.from(bytes).toString("utf8"));
}
