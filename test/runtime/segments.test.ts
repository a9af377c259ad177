/** Segments of a sequence, side by side on one device, give what the whole sequence gives. */
import { describe, expect, test } from "vitest";
import { cudaTarget } from "../../codegen/cuda/target.ts";
import { intraKey, kernelsBeside } from "../../runtime/intra.ts";
import { cutSegments, launchSegments, segmentLength } from "../../runtime/segments.ts";
import { shapeOf } from "../../runtime/device.ts";
import {
  available,
  checkKernels,
  createSoftwareCuda,
  why,
} from "../codegen/cuda/software/index.ts";
import {
  artifactOf,
  compare,
  compileExample,
  exampleNames,
  randomInputs,
  ruleNames,
  runBackward,
  sizesOf,
} from "../support/examples.ts";

test("segments divide the tokens, and their summaries lie where the exchange reads them", () => {
  const dims = { dims: [2, 3], dimNames: ["K", "V"] };
  const summary = { name: "summary_S", dtype: "f32", range: null, ...dims } as const;
  const packed = { ...sizesOf({ B: 4, T: 205 }), cuSeqlens: [0, 0, 70, 198, 205] };
  for (const sizes of [sizesOf({ B: 3, T: 200 }), sizesOf({ B: 3, T: 256 }), packed]) {
    const { segments, sequences } = cutSegments(sizes, 64);
    const perSegment = shapeOf({ ...summary, per: "state" }, segments);
    const perToken = shapeOf({ ...summary, per: "chunk", chunk: 1 }, sequences);
    const count = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
    expect(count(perSegment)).toBe(count(perToken));
    const cuts = segments.cuSeqlens ?? Array.from({ length: segments.B + 1 }, (_, i) => i * 64);
    const lengths = cuts.slice(1).map((cut, i) => cut - cuts[i]!);
    expect(Math.max(...lengths)).toBeLessThanOrEqual(64);
    expect(cuts.at(-1)).toBe(sizes.cuSeqlens ? 205 : 3 * sizes.T);
  }
  const { segments, sequences } = cutSegments(packed, 64);
  // Each sequence ends in an empty segment.
  expect(segments.cuSeqlens).toEqual([0, 0, 64, 70, 70, 134, 198, 198, 205, 205]);
  expect(sequences.cuSeqlens).toEqual([0, 0, 2, 4, 5]);
});

test("the length follows from the shape: none where heads fill the processors", () => {
  const work = { processors: 132, columns: 1, summaries: 1 };
  const choice = (B: number, T: number, H: number) => segmentLength(sizesOf({ B, T, H }), work);
  expect(choice(8, 8192, 16)).toBeNull();
  expect(choice(1, 65536, 16)).toBe(8192);
  expect(choice(1, 8192, 16)).toBe(1024);
  expect(choice(1, 300, 16)).toBeNull();
  const sizes = sizesOf({ B: 1, T: 65536, H: 16 });
  expect(segmentLength(sizes, { ...work, columns: 8 })).toBeNull();
});

describe.skipIf(!available).each([...exampleNames, ...ruleNames])(`%s${why}`, (name) => {
  const dims = { K: 16, V: 20 };
  const compiled = compileExample(name, { dims, targets: [cudaTarget], backward: true });
  const { segments } = compiled.manifest;

  test.skipIf(!segments)("outputs and gradients by segments", async () => {
    await checkKernels(compiled);
    const device = await createSoftwareCuda(48);
    await device.load(artifactOf(compiled), ["forward", "backward"]);
    const cuSeqlens = [0, 0, 50, 146, 147];
    for (const sizes of [
      sizesOf({ B: 2, T: 100 }),
      sizesOf({ B: 1, T: 96 }),
      { ...sizesOf({ B: cuSeqlens.length - 1, T: 147 }), cuSeqlens },
    ]) {
      const inputs = randomInputs(compiled, sizes, { initial: true });
      const result = await runBackward(compiled, device, inputs, sizes);
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      expect(ok, `T ${sizes.T}: ${JSON.stringify(outputs)}`).toBe(true);
    }
    await device.close();
  });
});

test("kernels of intra-chunk values run once for all launches by segments", async () => {
  const dims = { K: 128, V: 128 };
  const { manifest } = compileExample("gated-delta-net", {
    dims,
    dtype: "bf16",
    targets: [cudaTarget],
    backward: true,
  });
  const codes = manifest.targets.find(({ target }) => target === "cuda")!.forms;
  const entries: string[] = [];
  const spec = { dtype: "f32", shape: [] } as const;
  const buffer = { spec, sizeBytes: 0 };
  const form = manifest.forms.find(({ name }) => name === "backward")!;
  const args = new Map([...form.inputs, ...form.outputs].map(({ name }) => [name, buffer]));
  await launchSegments(manifest, form, args, sizesOf({ B: 1, T: 512 }), 128, {
    alloc: () => buffer,
    view: () => buffer,
    launch: async (own, _args, _sizes, intra, part) => {
      const code = codes.find((one) => one.form === own.name)!;
      const keys = code.workspaces.map((work) => ({ name: work.name, key: intraKey(work) }));
      const known = keys.filter(({ key }) => key !== null && intra.has(key));
      const names = new Set(known.map(({ name }) => name));
      for (const { entry } of kernelsBeside(code, names, part)) entries.push(entry);
      for (const { key } of keys) if (key !== null) intra.set(key, buffer);
    },
    free: () => {},
  });
  const short = entries.map((entry) => entry.replace("gated_delta_net_", ""));
  expect(short).toEqual([
    "forward_1",
    "summary_2",
    "transition_2",
    "exchange",
    "summary_bwd_2",
    "summary_bwd_3",
    "exchange_bwd",
    "backward_2",
    "backward_3",
    "backward_4",
  ]);
});

test("what a segment cannot be computed without is said by the absence of segments", () => {
  const segmented = (name: string) =>
    compileExample(name, { dims: { K: 16, V: 16 }, targets: [cudaTarget] }).manifest.segments;
  expect(Object.keys(segmented("retention")!)).toEqual(["forward"]);
  // Every token reads the whole sequence's state.
  expect(segmented("linear-attention-bidirectional")).toBeUndefined();
});
