/** Ranks over TCP: the numbers of one process, and what strangers, dead peers and other programs do to a run. */
import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { expect, test } from "vitest";
import { launchOf } from "../../runtime/launch.ts";
import { callRank } from "../../runtime/transports/tcp/handshake.ts";
import { ByteReader } from "../../runtime/transports/tcp/wire.ts";
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
    const { wall_ms: _wall, ...report } = JSON.parse(stdout) as { wall_ms: number };
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
  await callRank(new ByteReader(caller), { from: 1, to: 0, token: "secret" });
  caller.write(Buffer.from("00000000000000000020000000000000", "hex"));
  await rejected;
  caller.destroy();
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
    "rank 1 did not come within 0.7 s",
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
