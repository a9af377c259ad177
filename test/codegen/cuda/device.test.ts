/** The CUDA device: what it says when something is missing or wrong. Runs on CUDA in software. */
import { afterEach, describe, expect, test } from "vitest";
import { cudaTarget } from "../../../codegen/cuda/target.ts";
import { createCudaDevice } from "../../../runtime/devices/cuda.ts";
import type { ArtifactFiles, Device, DeviceBuffer } from "../../../runtime/device.ts";
import { shapeOf } from "../../../runtime/device.ts";
import { artifactOf, compileExample, randomInputs, sizesOf } from "../../support/examples.ts";
import { available, createSoftwareCuda, softwareLibraries, why } from "./software/index.ts";

const dims = { K: 16, V: 32 };
const compiled = compileExample("retention", { dims, targets: [cudaTarget] });
const artifact = artifactOf(compiled);

test("a machine without a driver is told what it needs", async () => {
  const libraries = { driver: "/nowhere/libcuda.so.1" };
  await expect(createCudaDevice({ libraries })).rejects.toThrow(
    "the cuda device needs libcuda.so.1, which comes with NVIDIA's driver; it was not found",
  );
});

describe.skipIf(!available)(`with a driver${why}`, () => {
  const devices: Device[] = [];
  const open = async () => {
    const device = await createSoftwareCuda();
    devices.push(device);
    return device;
  };
  afterEach(async () => {
    for (const device of devices.splice(0)) await device.close();
  });

  /** Buffers for a form, with random inputs. */
  async function argumentsOf(device: Device, form: string, T: number) {
    const sizes = sizesOf({ T });
    const spec = artifact.manifest.forms.find(({ name }) => name === form)!;
    const inputs = randomInputs(compiled, sizes, { initial: true });
    const args = new Map<string, DeviceBuffer>();
    for (const tensor of [...spec.inputs, ...spec.outputs]) {
      const buffer = await device.alloc(tensor.dtype, shapeOf(tensor, sizes), false);
      const given = inputs.get(tensor.name);
      if (given) await device.upload(buffer, given);
      args.set(tensor.name, buffer);
    }
    return { spec, args, sizes };
  }

  test("it names the GPU and its architecture", async () => {
    expect((await open()).description).toBe("cuda: in software (sm_80)");
  });

  test("NVRTC is looked for by name, and missed by name", async () => {
    const { driver } = softwareLibraries();
    const libraries = { driver, nvrtc: "/nowhere/libnvrtc.so" };
    await expect(createCudaDevice({ libraries })).rejects.toThrow(
      /needs NVRTC, .*; it was not found/,
    );
  });

  test("there is no second GPU", async () => {
    const options = { ordinal: 1, libraries: softwareLibraries() };
    await expect(createCudaDevice(options)).rejects.toThrow(
      "there is no GPU 1: this machine has 1, counted from 0",
    );
  });

  test("new memory is NaN, zeros where asked", async () => {
    const device = await open();
    for (const dtype of ["f32", "f16", "bf16"] as const) {
      const poisoned = await device.download(await device.alloc(dtype, [3], false));
      const zeros = await device.download(await device.alloc(dtype, [3], true));
      expect([...poisoned.data]).toEqual(Array(3).fill(dtype === "f32" ? NaN : 0x7fff));
      expect([...zeros.data]).toEqual([0, 0, 0]);
    }
  });

  test("tensors without elements, and of one byte pair, go up and down", async () => {
    const device = await open();
    for (const shape of [[0], [1], [1000, 3]]) {
      const length = shape.reduce((a, b) => a * b, 1);
      const data = Uint16Array.from({ length }, (_, i) => i);
      const buffer = await device.alloc("bf16", shape, false);
      await device.upload(buffer, { dtype: "bf16", shape, data });
      expect(await device.download(buffer)).toEqual({ dtype: "bf16", shape, data });
    }
  });

  test("a tensor of another shape is refused", async () => {
    const device = await open();
    const buffer = await device.alloc("f32", [2, 3], false);
    const tensor = { dtype: "f32" as const, shape: [3, 2], data: new Float32Array(6) };
    await expect(device.upload(buffer, tensor)).rejects.toThrow(
      "a tensor of f32[3, 2] does not fit a buffer of f32[2, 3]",
    );
  });

  test("a form's arguments are checked", async () => {
    const device = await open();
    await device.load(artifact);
    const { spec, args, sizes } = await argumentsOf(device, "summary", 5);
    const k = args.get("k")!;
    args.delete("k");
    await expect(device.launch(spec, args, sizes)).rejects.toThrow(
      "summary needs k, which was not",
    );
    args.set("k", args.get("v")!);
    await expect(device.launch(spec, args, sizes)).rejects.toThrow(
      "summary needs k as f32[1, 5, 2, 16], not f32[1, 5, 2, 32]",
    );
    args.set("k", k);
    device.free(k);
    await expect(device.launch(spec, args, sizes)).rejects.toThrow("used after it was freed");
  });

  test("a form that is not loaded is an error", async () => {
    const device = await open();
    const { spec, args, sizes } = await argumentsOf(device, "fold_S", 5);
    await expect(device.launch(spec, args, sizes)).rejects.toThrow("no form fold_S for cuda");
  });

  test("only what will be launched is compiled, with what stands for it by segments", async () => {
    const device = await createSoftwareCuda(32);
    devices.push(device);
    const files: string[] = [];
    const read = (path: string) => (files.push(path), artifact.read(path));
    await device.load({ ...artifact, read }, ["forward"]);
    const names = ["forward", "summary", "exchange"].map((form) => `cuda/retention_${form}.cu`);
    expect(files.sort()).toEqual(names.sort());
    const step = await argumentsOf(device, "step", 1);
    await expect(device.launch(step.spec, step.args, step.sizes)).rejects.toThrow(
      "no form step for cuda is loaded",
    );
    const { spec, args, sizes } = await argumentsOf(device, "forward", 70);
    await device.launch(spec, args, sizes);
    await device.wait();
  });

  test("a file that does not compile is an error with the compiler's words", async () => {
    const device = await open();
    const read = () => new TextEncoder().encode("what is this?");
    const broken: ArtifactFiles = { ...artifact, read };
    await expect(device.load(broken)).rejects.toThrow(
      /cuda: retention_\w+ does not compile: .*what/s,
    );
  });

  test("a device that is closed stays closed", async () => {
    const device = await open();
    await device.close();
    await device.close();
    await expect(device.alloc("f32", [1], true)).rejects.toThrow("after it was closed");
  });

  test("a driver's error has the call's name and the driver's words", async () => {
    const device = await open();
    await device.load(artifact);
    const { spec, args, sizes } = await argumentsOf(device, "forward", 5);
    // Room for fewer tokens than are claimed: the kernel writes past the end of o.
    const o = await device.alloc("f32", [1], false);
    (o as { spec: unknown }).spec = args.get("o")!.spec;
    args.set("o", o);
    await device.launch(spec, args, sizes);
    expect(() => device.free(o)).toThrow(
      "cuda: cuMemFreeAsync failed: CUDA_ERROR_ILLEGAL_ADDRESS: memory next to a buffer was written",
    );
    await expect(device.wait()).rejects.toThrow(
      "cuda: cuStreamQuery failed: CUDA_ERROR_ILLEGAL_ADDRESS",
    );
    await expect(devices.pop()!.close()).rejects.toThrow("CUDA_ERROR_ILLEGAL_ADDRESS");
  });
});
