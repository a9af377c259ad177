/** What kernels on tensor cores must say for their speed, where wrong text would still give right numbers. */
import { expect, test } from "vitest";
import { cudaTarget, cudaTargetFor } from "../../../codegen/cuda/target.ts";
import {
  compileExample,
  compileText,
  exampleNames,
  exampleSource,
  ruleNames,
} from "../../support/examples.ts";

const optionsOf = (size: number) =>
  ({
    dims: { K: size, V: size },
    dtype: "bf16",
    targets: [cudaTarget],
    backward: true,
  }) as const;

const textOf = (name: string, kernel: string, size = 128) =>
  String(compileExample(name, optionsOf(size)).files.get(`cuda/${kernel}.cu`));

test("a mask of gates is chosen, not branched to", () => {
  const text = textOf("simple-gla", "simple_gla_forward");
  expect(text).toContain("choose(row >= col, masked[i][j] * approx_exp(");
  expect(text).not.toMatch(/row >= col \?/);
});

test("a norm leaves zeros behind the last token, so that nothing is masked there", () => {
  const gated = textOf("gated-delta-net", "gated_delta_net_forward_1");
  expect(gated).toContain("choose(row > col, masked[i][j] * approx_exp(");
  const plain = textOf("delta-net", "delta_net_forward_1");
  expect(plain).toContain("choose(row > col, masked[i][j], 0.0f)");
  for (const text of [gated, plain]) expect(text).not.toContain("t + col < tokens");
});

test("a norm whose small number has no finite reciprocal is masked", () => {
  const { text } = exampleSource("delta-net");
  const tiny = text.replaceAll(/l2norm\((\w)\)/g, "l2norm($1, 1e-40)");
  expect(tiny).not.toBe(text);
  const { files } = compileText(tiny, optionsOf(128));
  expect(files.get("cuda/delta_net_forward_1.cu")).toContain("t + col < tokens");
});

test("what a loop copies first is asked for before a state is read", () => {
  const text = textOf("retention", "retention_forward");
  const [state] = text.slice(text.indexOf("const int group")).split("\n  else {");
  const copy = state!.indexOf("copy_tile<64, 128, 128, 128>(k_bf16_places + stage");
  expect(copy).toBeGreaterThan(0);
  expect(copy).toBeLessThan(state!.indexOf("pair = *(const float2*)&initial_S["));
  expect(state!.split("copy_tile<64, 128, 128, 128>(k_bf16_places + stage")).toHaveLength(2);
});

test("states go two numbers at a time, and where nobody wants them nowhere", () => {
  expect(textOf("retention", "retention_forward")).toMatch(
    /if \(final_S != nullptr\) \{[^}]*store_pair\(&final_S\[/,
  );
  expect(textOf("retention", "retention_exchange")).toContain("if (final_S != nullptr) {");
  const summary = textOf("retention", "retention_summary");
  expect(summary).toContain("store_pair(&summary_S[");
  expect(summary).not.toContain("nullptr");
});

test("one sum of gates serves a factor's gradient and its gate's", () => {
  const text = textOf("gla", "gla_backward_2");
  // Nor is it made again for products and for what their gradients are made of.
  expect(text.split("sum_down_tile<16, true, true, false, false, 1, 8>(")).toHaveLength(2);
  expect(text.split("sum_down_tile<32, true, true, true, true, 1, 8>(")).toHaveLength(2);
});

// Where memory is short of second tiles both also wait before they copy to the first ones.
test.each([
  ["retention_forward", 256, 1],
  ["retention_backward_1", 384, 1],
  ["retention_backward_2", 256, 2],
])(
  "%s: some of %i threads carry the state on, the others use it, and they meet %i times",
  (kernel, threads, meetings) => {
    const text = textOf("retention", kernel);
    expect(text).toContain(`__launch_bounds__(${threads}, 1)`);
    const [state, output] = text.slice(text.indexOf("const int group")).split("\n  else {");
    expect(state).toContain(`arrive_at<3, ${threads}>()`);
    expect(output).toContain(`meet_at<3, ${threads}>()`);
    for (const role of [state!, output!]) {
      expect(role.split("__syncthreads()")).toHaveLength(1 + meetings);
    }
  },
);

test("squares of many products come before blocks of columns, which would compute each of them", () => {
  const forwardsOf = (name: string) => {
    const dims = { K: 256, V: 256 };
    const { files } = compileExample(name, { dims, dtype: "bf16", targets: [cudaTarget] });
    return [...files.keys()].filter((path) => path.includes("_forward")).length;
  };
  expect(forwardsOf("gla")).toBe(2);
  // One product, and a mask.
  expect(forwardsOf("simple-gla")).toBe(1);
});

test.each([192, 256])(
  "heads of %i: a state is carried in blocks of columns, with roles",
  (size) => {
    const text = textOf("retention", "retention_forward", size);
    expect(text).toContain(`const int column_count = ${size / 64};`);
    expect(text).toContain("const int group");
  },
);

test("segments' states are exchanged by more blocks than there are heads", () => {
  expect(textOf("delta-net", "delta_net_exchange")).toContain("const int column_count = 8;");
});

test("GLA's gradients go by 32 tokens, sum on tensor cores, and leave out squares that no mask lets through", () => {
  const text = textOf("gla", "gla_backward_2");
  expect(text).toMatch(/bf16\[32, 128\]/);
  // Gates from shared memory as they came, bounded ones in one part, of what was computed two.
  expect(text).toMatch(/sum_down_tile<16, true, true, false, false, 1, 8>\(\w+, g_bf16\)/);
  expect(text).toMatch(/sum_down_columns<16, 1, false, false, false, false, false>/);
  expect(text).toMatch(/sum_down_columns<16, 2, false, false, true, true, false>/);
  expect(text).toMatch(/if \(0x\w+u >> warp & 1\) \{\n +multiply_by_warps/);
});

test("tiles come by the copy engine, told of by maps, from 64-bit places without it", () => {
  const text = textOf("delta-net", "delta_net_backward_4");
  expect(text).toContain("const __grid_constant__ tensor_map k_map,  // of k");
  expect(text).toContain("copy_tile<64, 128, 128, 256>(k_bf16, arrivals + ");
  expect(text).toMatch(/open_arrivals<\d+(, \d+)+>\(arrivals\);/);
  // 2^17 tokens of 64 heads have 2^31 numbers in their states.
  expect(text).toMatch(/work_S_\d+_base \+ \(long long\)\(t \/ 64\) \* H \* 16384 \+/);
});

test("a forward is three turns ahead, and a role waits for what a turn copies where it reads it", () => {
  const forward = textOf("retention", "retention_forward");
  expect(forward).toContain("// 3 of bf16[64, 128], 16384 B each");
  expect(forward).toContain("stage = (stage + 1) % 3;");
  const gradients = textOf("simple-gla", "simple_gla_backward_2");
  const product = gradients.indexOf("// mul += d_o_bf16 @ S_bf16^T");
  const waits = [...gradients.matchAll(/wait_for_tiles\(arrivals \+ 2 \+ stage, parity\);/g)];
  expect(waits.length).toBe(2);
  expect(waits.at(-1)!.index).toBeGreaterThan(product);
});

test("keys and queries as they were loaded are multiplied, and squares scaled", () => {
  const first = textOf("gated-delta-net", "gated_delta_net_forward_1");
  expect(first).toContain("// masked = k_bf16 @ k_bf16^T");
  expect(first).not.toContain("store_matrices(");
});

test("a role of two warpgroups holds more registers than the one beside it", () => {
  const text = textOf("gated-delta-net", "gated_delta_net_forward_2");
  expect(text).toContain("hold_registers<176, 168>();");
  expect(text).toContain("hold_registers<152, 168>();");
  // As many for all where both have one.
  expect(textOf("retention", "retention_forward")).not.toContain("hold_registers");
});

test("what needs no state is done for all chunks side by side, and no triangle is inverted in the recurrence", () => {
  const first = textOf("delta-net", "delta_net_forward_1");
  expect(first).toContain("__launch_bounds__(128, 7)");
  expect(first).toMatch(/triangle = .*, where k_bf16 was/);
  expect(first).toContain("invert_triangle<64, 72, 128, 0>");
  expect(first).not.toMatch(/for \(int t = /);
  // Scores of queries are for outputs alone: the role beside the states computes them.
  expect(first).not.toContain("q_bf16");
  const recurrence = textOf("delta-net", "delta_net_forward_2");
  expect(recurrence.slice(recurrence.indexOf("\n  else {"))).toContain(
    "// masked = q_bf16 @ k_bf16^T",
  );
  expect(recurrence).toMatch(/for \(int t = /);
  expect(recurrence).not.toContain("invert_triangle");
});

test("GLA's scores are products of what each warp has of both factors, squares of the chunk in blocks of 16 tokens", () => {
  const text = textOf("gla", "gla_forward");
  expect(text).toContain("multiply_to_parts<0x30u, 4, 40>(parts, mul, mul);");
  expect(text).toContain("multiply_to_parts<0xc3u, 4, 40>(");
  // They go on in two parts of 16 bits, not in one.
  expect(text).toContain("// o_tile += add_bf16 @ v_bf16");
  expect(text).toContain("// o_tile += add_bf16_rest @ v_bf16");
});

test("only what `wgmma` reads is shown to it", () => {
  const shown = (name: string, kernel: string) =>
    textOf(name, kernel).split("    show_to_products();").length - 1;
  // The keys that the state takes up; queries, scores and their factors are read by warps.
  expect(shown("gla", "gla_forward")).toBe(1);
  expect(shown("delta-net", "delta_net_forward_1")).toBe(0);
  expect(shown("retention", "retention_forward")).toBe(3);
});

test.each([
  ["delta-net", "delta_net_backward_2"],
  ["gated-delta-net", "gated_delta_net_forward_2"],
  ["kda", "kda_forward_2"],
  ["gla", "gla_backward_1"],
])("%s, %s: one role takes no more registers than the other gives back", (name, kernel) => {
  const text = textOf(name, kernel);
  const held = [...text.matchAll(/ hold_registers<(\d+), 168>/g)].map(([, count]) => Number(count));
  // Two warpgroups carry the state on. A role that waits for registers nobody gives back waits for ever.
  expect(held[0]! * 256 + held[1]! * 128).toBe(168 * 384);
});

test("what threads wrote is shown to products once, before they meet", () => {
  for (const name of ["simple-gla", "gated-delta-net"]) {
    const { files } = compileExample(name, optionsOf(128));
    for (const [path, text] of files) {
      const wide = [
        ...text.toString().matchAll(/multiply_by_warpgroups<[^>]*>\(\w+, (\w+), (\w+)\);/g),
      ];
      const factors = new Set(wide.flatMap(([, left, right]) => [left, right]));
      let isUnshown = false;
      for (const line of text.toString().split("\n")) {
        const stored = /^ +store_matrices\((\w+),/.exec(line)?.[1];
        if (stored !== undefined) isUnshown ||= factors.has(stored);
        const isShown = /^ +show_to_products\(\);/.test(line);
        // Helpers have lines of their own, in front of the kernel.
        if (isShown && line.startsWith("      ")) expect(isUnshown, path).toBe(true);
        if (isShown) isUnshown = false;
        if (/^ +(__syncthreads\(|meet_at<|arrive_at<|multiply_by_warpgroups<)/.test(line)) {
          expect(isUnshown, `${path}: ${line}`).toBe(false);
        }
      }
    }
  }
});

test("a sum begins with a product, not with zeros, where the product is a warpgroup's", () => {
  const text = textOf("simple-gla", "simple_gla_forward");
  expect(text).toContain("// masked = q_bf16 @ k_bf16^T");
  expect(text).toMatch(/multiply_by_warpgroups<bf16, 128, false, true, 1, true>\(masked, /);
  expect(text).not.toContain("masked[i][j] = 0.0f;");
});

test("a warp sums up gates of 64 tokens, two of them a lane", () => {
  const text = textOf("simple-gla", "simple_gla_forward");
  expect(text).toMatch(/if \(warp == 3\) \{\n +float sums\[2\], value = 0.0f;/);
});

test("where fewer than five blocks fit a processor, a chunk has eight warps", () => {
  const targets = [cudaTargetFor("sm_80")];
  const { files } = compileExample("delta-net", { ...optionsOf(128), targets });
  expect(files.get("cuda/delta_net_forward_1.cu")).toContain("__launch_bounds__(256, ");
});

test.each([...exampleNames, ...ruleNames])(
  "%s reads cuts of packed sequences alone: a launch without them gives no address",
  (name) => {
    const { files } = compileExample(name, optionsOf(64));
    const reads = [...files]
      .filter(([path]) => path.endsWith(".cu"))
      .flatMap(([, text]) => text.split("\n"))
      .filter((line) => line.includes("cu_seqlens["));
    expect(reads).not.toEqual([]);
    for (const line of reads) expect(line).toMatch(/packed == 1 \?[^:]*cu_seqlens\[[^:]*:/);
  },
);
