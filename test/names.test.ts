/**
 * Every name works wherever the language has a name, or is refused with its reason: words of the languages
 * that are emitted, of JavaScript's own objects, and of the compiler.
 */
import { expect, test } from "vitest";
import { cudaTarget } from "../codegen/cuda/target.ts";
import { reservedWords as cudaWords } from "../codegen/cuda/reserved.ts";
import { modules } from "../codegen/torch/files.ts";
import { pythonWords } from "../codegen/torch/names.ts";
import { reservedWords as wgslWords } from "../codegen/wgsl/reserved.ts";
import { wgslTarget } from "../codegen/wgsl/target.ts";
import { builtins } from "../compiler/check/functions.ts";
import { torchFiles } from "../compiler/cli/torch.ts";
import { check, compile } from "../compiler/index.ts";
import { exchangeNames, planOf } from "../compiler/schedule/index.ts";
import { keywords } from "../compiler/syntax/tokens.ts";
import { createReferenceDevice } from "../codegen/reference/device.ts";
import { cudaProblem, nvccThere, openValidator, pythonProblems } from "./support/emitted.ts";
import {
  compare,
  randomInputs,
  referencePrograms,
  runBackward,
  sizesOf,
} from "./support/examples.ts";

const roles = [
  "attention",
  "def",
  "parameter",
  "result",
  "local",
  "state",
  "inner",
  "dim",
] as const;
type Role = (typeof roles)[number];
type Names = Readonly<Record<Role, string>>;

const plainNames: Names = {
  attention: "rule",
  def: "mapped",
  parameter: "query",
  result: "out",
  local: "feature",
  state: "M",
  inner: "decayed",
  dim: "D",
};

/** A rule with a name of each role, of which every transition and form has a variant. */
function ruleOf(names: Names, variant: number): string {
  const { attention, def, parameter, result, local, state, inner, dim } = names;
  const head =
    `def ${def}(x) = silu(x)\n` +
    `attention ${attention}(${parameter}: [T, ${dim}], k: [T, ${dim}], v: [T, V], g: [T] in (-inf, 0]) ` +
    `-> (${result}: [T, V], other: [T]) {\n` +
    `  ${local} = ${def}(${parameter})\n`;
  const write = ["outer(k, v)", `outer(k, v - k @ ${inner})`][variant % 3];
  if (write === undefined) {
    return (
      `${head}  ${inner} = (${local} @ k.T) * causal_decay(g)\n  ${state} = k.T @ v\n` +
      `  return ${inner} @ v + ${local} @ ${state}, sum(k)\n}\n`
    );
  }
  return (
    `${head}  y = recurrence ${state}: [${dim}, V] {\n    ${inner} = exp(g) * ${state}\n` +
    `    ${state} = ${inner} + ${write}\n    yield ${local} @ ${state}\n  }\n  return y, sum(k)\n}\n`
  );
}

/** Names of the compiler, of its packages, and of JavaScript's objects; odd spellings. */
const own = `o initial_M final_M d_query cu_seqlens summary_M decay_M transition_M local_0 cache_M segment_M
  fold_M earlier_M later_M both_M forward backward step summary fold apply exchange definition local join
  heads_k tokens_k passing_k_0 gathered_summary_M_0 initial_state output_final_state group schedule
  token_offset T_total packed B H C N T H_k K M S S_2 log_decay_sum tokens_here f32_inputs f32_outputs
  __proto__ constructor toString hasOwnProperty valueOf prototype __defineGetter__ isPrototypeOf length
  name self cls print list dict int str float tuple type object Exception torch Tensor functional math
  sizes chunk chunks cumsum solve stack cat GROUPED OPERATORS query k v g V O K2 dims inf nan causal
  main kernel rule_forward rule_backward define i32 entry buffers scalars scratch begin point define
  declare ret br label private internal x86_fp80 a A _ __ _x x_ x__2 q_2 L1 Infinity undefined null
  eval arguments async static get NaN memory lane warp thread row col value i j tx ty base stride
  query_base query_stride k_base feature_tile feature_value out_2 Sizes k_base t_number k_bf16_places k_head k_map main0 half double long2 float4`;
const words = [
  ...new Set([
    ...own.trim().split(/\s+/),
    ...pythonWords,
    ...cudaWords,
    ...wgslWords,
    ...Object.keys(builtins),
    ...Object.keys(modules).map((path) => path.replace(".py", "")),
    ...keywords,
  ]),
].filter((word) => /^[A-Za-z_]\w*$/.test(word));

const refusals = new Set(["reserved-name", "duplicate-name", "reassigned"]);
const sourceOf = (names: Names, variant: number) => ({
  name: "names.lasp",
  text: ruleOf(names, variant),
});
const mistakesOf = (names: Names, variant: number) =>
  check(sourceOf(names, variant), { dims: {}, dtype: "f32" }).diagnostics.filter(
    ({ severity }) => severity === "error",
  );

const spelled = words.filter((word) => !keywords.some((keyword) => keyword === word));
/** The words that each role takes in each variant. */
const accepted = roles.map((role) =>
  spelled.filter((word) =>
    [0, 1, 2].every((variant) => mistakesOf({ ...plainNames, [role]: word }, variant).length === 0),
  ),
);

test("a name is taken, or refused where it stands and with a reason", () => {
  // What a name of the rule itself becomes when two things have it is another matter.
  const strange = words.filter((word) => !ruleOf(plainNames, 0).split(/\W+/).includes(word));
  for (const role of roles) {
    for (const word of strange) {
      for (const variant of [0, 1, 2]) {
        const names = { ...plainNames, [role]: word };
        const mistakes = mistakesOf(names, variant);
        const isKeyword = keywords.some((keyword) => keyword === word);
        // Other mistakes only follow from a name that is refused.
        const isTold = mistakes.length === 0 || mistakes.some(({ code }) => refusals.has(code));
        expect.soft(isTold || isKeyword, `${role} ${word} in variant ${variant}`).toBe(true);
        for (const { labels } of mistakes) expect(labels[0]!.span.end).toBeGreaterThan(0);
      }
    }
  }
});

test("few names are refused", () => {
  const refused = roles.map((role, i) => [
    role,
    spelled.filter((word) => !accepted[i]!.includes(word) && !Object.hasOwn(builtins, word)).sort(),
  ]);
  expect(Object.fromEntries(refused)).toMatchInlineSnapshot(`
    {
      "attention": [],
      "def": [
        "M",
        "g",
        "k",
        "query",
        "v",
      ],
      "dim": [
        "B",
        "C",
        "H",
        "H_k",
        "M",
        "T",
        "g",
        "k",
        "other",
        "query",
        "v",
      ],
      "inner": [
        "M",
        "T",
        "V",
        "g",
        "k",
        "query",
        "v",
      ],
      "local": [
        "M",
        "T",
        "V",
        "g",
        "k",
        "query",
        "v",
      ],
      "parameter": [
        "M",
        "T",
        "V",
        "both_M",
        "cache_M",
        "cu_seqlens",
        "d_query",
        "decay_M",
        "earlier_M",
        "final_M",
        "g",
        "gathered_summary_M_0",
        "heads_k",
        "initial_M",
        "initial_state",
        "k",
        "later_M",
        "local_0",
        "other",
        "passing_k_0",
        "segment_M",
        "summary_M",
        "tokens_k",
        "transition_M",
        "v",
      ],
      "result": [
        "V",
        "both_M",
        "cache_M",
        "cu_seqlens",
        "d_query",
        "decay_M",
        "earlier_M",
        "final_M",
        "g",
        "gathered_summary_M_0",
        "heads_k",
        "initial_M",
        "initial_state",
        "k",
        "later_M",
        "local_0",
        "other",
        "passing_k_0",
        "query",
        "segment_M",
        "summary_M",
        "tokens_k",
        "transition_M",
        "v",
      ],
      "state": [
        "T",
        "V",
        "both_M",
        "cache_M",
        "d_query",
        "decay_M",
        "earlier_M",
        "final_M",
        "g",
        "gathered_summary_M_0",
        "heads_k",
        "initial_M",
        "initial_state",
        "k",
        "later_M",
        "local_0",
        "passing_k_0",
        "query",
        "segment_M",
        "summary_M",
        "tokens_here",
        "tokens_k",
        "transition_M",
        "v",
      ],
    }
  `);
});

/** As many rules as it takes for each role to have had every `every`th of its words. */
function rules(every: number): { names: Names; variant: number }[] {
  const taken = accepted.map((list) => list.filter((_, i) => i % every === 0));
  const count = Math.max(...taken.map((list) => list.length));
  return Array.from({ length: count }, (_, n) => {
    const names = roles.map((role, i) => [role, taken[i]![(n + 7 * i) % taken[i]!.length]!]);
    return { names: Object.fromEntries(names) as unknown as Names, variant: n % 3 };
  }).filter(({ names, variant }) => mistakesOf(names, variant).length === 0);
}

const dtypes = ["f32", "bf16", "f16"] as const;
const every = Number(process.env["LASPC_NAMES_EVERY"] ?? 24);

test("rules of such names compile, run as the reference says, and their files are valid", async () => {
  const problem = await openValidator();
  const python = new Map<string, string>();
  const cuda = new Map<string, string>();
  const all = rules(every);
  expect(all.length).toBeGreaterThan(5);
  for (const { names, variant } of all) {
    const source = sourceOf(names, variant);
    const what = JSON.stringify({ ...names, variant });
    const outcome = compile(source, {
      dims: Object.fromEntries([
        [names.dim, 3],
        ["V", 2],
      ]),
      dtype: dtypes[variant]!,
      entry: null,
      targets: [wgslTarget, cudaTarget],
      backward: true,
      fixedShared: true,
    });
    expect(
      outcome.diagnostics.filter(({ severity }) => severity === "error"),
      what,
    ).toEqual([]);
    const compiled = outcome.value!;
    const { files, manifest } = compiled;
    for (const form of manifest.targets.find(({ target }) => target === "wgsl")!.forms) {
      for (const { file, entry } of form.kernels) {
        expect(await problem(files.get(file)!, entry), `${what} ${file}`).toBeNull();
      }
    }
    for (const [path, text] of files)
      if (/_(?:forward|backward)(?:_1)?\.cu$/.test(path)) cuda.set(`${what} ${path}`, text);
    for (const [path, text] of torchFiles(source, compiled, "made")) {
      if (path.endsWith(".py")) python.set(`${what} ${path}`, text);
    }
    // Those of others have no way for each rule; a plan that uses one name twice is a bug.
    for (const schedule of [...exchangeNames, "ulysses", "megatron"] as const) {
      planOf(manifest, schedule, 3, true);
    }
    if (variant === 0) planOf(manifest, "ring-attention", 3, true);
    // In float64, whatever kernels of such tensors do.
    const sizes = sizesOf({ T: 7 });
    const inputs = randomInputs(compiled, sizes);
    const device = createReferenceDevice(referencePrograms(compiled));
    const result = await runBackward(compiled, device, inputs, sizes, 3);
    expect((await compare(compiled, inputs, sizes, result)).ok, what).toBe(true);
  }
  expect(pythonProblems(python)).toEqual([]);
  if (nvccThere) expect(cudaProblem(cuda)).toBeNull();
});
