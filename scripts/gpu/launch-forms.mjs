// Launches every form of an artifact, each as whole sequences, as packed ones and by segments, on random inputs:
//
//   node scripts/gpu/launch-forms.mjs ARTIFACT DEVICE T,T,...
//
// For tools that watch kernels; compares nothing. Memory is not filled beforehand, so that what nobody wrote shows.
import { join } from "node:path";
import { root } from "./processes.mjs";

const [common, native] = await Promise.all(
  ["index", "node"].map((entry) => import(join(root, `runtime/dist/${entry}.js`))),
);
const runtime = { ...common, ...native };
const [folder, kind = "cuda", lengths = "70,333"] = process.argv.slice(2);
const artifact = runtime.openArtifact(folder);
const { forms } = artifact.manifest;
const create = { cuda: runtime.createCudaDevice, cpu: runtime.createCpuDevice }[kind];

const heads = {};
const whole = (T) => ({ B: 2, T, H: 2, T_total: T, token_offset: 0, heads });
/** An empty sequence, one token, and the rest. */
const packed = (T) => ({ ...whole(T), B: 3, cuSeqlens: [0, 0, 1, T] });
/** How each form is launched: sizes by what is said of them, and the segments of a device. */
const ways = [
  { segment: "never", sizes: { whole, packed } },
  { segment: 128, sizes: { whole, packed } },
];

async function launch(device, form, sizes) {
  const buffers = new Map();
  for (const spec of form.inputs) {
    const shape = runtime.shapeOf(spec, sizes);
    const buffer = await device.alloc(spec.dtype, shape, false);
    await device.upload(buffer, runtime.randomTensor(spec, shape, 0));
    buffers.set(spec.name, buffer);
  }
  for (const spec of form.outputs) {
    if (buffers.has(spec.name)) continue;
    const shape = runtime.shapeOf(spec, sizes);
    buffers.set(spec.name, await device.alloc(spec.dtype, shape, false));
  }
  await device.launch(form, buffers, sizes);
  for (const spec of form.outputs) await device.download(buffers.get(spec.name));
  for (const buffer of buffers.values()) device.free(buffer);
}

async function launchAll() {
  let launches = 0;
  for (const { segment, sizes } of ways) {
    const device = await create({ segment });
    await device.load(artifact);
    for (const form of forms) {
      // A step takes one token; what nobody has code for is the reference's alone.
      const isStep = form.name === "step";
      if (form.name === "definition" || (isStep && segment !== "never")) continue;
      for (const T of isStep ? [1] : lengths.split(",").map(Number)) {
        for (const [label, of] of Object.entries(sizes)) {
          if (isStep && label === "packed") continue;
          try {
            await launch(device, form, of(T));
          } catch (error) {
            throw new Error(
              `${form.name}, T = ${T}, ${label}, segment ${segment}: ${error.message}`,
            );
          }
          launches++;
        }
      }
    }
    await device.close();
  }
  return launches;
}

try {
  const launches = await launchAll();
  console.log(`${artifact.manifest.name}: ${launches} launches of ${forms.length} forms`);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
