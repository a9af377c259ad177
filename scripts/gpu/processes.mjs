// Commands side by side, each with a limit. What does not end when it is told to is killed, and that is said.
import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../..", import.meta.url));
export const cli = join(root, "dist/laspc.js");

/** Every example and every rule of the tests. */
export const rules = ["dsl-examples", "test/rules"].flatMap((folder) =>
  readdirSync(join(root, folder))
    .filter((name) => name.endsWith(".lasp"))
    .map((name) => ({ name: name.slice(0, -5), path: join(root, folder, name) })),
);

/** "K=64,V=64" of those of the two that the file's tensors have. */
export function sizeOfHeads(path, size) {
  const text = readFileSync(path, "utf8");
  const names = ["K", "V"].filter((name) => new RegExp(`\\[[^\\]]*\\b${name}\\b`).test(text));
  return names.map((name) => `${name}=${size}`).join();
}

/** `--name value` pairs after the script's own name; a name that is not there takes its default. */
export function options(defaults) {
  const known = { ...defaults };
  const words = process.argv.slice(2);
  for (let i = 0; i < words.length; i += 2) {
    const name = words[i].replace(/^--/, "");
    if (!Object.hasOwn(defaults, name) || words[i + 1] === undefined) {
      console.error(
        `known: ${Object.entries(defaults)
          .map(([key, value]) => `--${key} ${value}`)
          .join(" ")}`,
      );
      process.exit(2);
    }
    known[name] = words[i + 1];
  }
  return known;
}

/** Ends with { code, stdout, stderr, ms, told }; `told`: the last signal that it needed, or null. */
export function bounded(command, args, { seconds, env = {} }) {
  return new Promise((resolve) => {
    const started = performance.now();
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, ...env },
      detached: true,
    });
    const said = { stdout: "", stderr: "" };
    for (const stream of ["stdout", "stderr"]) {
      child[stream].setEncoding("utf8").on("data", (text) => (said[stream] += text));
    }
    let told = null;
    const tell = (signal) => {
      told = signal;
      try {
        process.kill(-child.pid, signal);
      } catch {
        // It has just ended.
      }
    };
    const done = (code) => {
      timers.forEach(clearTimeout);
      resolve({ code, ...said, ms: performance.now() - started, told });
    };
    const timers = [
      setTimeout(() => tell("SIGTERM"), seconds * 1000),
      setTimeout(() => tell("SIGKILL"), (seconds + 5) * 1000),
      // Inside the driver even that may not end it; the others go on.
      setTimeout(() => done(null), (seconds + 10) * 1000),
    ];
    child.once("error", ({ message }) => ((said.stderr += message), done(null)));
    child.once("close", done);
  });
}

/**
 * Calls `one` for each case, so many at a time, until `minutes` are over; of what was not begun then it says so.
 * `one` gives { ok, text }. Gives the rows, with { ok: false, text: "not run" } for those.
 */
export async function all(cases, { jobs, minutes }, one) {
  const started = performance.now();
  const end = started + minutes * 60_000;
  const rows = cases.map(() => ({ ok: false, text: "not run" }));
  let [next, done, wrong] = [0, 0, 0];
  const progress = (text) =>
    console.log(
      `${((performance.now() - started) / 1000).toFixed(0).padStart(4)} s  ${done}/${cases.length}, ${wrong} not ok  ${text}`,
    );
  const ticker = setInterval(() => progress("..."), 15_000);
  const worker = async () => {
    while (next < cases.length && performance.now() < end) {
      const at = next++;
      rows[at] = await one(cases[at]);
      done++;
      if (!rows[at].ok) {
        wrong++;
        progress(`${cases[at].title}: ${rows[at].text}`);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(jobs, cases.length) }, worker));
  clearInterval(ticker);
  progress("end");
  return rows;
}

export const cores = availableParallelism();
