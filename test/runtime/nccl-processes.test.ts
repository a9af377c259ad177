/** Ranks in processes whose GPUs exchange states over NCCL: CUDA and NCCL in software. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { available, softwareFolder, why } from "../codegen/cuda/software/index.ts";
import { localRankOf } from "../../runtime/launch.ts";

const root = join(import.meta.dirname, "../..");
const messages = mkdtempSync(join(tmpdir(), "laspc-nccl-"));
afterAll(() => rmSync(messages, { recursive: true, force: true }));

const software = (gpus: number) => ({
  ...process.env,
  LD_LIBRARY_PATH: softwareFolder(),
  SOFTWARE_CUDA_DEVICES: String(gpus),
  TMPDIR: messages,
});
const file = "dsl-examples/linear-attention.lasp";
const sizes = ["--dim", "B=1,H=6,T=30,K=8,V=8", "--device", "cuda", "--devices"];
const argv = (ranks: number) => ["dist/laspc.js", "run", file, ...sizes, String(ranks)];

function run(ranks: number, gpus: number, ...more: string[]) {
  return runOn(argv(ranks), gpus, ...more);
}

function runOn(own: readonly string[], gpus: number, ...more: string[]) {
  const all = [...own, ...more];
  const { stdout, stderr, status } = spawnSync(process.execPath, all, {
    cwd: root,
    encoding: "utf8",
    env: software(gpus),
  });
  return { stdout, stderr, status };
}

test.skipIf(!available)(
  `ranks with a GPU each, in processes and in one, give the numbers of one device${why}`,
  () => {
    const report = (transport: string, schedule: string) => {
      const given = ["--transport", transport, "--schedule", schedule, "--verify", "--json"];
      const { stdout, stderr, status } = run(3, 3, ...given);
      expect(status, stderr).toBe(0);
      // Inputs of other kinds are drawn in one process only.
      const {
        wall_ms: _wall,
        draws: _draws,
        ...rest
      } = JSON.parse(stdout) as Record<string, unknown>;
      expect(rest.ok).toBe(true);
      return rest;
    };
    for (const schedule of ["ring", "allscan", "ulysses"]) {
      const one = report("in-process", schedule);
      for (const transport of ["nccl", "nccl-in-process"]) {
        expect(report(transport, schedule)).toEqual(one);
      }
    }
  },
);

test.skipIf(!available)(`what NCCL cannot do is said before anything starts${why}`, () => {
  const nccl = ["--transport", "nccl"];
  const onCpu = argv(2).map((word) => (word === "cuda" ? "cpu" : word));
  const other = runOn(onCpu, 2, ...nccl);
  expect(other.stderr).toContain("--transport nccl moves what is on GPUs: say --device cuda");
  const slow = run(2, 2, ...nccl, "--link", "latency=1ms");
  expect(slow.stderr).toContain("--link slows messages of the host");
  const few = run(3, 2, "--transport", "nccl-in-process");
  expect(few.stderr).toContain("there is no GPU 2: this machine has 2, counted from 0");
  // Processes share out what GPUs there are; NCCL does not take one for two.
  const shared = run(3, 2, ...nccl);
  expect(shared.stderr).toContain("nccl: ncclCommGetAsyncError failed: invalid usage");
  for (const { status } of [other, slow]) expect(status).toBe(2);
  for (const { status } of [few, shared]) expect(status).toBe(1);
});

interface Started {
  readonly child: ChildProcess;
  readonly ended: Promise<{ code: number | null; said: string }>;
}

/** Starts three ranks as a launcher would; the middle one's first message never leaves. Resolves when it should have. */
async function startStalled(isStuck: boolean, ...more: string[]): Promise<Started[]> {
  const port = String(20_000 + (randomBytes(2).readUInt16BE() % 10_000));
  const before = new Set(readdirSync(messages));
  const all = [0, 1, 2].map((rank): Started => {
    const stuck = rank === 2 && isStuck ? { SOFTWARE_NCCL_STUCK: "1" } : {};
    const own = {
      ...stuck,
      RANK: `${rank}`,
      LOCAL_RANK: `${rank}`,
      WORLD_SIZE: "3",
      MASTER_PORT: port,
    };
    const env = { ...software(3), SOFTWARE_NCCL_STALL: "1", ...own };
    const given = [...argv(3), "--transport", "nccl", "--schedule", "ring", ...more];
    const child = spawn(process.execPath, given, { cwd: root, env });
    let said = "";
    child.stderr.on("data", (bytes) => (said += String(bytes)));
    const ended = new Promise<{ code: number | null; said: string }>((resolve) => {
      child.on("close", (code) => {
        resolve({
          code,
          said: said.split("\n").find((line) => line.startsWith("laspc: ")) ?? said,
        });
      });
    });
    return { child, ended };
  });
  const isStalled = () =>
    readdirSync(messages).some(
      (name) => !before.has(name) && existsSync(join(messages, name, "stalled")),
    );
  while (!isStalled() && all.every(({ child }) => child.exitCode === null)) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return all;
}

const waiting = /in step \d+ \(recv initial_S from 1\)$/;

test.skipIf(!available)(
  `a rank that sends nothing is not waited for longer than told${why}`,
  async () => {
    const all = await startStalled(false, "--timeout", "2");
    const [first, middle, last] = await Promise.all(all.map(({ ended }) => ended));
    expect([first!.code, middle!.code, last!.code]).toEqual([1, 1, 1]);
    expect(last!.said).toMatch(/^laspc: rank 2: rank 2 waited 2000 ms for rank 1, in step/);
    expect(last!.said).toMatch(waiting);
    expect(first!.said).toContain("laspc: rank 0: rank 2 failed: rank 2 waited 2000 ms for rank 1");
  },
);

test.skipIf(!available)(`a killed rank ends the others, whose GPUs wait for it${why}`, async () => {
  const all = await startStalled(false);
  const begunMs = performance.now();
  all[1]!.child.kill("SIGKILL");
  const [first, , last] = await Promise.all(all.map(({ ended }) => ended));
  expect(performance.now() - begunMs).toBeLessThan(10_000);
  expect([first!.code, last!.code]).toEqual([1, 1]);
  expect(last!.said).toMatch(/^laspc: rank 2: rank [01] failed: .*its connection closed/);
  expect(last!.said).toMatch(waiting);
});

test.skipIf(!available)(`a stopped rank is noticed by its silence${why}`, async () => {
  const all = await startStalled(false);
  const begunMs = performance.now();
  all[1]!.child.kill("SIGSTOP");
  const [first, last] = await Promise.all([all[0]!.ended, all[2]!.ended]);
  expect(performance.now() - begunMs).toBeLessThan(15_000);
  expect([first.code, last.code]).toEqual([1, 1]);
  expect(last.said).toMatch(/rank 1 failed: nothing came from it for 6 s/);
  expect(last.said).toMatch(waiting);
  all[1]!.child.kill("SIGKILL");
  await all[1]!.ended;
});

test.skipIf(!available)(
  `a rank whose GPU does not give up says why and ends itself${why}`,
  async () => {
    const all = await startStalled(true, "--timeout", "2");
    const begunMs = performance.now();
    const [first, middle, last] = await Promise.all(all.map(({ ended }) => ended));
    expect(performance.now() - begunMs).toBeLessThan(20_000);
    expect([first!.code, middle!.code, last!.code]).toEqual([1, 1, null]);
    expect(all[2]!.child.signalCode).toBe("SIGKILL");
    expect(last!.said).toMatch(/^laspc: rank 2: rank 2 waited 2000 ms for rank 1, in step/);
  },
);

test("launchers say which of its host's ranks a process is", () => {
  expect(localRankOf({ LOCAL_RANK: "1", RANK: "5" })).toBe(1);
  expect(localRankOf({ OMPI_COMM_WORLD_LOCAL_RANK: "2" })).toBe(2);
  expect(localRankOf({ SLURM_LOCALID: "3" })).toBe(3);
  expect(localRankOf({ RANK: "5" })).toBeNull();
  expect(() => localRankOf({ LOCAL_RANK: "-1" })).toThrow("LOCAL_RANK is `-1`");
});
