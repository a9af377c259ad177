// What the schedules move, as their transports count it, beside the formulas of their papers.
//   node scripts/volumes.mjs                   2, 4 and 8 devices, 256 and 1024 tokens
// Ends with 1 where a measured number is not its formula's.
import { spawnSync } from "node:child_process";

const file = "dsl-examples/linear-attention.lasp";
const [B, H, K] = [1, 8, 64];
const d = H * K;
const state = (4 * B * d * d) / H;

// Bytes of all ranks in float32: P ranks, N tokens. Ulysses and Megatron also bring the caller's first state to
// its heads and the last one back.
const states = (P) => (state * 2 * (P - 1)) / P;
const formulas = {
  ring: ["B d^2 / h", (P) => (P - 1) * state],
  allscan: ["B d^2 / h", (P) => (P - 1) * state],
  allgather: ["(P - 1) B d^2 / h", (P) => (P - 1) * P * state],
  tree: ["log2(P) B d^2 / h", (P) => (P * Math.log2(P) - (P - 1)) * state],
  ulysses: ["4 B N d / P", (P, N) => (16 * B * N * d * (P - 1)) / P + states(P)],
  megatron: [
    "3 B N d + B N d / P",
    (P, N) => 12 * B * N * d * (P - 1) + (4 * B * N * d * (P - 1)) / P + states(P),
  ],
  "ring-attention": [
    "2 B N d / P, P - 1 times",
    (P, N) => 4 * B * N * d * (P - 1) + (P - 1) * state,
  ],
};

/** Bytes that each rank sent in a forward. */
function measure(schedule, ranks, tokens) {
  const dims = `B=${B},T=${tokens},H=${H},K=${K},V=${K}`;
  const args = ["run", file, "--devices", `${ranks}`, "--schedule", schedule, "--dim", dims];
  const { stdout, stderr, status } = spawnSync(process.execPath, ["dist/laspc.js", ...args], {
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(stderr);
  return [...stdout.matchAll(/^rank \d+ sent (\d+) bytes$/gm)].map((match) => Number(match[1]));
}

let wrong = 0;
const columns = [16, 8, 8, 14, 14, 14];
const row = (cells) =>
  cells.map((cell, i) => `${cell}`[i ? "padStart" : "padEnd"](columns[i] ?? 0));
console.log(`B=${B} heads=${H} d=${d}, float32, bytes sent in a forward`);
console.log(row(["schedule", "ranks", "tokens", "most of one", "all", "formula"]).join(" "));
for (const ranks of [2, 4, 8]) {
  for (const tokens of [256, 1024]) {
    for (const [schedule, [text, formula]] of Object.entries(formulas)) {
      const sent = measure(schedule, ranks, tokens);
      const all = sent.reduce((a, b) => a + b);
      const expected = formula(ranks, tokens);
      if (all !== expected) wrong++;
      const verdict = all === expected ? `equal; each, in numbers: ${text}` : "NOT EQUAL";
      const cells = [schedule, ranks, tokens, Math.max(...sent), all, expected];
      console.log(`${row(cells).join(" ")}  ${verdict}`);
    }
  }
}
process.exit(wrong > 0 ? 1 : 0);
