/** The interface of everything that moves bytes between ranks. */
import type { BufferRange, DeviceQueue } from "./device.ts";

/** How long a recv waits where nobody says, in milliseconds. */
export const defaultTimeoutMs = 60_000;

export interface Transport {
  readonly rank: number;
  readonly ranks: number;
  /** Resolves when the bytes may be reused. Messages of one (to, tag) arrive in order. */
  send(to: number, tag: number, bytes: Uint8Array): Promise<void>;
  /** Resolves with exactly `sizeBytes` bytes; rejects on another size, a lost peer or a timeout. */
  recv(from: number, tag: number, sizeBytes: number): Promise<Uint8Array>;
  /** Bytes this rank has sent so far. */
  readonly bytesSent: number;
  /** Messages this rank has sent so far. */
  readonly messagesSent: number;
  /** Tells every peer that this rank failed, so that nobody waits for it. */
  abort(reason: string): void;
  close(): Promise<void>;
}

/** A transport that tells when a rank has failed, whether or not anybody waits for it. */
export interface WatchedTransport extends Transport {
  /** Called once, with the first failure, at once where there is one already. */
  onFailure(listener: (failure: Error) => void): void;
}

/** Bytes of this rank's device, to or from another rank. */
export interface Move {
  readonly rank: number;
  readonly range: BufferRange;
}

/** What is queued, and done later. */
export interface Moving {
  /** Rejects on a lost peer or a timeout. */
  readonly done: Promise<void>;
}

/**
 * A transport that also moves buffers of devices to each other, not through the host. It knows no tags: what a rank
 * sends another arrives in the order of that one's receives, and an exchange may wait for its peers to be at theirs
 * (`ordered.ts` tells which plans that suits).
 */
export interface DeviceTransport extends Transport {
  /** Sends and receives at once, behind what is on the queue. Resolves when all of it is queued. */
  exchange(queue: DeviceQueue, sends: readonly Move[], receives: readonly Move[]): Promise<Moving>;
}

export function movesBuffers(transport: Transport): transport is DeviceTransport {
  return "exchange" in transport;
}
