/** Every rule of the tensor verifier, broken once: what it says, and that it names the pass. */
import { expect, test } from "vitest";
import { CompilerBug } from "../../compiler/support/never.ts";
import type { Op, ValueId } from "../../compiler/tensor/ir.ts";
import { parseTensor } from "../../compiler/tensor/parse.ts";
import { verifyTensor } from "../../compiler/tensor/verify.ts";

const head = `program p {
  dims T = runtime, K = 4, V = 3
  %q: f32[T, K] = input {label = q, per = token, dtype = f32}
  %v: f32[T, V] = input {label = v, per = token, dtype = f32}
  %g: f32[T] = input {label = g, per = token, dtype = f32}
`;
const out = "return o: token f32 =";
const scanTail = "read = after, causal = true, reverse = false}";

/** What the verifier says, by the program that makes it say so. */
const broken: readonly (readonly [string, string])[] = [
  ["two inputs are called q", `%r: f32[T] = input {label = q, per = token, dtype = f32} ${out} %r`],
  ["z has no token axis", `%z: f32[K] = input {label = z, per = token, dtype = f32} ${out} %q`],
  ["z has a token axis", `%z: f32[T] = input {label = z, per = head, dtype = f32} ${out} %q`],
  ["the dim N is not declared", `%z: f32[N] = const {value = 1} ${out} %q`],
  ["the dim N is not declared", `%z: f32[] = dim-size {dim = N} ${out} %q`],
  ["the dim C stands outside a chunk", `%z: f32[C] = const {value = 1} ${out} %q`],
  ["%3 has rank 3", `%z: f32[T, K, V] = const {value = 1} ${out} %q`],
  ["%3: token-index is [K], not [T]", `%z: f32[K] = token-index ${out} %q`],
  ["%3 is [T, K], not of rank 1", `%z: f32[T, K] = iota ${out} %q`],
  ["%3: add takes 2 operands", `%z: f32[T, K] = add %q ${out} %z`],
  ["%3: exp takes 1 operands", `%z: f32[T, K] = exp %q, %q ${out} %z`],
  ["%3: select takes 3 operands", `%z: f32[T, K] = select %q, %q ${out} %z`],
  ["map: cannot broadcast [T, K] and [T, V]", `%z: f32[T, K] = add %q, %v ${out} %z`],
  ["%3: map gives [T, K], not [T, V]", `%z: f32[T, V] = exp %q ${out} %z`],
  ["reduce: no axis 2", `%z: f32[T] = reduce %q {fn = sum, axis = 2} ${out} %z`],
  ["%3: V is odd", `%z: f32[T, V] = rotate-half %v ${out} %z`],
  [
    "%4: rotate-half of a scalar",
    `%s: f32[] = dim-size {dim = K} %z: f32[] = rotate-half %s ${out} %q`,
  ],
  ["%0 is [T, K], not of rank 1", `%z: f32[T, K, T] = outer %q, %g ${out} %q`],
  ["%2 is [T], not of rank 2", `%z: f32[T] = transpose %g ${out} %z`],
  [
    "%4: cumsum without a token axis",
    `%t: f32[K, T] = transpose %q %z: f32[K, T] = cumsum %t {reverse = false} ${out} %q`,
  ],
  ["matmul: inner dims differ: [T, K] and [T, V]", `%z: f32[T, V] = matmul %q, %v ${out} %z`],
  ["%3: log decay is [T, K], not [T]", `%z: f32[T, T] = causal %q {strict = false} ${out} %z`],
  [
    "%3: log decay is [T, K], not [T]",
    `%z: f32[T, V] = scan %q, %q, %v, %q {state = S, axis = scalar, initial = false, ${scanTail} ${out} %z`,
  ],
  [
    "%3: log decay is [T, K], not [T, V]",
    `%z: f32[T, V] = scan %q, %q, %v, %q {state = S, axis = value, initial = false, ${scanTail} ${out} %z`,
  ],
  [
    "%3: query is [T, V], not [T, K]",
    `%z: f32[T, V] = scan %v, %q, %v {state = S, axis = none, initial = false, ${scanTail} ${out} %z`,
  ],
  [
    "%3: first state is [T], not [K, V]",
    `%z: f32[T, V] = scan %q, %q, %v, %g {state = S, axis = none, initial = true, ${scanTail} ${out} %z`,
  ],
  [
    "%3: a scan without a mask has no decay and no order",
    `%z: f32[T, V] = scan %q, %q, %v {state = S, axis = none, initial = false, read = before, causal = false, reverse = false} ${out} %z`,
  ],
  [
    "%3: key and value are not of rank 2",
    `%z: f32[K] = scan-state %q, %g {state = S, axis = none, initial = false, reverse = false} ${out} %q`,
  ],
  [
    "%3: a key is [T, V], not [T, K]",
    `%z: f32[T, V] = scan %q, %q, %v, %v, %v {state = S, axis = none, writes = 2, initial = false, ${scanTail} ${out} %z`,
  ],
  [
    "%3: an erase vector is [T, V], not [T, K]",
    `%z: f32[T, V] = delta %q, %v, %v {state = S, axis = none, initial = false, index = 0, erase = w0, reverse = false} ${out} %z`,
  ],
  [
    "%3: there is no write 1",
    `%z: f32[T, V] = delta %q, %v, %q {state = S, axis = none, initial = false, index = 1, erase = w0, reverse = false} ${out} %z`,
  ],
  [
    "%3: write 0 cannot read write 1",
    `%z: f32[T, V] = delta %q, %v, %q, %q, %v, %g {state = S, axis = none, initial = false, writes = 2, index = 0, erase = w0, couplings = w0w1, reverse = false} ${out} %z`,
  ],
  [
    "%3: the matrix is [T, K], not [T, T]",
    `%z: f32[T, V] = solve %q, %v {upper = false} ${out} %z`,
  ],
  [
    "%3: blocks of 0",
    `%z: f32[T, T] = block-mask {block = 0, reverse = false, within_strict = true} ${out} %q`,
  ],
  ["%3: blocks of -1", `%z: f32[T, T] = block-mask {block = -1, reverse = false} ${out} %q`],
  ["%3: cumsum over blocks of 0", `%z: f32[T] = cumsum %g {reverse = false, block = 0} ${out} %q`],
  ["rows: stands outside a region", `%z: f32[K] = rows %q ${out} %q`],
  [
    "%5: S at the end is [K], not [V]",
    `recurrence (%S: f32[V] = 0) { %r: f32[K] = rows %q carry %r } = %loop ${out} %q`,
  ],
  ["%4: S is [T], not [V]", `recurrence (%S: f32[V] = %g) { carry %S } = %loop ${out} %q`],
  [
    "%5: a yield of [K, C] has its chunk axis last",
    `chunks () { %r: f32[C, K] = rows %q %z: f32[K, C] = transpose %r yield %z } = %loop ${out} %q`,
  ],
  [
    "%5: the yield is [T, V], not [T, K]",
    `chunks () { %r: f32[C, K] = rows %q yield %r } = %loop
     %z: f32[T, V] = result %loop {part = yield, index = 0} ${out} %z`,
  ],
  [
    "%5: the loop has no carry 0",
    `chunks () { %r: f32[C, K] = rows %q yield %r } = %loop
     %z: f32[T, K] = result %loop {part = carry, index = 0} ${out} %z`,
  ],
  ["%3 is a result of no loop", `%z: f32[T, K] = result %q {part = yield, index = 0} ${out} %z`],
  [
    "input z stands inside a loop",
    `chunks () { %z: f32[T] = input {label = z, per = token, dtype = f32} %r: f32[C, K] = rows %q yield %r } = %loop ${out} %q`,
  ],
  [
    "%5: a loop inside a loop",
    `chunks () { %r: f32[C, K] = rows %q chunks () { %s: f32[C, K] = rows %q yield %s } = %inner yield %r } = %loop ${out} %q`,
  ],
  ["%5 is read outside its loop", leaking()],
  ["two outputs are called o", `${out} %q, o: token f32 = %v`],
  ["output o has no token axis", `%z: f32[K] = iota ${out} %z`],
  ["output s has a token axis", `return s: state f32 = %q`],
];

/** The reader lets any name above be read; the verifier knows scopes. */
function leaking(): string {
  return `recurrence (%S: f32[K] = 0) { %r: f32[K] = rows %q %z: f32[K] = add %S, %r carry %z } = %loop
    %y: f32[T, K] = mul %q, %z ${out} %y`;
}

test.each(broken)("%s", (why, text) => {
  const program = parseTensor(`${head}${text} }`);
  expect(() => verifyTensor(program, "some-pass")).toThrow(`some-pass: p: ${why}`);
});

const sound = `${head}%z: f32[T, K] = exp %q ${out} %z }`;

test("the failure is a bug that shows the program", () => {
  const program = parseTensor(sound);
  const ops = program.ops.map((op) => ({ ...op, type: { shape: [] } }) as Op);
  try {
    verifyTensor({ ...program, ops }, "some-pass");
    expect.unreachable();
  } catch (error) {
    expect(error).toBeInstanceOf(CompilerBug);
    expect((error as CompilerBug).context).toContain("program p {");
  }
});

test("an id may be given once, also by another region", () => {
  const program = parseTensor(sound);
  verifyTensor(program, "some-pass");
  const last = program.ops.at(-1)!;
  expect(() => verifyTensor({ ...program, ops: [...program.ops, last] }, "some-pass")).toThrow(
    "%3 is defined twice",
  );
  const loop = (name: string) =>
    `recurrence (%S_${name}: f32[V] = 0) { carry %S_${name} } = %${name}`;
  const two = parseTensor(`${head}${loop("a")} ${loop("b")} ${out} %q }`);
  verifyTensor(two, "some-pass");
  const [a, b] = two.ops.filter((op) => op.kind === "recurrence") as [Op, Op];
  const copy = { ...a, id: b.id as ValueId };
  const ops = two.ops.map((op) => (op === b ? copy : op));
  expect(() => verifyTensor({ ...two, ops }, "some-pass")).toThrow("%3 is defined twice");
});
