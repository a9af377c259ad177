// Hostile texts through the compiler: npm run fuzz:text -- [--count 5000] [--first 0] [--compile-every 10] [--cuda 50]
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { build } from "esbuild";

const root = join(import.meta.dirname, "..");
const { values } = parseArgs({
  options: {
    count: { type: "string", default: "5000" },
    first: { type: "string", default: "0" },
    "compile-every": { type: "string", default: "10" },
    cuda: { type: "string", default: "50" },
  },
});
// Beside the sources, which look for examples from where they are.
const folder = join(root, "node_modules/.cache/laspc/fuzz");
mkdirSync(folder, { recursive: true });
const outfile = join(folder, "fuzz-text.mjs");
await build({
  entryPoints: [join(root, "test/support/fuzz-text.ts")],
  outfile,
  bundle: true,
  platform: "node",
  format: "esm",
  logLevel: "warning",
  external: ["koffi", "llvm-bindings", "webgpu", "prettier", "chevrotain"],
  define: { "import.meta.dirname": JSON.stringify(join(root, "test/support")) },
  loader: { ".ll": "text", ".wgsl": "text", ".cuh": "text", ".py": "text" },
});
const { fuzzTexts } = await import(outfile);
const first = Number(values.first);
const started = performance.now();
const found = await fuzzTexts({
  first,
  count: Number(values.count),
  compileEvery: Number(values["compile-every"]),
  cuda: Number(values.cuda),
  progress: (seed) => {
    if (seed % 500 === 0) process.stderr.write(`${seed - first} texts\n`);
  },
});
const { problems, ...counts } = found;
for (const problem of problems) console.log(problem);
console.log(
  JSON.stringify({ problems: problems.length, ...counts, ms: performance.now() - started }),
);
process.exit(problems.length === 0 ? 0 : 1);
