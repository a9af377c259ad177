// Hostile texts through the compiler: npm run fuzz:text -- [--count 5000] [--first 0] [--compile-every 10] [--cuda 50]
import { join } from "node:path";
import { parseArgs } from "node:util";
import { bundle } from "./bundle.mjs";

const root = join(import.meta.dirname, "..");
const { values } = parseArgs({
  options: {
    count: { type: "string", default: "5000" },
    first: { type: "string", default: "0" },
    "compile-every": { type: "string", default: "10" },
    cuda: { type: "string", default: "50" },
  },
});
const outfile = await bundle("test/support/fuzz-text.ts", "fuzz/fuzz-text.mjs", {
  external: ["koffi", "llvm-bindings", "webgpu", "prettier", "chevrotain"],
  // Sources look for examples from where they are.
  define: { "import.meta.dirname": JSON.stringify(join(root, "test/support")) },
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
