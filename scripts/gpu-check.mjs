// Runs every example and every rule of the tests on a GPU, forwards and back, and compares with the float64 reference:
//
//   node scripts/gpu-check.mjs [--device cuda] [--kinds run,packed,steps,verify] [--dtypes f32,f16,bf16] [--sizes 64,128]
//     [--lengths 1,65,333,4096] [--only REGEX] [--jobs N] [--seconds 60] [--minutes 60] [--out FILE.json]
//
// Needs dist (npm run build) and koffi. Each run has so many seconds, all together so many minutes. Ends with 1 where a
// number is outside its tolerance, or a run was refused, too long, or not begun.
import { writeFileSync } from "node:fs";
import { all, bounded, cli, cores, options, rules, sizeOfHeads } from "./gpu/processes.mjs";

const given = options({
  device: "cuda",
  kinds: "run,packed,steps,verify",
  dtypes: "f32,f16,bf16",
  sizes: "64,128",
  lengths: "1,65,333,4096",
  only: ".",
  jobs: cores,
  seconds: 60,
  minutes: 60,
  out: "",
});
const [kinds, dtypes, sizes, lengths] = ["kinds", "dtypes", "sizes", "lengths"].map((name) =>
  given[name].split(","),
);

/** Longer sequences have one head: the reference goes token by token. */
const headsOf = (T) => (T > 1000 ? "B=1,H=1" : "B=2,H=2");
/** What each kind is run as, and how much work that is. */
const forms = {
  run: (size) =>
    lengths.map((T) => ({
      label: `T = ${T}`,
      args: ["run", "--backward", "--verify"],
      dim: `T=${T},${headsOf(T)}`,
      work: T * size,
    })),
  packed: (size) => [
    {
      label: "packed",
      args: ["run", "--backward", "--verify", "--cu-seqlens", "0,1,1,66,333"],
      dim: "H=2",
      work: 333 * size,
    },
  ],
  steps: (size) => [
    {
      label: "steps",
      args: ["run", "--verify", "--steps", "5"],
      dim: "T=70,B=2,H=2",
      work: 70 * size,
    },
  ],
  verify: (size) => [{ label: "verify", args: ["verify"], dim: "H=2", work: 2000 * size }],
};

const cases = rules
  .filter(({ name }) => new RegExp(given.only).test(name))
  .flatMap((rule) =>
    sizes.flatMap((size) =>
      dtypes.flatMap((dtype) =>
        kinds.flatMap((kind) =>
          forms[kind](Number(size)).map((form) => ({ ...form, kind, rule, size, dtype })),
        ),
      ),
    ),
  )
  .map((one) => ({ ...one, title: `${one.rule.name} ${one.dtype} ${one.size} ${one.label}` }))
  // The longest first, so that none is left alone at the end.
  .sort((a, b) => b.work - a.work);

async function one({ rule, dtype, size, args, dim }) {
  const [command, ...more] = args;
  const heads = sizeOfHeads(rule.path, size);
  const words = [command, rule.path, ...more, "--device", given.device, "--dtype", dtype];
  const ended = await bounded(
    process.execPath,
    [cli, ...words, "--dim", [dim, heads].filter(Boolean).join(), "--json"],
    { seconds: Number(given.seconds) },
  );
  const ms = Math.round(ended.ms);
  if (ended.told)
    return { ok: false, ms, text: `ended by ${ended.told} after ${ms} ms: ${lastOf(ended)}` };
  const report = parsed(ended.stdout);
  // What has no step is refused with that reason; that is as it should be.
  if (/has no step/.test(ended.stderr)) return { ok: true, ms, text: "no step", worst: null };
  if (!report) return { ok: false, ms, text: `exit ${ended.code}: ${lastOf(ended)}` };
  const worst = worstOf(report);
  const beyond = Object.keys(report.rounding ?? {});
  return { ok: report.ok, ms, worst, beyond, text: worst.text };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** The output, or the plan of `verify`, that is farthest off. */
function worstOf({ outputs, tolerance, rounding = {}, runs }) {
  if (runs) {
    // JSON has no NaN, but null.
    const ratio = runs
      .map(({ rmse_ratio: own }) => own ?? NaN)
      .reduce((a, b) => (worse(a, b) ? b : a));
    const wrong = runs.filter(({ ok }) => !ok).map(({ T, plan }) => `T = ${T} ${plan}`);
    return { ratio, text: `${ratio.toExponential(1)} ${wrong.join("; ")}` };
  }
  // Those beyond their tolerance are told apart from the rest.
  const within = Object.entries(outputs).filter(([name]) => rounding[name] === undefined);
  const all = within.length > 0 ? within : Object.entries(outputs);
  const shares = all.map(([name, { rmse_ratio: ratio }]) => ({
    name,
    ratio,
    share: ratio === null ? Infinity : ratio / tolerance[name],
  }));
  const worst = shares.reduce((a, b) => (worse(a.share, b.share) ? b : a));
  return {
    ...worst,
    text: `${worst.name} ${worst.ratio?.toExponential(1)}, ${worst.share.toFixed(2)} of its tolerance`,
  };
}

/** Is b larger than a, or the first NaN? */
function worse(a, b) {
  return !Number.isNaN(a) && !(b <= a);
}

function lastOf({ stderr }) {
  return stderr.trim().split("\n").slice(-2).join(" | ").slice(0, 300);
}

const minutes = Number(given.minutes);
const rows = await all(cases, { jobs: Number(given.jobs), minutes }, one);

const line = (cells) => `| ${cells.join(" | ")} |`;
const found = cases.map((c, i) => ({ ...c, ...rows[i] }));
console.log(
  line(["rule", ...dtypes.map((dtype) => `${dtype}: ok of runs, worst share of a tolerance`)]),
);
console.log(line(["---", ...dtypes.map(() => "---")]));
for (const { name } of rules.filter((rule) => new RegExp(given.only).test(rule.name))) {
  const cells = dtypes.map((dtype) => {
    const own = found.filter((row) => row.rule.name === name && row.dtype === dtype);
    const share = Math.max(0, ...own.map(({ worst }) => worst?.share ?? 0));
    return `${own.filter(({ ok }) => ok).length} of ${own.length}, ${share.toFixed(2)}`;
  });
  console.log(line([name, ...cells]));
}
const slowest = found.filter(({ ms }) => ms).sort((a, b) => b.ms - a.ms)[0];
if (slowest) console.log(`longest: ${slowest.title}, ${(slowest.ms / 1000).toFixed(1)} s`);
const rounded = found.filter(({ beyond }) => beyond?.length);
for (const { title, beyond, ok } of rounded)
  console.log(
    `beyond the table${ok ? ", by what rounding leaves" : ""}: ${title}: ${beyond.join(", ")}`,
  );
const wrong = found.filter(({ ok }) => !ok);
console.log(`${found.length - wrong.length} of ${found.length} ok`);
for (const { title, text } of wrong.slice(0, 60)) console.log(`  ${title}: ${text}`);
if (given.out) {
  const report = found.map(({ title, ok, ms, worst, beyond, text }) => ({
    title,
    ok,
    ms,
    worst,
    beyond,
    text,
  }));
  writeFileSync(given.out, `${JSON.stringify(report)}\n`);
}
process.exitCode = wrong.length > 0 ? 1 : 0;
