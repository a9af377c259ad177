/** Sizes of a plan's buffers, which the plan itself leaves open. */
import type { Dtype, TensorSpec } from "../../runtime/plan.ts";

/** Sequences, tokens of each, heads; and the head counts of tensors that have others. */
export interface Sizes {
  readonly B: number;
  readonly T: number;
  readonly H: number;
  readonly heads?: Readonly<Record<string, number>>;
}

const elementBytes: Readonly<Record<Dtype, number>> = { f32: 4, f16: 2, bf16: 2 };

/** Bytes of a whole tensor of these sizes. */
export function bytesOf(spec: TensorSpec, { B, T, H, heads }: Sizes): number {
  const own = heads?.[spec.headsOf ?? spec.name] ?? H;
  const count = {
    token: B * T * own,
    head: own,
    shared: 1,
    state: B * H,
    chunk: B * Math.ceil(T / (spec.chunk ?? 1)) * H,
  }[spec.per];
  return count * elementBytes[spec.dtype] * spec.dims.reduce((product, size) => product * size, 1);
}

/** Of `size` tokens or sequences those of place i of n: from floor(i size / n) to floor((i + 1) size / n). */
export function shareOf(size: number, i: number, n: number): number {
  const cut = (at: number) => Math.floor((at * size) / n);
  return cut(i + 1) - cut(i);
}
