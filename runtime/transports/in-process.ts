/** All ranks in one process: messages are handed over in memory. */
import { Mailbox, failureOf } from "../mailbox.ts";
import { type WatchedTransport, defaultTimeoutMs } from "../transport.ts";

export interface InProcessOptions {
  /** How long a recv waits before it gives up, in milliseconds. */
  readonly timeoutMs?: number;
}

/** One transport for each rank, connected to each other. */
export function inProcessTransports(
  ranks: number,
  options: InProcessOptions = {},
): WatchedTransport[] {
  const timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
  const mailboxes = Array.from({ length: ranks }, (_, rank) => new Mailbox(rank, timeoutMs));
  return mailboxes.map((_, rank) => new InProcessTransport(rank, mailboxes));
}

class InProcessTransport implements WatchedTransport {
  bytesSent = 0;
  messagesSent = 0;
  readonly rank: number;
  readonly ranks: number;
  private readonly mailboxes: readonly Mailbox[];

  constructor(rank: number, mailboxes: readonly Mailbox[]) {
    this.rank = rank;
    this.ranks = mailboxes.length;
    this.mailboxes = mailboxes;
  }

  async send(to: number, tag: number, bytes: Uint8Array): Promise<void> {
    this.mailboxes[this.rank]!.check();
    this.bytesSent += bytes.byteLength;
    this.messagesSent += 1;
    // A copy: the sender may reuse its bytes at once.
    this.mailboxes[to]!.put(this.rank, tag, bytes.slice());
  }

  recv(from: number, tag: number, sizeBytes: number): Promise<Uint8Array> {
    return this.mailboxes[this.rank]!.take(from, tag, sizeBytes);
  }

  onFailure(listener: (failure: Error) => void): void {
    this.mailboxes[this.rank]!.onFailure(listener);
  }

  abort(reason: string): void {
    for (const mailbox of this.mailboxes) mailbox.fail(failureOf(this.rank, reason));
  }

  async close(): Promise<void> {
    // Nothing is held outside of memory.
  }
}
