/** Moves a tensor from one layout to another: every rank sends each other what that one needs. */
import type { HostTensor } from "./device.ts";
import { elementsOf, newData } from "./dtype.ts";
import { type Box, type Sizes, boxOf, movedBox } from "./layout.ts";
import type { Dtype, ReshardStep, TensorSpec } from "./plan.ts";
import type { Transport } from "./transport.ts";

export interface Reshard {
  readonly step: ReshardStep;
  /** Of the whole sequence. */
  readonly whole: Sizes;
  readonly transport: Transport;
  /** What this rank holds; null where it holds nothing. */
  readonly tensor: HostTensor | null;
}

/** This rank's part in the new layout, or null where it has none. */
export async function reshard({
  step,
  whole,
  transport,
  tensor,
}: Reshard): Promise<HostTensor | null> {
  const { spec, from, to, tag } = step;
  const { rank, ranks } = transport;
  const moved = (sender: number, receiver: number) =>
    movedBox(spec, { from, to }, whole, sender, receiver, ranks);
  const held = boxOf(spec, from, whole, rank, ranks);
  // Each rank begins with the one after it, so that nobody is sent everything at once.
  const others = Array.from({ length: ranks - 1 }, (_, i) => (rank + 1 + i) % ranks);
  const sends = others.map((peer) => {
    const box = tensor === null ? null : moved(rank, peer);
    if (box === null) return Promise.resolve();
    const { data } = copyBox(spec, whole, { tensor: tensor!, at: held! }, box, null);
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    return transport.send(peer, tag, bytes);
  });
  const needed = boxOf(spec, to, whole, rank, ranks);
  const fill = async (): Promise<HostTensor | null> => {
    if (needed === null) return null;
    const shape = shapeOfBox(spec, whole, needed);
    const data = newData(spec.dtype, elementsOf(shape));
    const into = { tensor: { dtype: spec.dtype, shape, data }, at: needed };
    const kept = moved(rank, rank);
    if (kept && tensor) copyBox(spec, whole, { tensor, at: held! }, kept, into);
    await Promise.all(
      [...others].reverse().map(async (peer) => {
        const box = moved(peer, rank);
        if (box === null) return;
        const part = emptyPart(spec.dtype, shapeOfBox(spec, whole, box));
        const bytes = await transport.recv(peer, tag, part.data.byteLength);
        new Uint8Array(part.data.buffer).set(bytes);
        copyBox(spec, whole, { tensor: part, at: box }, box, into);
      }),
    );
    return into.tensor;
  };
  const [result] = await Promise.all([fill(), ...sends]);
  return result;
}

/** A tensor in memory and the part of the whole that it is. */
interface Placed {
  readonly tensor: HostTensor;
  readonly at: Box;
}

/** Copies `box` out of one part into another, or into a tensor of its own. */
function copyBox(
  spec: TensorSpec,
  whole: Sizes,
  from: Placed,
  box: Box,
  into: Placed | null,
): HostTensor {
  const to = into ?? { tensor: emptyPart(spec.dtype, shapeOfBox(spec, whole, box)), at: box };
  const inner = elementsOf(spec.dims);
  const sequences = spec.per === "head" ? 1 : whole.B;
  const width = (box.heads.to - box.heads.from) * inner;
  const offset = ({ at: { tokens, heads } }: Placed, b: number, t: number) => {
    const rows = b * (tokens.to - tokens.from) + t - tokens.from;
    return (rows * (heads.to - heads.from) + box.heads.from - heads.from) * inner;
  };
  for (let b = 0; b < sequences; b++) {
    for (let t = box.tokens.from; t < box.tokens.to; t++) {
      const start = offset(from, b, t);
      to.tensor.data.set(from.tensor.data.subarray(start, start + width), offset(to, b, t));
    }
  }
  return to.tensor;
}

function shapeOfBox(spec: TensorSpec, { B }: Sizes, { tokens, heads }: Box): number[] {
  const count = heads.to - heads.from;
  if (spec.per === "head") return [count, ...spec.dims];
  if (spec.per === "state") return [B, count, ...spec.dims];
  return [B, tokens.to - tokens.from, count, ...spec.dims];
}

function emptyPart(dtype: Dtype, shape: readonly number[]): HostTensor {
  return { dtype, shape, data: newData(dtype, elementsOf(shape)) };
}
