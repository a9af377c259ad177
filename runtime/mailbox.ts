/** What has arrived for a rank and who waits for it: the same under every transport. */

interface Waiter {
  readonly sizeBytes: number;
  readonly resolve: (bytes: Uint8Array) => void;
  readonly reject: (error: Error) => void;
}

/**
 * Messages by (sender, tag), each line of them in order. Every arrival and every waiter is served once; a
 * waiter whose time is up is gone, and what comes later is kept for the next.
 */
export class Mailbox {
  private readonly rank: number;
  private readonly timeoutMs: number;
  private readonly arrived = new Map<string, Uint8Array[]>();
  private readonly waiting = new Map<string, Waiter[]>();
  private failure: Error | null = null;
  private readonly listeners: ((failure: Error) => void)[] = [];

  constructor(rank: number, timeoutMs: number) {
    this.rank = rank;
    this.timeoutMs = timeoutMs;
  }

  /** A message is here; its bytes are the mailbox's from now on. */
  put(from: number, tag: number, bytes: Uint8Array): void {
    const key = `${from}#${tag}`;
    const waiter = this.waiting.get(key)?.shift();
    if (waiter) this.deliver(waiter, from, bytes);
    else push(this.arrived, key, bytes);
  }

  /**
   * The next message of (from, tag).
   * **Errors:** it has another size than `sizeBytes`, none comes in time, or a rank failed.
   */
  take(from: number, tag: number, sizeBytes: number): Promise<Uint8Array> {
    const key = `${from}#${tag}`;
    return new Promise((resolve, reject) => {
      if (this.failure) return reject(this.failure);
      const ready = this.arrived.get(key)?.shift();
      if (ready) return this.deliver({ sizeBytes, resolve, reject }, from, ready);
      const settled =
        <A>(settle: (value: A) => void) =>
        (value: A) => {
          clearTimeout(timer);
          settle(value);
        };
      const waiter = { sizeBytes, resolve: settled(resolve), reject: settled(reject) };
      const timer = setTimeout(() => {
        this.waiting.set(
          key,
          this.waiting.get(key)!.filter((other) => other !== waiter),
        );
        reject(new Error(`rank ${this.rank} waited ${this.timeoutMs} ms for rank ${from}`));
      }, this.timeoutMs);
      push(this.waiting, key, waiter);
    });
  }

  /** Nobody waits any longer, now or later; the first failure is the one that counts. */
  fail(error: Error): void {
    const isFirst = this.failure === null;
    this.failure ??= error;
    for (const waiters of this.waiting.values()) {
      for (const { reject } of waiters) reject(this.failure);
    }
    this.waiting.clear();
    if (isFirst) for (const listener of this.listeners) listener(error);
  }

  /** Called with the first failure, at once where there is one already. */
  onFailure(listener: (failure: Error) => void): void {
    if (this.failure) listener(this.failure);
    else this.listeners.push(listener);
  }

  /** Throws what failed, if something did. */
  check(): void {
    if (this.failure) throw this.failure;
  }

  private deliver({ sizeBytes, resolve, reject }: Waiter, from: number, bytes: Uint8Array): void {
    const found = bytes.byteLength;
    if (found === sizeBytes) resolve(bytes);
    else {
      const text = `expected ${sizeBytes} bytes from rank ${from}, got ${found}`;
      reject(new Error(`rank ${this.rank} ${text}`));
    }
  }
}

function push<T>(lines: Map<string, T[]>, key: string, item: T): void {
  const line = lines.get(key);
  if (line) line.push(item);
  else lines.set(key, [item]);
}

/** How a rank's failure reads on its peers. */
export function failureOf(rank: number, reason: string): Error {
  return new Error(`rank ${rank} failed: ${reason}`);
}

/** Of what several ranks ended with, what came first in cause: a peer's failure is only an echo. */
export function firstCause(messages: readonly string[]): string {
  return messages.find((text) => !/rank \d+ failed:/.test(text)) ?? messages[0]!;
}
