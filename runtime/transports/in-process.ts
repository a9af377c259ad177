/** All ranks in one process: messages are handed over in memory. */
import type { Transport } from "../transport.ts";

export interface InProcessOptions {
  /** How long a recv waits before it gives up, in milliseconds. */
  readonly timeoutMs?: number;
}

/** One transport for each rank, connected to each other. */
export function inProcessTransports(ranks: number, options: InProcessOptions = {}): Transport[] {
  const exchange = new Exchange();
  const timeoutMs = options.timeoutMs ?? 60_000;
  return Array.from(
    { length: ranks },
    (_, rank) => new InProcessTransport(exchange, rank, ranks, timeoutMs),
  );
}

interface Waiter {
  readonly resolve: (bytes: Uint8Array) => void;
  readonly reject: (error: Error) => void;
}

class Exchange {
  readonly messages = new Map<string, Uint8Array[]>();
  readonly waiters = new Map<string, Waiter[]>();
  failed: Error | null = null;

  push(key: string, bytes: Uint8Array): void {
    const waiter = this.waiters.get(key)?.shift();
    if (waiter) waiter.resolve(bytes);
    else this.messages.set(key, [...(this.messages.get(key) ?? []), bytes]);
  }

  fail(error: Error): void {
    this.failed ??= error;
    for (const waiters of this.waiters.values()) for (const { reject } of waiters) reject(error);
    this.waiters.clear();
  }
}

class InProcessTransport implements Transport {
  bytesSent = 0;
  readonly rank: number;
  readonly ranks: number;
  private readonly exchange: Exchange;
  private readonly timeoutMs: number;

  constructor(exchange: Exchange, rank: number, ranks: number, timeoutMs: number) {
    this.exchange = exchange;
    this.rank = rank;
    this.ranks = ranks;
    this.timeoutMs = timeoutMs;
  }

  async send(to: number, tag: number, bytes: Uint8Array): Promise<void> {
    if (this.exchange.failed) throw this.exchange.failed;
    this.bytesSent += bytes.byteLength;
    // A copy: the sender may reuse its bytes at once.
    this.exchange.push(`${this.rank}>${to}#${tag}`, bytes.slice());
  }

  async recv(from: number, tag: number, sizeBytes: number): Promise<Uint8Array> {
    const key = `${from}>${this.rank}#${tag}`;
    const bytes = await this.next(key, from);
    if (bytes.byteLength !== sizeBytes) {
      throw new Error(
        `rank ${this.rank} expected ${sizeBytes} bytes from rank ${from}, got ${bytes.byteLength}`,
      );
    }
    return bytes;
  }

  private next(key: string, from: number): Promise<Uint8Array> {
    const { exchange } = this;
    if (exchange.failed) return Promise.reject(exchange.failed);
    const ready = exchange.messages.get(key)?.shift();
    if (ready) return Promise.resolve(ready);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new Error(`rank ${this.rank} waited ${this.timeoutMs} ms for rank ${from}`));
      }, this.timeoutMs);
      const settle =
        <A>(f: (value: A) => void) =>
        (value: A) => {
          clearTimeout(timer);
          f(value);
        };
      const waiter: Waiter = { resolve: settle(resolve), reject: settle(reject) };
      exchange.waiters.set(key, [...(exchange.waiters.get(key) ?? []), waiter]);
    });
  }

  abort(reason: string): void {
    this.exchange.fail(new Error(`rank ${this.rank} failed: ${reason}`));
  }

  async close(): Promise<void> {
    // Nothing is held outside of memory.
  }
}
