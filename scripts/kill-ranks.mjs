// Kills a rank at a random moment, again and again: node scripts/kill-ranks.mjs --times 50
// On GPUs: --device cuda --transport nccl --ranks 2
// Every time all others must exit within 10 s, not with 0, with a message that names the rank and where they were;
// and no output may be there.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    times: { type: "string", default: "50" },
    ranks: { type: "string", default: "4" },
    device: { type: "string", default: "reference" },
    transport: { type: "string", default: "tcp" },
    dim: { type: "string", default: "B=1,H=2,T=20000,K=16,V=16" },
  },
});
const times = Number(values.times);
const ranks = Number(values.ranks);
const limitMs = 10_000;
const root = join(import.meta.dirname, "..");

/** Starts the ranks as a launcher would. */
function start(folder, port) {
  const file = join(root, "dsl-examples/simple-gla.lasp");
  const { device, transport, dim } = values;
  const run = ["run", file, "--device", device, "--transport", transport, "--dim", dim];
  const argv = [...run, "--connect-timeout", "5"];
  return Array.from({ length: ranks }, (_, rank) => {
    const env = {
      RANK: `${rank}`,
      LOCAL_RANK: `${rank}`,
      WORLD_SIZE: `${ranks}`,
      MASTER_PORT: `${port}`,
      LASPC_TOKEN: "t",
    };
    const child = spawn(
      process.execPath,
      [join(root, "dist/laspc.js"), ...argv, "--output", folder],
      {
        env: { ...process.env, MASTER_ADDR: "127.0.0.1", ...env },
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
    const one = { rank, child, text: "", code: null, ended: null };
    child.stderr.on("data", (bytes) => (one.text += bytes));
    one.ended = new Promise((resolve) => {
      child.on("close", (code) => {
        one.code = code;
        resolve();
      });
    });
    return one;
  });
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Kills `victim` after `afterMs`; null when that was too late to matter, else what was wrong and where. */
async function killOne(victim, afterMs) {
  const folder = join(mkdtempSync(join(tmpdir(), "laspc-kill-")), "out");
  const port = 20_000 + Math.floor(Math.random() * 10_000);
  const all = start(folder, port);
  await pause(afterMs);
  if (all.some(({ code }) => code !== null)) {
    await Promise.all(all.map(({ ended }) => ended));
    return null;
  }
  all[victim].child.kill("SIGKILL");
  const begun = performance.now();
  const others = all.filter(({ rank }) => rank !== victim);
  const late = pause(limitMs).then(() => "late");
  await Promise.race([Promise.all(others.map(({ ended }) => ended)), late]);
  const tookMs = performance.now() - begun;
  const wrong = [];
  // Rank 0 had all results before the kill could stop it: then nobody is in the wrong who had not heard of it yet.
  const isDone = others.some(({ code }) => code === 0);
  for (const { rank, code, text, child } of others) {
    if (code === null) wrong.push(`rank ${rank} still runs after ${limitMs} ms`);
    child.kill("SIGKILL");
    if (code === 0) continue;
    const said = text.split("\n").find((line) => line.startsWith("laspc: ")) ?? "";
    const names = new RegExp(`\\brank ([\\d, ]*, )?${victim}\\b`);
    // A rank that looks for rank 0 when that has given up already cannot know more.
    const isNamed =
      names.test(said.replace(`rank ${rank}: `, "")) || said.includes("rank 0 did not come");
    const hasPlace = /in step \d+ \(|before the first step|after the last step/.test(said);
    if (!isNamed || !hasPlace) wrong.push(`rank ${rank} said: ${text}`);
  }
  if (isDone && victim !== 0 && others[0].code !== 0)
    wrong.push("a rank ended well without rank 0");
  const files = existsSync(folder) ? readdirSync(folder) : [];
  if (!isDone && files.length > 0) wrong.push(`there is output: ${files.join(" ")}`);
  rmSync(join(folder, ".."), { recursive: true, force: true });
  if (isDone && wrong.length === 0) return null;
  const where = /in step \d+/.test(others.map(({ text }) => text).join())
    ? "in a step"
    : "before or after";
  return { wrong, tookMs, where };
}

const folder = mkdtempSync(join(tmpdir(), "laspc-kill-"));
const begun = performance.now();
await Promise.all(start(join(folder, "out"), 30_500).map(({ ended }) => ended));
rmSync(folder, { recursive: true, force: true });
const wholeMs = performance.now() - begun;
let [killed, bad, longestMs] = [0, 0, 0];
const places = {};
while (killed < times) {
  const victim = Math.floor(Math.random() * ranks);
  const found = await killOne(victim, Math.random() * wholeMs);
  if (found === null) continue;
  killed += 1;
  longestMs = Math.max(longestMs, found.tookMs);
  places[found.where] = (places[found.where] ?? 0) + 1;
  if (found.wrong.length > 0) {
    bad += 1;
    console.log(`rank ${victim} killed: ${found.wrong.join("\n  ")}`);
  }
}
const tally = Object.entries(places).map(([where, count]) => `${count} ${where}`);
console.log(
  `${killed} ranks killed (${tally.join(", ")}) in runs of ${(wholeMs / 1000).toFixed(1)} s; ` +
    `the others had exited after at most ${(longestMs / 1000).toFixed(1)} s; ${bad} times something was wrong`,
);
process.exitCode = bad === 0 ? 0 : 1;
