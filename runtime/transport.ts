/** The interface of everything that moves bytes between ranks. */

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
