/** All inputs of an attention, drawn from a seed. */
import type { Compiled } from "../../compiler/index.ts";
import { type HostTensor, type LaunchSizes, shapeOf } from "../../runtime/device.ts";
import { cotangentsOf } from "../../runtime/plan.ts";
import { type Draw, drawOf, randomTensor } from "../../runtime/random.ts";

export function randomInputs(
  { manifest }: Compiled,
  sizes: LaunchSizes,
  options: { seed?: number; initial?: boolean; draw?: Draw } = {},
): Map<string, HostTensor> {
  const { seed = 1, initial = false, draw } = options;
  const states = manifest.states.map((state) => ({
    name: `initial_${state.name}`,
    per: "state" as const,
    dtype: "f32" as const,
    dims: state.dims,
    dimNames: state.dims.map(String),
    range: null,
  }));
  const specs = [...manifest.inputs, ...(initial ? states : []), ...cotangentsOf(manifest)];
  return new Map(
    specs.map((spec, i) => {
      const own = draw && drawOf(draw, i);
      return [spec.name, randomTensor(spec, shapeOf(spec, sizes), seed, own)];
    }),
  );
}
