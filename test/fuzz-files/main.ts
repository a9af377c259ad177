/** Counts of altered files and what went wrong with them: COUNT SEED. */
import { fuzzFiles } from "./fuzz.ts";

const [count = 2000, seed = 1] = process.argv.slice(2).map(Number);
const started = performance.now();
const { counts, problems } = await fuzzFiles(count, seed);
for (const [kind, { altered, refused }] of Object.entries(counts)) {
  console.log(`${kind}: ${altered} altered, ${refused} refused, the others harmless`);
}
for (const problem of problems) console.log(problem);
console.log(
  `${problems.length} problems in ${((performance.now() - started) / 1000).toFixed(1)} s`,
);
process.exitCode = problems.length === 0 ? 0 : 1;
