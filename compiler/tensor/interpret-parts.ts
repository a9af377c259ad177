/** What the interpreter asks of chunks, pieces and types, without values of its own. */
import type { Delta, Op, Scan, ScanState, TensorType, ValueId } from "./ir.ts";
import { type NdArray, elementsOf, ndArray } from "./nd-array.ts";

/** Rows made longer with zeros, or cut off. */
export function withColumns(array: NdArray, [cols]: readonly number[]): NdArray {
  const [rows, own] = array.shape as [number, number];
  if (array.shape.length !== 2 || own === cols) return array;
  const out = ndArray([rows, cols!]);
  for (let i = 0; i < rows; i++) {
    out.data.set(array.data.subarray(i * own, i * own + Math.min(own, cols!)), i * cols!);
  }
  return out;
}

/** Part n of what is stacked along its first axis; shares the data. */
export function part({ shape, data }: NdArray, n: number): NdArray {
  const size = elementsOf(shape.slice(1));
  return ndArray(shape.slice(1), data.subarray(n * size, (n + 1) * size));
}

/** Is a step of `count` tokens the first that runs of its piece of `length` tokens? */
export function startsPiece(
  { first, count }: { readonly first: number; readonly count: number },
  tokens: number,
  length: number,
  reverse: boolean,
): boolean {
  if (!reverse) return first % length === 0;
  return (first + count) % length === 0 || first + count === tokens;
}

export function decayAt(
  log: NdArray,
  op: Scan | ScanState | Delta,
  t: number,
  x: number,
  y: number,
): number {
  const width = op.axis === "scalar" ? 1 : log.shape.at(-1)!;
  const perToken = log.shape.length === (op.axis === "scalar" ? 1 : 2);
  const along = op.axis === "key" ? x : op.axis === "value" ? y : 0;
  return log.data[(perToken ? t * width : 0) + along]!;
}

export function collectTypes(ops: readonly Op[], into = new Map<ValueId, TensorType>()) {
  for (const op of ops) {
    into.set(op.id, op.type);
    if (op.kind !== "recurrence" && op.kind !== "chunks") continue;
    for (const param of op.region.params) into.set(param.id, param.type);
    collectTypes(op.region.ops, into);
  }
  return into;
}
