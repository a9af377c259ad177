/** Every emitted shader, given to Dawn's validator under the default limits of WebGPU. */
import { beforeAll, describe, expect, test } from "vitest";
import { bindingsOf, emitWgsl } from "../../codegen/wgsl/emit.ts";
import { wgslTarget } from "../../codegen/wgsl/target.ts";
import type { Kernel, Param } from "../../compiler/tile/ir.ts";
import { parseTile } from "../../compiler/tile/parse.ts";
import { compileExample, exampleNames, ruleNames } from "../support/examples.ts";

let gpu: GPU;
let device: GPUDevice;
beforeAll(async () => {
  const dawn = (await import("webgpu")) as unknown as { create: (flags: string[]) => GPU };
  gpu = dawn.create(["backend=null"]);
  device = await (await gpu.requestAdapter())!.requestDevice();
});

/** The first error of a shader, or null. */
async function problem(code: string, entryPoint: string): Promise<string | null> {
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  const mistake = messages.find((message) => message.type === "error");
  device.createComputePipeline({ layout: "auto", compute: { module, entryPoint } });
  const error = await device.popErrorScope();
  return mistake ? `${mistake.lineNum}: ${mistake.message}` : (error?.message ?? null);
}

test("the default limits are those of the specification", () => {
  expect(device.limits.maxComputeWorkgroupStorageSize).toBe(16384);
  expect(device.limits.maxComputeInvocationsPerWorkgroup).toBe(256);
  expect(device.limits.maxStorageBuffersPerShaderStage).toBe(8);
});

test("a shader with a mistake is found", async () => {
  expect(
    await problem("@compute @workgroup_size(1) fn f() { let x: i32 = 1.5; }", "f"),
  ).not.toBeNull();
});

describe.each(["f32", "f16", "bf16"] as const)("%s storage", (dtype) => {
  test.each(exampleNames)("%s is valid for every size", async (name) => {
    for (const [K, V] of [
      [16, 16],
      [60, 100],
      [64, 64],
      [128, 256],
      [256, 256],
    ] as const) {
      const { files, manifest } = compileExample(name, {
        dims: { K, V },
        dtype,
        targets: [wgslTarget],
      });
      const code = manifest.targets.find(({ target }) => target === "wgsl")!;
      for (const kernel of code.forms.flatMap((form) => form.kernels)) {
        expect(await problem(files.get(kernel.file)!, kernel.entry), kernel.file).toBeNull();
      }
    }
  });
});

// All forms: elsewhere, devices load what is launched. Dawn takes a quarter of a minute for three corrections.
const withGradients = [...exampleNames, ...ruleNames].filter(
  (name) => name !== "three-corrections",
);
test.each(withGradients)("%s is valid with its gradients", async (name) => {
  for (const cacheStates of [null, 64]) {
    const targets = [wgslTarget];
    const options = { dims: { K: 16, V: 20 }, targets, backward: true, cacheStates };
    const { files, manifest } = compileExample(name, options);
    const code = manifest.targets.find(({ target }) => target === "wgsl")!;
    for (const kernel of code.forms.flatMap((form) => form.kernels)) {
      expect(await problem(files.get(kernel.file)!, kernel.entry), kernel.file).toBeNull();
    }
  }
});

describe("more tensors than storage buffers", () => {
  /** A kernel that loads every param it reads and stores to every param it writes; "read head f32" and so on. */
  function kernelOf(...params: readonly string[]): Kernel {
    const lines = params.map((text, i) => {
      const [access, per, dtype] = text.split(" ");
      return `param ${access} ${per} p${i}: ${dtype}[${per === "token" ? "T" : "5"}] heads H`;
    });
    const moves = params.map((text, i) =>
      text.startsWith("read") ? `load x = p${i}[0, 0]` : `store p${i}[0, 0] = x`,
    );
    const body = [...lines, "shared x: f32[16]", ...moves].join("\n");
    return parseTile(`tile many { kernel many threads 256 {\n${body}\n} }`).kernels[0]!;
  }
  const times = (count: number, text: string) => Array.from({ length: count }, () => text);
  const partsOf = (kernel: Kernel) =>
    bindingsOf(kernel)
      .filter(({ params }) => params.length > 1)
      .map(({ name, params }) => `${name}: ${params.map((param: Param) => param.name).join(" ")}`);

  test("eight stay alone", () => {
    const kernel = kernelOf(...times(5, "read head f32"), ...times(3, "write token f32"));
    expect(partsOf(kernel)).toEqual([]);
  });

  test("what is small shares first, and of the rest as much as it takes", () => {
    const reads = ["read token f32", "read state f32", "read shared f32", "read head f32"];
    expect(partsOf(kernelOf(...reads, ...times(5, "write token f32")))).toEqual([
      "f32_inputs: p3 p2",
    ]);
    expect(partsOf(kernelOf(...reads, ...times(6, "write token f32")))).toEqual([
      "f32_inputs: p3 p2 p1",
    ]);
  });

  test("results share where the inputs are not enough, dtypes apart", () => {
    const reads = ["read token bf16", "read token f32", "read token bf16", "read head f32"];
    const writes = [...times(5, "write token bf16"), "write state f32", "write state f32"];
    expect(partsOf(kernelOf(...reads, ...writes))).toEqual([
      "f32_inputs: p3 p1",
      "bf16_inputs: p0 p2",
      "f32_outputs: p9 p10",
    ]);
  });

  test.each([
    [6, 5, ["f32"]],
    [3, 40, ["f32"]],
    [40, 3, ["f32", "bf16"]],
    [30, 30, ["f32", "bf16", "f16"]],
  ] as const)(
    "%i inputs and %i results of %j make a valid shader",
    async (reads, writes, dtypes) => {
      const pers = ["token", "state", "head", "shared"];
      const params = [...times(reads, "read"), ...times(writes, "write")].map((access, i) => {
        const per = pers[(access === "read" ? i : 0) % 4];
        return `${access} ${per} ${dtypes[i % dtypes.length]}`;
      });
      const kernel = kernelOf(...params);
      const { text, entry, bundles } = emitWgsl(kernel, { source: "test.lasp", passes: [] });
      const names = bindingsOf(kernel).flatMap((binding) => binding.params.map(({ name }) => name));
      expect([...names].sort()).toEqual(kernel.params.map(({ name }) => name).sort());
      expect(bundles.length).toBeGreaterThan(0);
      expect(text.match(/var<storage/g)!.length).toBeLessThanOrEqual(8);
      expect(await problem(text, entry)).toBeNull();
    },
  );
});
