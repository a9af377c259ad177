/** Every emitted shader, given to Dawn's validator under the default limits of WebGPU. */
import { beforeAll, describe, expect, test } from "vitest";
import { wgslTarget } from "../../codegen/wgsl/target.ts";
import { compileExample, exampleNames } from "../support/examples.ts";

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
