/** A transport with a slower link: what a network would add where there is none. */
import type { Transport } from "../transport.ts";

/** A message of n bytes takes n / bandwidth to leave, one after the other, and is there a latency later. */
export interface SlowLink {
  /** Milliseconds. */
  readonly latencyMs: number;
  /** Bytes in a second. */
  readonly bandwidth: number;
}

export function slowTransport(inner: Transport, link: SlowLink): Transport {
  return new SlowTransport(inner, link);
}

class SlowTransport implements Transport {
  bytesSent = 0;
  messagesSent = 0;
  private readonly inner: Transport;
  private readonly link: SlowLink;
  /** When the last message has left, as `performance.now()` counts. */
  private freeMs = 0;
  /** Messages arrive in the order they left in. */
  private delivered: Promise<void> = Promise.resolve();
  private failure: Error | null = null;

  constructor(inner: Transport, link: SlowLink) {
    this.inner = inner;
    this.link = link;
  }

  get rank(): number {
    return this.inner.rank;
  }
  get ranks(): number {
    return this.inner.ranks;
  }

  async send(to: number, tag: number, bytes: Uint8Array): Promise<void> {
    if (this.failure) throw this.failure;
    this.bytesSent += bytes.byteLength;
    this.messagesSent += 1;
    const copy = bytes.slice();
    this.freeMs =
      Math.max(performance.now(), this.freeMs) + (1000 * bytes.byteLength) / this.link.bandwidth;
    const [leftMs, arrivesMs] = [this.freeMs, this.freeMs + this.link.latencyMs];
    this.delivered = this.delivered
      .then(() => until(arrivesMs))
      .then(() => this.inner.send(to, tag, copy))
      .catch((error: unknown) => {
        this.failure ??= error as Error;
      });
    await until(leftMs);
  }

  recv(from: number, tag: number, sizeBytes: number): Promise<Uint8Array> {
    return this.inner.recv(from, tag, sizeBytes);
  }

  abort(reason: string): void {
    this.inner.abort(reason);
  }

  async close(): Promise<void> {
    await this.delivered;
    await this.inner.close();
  }
}

function until(timeMs: number): Promise<void> {
  const waitMs = timeMs - performance.now();
  return waitMs <= 0 ? Promise.resolve() : new Promise((resolve) => setTimeout(resolve, waitMs));
}
