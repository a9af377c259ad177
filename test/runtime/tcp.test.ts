/** Ranks over TCP: the numbers of one process, and what strangers, dead peers and other programs do to a run. */
import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type Socket, connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { buffer } from "node:stream/consumers";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { launchOf } from "../../runtime/launch.ts";
import { writeNpy } from "../../runtime/npy.ts";
import { callRank } from "../../runtime/transports/tcp/handshake.ts";
import { pieceBytes, sealsOf } from "../../runtime/transports/tcp/seal.ts";
import { ByteReader, Channel, type FrameKind, toJson } from "../../runtime/transports/tcp/wire.ts";
import { digestOf } from "../../runtime/transports/tcp-rank.ts";
import { type TcpOptions, tcpTransport } from "../../runtime/transports/tcp.ts";

const root = join(import.meta.dirname, "../..");
const newPort = () => 20_000 + (randomBytes(2).readUInt16BE() % 10_000);

function optionsOf(rank: number, port: number, more: Partial<TcpOptions> = {}): TcpOptions {
  return {
    rank,
    ranks: 2,
    host: "127.0.0.1",
    port,
    bind: "127.0.0.1",
    token: "secret",
    largestMessage: 64,
    description: { sizes: "T=8" },
    connectTimeoutMs: 3000,
    ...more,
  };
}

const sizes = [
  "--devices",
  "4",
  "--dim",
  "B=2,H=2,T=50,K=8,V=8",
  "--backward",
  "--verify",
  "--json",
];
const argv = ["run", "dsl-examples/mamba2-ssd.lasp", "--device", "reference", ...sizes];

test("four processes give the numbers of one", () => {
  const run = (...more: string[]) => {
    const all = ["dist/laspc.js", ...argv, ...more];
    const { stdout, status } = spawnSync(process.execPath, all, { cwd: root, encoding: "utf8" });
    expect(status).toBe(0);
    // Inputs of other kinds are drawn in one process only.
    const {
      wall_ms: _wall,
      draws: _draws,
      ...report
    } = JSON.parse(stdout) as Record<string, unknown>;
    return report;
  };
  expect(run("--transport", "tcp", "--schedule", "ring")).toEqual(run());
});

test("processes that a launcher starts: rank 0 speaks, the others are silent", async () => {
  const port = String(newPort());
  const ranks = Array.from({ length: 4 }, (_, rank) => {
    const env = { OMPI_COMM_WORLD_RANK: `${rank}`, OMPI_COMM_WORLD_SIZE: "4", MASTER_PORT: port };
    const child = spawn(process.execPath, ["dist/laspc.js", ...argv], {
      cwd: root,
      env: { ...process.env, ...env },
    });
    let stdout = "";
    child.stdout.on("data", (bytes) => (stdout += String(bytes)));
    return new Promise<{ code: number | null; stdout: string }>((resolve) => {
      child.on("close", (code) => resolve({ code, stdout }));
    });
  });
  const [first, ...others] = await Promise.all(ranks);
  expect(first!.code).toBe(0);
  expect(JSON.parse(first!.stdout)).toMatchObject({ ok: true, devices: 4 });
  expect(others).toEqual(others.map(() => ({ code: 0, stdout: "" })));
});

test("launchers' variables", () => {
  const elastic = { RANK: "1", WORLD_SIZE: "4", MASTER_ADDR: "n0", MASTER_PORT: "700" };
  expect(launchOf(elastic)).toEqual({ rank: 1, ranks: 4, host: "n0", port: 700 });
  expect(launchOf({ ...elastic, TORCHELASTIC_USE_AGENT_STORE: "True" })).toMatchObject({
    port: 701,
  });
  const slurm = { SLURM_PROCID: "2", SLURM_NTASKS: "3", SLURM_LAUNCH_NODE_IPADDR: "10.0.0.7" };
  expect(launchOf(slurm)).toMatchObject({ rank: 2, ranks: 3, host: "10.0.0.7" });
  expect(launchOf({})).toBeNull();
  expect(() => launchOf({ RANK: "4", WORLD_SIZE: "4" })).toThrow("RANK is 4, of 4 ranks");
  expect(() => launchOf({ RANK: "x", WORLD_SIZE: "4" })).toThrow("RANK is `x`");
});

test("messages between two ranks, in order and counted, and a peer that goes", async () => {
  const port = newPort();
  const [a, b] = await Promise.all([0, 1].map((rank) => tcpTransport(optionsOf(rank, port))));
  await a!.send(1, 0, Uint8Array.of(1, 2));
  await a!.send(1, 7, Uint8Array.of(5));
  await a!.send(1, 0, new Uint8Array());
  expect([...(await b!.recv(0, 7, 1))]).toEqual([5]);
  expect([...(await b!.recv(0, 0, 2))]).toEqual([1, 2]);
  expect([...(await b!.recv(0, 0, 0))]).toEqual([]);
  expect([a!.bytesSent, a!.messagesSent]).toEqual([3, 3]);
  const waiting = b!.recv(0, 9, 4);
  a!.abort("out of memory");
  await expect(waiting).rejects.toThrow("rank 0 failed: out of memory");
  await b!.close();
});

test("a peer that is done may go, and nobody minds", async () => {
  const port = newPort();
  const three = [0, 1, 2].map((rank) => tcpTransport(optionsOf(rank, port, { ranks: 3 })));
  const [a, b, c] = await Promise.all(three);
  await b!.close();
  await new Promise((resolve) => setTimeout(resolve, 50));
  await a!.send(2, 0, Uint8Array.of(4));
  expect([...(await c!.recv(0, 0, 1))]).toEqual([4]);
  await Promise.all([a!.close(), c!.close()]);
});

test("a frame longer than any message takes no memory and names its rank", async () => {
  const port = newPort();
  const waiting = tcpTransport(optionsOf(0, port));
  const rejected = expect(waiting).rejects.toThrow(
    "rank 1 failed: it sent a message of 9007199254740992 bytes, where at most 64 are expected",
  );
  await new Promise((resolve) => setTimeout(resolve, 100));
  const caller = connect({ port, host: "127.0.0.1" });
  const { caller: seal } = await callRank(new ByteReader(caller), {
    from: 1,
    to: 0,
    token: "secret",
  });
  const header = Buffer.from("00000000000000000020000000000000", "hex");
  caller.write(Buffer.concat([header, seal.next(header)]));
  await rejected;
  caller.destroy();
});

/** What a rank of the token says when it is called: the connection, once it is let in. */
async function comeAs(from: number, port: number, token = "secret"): Promise<Channel> {
  const socket = connect({ port, host: "127.0.0.1" });
  socket.on("error", () => {});
  const reader = new ByteReader(socket);
  const seals = await callRank(reader, { from, to: 0, token });
  return new Channel(reader, { incoming: seals.listener, outgoing: seals.caller });
}

const frames: readonly (readonly [FrameKind, number, Uint8Array])[] = [
  ["hello", 0, Uint8Array.of(1, 2, 3)],
  ["message", 7, new Uint8Array(pieceBytes + 5).fill(9)],
  ["ping", 0, new Uint8Array()],
  ["message", 7, new Uint8Array(40).fill(8)],
];

/** One direction of a connection without the network. */
function channelOver(stream: PassThrough): Channel {
  const seals = sealsOf("secret", Buffer.from("the nonces"));
  const ends = { incoming: seals.caller, outgoing: seals.caller };
  return new Channel(new ByteReader(stream as unknown as Socket), ends);
}

async function sealedFrames(): Promise<Buffer> {
  const stream = new PassThrough({ highWaterMark: 2 ** 24 });
  const channel = channelOver(stream);
  for (const frame of frames) await channel.write(...frame);
  stream.end();
  return buffer(stream);
}

/** The frames that are taken of some bytes, until something is wrong with them. */
async function readFrames(sealed: Uint8Array) {
  const stream = new PassThrough();
  stream.end(sealed);
  const channel = channelOver(stream);
  const taken: string[] = [];
  for (;;) {
    try {
      const { kind, tag, bytes } = await channel.read(() => 2 ** 20);
      taken.push(nameOf([kind, tag, bytes]));
    } catch (error) {
      return { taken, why: (error as Error).message };
    }
  }
}

/** Short, so that a failure can be printed. */
function nameOf([kind, tag, bytes]: (typeof frames)[number]): string {
  return `${kind} ${tag} ${bytes.byteLength} ${digestOf(bytes)}`;
}

test("of bytes that were altered, repeated, moved or left out, nothing is taken", async () => {
  const sealed = await sealedFrames();
  const names = frames.map(nameOf);
  expect(await readFrames(sealed)).toEqual({ taken: names, why: "its connection closed" });
  // Half of the places are beside the large message, where headers and seals are.
  const place = fc.oneof(
    fc.nat(90),
    fc.nat(sealed.byteLength - 1),
    fc.nat(110).map((at) => sealed.byteLength - 1 - at),
  );
  const part = (from: number, to?: number) => sealed.subarray(from, to);
  const mangled = fc.oneof(
    fc.tuple(place, fc.integer({ min: 1, max: 255 })).map(([at, flips]) => {
      const other = Buffer.from(sealed);
      other[at]! ^= flips;
      return other;
    }),
    fc.tuple(place, place, place).map((places) => {
      const [a, b, c] = places.toSorted((x, y) => x - y) as [number, number, number];
      return Buffer.concat([part(0, a), part(b, c), part(a, b), part(c)]);
    }),
    fc.tuple(place, place).map(([a, b]) => Buffer.concat([part(0, a), part(b)])),
    fc.constant(Buffer.concat([sealed, sealed])),
  );
  await fc.assert(
    fc.asyncProperty(mangled, async (other) => {
      const { taken, why } = await readFrames(other);
      expect(taken).toEqual(names.slice(0, taken.length));
      const isWhole = sealed.equals(other.subarray(0, sealed.byteLength));
      if (!isWhole) expect(taken.length).toBeLessThan(names.length);
      expect(["its connection closed", "what came from it is not what it sent"]).toContain(why);
    }),
    { numRuns: 300 },
  );
});

test("without a token a rank is let in once, and nobody that is not waited for", async () => {
  const port = newPort();
  const open = { token: "", ranks: 3, connectTimeoutMs: 1500 };
  const heard: string[] = [];
  const onRefused = (text: string) => heard.push(text);
  const waiting = tcpTransport(optionsOf(0, port, { ...open, onRefused }));
  const lost = expect(waiting).rejects.toThrow(
    "rank 1, 2 did not come within 1.5 s; a caller at 127.0.0.1 that says it is rank 1 came when rank 1 was there already",
  );
  await new Promise((resolve) => setTimeout(resolve, 100));
  const first = await comeAs(1, port, "");
  await expect(comeAs(1, port, "")).rejects.toThrow("another rank 1 is there already");
  await expect(comeAs(0, port, "")).rejects.toThrow("it waits for no rank 0");
  await expect(comeAs(3, port, "")).rejects.toThrow("it waits for no rank 3");
  await expect(comeAs(1, port, "guess")).rejects.toThrow("does not share this rank's token");
  expect(heard).toHaveLength(4);
  await lost;
  first.socket.destroy();
});

test("what a peer says is printed without control characters", async () => {
  const failureBy = async (speak: (peer: Channel) => Promise<void>) => {
    const port = newPort();
    const waiting = tcpTransport(optionsOf(0, port)).then(
      () => "it came",
      (error: Error) => error.message,
    );
    await new Promise((resolve) => setTimeout(resolve, 100));
    const peer = await comeAs(1, port);
    await speak(peer);
    const message = await waiting;
    peer.socket.destroy();
    return message;
  };
  const clear = "\u001b[2J\r\n\u202elaspc: ok";
  const shown = "\\x1b[2J\\x0d\\x0a\\u202elaspc: ok";
  const abort = (peer: Channel) => peer.write("abort", 0, Buffer.from(clear));
  expect(await failureBy(abort)).toBe(shown);
  const hello = (description: unknown, port: unknown) => (peer: Channel) =>
    peer.write("hello", 0, toJson({ description, port }));
  expect(await failureBy(hello({ sizes: clear }, 80))).toBe(
    `rank 1 failed: it runs with sizes ${shown}, rank 0 with sizes T=8`,
  );
  expect(await failureBy(hello({ [clear]: "1", sizes: "T=8" }, 80))).toBe(
    `rank 1 failed: it runs with ${shown} 1, rank 0 with ${shown} none`,
  );
  expect(await failureBy((peer) => peer.write("hello", 0, Buffer.from(clear)))).toMatch(
    /^rank 1 failed: Unexpected token .*\\x1b/,
  );
  for (const wrong of [hello(7, 80), hello({ sizes: 8 }, 80), hello({ sizes: "T=8" }, "80")]) {
    expect(await failureBy(wrong)).toMatch(/^rank 1 failed: it (does not say|sent what is no)/);
  }
});

test("who streams what is no call, or drips it, is cut off", async () => {
  const port = newPort();
  const waiting = tcpTransport(optionsOf(0, port, { connectTimeoutMs: 20_000 }));
  await new Promise((resolve) => setTimeout(resolve, 100));
  const closed = (speak: (socket: Socket) => void) =>
    new Promise<{ tookMs: number; sentBytes: number }>((resolve) => {
      const socket = connect({ port, host: "127.0.0.1" });
      const began = performance.now();
      socket.on("error", () => {}).on("connect", () => speak(socket));
      socket.on("close", () =>
        resolve({ tookMs: performance.now() - began, sentBytes: socket.bytesWritten }),
      );
    });
  const stream = closed((socket) => {
    const garbage = Buffer.alloc(65_536);
    const timer = setInterval(() => {
      for (let i = 0; i < 16 && socket.write(garbage); i++);
    }, 1);
    socket.on("close", () => clearInterval(timer));
  });
  const drip = closed((socket) => {
    const timer = setInterval(() => socket.write("L"), 200);
    socket.on("close", () => clearInterval(timer));
  });
  expect((await stream).tookMs).toBeLessThan(1000);
  // What the system's own buffers hold.
  expect((await stream).sentBytes).toBeLessThan(2 ** 24);
  expect((await drip).tookMs).toBeLessThan(7000);
  const peers = [waiting, tcpTransport(optionsOf(1, port))];
  for (const one of await Promise.all(peers)) await one.close();
});

test("ranks that differ in an input, the text, dtype or a flag end before the first step", async () => {
  const folder = mkdtempSync(join(tmpdir(), "laspc-ranks-"));
  try {
    const file = (name: string, factor: string, fill: number) => {
      mkdirSync(join(folder, name));
      const path = join(folder, name, "same.lasp");
      writeFileSync(
        path,
        `attention same(q: [T, K], k: [T, K], v: [T, V]) -> [T, V] {\n` +
          `  return (((q @ k.T) * causal()) @ v) * ${factor}\n}\n`,
      );
      const data = new Float32Array(8 * 4).fill(fill);
      const npy = writeNpy({ dtype: "f32", shape: [1, 8, 1, 4], data });
      writeFileSync(join(folder, name, "k.npy"), npy);
      return [path, "--input", `k=${join(folder, name, "k.npy")}`];
    };
    const ours = file("a", "2.0", 1);
    const failuresOf = (theirs: readonly string[]) => {
      const port = newPort();
      const ended = [ours, theirs].map((args, rank) => {
        const env = { RANK: `${rank}`, WORLD_SIZE: "2", MASTER_PORT: `${port}` };
        const all = ["dist/laspc.js", "run", ...args, "--device", "reference", "--dim"];
        const child = spawn(process.execPath, [...all, "T=8,K=4,V=4"], {
          cwd: root,
          env: { ...process.env, ...env },
        });
        let said = "";
        child.stderr.on("data", (bytes) => (said += String(bytes)));
        return new Promise<string>((resolve) => {
          child.on("close", (code) => resolve(`${code} ${/^laspc: .*/m.exec(said)?.[0]}`));
        });
      });
      return Promise.all(ended);
    };
    const differing = async (theirs: readonly string[], what: RegExp) => {
      const [first, second] = await failuresOf(theirs);
      expect(first).toMatch(/^1 laspc: rank 0: rank 1 failed: it runs with /);
      expect(first).toMatch(what);
      expect(second).toMatch(/^1 laspc: rank 1: rank 0 failed: rank 1 failed: it runs with /);
      expect(second).toMatch(what);
    };
    await differing(
      file("b", "2.0", 3),
      /with input k f32\[1, 8, 1, 4\] \w{16}, rank 0 with input k/,
    );
    await differing(file("c", "3.0", 1), /with program same \w{16}, rank 0 with program same/);
    await differing([...ours, "--dtype", "bf16"], /dtype bf16 .*rank 0 .*dtype f32/);
    await differing([...ours, "--backward"], /backward on .*rank 0 .*backward off/);
    await differing([...ours, "--seed", "5"], /with seed 5 and input q .*rank 0 with seed 0/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("ranks that differ, a false token, a port in use, a peer that never comes", async () => {
  const failures = async (...options: TcpOptions[]) => {
    const settled = await Promise.allSettled(options.map((one) => tcpTransport(one)));
    return settled.map((one) => (one.status === "rejected" ? String(one.reason.message) : "came"));
  };
  let port = newPort();
  const other = { description: { sizes: "T=9" } };
  const differ = "rank 1 failed: it runs with sizes T=9, rank 0 with sizes T=8";
  const [first, second] = await failures(optionsOf(0, port), optionsOf(1, port, other));
  expect(first).toBe(differ);
  expect(second).toContain(differ);
  port = newPort();
  const shortly = { connectTimeoutMs: 700 };
  expect(
    await failures(optionsOf(0, port, shortly), optionsOf(1, port, { token: "guess" })),
  ).toEqual([
    "rank 1 did not come within 0.7 s; a caller at 127.0.0.1 that says it is rank 1 does not share this rank's token (LASPC_TOKEN)",
    `rank 0 at 127.0.0.1:${port}: it does not share this rank's token (LASPC_TOKEN)`,
  ]);
  expect(await failures(optionsOf(1, newPort(), shortly))).toEqual([
    "rank 0 did not come within 0.7 s",
  ]);
  const server = createServer().listen(port, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  expect(await failures(optionsOf(0, port))).toEqual([
    `rank 0 cannot listen at 127.0.0.1:${port}: the port is in use`,
  ]);
  server.close();
  const open = { bind: "0.0.0.0", token: "" };
  expect((await failures(optionsOf(0, port, open)))[0]).toContain("needs a token");
  const far = { host: "192.0.2.1" };
  expect((await failures(optionsOf(1, port, far)))[0]).toContain("say --bind ADDRESS");
});

test("2000 strangers are refused, and the ranks meet", () => {
  const { stdout, status } = spawnSync(
    process.execPath,
    ["scripts/fuzz-tcp.mjs", "--times", "2000"],
    {
      cwd: root,
      encoding: "utf8",
    },
  );
  expect(stdout).toContain("2000 of 2000 strangers refused");
  expect(status).toBe(0);
});

test("a killed rank ends all others, with its name and the step", () => {
  const { stdout, status } = spawnSync(
    process.execPath,
    ["scripts/kill-ranks.mjs", "--times", "5"],
    {
      cwd: root,
      encoding: "utf8",
    },
  );
  expect(stdout).toContain("0 times something was wrong");
  expect(status).toBe(0);
});
