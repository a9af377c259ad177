/** A dense row-major array of float64: what interpreters compute with. */
export interface NdArray {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export function ndArray(shape: readonly number[], data?: Float64Array): NdArray {
  return { shape, data: data ?? new Float64Array(elementsOf(shape)) };
}

export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}
