/**
 * How ranks find each other: all call rank 0, which compares what they run and tells each where the others listen; then
 * each calls the ranks below it. Once all are connected nobody listens any more.
 */
import { lookup } from "node:dns/promises";
import { type Server, type Socket, connect, createServer } from "node:net";
import { failureOf } from "../../mailbox.ts";
import { printable } from "../../printable.ts";
import { RefusedError, type Verdict, answerRank, callRank } from "./handshake.ts";
import { type Address, type Hello, helloOf, peersOf } from "./hello.ts";
import { Links, type LinksOptions } from "./links.ts";
import { ByteReader, Channel, type Frame, toJson } from "./wire.ts";

export interface RendezvousOptions extends LinksOptions {
  readonly ranks: number;
  /** Where rank 0 listens. */
  readonly host: string;
  readonly port: number;
  /** The address that this rank listens at. */
  readonly bind: string;
  /** What the ranks share and strangers do not know; empty: none, which only a loopback address takes. */
  readonly token: string;
  /** How long to wait for the others, in milliseconds. */
  readonly timeoutMs: number;
  /** What must be the same on all ranks, by what it is called: { sizes: "B=1, T=64" }. */
  readonly description: Readonly<Record<string, string>>;
  /** Told who called and was refused, and why; the wait goes on. */
  readonly onRefused?: (text: string) => void;
  /** Ends the wait, with the reason. */
  readonly signal?: AbortSignal;
}

const handshakeMs = 5000;
/** Less than that: a caller must know whether it was refused or not heard. */
const answerMs = 3000;
const retryMs = 100;
/** Connections that have not shown who they are; the oldest goes when there are more. */
const mostStrangers = 64;
/** Callers that were refused and are spoken of: strangers shall not fill the terminal. */
const mostRefusals = 8;

/**
 * Connects this rank with all others.
 * **Errors:** an address that others can reach without a token, a port in use, ranks that do not come in time or run
 * something else, each with the rank's number.
 */
export async function connectRanks(options: RendezvousOptions): Promise<Links> {
  await checkAddresses(options);
  const rendezvous = new Rendezvous(options);
  try {
    return await rendezvous.run();
  } catch (error) {
    await rendezvous.links.abort((error as Error).message);
    throw error;
  } finally {
    rendezvous.stopListening();
  }
}

class Rendezvous {
  readonly links: Links;
  private readonly options: RendezvousOptions;
  private readonly server: Server;
  private readonly strangers = new Set<Socket>();
  /** Ranks that have called this one. */
  private readonly callers = new Set<number>();
  private readonly refusals = new Set<string>();
  private readonly hellos = new Map<number, Hello & Address>();
  private readonly changed: () => void;
  private peers: readonly (Address | null)[] | null = null;
  private failure: Error | null = null;
  /** A call that nobody has answered yet. */
  private calling: Socket | null = null;
  private wake: () => void = () => {};

  constructor(options: RendezvousOptions) {
    this.options = options;
    this.changed = () => this.wake();
    this.server = createServer((socket) => void this.welcome(socket));
    this.links = new Links({
      ...options,
      onFrame: (from, frame) => this.take(from, frame),
      onFailure: (failure) => {
        this.fail(failure);
        options.onFailure(failure);
      },
    });
  }

  async run(): Promise<Links> {
    const { rank, ranks, signal, timeoutMs } = this.options;
    const timer = setTimeout(() => this.fail(new Error(this.whoIsMissing())), timeoutMs);
    const stop = () => this.fail(new Error(String(signal!.reason)));
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop);
    try {
      const port = await this.listen();
      if (rank === 0) {
        await this.until(() => this.hellos.size === ranks - 1);
        this.compare();
        const table = [
          null,
          ...Array.from({ length: ranks - 1 }, (_, i) => this.hellos.get(i + 1)!),
        ];
        const peers = toJson(table.map((at) => at && { host: at.host, port: at.port }));
        for (let peer = 1; peer < ranks; peer++) await this.links.send(peer, "peers", 0, peers);
      } else {
        await this.call(0, this.options);
        const hello: Hello = { description: this.options.description, port };
        await this.links.send(0, "hello", 0, toJson(hello));
        await this.until(() => this.peers !== null);
        for (let peer = 1; peer < rank; peer++) await this.call(peer, this.peers![peer]!);
      }
      await this.until(() => this.links.count === ranks - 1);
      return this.links;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
    }
  }

  stopListening(): void {
    this.server.close();
    for (const socket of this.strangers) socket.destroy();
  }

  private fail(failure: Error): void {
    this.failure ??= failure;
    this.calling?.destroy();
    this.changed();
  }

  private async until(isReady: () => boolean): Promise<void> {
    for (;;) {
      if (this.failure) throw this.failure;
      if (isReady()) return;
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
  }

  private whoIsMissing(): string {
    const { rank, ranks, timeoutMs } = this.options;
    const all = Array.from({ length: ranks }, (_, peer) => peer).filter((peer) => peer !== rank);
    const came = (peer: number) => (rank === 0 ? this.hellos.has(peer) : this.links.has(peer));
    // Before rank 0 is there nobody can know of the others.
    const expected = rank > 0 && !this.links.has(0) ? [0] : all;
    const missing = expected.filter((peer) => !came(peer));
    const late = `rank ${missing.join(", ")} did not come within ${timeoutMs / 1000} s`;
    return [late, ...this.refusals].join("; ");
  }

  /** Listens: rank 0 where all look for it, others at any port. */
  private listen(): Promise<number> {
    const { rank, bind, port } = this.options;
    return new Promise((resolve, reject) => {
      this.server.once("error", (error: NodeJS.ErrnoException) => {
        const why = error.code === "EADDRINUSE" ? "the port is in use" : error.message;
        reject(new Error(`rank ${rank} cannot listen at ${bind}:${rank === 0 ? port : 0}: ${why}`));
      });
      this.server.listen(rank === 0 ? port : 0, bind, () => {
        resolve((this.server.address() as { port: number }).port);
      });
    });
  }

  /** Lets in who proves to be a rank; what else comes is closed, and nothing else happens. */
  private async welcome(socket: Socket): Promise<void> {
    const [oldest] = this.strangers;
    if (this.strangers.size >= mostStrangers) oldest!.destroy();
    this.strangers.add(socket);
    const timer = setTimeout(() => socket.destroy(), handshakeMs);
    try {
      const reader = new ByteReader(socket);
      const admit = (from: number, to: number) => this.admit(from, to);
      const { from, seals } = await answerRank(reader, { token: this.options.token, admit });
      const ends = { incoming: seals.caller, outgoing: seals.listener };
      this.links.add(from, new Channel(reader, ends));
      this.changed();
    } catch (error) {
      if (error instanceof RefusedError) this.noteRefusal(socket, error.message);
      // What was answered is still sent.
      socket.destroySoon();
    } finally {
      clearTimeout(timer);
      this.strangers.delete(socket);
    }
  }

  /** Each of the ranks above this one is let in once; then nobody is. */
  private admit(from: number, to: number): Exclude<Verdict, "token"> {
    const { rank, ranks } = this.options;
    if (to !== rank || from <= rank || from >= ranks) return "unexpected";
    if (this.callers.has(from)) return "taken";
    this.callers.add(from);
    return "welcome";
  }

  private noteRefusal(socket: Socket, message: string): void {
    const text = `a caller at ${socket.remoteAddress ?? "an address that is gone"} ${message}`;
    if (this.refusals.has(text) || this.refusals.size >= mostRefusals) return;
    this.refusals.add(text);
    this.options.onRefused?.(text);
  }

  private async call(peer: number, { host, port }: Address): Promise<void> {
    const { rank, token } = this.options;
    while (this.failure === null) {
      const socket = (this.calling = connect({ host, port }));
      let isSilent = false;
      const timer = setTimeout(() => {
        isSilent = true;
        socket.destroy();
      }, answerMs);
      const reader = new ByteReader(socket);
      try {
        const seals = await callRank(reader, { from: rank, to: peer, token });
        const ends = { incoming: seals.listener, outgoing: seals.caller };
        this.links.add(peer, new Channel(reader, ends));
        return;
      } catch (error) {
        socket.destroy();
        const { message } = error as Error;
        // Nobody there yet, one that just ends, or a link that lets nothing through; anything else will not get better.
        const mayCome = isSilent || message === "its connection closed";
        if (!mayCome && this.failure === null) {
          throw new Error(`rank ${peer} at ${host}:${port}: ${message}`, { cause: error });
        }
      } finally {
        clearTimeout(timer);
        this.calling = null;
      }
      await new Promise((resolve) => setTimeout(resolve, retryMs));
    }
    throw this.failure;
  }

  private take(from: number, frame: Frame): void {
    const { rank } = this.options;
    const isHello = rank === 0 && frame.kind === "hello" && !this.hellos.has(from);
    const isPeers = from === 0 && frame.kind === "peers" && this.peers === null;
    if (isHello) {
      const host = this.links.addressOf(from);
      this.hellos.set(from, { host, ...helloOf(frame.bytes) });
    } else if (isPeers) this.peers = peersOf(frame.bytes, this.options.ranks);
    else return this.options.onFrame(from, frame);
    this.changed();
  }

  /** Throws when a rank runs something else than rank 0 does, with all that differs. */
  private compare(): void {
    const ours = this.options.description;
    for (const [peer, { description: theirs }] of [...this.hellos].sort(([a], [b]) => a - b)) {
      const names = [...new Set([...Object.keys(ours), ...Object.keys(theirs)])];
      const differing = names.filter((name) => valueOf(theirs, name) !== valueOf(ours, name));
      if (differing.length === 0) continue;
      const list = (of: Hello["description"]) =>
        differing.map((name) => `${name} ${valueOf(of, name)}`).join(" and ");
      throw failureOf(peer, printable(`it runs with ${list(theirs)}, rank 0 with ${list(ours)}`));
    }
  }
}

function valueOf(description: Hello["description"], name: string): string {
  return Object.hasOwn(description, name) ? description[name]! : "none";
}

/** Without a token nobody but this machine may call. */
async function checkAddresses({
  rank,
  ranks,
  host,
  bind,
  token,
}: RendezvousOptions): Promise<void> {
  if (rank >= ranks) throw new Error(`there is no rank ${rank} of ${ranks}`);
  if (!isLoopback(bind) && token === "") {
    throw new Error(`listening at ${bind} needs a token that all ranks share: set LASPC_TOKEN`);
  }
  if (!isLoopback(bind) || ranks === 1) return;
  const { address } = await lookup(host).catch(() => ({ address: host }));
  if (!isLoopback(address)) {
    const text = `rank 0 is at ${host}, and this rank listens on loopback only`;
    throw new Error(`${text}: say --bind ADDRESS and set LASPC_TOKEN`);
  }
}

export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.\d+){3}$/.test(host);
}
