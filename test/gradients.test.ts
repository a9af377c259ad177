/**
 * Gradients of every input of every rule: finite differences in float64 = token by token = chunk loops of
 * any length, and kernels on every device that can be had here, over all lengths, with poisoned memory.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Compiled } from "../compiler/index.ts";
import { openDevice, targetsFor } from "../compiler/cli/devices.ts";
import { toBackwardLoops, toLoops } from "../compiler/pipeline.ts";
import { Report } from "../compiler/support/pass.ts";
import { inChunksOf } from "../compiler/tensor/in-chunks-of.ts";
import { interpretTensor } from "../compiler/tensor/interpret.ts";
import { type Op, type Program, allOps } from "../compiler/tensor/ir.ts";
import { type NdArray, ndArray } from "../compiler/tensor/nd-array.ts";
import { rmseRatio } from "../compiler/tolerance.ts";
import type { Device } from "../runtime/device.ts";
import { toNumbers } from "../runtime/dtype.ts";
import { findDevice } from "./support/devices.ts";
import {
  compare,
  compileExample,
  exampleNames,
  randomInputs,
  ruleNames,
  runBackward,
  sizesOf,
} from "./support/examples.ts";
import { rules, slopes } from "./tolerance.ts";

const names = [...exampleNames, ...ruleNames];

/** Rules whose backward shader SwiftShader dies of, after minutes; real drivers are spared the attempt. */
const tooLarge: ReadonlySet<string> = new Set(["three-corrections"]);

/** Inputs and cotangents of one sequence and one head, as the interpreter takes them. */
function headInputs(compiled: Compiled, T: number): Map<string, NdArray> {
  const sizes = sizesOf({ T, H: 1 });
  const backward = compiled.manifest.forms.find(({ name }) => name === "backward")!;
  const specs = new Map(backward.inputs.map((spec) => [spec.name, spec]));
  const inputs = new Map<string, NdArray>();
  for (const [name, { dtype, data }] of randomInputs(compiled, sizes, { initial: true })) {
    const spec = specs.get(name)!;
    const shape = spec.per === "token" ? [T, ...spec.dims] : [...spec.dims];
    inputs.set(name, ndArray(shape, toNumbers(dtype, data)));
  }
  return inputs;
}

/** The sum of all outputs times their cotangents. */
function loss(forward: Program, inputs: ReadonlyMap<string, NdArray>, T: number): number {
  let sum = 0;
  for (const [name, { data }] of interpretTensor(forward, inputs, { T })) {
    const cotangent = inputs.get(`d_${name}`)!.data;
    data.forEach((value, i) => (sum += value * cotangent[i]!));
  }
  return sum;
}

/** The loss's slope along one number of an input, from four values of it. */
function slope(
  forward: Program,
  inputs: ReadonlyMap<string, NdArray>,
  T: number,
  name: string,
  i: number,
): number {
  const { shape, data } = inputs.get(name)!;
  const at = (step: number) => {
    const moved = data.slice();
    moved[i]! += step;
    return loss(forward, new Map([...inputs, [name, ndArray(shape, moved)]]), T);
  };
  const h = 1e-5;
  return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
}

/** The program with its loops in chunks of a known length. */
function knowing(program: Program, chunk: number): Program {
  const ops = program.ops.map((op): Op => {
    if (op.kind !== "chunks") return op;
    const kept = new Set([...op.yields, ...op.carries]);
    return { ...op, region: { ...op.region, ops: inChunksOf(chunk, op.region.ops, kept) } };
  });
  return { ...program, ops };
}

test.each([
  // One for each square of 1, 2, 4, 8 and 16 tokens; in bf16 for blocks of 16 tokens one more than of the rest.
  ["f32", 5],
  ["f16", 5],
  ["bf16", 1],
] as const)("a chunk has no squares longer than itself, %s", (dtype, squares) => {
  const compiled = compileExample("gla", { dims: { K: 5, V: 4 }, dtype });
  const [form] = compiled.sharded.forms;
  const loops = toLoops(form!.program, new Report());
  const products = (chunk: number) =>
    [...allOps(knowing(loops, chunk).ops)].filter(({ kind }) => kind === "matmul").length;
  expect(products(32) - products(1)).toBe(squares);
  expect(products(32) - products(16)).toBe(1);
});

describe.each(names)("%s", (name) => {
  const compiled = compileExample(name, { dims: { K: 5, V: 4 }, backward: true });
  const [forward] = compiled.sharded.forms.map(({ program }) => program) as [Program];
  const gradient = compiled.sharded.forms.find((form) => form.name === "backward")!.program;

  test("gradients = finite differences", () => {
    const T = 7;
    const inputs = headInputs(compiled, T);
    for (const [label, { data }] of interpretTensor(gradient, inputs, { T })) {
      const input = label.slice("d_".length);
      const wanted = data.map((_, i) => slope(forward, inputs, T, input, i));
      expect(rmseRatio(wanted, data), label).toBeLessThan(slopes);
    }
  });

  test("token by token = chunk loops", () => {
    const loops = toBackwardLoops(toLoops(forward, new Report()), new Report());
    for (const T of [0, 1, 13]) {
      const inputs = headInputs(compiled, T);
      const wanted = interpretTensor(gradient, inputs, { T });
      for (const chunk of [1, 4, 32]) {
        // As a target lowers it, which knows the length.
        const known = knowing(loops, chunk);
        const found = interpretTensor(known, inputs, { T, chunk });
        for (const [label, { data }] of wanted) {
          expect(
            rmseRatio(data, found.get(label)!.data),
            `${label}, chunks of ${chunk}`,
          ).toBeLessThan(rules);
        }
      }
    }
  });

  describe.each(["cpu", "webgpu"] as const)("%s", (kind) => {
    const found = findDevice(kind);
    const crashes = kind === "webgpu" && tooLarge.has(name);
    const available = found.available && !crashes;
    const why = crashes ? ": the software driver runs out of stack compiling it" : found.why;
    let native: Compiled;
    let device: Device;
    beforeAll(async () => {
      if (!available) return;
      const targets = await targetsFor([kind]);
      native = compileExample(name, { dims: { K: 16, V: 20 }, targets, backward: true });
      const forms = ["forward", "backward"];
      device = await openDevice(kind, native, { threads: null, poison: true, forms });
    });
    afterAll(() => device?.close());

    test.skipIf(!available)(`gradients = reference, every element written${why}`, async () => {
      for (const T of kind === "cpu" ? [0, 1, 15, 63, 64, 65, 200] : [0, 1, 65]) {
        // Two rows, and where inputs may have fewer heads, groups of two.
        const grouped = native.manifest.inputs.filter(({ per }) => per === "token").slice(1, 3);
        const heads = Object.fromEntries(grouped.map((spec) => [spec.name, T % 2 === 0 ? 2 : 1]));
        const sizes = sizesOf({ B: 2, T, H: 2, heads });
        const inputs = randomInputs(native, sizes, { initial: true });
        const result = await runBackward(native, device, inputs, sizes);
        const { ok, outputs } = await compare(native, inputs, sizes, result);
        expect(ok, `T ${T}: ${JSON.stringify(outputs)}`).toBe(true);
        const gradients = native.manifest.inputs.map((spec) => `d_${spec.name}`);
        expect(Object.keys(outputs)).toEqual(expect.arrayContaining(gradients));
      }
    });
  });
});
