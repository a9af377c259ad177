// Watches the CUDA kernels of every example and every rule of the tests with compute-sanitizer: all forms (forward, backward, step
// and the ranks' own), as whole sequences, as packed ones and by segments:
//
//   node scripts/sanitize.mjs [--tools memcheck,racecheck,initcheck,synccheck] [--dtypes bf16,f32] [--sizes 64]
//     [--lengths 70,333] [--only REGEX] [--jobs N] [--seconds 120] [--minutes 60] [--sanitizer PATH] [--out FILE]
//
// Needs dist (npm run build), koffi, and compute-sanitizer of the CUDA toolkit. Ends with 1 where a tool finds something.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { all, bounded, cli, cores, options, root, rules, sizeOfHeads } from "./gpu/processes.mjs";

const toolkit = "/usr/local/cuda/bin/compute-sanitizer";
const given = options({
  device: "cuda",
  tools: "memcheck,racecheck,initcheck,synccheck",
  dtypes: "bf16,f32",
  sizes: "64",
  lengths: "70,333",
  only: ".",
  jobs: cores,
  seconds: 120,
  minutes: 60,
  sanitizer: existsSync(toolkit) ? toolkit : "compute-sanitizer",
  out: "",
});
const [tools, dtypes, sizes] = ["tools", "dtypes", "sizes"].map((name) => given[name].split(","));
const limits = { jobs: Number(given.jobs), minutes: Number(given.minutes) };
const seconds = Number(given.seconds);
const folder = mkdtempSync(join(tmpdir(), "laspc-sanitize-"));
/** Kernels are compiled once for all tools. */
const env = { XDG_CACHE_HOME: folder };

const artifacts = rules
  .filter(({ name }) => new RegExp(given.only).test(name))
  .flatMap((rule) =>
    sizes.flatMap((size) =>
      dtypes.map((dtype) => {
        const title = `${rule.name} ${dtype} ${size}`;
        return { rule, size, dtype, title, path: join(folder, title.replaceAll(" ", "-")) };
      }),
    ),
  );
const launcher = join(root, "scripts/gpu/launch-forms.mjs");
const launch = ({ path }) => [process.execPath, launcher, path, given.device, given.lengths];

/** Compiles an artifact, and launches it without a tool: what fails so is no finding of one. */
async function prepare(one) {
  const dims = sizeOfHeads(one.rule.path, one.size);
  const words = ["compile", one.rule.path, "--target", given.device, "--dtype", one.dtype];
  const made = await bounded(
    process.execPath,
    [cli, ...words, ...(dims ? ["--dim", dims] : []), "--out", one.path],
    { seconds, env },
  );
  if (made.code !== 0) return { ok: false, text: lastOf(made.stderr) };
  const [command, ...args] = launch(one);
  const ran = await bounded(command, args, { seconds, env });
  return { ok: ran.code === 0, text: lastOf(ran.code === 0 ? ran.stdout : ran.stderr) };
}

/** Findings, the first of them in words, and how long it took. */
async function watch({ artifact, tool }) {
  const flags = ["--tool", tool, "--error-exitcode", "9", "--print-limit", "3"];
  const ended = await bounded(given.sanitizer, [...flags, ...launch(artifact)], { seconds, env });
  const words = ended.stdout.split("\n").filter((line) => line.startsWith("========="));
  const summary = words.filter((line) => /SUMMARY/.test(line)).at(-1) ?? "";
  const first = words
    .filter((line) => !/COMPUTE-SANITIZER|SUMMARY/.test(line))
    .slice(0, 6)
    .map((line) => line.replace(/^=+\s*/, "").slice(0, 200))
    .join(" / ");
  const text = ended.told
    ? `ended by ${ended.told} after ${seconds} s`
    : `exit ${ended.code} ${summary.replace(/^=+\s*/, "")} ${first} ${lastOf(ended.stderr)}`;
  return { ok: ended.code === 0, text, ms: Math.round(ended.ms) };
}

function lastOf(text) {
  return text.trim().split("\n").slice(-2).join(" | ").slice(0, 300);
}

try {
  console.log("compiled, and launched without a tool:");
  const prepared = await all(artifacts, limits, prepare);
  const fine = artifacts.filter((_, i) => prepared[i].ok);
  const cases = tools.flatMap((tool) =>
    fine.map((artifact) => ({ artifact, tool, title: `${tool} ${artifact.title}` })),
  );
  console.log("watched:");
  const rows = await all(cases, limits, watch);
  const found = cases.map(({ title, tool }, i) => ({ title, tool, ...rows[i] }));
  for (const tool of tools) {
    const own = found.filter((row) => row.tool === tool);
    console.log(`${tool}: ${own.filter(({ ok }) => ok).length} of ${own.length} clean`);
  }
  const failed = artifacts.map(({ title }, i) => ({ title, ...prepared[i] }));
  const wrong = [...failed, ...found].filter(({ ok }) => !ok);
  for (const { title, text } of wrong.slice(0, 60))
    console.log(`  ${title}: ${text.slice(0, 400)}`);
  if (given.out) writeFileSync(given.out, `${JSON.stringify([...failed, ...found])}\n`);
  process.exitCode = wrong.length > 0 ? 1 : 0;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
