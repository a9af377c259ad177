/** Kernels on tensor cores, executed in software: every rule in 16 bits against the float64 reference. */
import { expect, test, describe } from "vitest";
import type { Compiled } from "../../../compiler/index.ts";
import type { HostTensor } from "../../../runtime/device.ts";
import { toBits } from "../../../runtime/dtype.ts";
import { tolerances } from "../../../compiler/tolerance.ts";
import { cudaTarget } from "../../../codegen/cuda/target.ts";
import {
  artifactOf,
  compare,
  compileExample,
  compileText,
  exampleNames,
  exampleSource,
  randomInputs,
  ruleNames,
  runBackward,
  sizesOf,
} from "../../support/examples.ts";
import {
  available,
  backward,
  checkKernels,
  createSoftwareCuda,
  onHopper,
  why,
} from "./software/index.ts";

/** The length whose threads run in the other order as well: one that fills no chunk. */
const turned = 65;

async function check(
  name: string,
  dtype: "bf16" | "f16",
  dims: Record<string, number>,
  lengths: readonly number[],
  change: (inputs: Map<string, HostTensor>) => void = () => {},
): Promise<Compiled> {
  const compiled = compileExample(name, { dims, dtype, targets: [cudaTarget], backward: true });
  await checkKernels(compiled);
  const device = await createSoftwareCuda();
  await device.load(artifactOf(compiled), ["forward", "backward"]);
  for (const T of lengths) {
    const sizes = sizesOf({ T, H: 4 });
    const inputs = randomInputs(compiled, sizes, { initial: true });
    change(inputs);
    const run = () => runBackward(compiled, device, inputs, sizes);
    const results = [await run(), ...(T === turned ? [await backward(run)] : [])];
    for (const result of results) {
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      expect(ok, `T ${T}: ${JSON.stringify(outputs)}`).toBe(true);
    }
  }
  await device.close();
  return compiled;
}

describe.skipIf(!available).each([...exampleNames, ...ruleNames])(`%s${why}`, (name) => {
  test("bf16: outputs, states and gradients", () =>
    check(name, "bf16", { K: 32, V: 48 }, [0, 1, turned, 150]));
  test("f16, sizes that divide nothing", () => check(name, "f16", { K: 20, V: 36 }, [70]));
});

/** Buffers of a form of which blocks of columns have shares, of those that are added up by a kernel too. */
function sharesIn({ manifest }: Compiled, wanted: string): string[] {
  const { forms } = manifest.targets.find(({ target }) => target === "cuda")!;
  const { shares = {}, workspaces } = forms.find(({ form }) => form === wanted)!;
  const summed = workspaces.filter(({ name }) => name.startsWith("shares_"));
  return [...Object.keys(shares), ...summed.map(({ name }) => name)];
}

// Blocks of 64 columns, of which gradients have two to four shares to a head.
test.skipIf(!available).each([
  ["retention", { K: 192, V: 192 }],
  ["gla", { K: 256, V: 256 }],
  ["gated-delta-net", { K: 160, V: 128 }],
  ["value-decay", { K: 256, V: 256 }],
] as const)(`%s, states and gradients in blocks of columns${why}`, async (name, dims) => {
  const compiled = await check(name, "bf16", dims, [turned]);
  expect(sharesIn(compiled, "backward")).not.toEqual([]);
});

// The last block is not full, and rows do not begin on whole 16 bytes.
test.skipIf(!available)(`simple-gla, blocks of columns that are not full${why}`, async () => {
  const compiled = await check("simple-gla", "bf16", { K: 160, V: 108 }, [turned]);
  expect(sharesIn(compiled, "backward")).toEqual([]);
});

test.skipIf(!available)(`gla, gradients in blocks of columns on Hopper${why}`, () =>
  onHopper(async () => {
    await check("gla", "bf16", { K: 256, V: 128 }, [turned]);
  }),
);

// Shares of rows, vectors and squares of a chunk, of what a head has, and of inputs that heads share.
test.skipIf(!available)(`shares of all kinds are added up${why}`, async () => {
  const text = `attention all(
    q: [T, K], k: [T, K], v: [T, V], x: [T, V], a: [K] per head, w: [V] per head, g: [T] in (-inf, 0],
  ) -> [T, V] {
    recurrence S: [K, V] {
      S = exp(g) * S + outer(k, v * w)
      yield silu(x) * ((q * a) @ S) * w
    }
  }`;
  const options = { dtype: "f16", targets: [cudaTarget], backward: true } as const;
  const compiled = compileText(text, { dims: { K: 256, V: 256 }, ...options });
  const shares = sharesIn(compiled, "backward");
  for (const name of ["shares_d_q", "shares_d_k", "d_g", "d_a"]) expect(shares).toContain(name);
  const device = await createSoftwareCuda();
  await device.load(artifactOf(compiled), ["forward", "backward"]);
  const cuSeqlens = [0, 5, 5, 40];
  for (const sizes of [
    sizesOf({ T: 33, H: 2, heads: { q: 2, k: 1, v: 1 } }),
    { ...sizesOf({ B: 3, T: 40, H: 1 }), cuSeqlens },
  ]) {
    const inputs = randomInputs(compiled, sizes, { initial: true });
    const result = await runBackward(compiled, device, inputs, sizes);
    const { ok, outputs } = await compare(compiled, inputs, sizes, result);
    expect(ok, JSON.stringify(outputs)).toBe(true);
  }
  await device.close();
});

// Decays are bounded within blocks of 16 tokens: what a gate cuts off must stay below what bf16 rounds away.
test.skipIf(!available).each(["gla", "kda"])(`%s, gates that keep nothing${why}`, async (name) => {
  await check(name, "bf16", { K: 32, V: 48 }, [turned], (inputs) => {
    const gates = inputs.get("g")!;
    for (let i = 0; i < gates.data.length; i += 3)
      gates.data[i] = toBits("bf16", i % 2 === 0 ? -1000 : -12);
  });
});

// What a token's gate takes from its own query and gives its own key is the same: it cancels, and so must its rounding.
test.skipIf(!available).each([
  ["gla", "d_g"],
  ["value-decay", "d_g"],
] as const)(`%s, %s of strong gates${why}`, async (name, gradient) => {
  const dims = { K: 32, V: 48 };
  const options = { dims, dtype: "bf16", targets: [cudaTarget], backward: true } as const;
  const compiled = compileExample(name, options);
  const device = await createSoftwareCuda();
  await device.load(artifactOf(compiled), ["forward", "backward"]);
  const sizes = sizesOf({ T: turned, H: 2 });
  const inputs = randomInputs(compiled, sizes, { initial: true });
  const { data } = inputs.get("g")!;
  for (let i = 0; i < data.length; i++) data[i] = toBits("bf16", -5 * ((i * 0.618034) % 1));
  const result = await runBackward(compiled, device, inputs, sizes);
  const { outputs } = await compare(compiled, inputs, sizes, result);
  expect(outputs[gradient]!.rmse_ratio).toBeLessThan(tolerances.bf16);
  await device.close();
});

// Where chunks run side by side, those of all packed sequences do.
describe.skipIf(!available).each([
  ["gla", false],
  ["kda", true],
  ["gated-delta-net", true],
])(`%s, packed${why}`, (name, hasSideBySide) => {
  test("each sequence on its own", async () => {
    const dims = { K: 32, V: 48 };
    const options = { dims, dtype: "bf16", targets: [cudaTarget], backward: true } as const;
    const compiled = compileExample(name, options);
    const isSideBySide = compiled.manifest.targets.some(({ forms }) =>
      forms.some(({ kernels }) => kernels.some(({ packedChunk }) => packedChunk !== undefined)),
    );
    expect(isSideBySide).toBe(hasSideBySide);
    const device = await createSoftwareCuda();
    await device.load(artifactOf(compiled), ["forward", "backward"]);
    for (const cuSeqlens of [
      [0, 0, 5, 6, 6, 70, 198, 198],
      [0, 0],
    ]) {
      const sizes = {
        ...sizesOf({ B: cuSeqlens.length - 1, T: cuSeqlens.at(-1)!, H: 2 }),
        cuSeqlens,
      };
      const inputs = randomInputs(compiled, sizes, { initial: true });
      const result = await runBackward(compiled, device, inputs, sizes);
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      expect(ok, JSON.stringify(outputs)).toBe(true);
    }
    await device.close();
  });
});

// Whole chunks of 64 rows and columns, which products of a warpgroup are made of.
describe.skipIf(!available).each(["retention", "simple-gla", "delta-net"])(
  `%s on Hopper${why}`,
  (name) => {
    test("bf16", () => onHopper(() => check(name, "bf16", { K: 64, V: 64 }, [turned])));
    test("f16, more columns than a panel", () =>
      onHopper(() => check(name, "f16", { K: 64, V: 128 }, [turned])));
  },
);

test.skipIf(!available)(`values may have the names that kernels use themselves${why}`, async () => {
  const names = { key: "warp", query: "lane", S: "sums", g: "before", beta: "words" };
  let { text } = exampleSource("gated-delta-net");
  for (const [name, other] of Object.entries(names)) {
    text = text.replaceAll(new RegExp(`\\b${name}\\b`, "g"), other);
  }
  const compiled = compileText(text, {
    dims: { K: 64, V: 64 },
    dtype: "bf16",
    targets: [cudaTarget],
    backward: true,
  });
  await checkKernels(compiled);
});
