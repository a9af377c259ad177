/** Peers that live, but whose data stalls: every rank ends within the stated time and says where. Needs `npm run build`. */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { silenceMs } from "../../runtime/transports/tcp/links.ts";
import { type Stall, StallingProxy } from "../support/stalling-proxy.ts";

const root = join(import.meta.dirname, "../..");
const ranks = 3;
const sizes = "B=1,H=2,T=60,K=8,V=8";
const argv = ["run", "dsl-examples/gla.lasp", "--device", "reference", "--dim", sizes];

/** Runs three ranks, the second of which reaches the first through a link that stalls. */
async function runOver(stall: Stall, timeoutMs = 2000) {
  const waits = ["--timeout", `${timeoutMs / 1000}`, "--connect-timeout", "7"];
  const port = 20_000 + (randomBytes(2).readUInt16BE() % 10_000);
  const proxy = new StallingProxy(port, stall);
  const detour = await proxy.listen();
  const folder = mkdtempSync(join(tmpdir(), "laspc-stall-"));
  const output = join(folder, "out");
  try {
    const ended = Array.from({ length: ranks }, (_, rank) => {
      const address = { MASTER_ADDR: "127.0.0.1", MASTER_PORT: `${rank === 1 ? detour : port}` };
      const env = { ...process.env, ...address, RANK: `${rank}`, WORLD_SIZE: `${ranks}` };
      const args = ["dist/laspc.js", ...argv, ...waits, "--schedule", "ring", "--output", output];
      const child = spawn(process.execPath, args, { cwd: root, env });
      let text = "";
      child.stderr.on("data", (bytes) => (text += String(bytes)));
      return new Promise<{ code: number | null; said: string; atMs: number }>((resolve) => {
        child.on("close", (code) => {
          const said = text.split("\n").find((line) => line.startsWith("laspc: ")) ?? "";
          resolve({ code, said, atMs: performance.now() });
        });
      });
    });
    const all = await Promise.all(ended);
    expect(proxy.stalledMs, "the link was used").not.toBeNull();
    const tookMs = Math.max(...all.map(({ atMs }) => atMs)) - proxy.stalledMs!;
    return { all, tookMs, hasOutput: existsSync(output) };
  } finally {
    proxy.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Beyond the wait itself: a heartbeat's period, and processes that end on a machine that is busy. */
const graceMs = 4000;
const place = String.raw`in step \d+ \((recv|send|alloc|free|launch) .*\)$|after the last step$`;

const waited =
  /(rank 1 waited 2000 ms for rank 0|rank 2 waited 2000 ms for rank 1), in step \d+ \(recv initial_S/;

test.each([
  // Neither hears anything more of the other, heartbeats included.
  ["freeze", 60_000, silenceMs, /rank [01] failed: nothing came from it for 6 s/],
  // The first lives and its messages do not come: the second waits for it, and the third for the second. Who
  // gives up first says whom it waited for.
  ["heartbeats", 2000, 2000, waited],
  ["drip", 2000, 2000, waited],
  // All have computed, and rank 0 does not get what the second did.
  ["no-results", 2000, 4000, /rank 0: waited 4000 ms for the results of rank 1, after the/],
] as const)(
  "%s: every rank ends, with the rank and the step",
  async (stall, timeoutMs, waitMs, cause) => {
    const { all, tookMs, hasOutput } = await runOver(stall, timeoutMs);
    const said = all.map((one) => one.said);
    expect(all.map(({ code }) => code)).toEqual([1, 1, 1]);
    expect(said.some((text) => cause.test(text))).toBe(true);
    said.forEach((text, rank) => {
      expect(text, said.join("\n")).toMatch(new RegExp(`^laspc: rank ${rank}: .*\\brank [012]\\b`));
      expect(text).toMatch(new RegExp(place));
    });
    expect(tookMs).toBeLessThan(waitMs + graceMs);
    expect(hasOutput).toBe(false);
  },
);

test("a link that lets nothing through: nobody takes it for a false token", async () => {
  const { all, hasOutput } = await runOver("nothing");
  expect(all.map(({ code }) => code)).toEqual([1, 1, 1]);
  all.forEach(({ said }) => expect(said).toMatch(/rank [01] did not come within 7 s/));
  expect(all[1]!.said).toMatch(/^laspc: rank 1: .*, before the first step$/);
  expect(hasOutput).toBe(false);
});
