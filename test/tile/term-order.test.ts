/** Terms of several sums are computed in the order that holds fewest factors at a time. */
import { expect, test } from "vitest";
import type { Chunks, Op, ValueId } from "../../compiler/tensor/ir.ts";
import { parseTensor } from "../../compiler/tensor/parse.ts";
import { type Term, inTurns } from "../../compiler/tile/term-order.ts";

// Two squares with a factor of their own each, written one behind the other, and a product of what is loaded.
const text = `program p {
  dims T = runtime, K = 16
  %x: f32[T, K] = input {label = x, per = token, dtype = f32}
  %y: f32[T, K] = input {label = y, per = token, dtype = f32}
  chunks () {
    %x.2: f32[C, K] = rows %x
    %y.2: f32[C, K] = rows %y
    %a: f32[C, K] = mul %x.2, %y.2
    %b: f32[C, K] = add %x.2, %y.2
    %0: f32[K, C] = transpose %a
    %aa: f32[C, C] = matmul %a, %0
    %1: f32[K, C] = transpose %b
    %bb: f32[C, C] = matmul %b, %1
    %aaa: f32[C, K] = matmul %aa, %a
    %bbb: f32[C, K] = matmul %bb, %b
    %2: f32[K, C] = transpose %y.2
    %xy: f32[C, C] = matmul %x.2, %2
    yield %aaa, %bbb, %xy
  } = %loop
  %o: f32[T, K] = result %loop {part = yield, index = 0}
  return o: token f32 = %o
}`;

const loop = parseTensor(text).ops.find((op): op is Chunks => op.kind === "chunks")!;
const ops = new Map<ValueId, Op>(loop.region.ops.map((op) => [op.id, op]));
const named = (name: string) => loop.region.ops.find((op) => op.name === name)!.id;

/** The names of terms in their order. */
const orderOf = (terms: readonly Term[]) =>
  inTurns(terms, ops, (op) => op.kind === "rows").map(({ term }) => ops.get(term)!.name);

test("what is loaded first, then all that one factor is for, then the next one's", () => {
  const [square, rest] = [1000 as ValueId, 1001 as ValueId];
  const terms = [
    ...["aa", "bb", "xy"].map((name) => ({ root: square, term: named(name) })),
    ...["aaa", "bbb"].map((name) => ({ root: rest, term: named(name) })),
  ];
  expect(orderOf(terms)).toEqual(["xy", "aa", "aaa", "bb", "bbb"]);
});

test("a sum that a term needs is complete before it", () => {
  // `aa` is the sum itself of which `bb` and `xy` are the terms.
  const terms = [
    { root: named("aaa"), term: named("aaa") },
    { root: named("aa"), term: named("bb") },
    { root: named("aa"), term: named("xy") },
  ];
  expect(orderOf(terms)).toEqual(["xy", "bb", "aaa"]);
});
