/** Ranks in processes, on one host or several: messages over TCP. */
import { Mailbox, failureOf } from "../mailbox.ts";
import { type Transport, defaultTimeoutMs } from "../transport.ts";
import type { Links } from "./tcp/links.ts";
import { type RendezvousOptions, connectRanks } from "./tcp/rendezvous.ts";

export interface TcpOptions extends Omit<
  RendezvousOptions,
  "limits" | "onFrame" | "onFailure" | "timeoutMs"
> {
  /** The largest message that a peer has reason to send, in bytes. */
  readonly largestMessage: number;
  /** How long a recv waits, in milliseconds. */
  readonly timeoutMs?: number;
  /** How long to wait for the others to come, in milliseconds. */
  readonly connectTimeoutMs?: number;
}

/** This rank's transport, connected with all others. **Errors:** as of `connectRanks`. */
export async function tcpTransport(options: TcpOptions): Promise<Transport> {
  const { rank, ranks, largestMessage, timeoutMs, connectTimeoutMs } = options;
  const mailbox = new Mailbox(rank, timeoutMs ?? defaultTimeoutMs);
  const links = await connectRanks({
    ...options,
    timeoutMs: connectTimeoutMs ?? defaultTimeoutMs,
    limits: { message: largestMessage, tensors: 0 },
    onFrame: (from, { kind, tag, bytes }) => {
      if (kind === "message") mailbox.put(from, tag, bytes);
    },
    onFailure: (failure) => mailbox.fail(failure),
  });
  return new TcpTransport(rank, ranks, links, mailbox);
}

class TcpTransport implements Transport {
  bytesSent = 0;
  messagesSent = 0;
  readonly rank: number;
  readonly ranks: number;
  private readonly links: Links;
  private readonly mailbox: Mailbox;

  constructor(rank: number, ranks: number, links: Links, mailbox: Mailbox) {
    this.rank = rank;
    this.ranks = ranks;
    this.links = links;
    this.mailbox = mailbox;
  }

  send(to: number, tag: number, bytes: Uint8Array): Promise<void> {
    this.bytesSent += bytes.byteLength;
    this.messagesSent += 1;
    return this.links.send(to, "message", tag, bytes);
  }

  recv(from: number, tag: number, sizeBytes: number): Promise<Uint8Array> {
    return this.mailbox.take(from, tag, sizeBytes);
  }

  abort(reason: string): void {
    this.mailbox.fail(failureOf(this.rank, reason));
    void this.links.abort(reason);
  }

  close(): Promise<void> {
    return this.links.leave();
  }
}
