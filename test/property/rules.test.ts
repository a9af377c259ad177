/**
 * Random rules, seeded: the definition as written = scans = chunk loops of any length = kernels for every
 * target = a ring of any number of ranks. The interpreters compute in float64, so they agree closely.
 */
import fc from "fast-check";
import { expect, test } from "vitest";
import { turnFactors } from "../../codegen/cpu/legalize.ts";
import { cudaTarget } from "../../codegen/cuda/target.ts";
import { wgslTarget } from "../../codegen/wgsl/target.ts";
import { createReferenceDevice } from "../../codegen/reference/device.ts";
import { openDevice, targetsFor } from "../../compiler/cli/devices.ts";
import type { Compiled } from "../../compiler/index.ts";
import { toBackwardLoops, toKernels, toLoops } from "../../compiler/pipeline.ts";
import { Report } from "../../compiler/support/pass.ts";
import { interpretTensor } from "../../compiler/tensor/interpret.ts";
import type { Program } from "../../compiler/tensor/ir.ts";
import { type NdArray, ndArray } from "../../compiler/tensor/nd-array.ts";
import { parseTensor } from "../../compiler/tensor/parse.ts";
import { split } from "../../compiler/tensor/passes/split.ts";
import { splitChain } from "../../compiler/tensor/passes/split-chain.ts";
import { printTensor } from "../../compiler/tensor/print.ts";
import { rmseRatio, tolerances } from "../../compiler/tolerance.ts";
import { interpretTile } from "../../compiler/tile/interpret.ts";
import { parseTile } from "../../compiler/tile/parse.ts";
import { printTile } from "../../compiler/tile/print.ts";
import type { Param } from "../../compiler/tile/ir.ts";
import type { Limits, Target } from "../../compiler/tile/target.ts";
import { toNumbers } from "../../runtime/dtype.ts";
import { findDevice } from "../support/devices.ts";
import { rules } from "../tolerance.ts";
import {
  compare,
  compileText,
  randomInputs,
  referencePrograms,
  runRing,
  sizesOf,
} from "../support/examples.ts";
import { type RandomRule, randomRule } from "../fuzz/random-rule.ts";

const seed = 20261123;

const cpuLimits: Limits = {
  ...wgslTarget.limits,
  threads: 1,
  chunks: [16],
  columnBlocks: [],
  tileRegisters: Infinity,
};
const kernelTargets: Record<string, Pick<Target, "limits" | "prepare" | "legalize">> = {
  cpu: { limits: cpuLimits, legalize: [turnFactors] },
  // Blocks of 16 columns, so that small sizes are cut too.
  wgsl: {
    ...wgslTarget,
    limits: { ...wgslTarget.limits, chunks: [16], columnBlocks: [16], tileRegisters: 0 },
  },
  cuda: cudaTarget,
  "cuda, side by side": { ...cudaTarget, prepare: [split] },
  "cuda, inverses side by side": { ...cudaTarget, prepare: [splitChain] },
};

function headInputs(compiled: Compiled, rule: RandomRule): Map<string, NdArray> {
  const sizes = sizesOf({ T: rule.T, H: 1 });
  const inputs = new Map<string, NdArray>();
  for (const [name, tensor] of randomInputs(compiled, sizes, { seed: rule.seed, initial: true })) {
    const known = compiled.manifest.forms.flatMap((form) => form.inputs);
    const spec = known.find((input) => input.name === name);
    const shape =
      spec?.per === "token" ? [rule.T, ...spec.dims] : [...(spec?.dims ?? tensor.shape.slice(2))];
    inputs.set(name, ndArray(shape, toNumbers(tensor.dtype, tensor.data)));
  }
  return inputs;
}

function expectSame(found: NdArray | Float64Array, wanted: NdArray, what: string): void {
  const data = found instanceof Float64Array ? found : found.data;
  expect(data.length, what).toBe(wanted.data.length);
  expect(rmseRatio(wanted.data, data), what).toBeLessThan(rules);
}

function runKernels(form: Program, name: string, inputs: ReadonlyMap<string, NdArray>, T: number) {
  const lowered = toKernels(
    form,
    kernelTargets[name]!,
    { name: "rule", noteOf: () => null },
    new Report(),
  );
  // What is run is what the text says.
  const text = printTile(lowered.program);
  const program = parseTile(text);
  expect(printTile(program)).toBe(text);
  const buffers = new Map([...inputs].map(([label, { data }]) => [label, Float64Array.from(data)]));
  const sizes = { B: 1, T, H: 1, T_total: T, token_offset: 0 };
  const dims = ({ shape, chunk }: Param) =>
    shape.reduce<number>(
      (product, dim) => product * (dim === "T" ? T : dim),
      chunk === undefined ? 1 : Math.ceil(T / chunk),
    );
  for (const { params } of program.kernels) {
    for (const param of params) {
      if (!buffers.has(param.name))
        buffers.set(param.name, new Float64Array(dims(param)).fill(NaN));
    }
  }
  interpretTile(program, buffers, sizes);
  return buffers;
}

test("definition = scans = loops = kernels", () => {
  fc.assert(
    fc.property(randomRule, (rule) => {
      const compiled = compileText(rule.text, { dims: rule.dims });
      const { T } = rule;
      const inputs = headInputs(compiled, rule);
      const states = [...inputs].filter(([name]) => name.startsWith("initial_"));
      const fromZero = new Map(inputs);
      for (const [name, { shape }] of states) fromZero.set(name, ndArray(shape));
      const forward = compiled.sharded.forms[0]!.program;
      expect(printTensor(parseTensor(printTensor(forward)))).toBe(printTensor(forward));

      const written = interpretTensor(compiled.program, inputs, { T }).get("o")!;
      expectSame(interpretTensor(forward, fromZero, { T }).get("o")!, written, "scans");
      // With a first state, the scan is what the rest is measured by.
      const scanned = interpretTensor(forward, inputs, { T });
      const loops = toLoops(forward, new Report());
      for (const chunk of [1, 5, 64]) {
        const chunked = interpretTensor(loops, inputs, { T, chunk });
        for (const [label, value] of scanned)
          expectSame(chunked.get(label)!, value, `chunks of ${chunk}: ${label}`);
      }
      for (const name of Object.keys(kernelTargets)) {
        const buffers = runKernels(loops, name, inputs, T);
        for (const [label, value] of scanned)
          expectSame(buffers.get(label)!, value, `${name}: ${label}`);
      }
    }),
    { numRuns: 300, seed },
  );
});

test("gradients token by token = of chunk loops = of kernels", () => {
  fc.assert(
    fc.property(randomRule, fc.constantFrom(...Object.keys(kernelTargets)), (rule, target) => {
      const compiled = compileText(rule.text, { dims: rule.dims, backward: true });
      const { T } = rule;
      const inputs = headInputs(compiled, rule);
      const forward = compiled.sharded.forms[0]!.program;
      const gradient = compiled.sharded.forms.find(({ name }) => name === "backward")!.program;
      expect(printTensor(parseTensor(printTensor(gradient)))).toBe(printTensor(gradient));
      const wanted = interpretTensor(gradient, inputs, { T });
      const loops = toBackwardLoops(toLoops(forward, new Report()), new Report());
      const chunked = interpretTensor(loops, inputs, { T, chunk: 5 });
      for (const [label, value] of wanted) {
        expectSame(chunked.get(label)!, value, `chunks of 5: ${label}`);
      }
      const buffers = runKernels(loops, target, inputs, T);
      for (const [label, value] of wanted) {
        expectSame(buffers.get(label)!, value, `${target}: ${label}`);
      }
    }),
    { numRuns: 100, seed },
  );
});

test("one device = a ring of several", async () => {
  await fc.assert(
    fc.asyncProperty(randomRule, fc.integer({ min: 2, max: 5 }), async (rule, ranks) => {
      const compiled = compileText(rule.text, { dims: rule.dims });
      const device = createReferenceDevice(referencePrograms(compiled));
      const sizes = sizesOf({ T: rule.T, H: 2 });
      const inputs = randomInputs(compiled, sizes, { seed: rule.seed, initial: true });
      const alone = await runRing(compiled, [device], inputs, sizes);
      const spread = await runRing(
        compiled,
        Array.from({ length: ranks }, () => device),
        inputs,
        sizes,
      );
      for (const [name, tensor] of alone.tensors) {
        // States travel as float32.
        expect(rmseRatio(tensor.data, spread.tensors.get(name)!.data), name).toBeLessThan(
          tolerances.f32,
        );
      }
    }),
    { numRuns: 100, seed },
  );
});

const cpu = findDevice("cpu");
test.skipIf(!cpu.available)(`native code = reference${cpu.why}`, async () => {
  const targets = await targetsFor(["cpu"]);
  await fc.assert(
    fc.asyncProperty(randomRule, async (rule) => {
      const compiled = compileText(rule.text, { dims: rule.dims, targets });
      const device = await openDevice("cpu", compiled, { threads: null, poison: true });
      const sizes = sizesOf({ T: rule.T * 5, H: 2, heads: { k: 1, v: 1 } });
      const inputs = randomInputs(compiled, sizes, { seed: rule.seed });
      const result = await runRing(compiled, [device, device], inputs, sizes);
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      expect(ok, JSON.stringify(outputs)).toBe(true);
      await device.close();
    }),
    { numRuns: 25, seed },
  );
});
