/** Both transports carry a plan to the same numbers, and a failure to every rank. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { targetsFor } from "../../compiler/cli/devices.ts";
import { runRanksInWorkers } from "../../runtime/transports/worker.ts";
import { createReferenceDevice } from "../../codegen/reference/device.ts";
import { planOf } from "../../compiler/schedule/index.ts";
import { ownTags } from "../../runtime/collectives.ts";
import { Mailbox } from "../../runtime/mailbox.ts";
import { rankInputs, rankSizes } from "../../runtime/mesh.ts";
import { runRank, runRanks } from "../../runtime/run.ts";
import type { WatchedTransport } from "../../runtime/transport.ts";
import { inProcessTransports } from "../../runtime/transports/in-process.ts";
import { findDevice } from "../support/devices.ts";
import {
  compileExample,
  randomInputs,
  referencePrograms,
  runRing,
  sizesOf,
} from "../support/examples.ts";

const { available, why } = findDevice("cpu");
const root = join(import.meta.dirname, "../..");

test("messages of one channel arrive in order, and are counted", async () => {
  const [a, b] = inProcessTransports(2) as [WatchedTransport, WatchedTransport];
  await a.send(1, 0, Uint8Array.of(1, 2));
  await a.send(1, 0, Uint8Array.of(3, 4));
  await a.send(1, 7, Uint8Array.of(5));
  expect([...(await b.recv(0, 7, 1))]).toEqual([5]);
  expect([...(await b.recv(0, 0, 2))]).toEqual([1, 2]);
  expect([...(await b.recv(0, 0, 2))]).toEqual([3, 4]);
  expect(a.bytesSent).toBe(5);
  expect([a.messagesSent, b.messagesSent]).toEqual([3, 0]);
  expect(b.bytesSent).toBe(0);
});

test("a message of another size is refused", async () => {
  const [a, b] = inProcessTransports(2) as [WatchedTransport, WatchedTransport];
  await a.send(1, 0, new Uint8Array(3));
  await expect(b.recv(0, 0, 4)).rejects.toThrow("expected 4 bytes from rank 0, got 3");
});

test("nobody waits for a rank that failed, nor longer than told", async () => {
  const [a, b] = inProcessTransports(2, { timeoutMs: 50 }) as [WatchedTransport, WatchedTransport];
  await expect(b.recv(0, 0, 4)).rejects.toThrow("waited 50 ms for rank 0");
  const waiting = b.recv(0, 1, 4);
  a.abort("out of memory");
  await expect(waiting).rejects.toThrow("rank 0 failed: out of memory");
  await expect(b.recv(0, 2, 4)).rejects.toThrow("rank 0 failed");
});

test("what comes after a wait was given up is kept for the next wait", async () => {
  const mailbox = new Mailbox(0, 20);
  await expect(mailbox.take(1, 3, 1)).rejects.toThrow("rank 0 waited 20 ms for rank 1");
  mailbox.put(1, 3, Uint8Array.of(7));
  mailbox.put(1, 3, Uint8Array.of(8));
  expect(await mailbox.take(1, 3, 1)).toEqual(Uint8Array.of(7));
  expect(await mailbox.take(1, 3, 1)).toEqual(Uint8Array.of(8));
});

test.each([
  ["comes but sends nothing", /in step \d+ \(recv initial_S from 0\)$/],
  ["never comes", /before the first step$/],
])("a rank whose peer %s says where it waited", async (what, where) => {
  const compiled = compileExample("retention", { dims: { K: 4, V: 4 } });
  const { manifest } = compiled;
  const sizes = sizesOf({ T: 8 });
  const [peer, transport] = inProcessTransports(2, { timeoutMs: 20 }) as [
    WatchedTransport,
    WatchedTransport,
  ];
  if (what !== "never comes") await peer.send(1, ownTags.meeting, new Uint8Array());
  const plan = planOf(manifest, "ring", 2);
  const whole = { manifest, mesh: plan.mesh, sizes, inputs: randomInputs(compiled, sizes) };
  const waiting = runRank({
    plan: plan.ranks[1]!,
    manifest,
    device: createReferenceDevice(referencePrograms(compiled)),
    transport,
    inputs: rankInputs(whole, 1),
    sizes: rankSizes(sizes, plan.mesh, 1),
  });
  await expect(waiting).rejects.toThrow(/^rank 1: rank 1 waited 20 ms for rank 0, /);
  await expect(waiting).rejects.toThrow(where);
});

test("no rank begins before all are ready, and each walk of the plan gives and counts the same", async () => {
  const compiled = compileExample("retention", { dims: { K: 4, V: 4 } });
  const sizes = sizesOf({ T: 12 });
  const inputs = randomInputs(compiled, sizes);
  const { manifest } = compiled;
  const plan = planOf(manifest, "ring", 3);
  const lateMs = 60;
  const devices = plan.ranks.map(({ rank }) => {
    const device = createReferenceDevice(referencePrograms(compiled));
    const upload = device.upload.bind(device);
    if (rank === 1) {
      device.upload = async (...args) => {
        await setTimeout(lateMs);
        return upload(...args);
      };
    }
    return device;
  });
  const run = (warmup: number) =>
    runRanks({
      plan,
      manifest,
      devices,
      transports: inProcessTransports(3),
      inputs,
      sizes,
      warmup,
    });
  const once = await run(0);
  const begins = plan.ranks.map(({ rank }) =>
    Math.min(...once.times.filter((time) => time.rank === rank).map(({ startMs }) => startMs)),
  );
  expect(Math.max(...begins)).toBeLessThan(lateMs / 2);
  const thrice = await run(2);
  expect(thrice.tensors).toEqual(once.tensors);
  expect(thrice.bytesSent).toEqual(once.bytesSent);
  expect(thrice.messagesSent).toEqual(once.messagesSent);
  expect(thrice.times.length).toBe(once.times.length);
});

test("a device that fails on one rank fails the run with that rank's name", async () => {
  const compiled = compileExample("retention", { dims: { K: 4, V: 4 } });
  const good = createReferenceDevice(referencePrograms(compiled));
  const bad = createReferenceDevice(referencePrograms(compiled));
  bad.launch = () => Promise.reject(new Error("the launch broke"));
  const sizes = sizesOf({ T: 12 });
  const inputs = randomInputs(compiled, sizes);
  await expect(runRing(compiled, [good, bad, good], inputs, sizes)).rejects.toThrow(
    /^rank 1: the launch broke, in step \d+ \(launch \w+\)$/,
  );
});

test("ranks in worker threads give the numbers of one process", () => {
  const run = (...more: string[]) => {
    const base = ["dist/laspc.js", "run", "dsl-examples/mamba2-ssd.lasp", "--device", "reference"];
    const sizes = ["--devices", "3", "--dim", "B=2,H=2,T=50,K=8,V=8", "--verify", "--json"];
    const { stdout, status } = spawnSync(process.execPath, [...base, ...sizes, ...more], {
      cwd: root,
      encoding: "utf8",
    });
    expect(status).toBe(0);
    // Inputs of other kinds are drawn in one process only.
    const {
      wall_ms: _wall,
      draws: _draws,
      ...report
    } = JSON.parse(stdout) as Record<string, unknown>;
    return report;
  };
  expect(run("--transport", "worker")).toEqual(run());
});

test.skipIf(!available)(
  `a thread that ends without a word ends the others, with its rank${why}`,
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "lasp-"));
    const entry = join(folder, "rank.mjs");
    const worker = pathToFileURL(join(root, "dist/rank-worker.js")).href;
    // The middle rank is gone before its first step.
    const text = `import { workerData } from "node:worker_threads";
if (workerData.plan.rank === 1) process.exit(3);
await import(${JSON.stringify(worker)});
`;
    writeFileSync(entry, text);
    const targets = await targetsFor(["cpu"]);
    const compiled = compileExample("retention", { dims: { K: 4, V: 4 }, targets });
    const { manifest, files } = compiled;
    const sizes = sizesOf({ T: 12 });
    const run = runRanksInWorkers({
      plan: planOf(manifest, "ring", 3),
      manifest,
      files,
      inputs: randomInputs(compiled, sizes),
      sizes,
      devices: ["cpu", "cpu", "cpu"],
      options: { threads: 1, poison: false },
      entry: pathToFileURL(entry),
      timeoutMs: 20_000,
    });
    await expect(run).rejects.toThrow("rank 1: its thread ended with code 3");
    rmSync(folder, { recursive: true });
  },
);
