/** The tensor interpreter against small cases worked out by hand or by the formula written as loops. */
import { expect, test } from "vitest";
import { interpretTensor } from "../../compiler/tensor/interpret.ts";
import { type NdArray, ndArray } from "../../compiler/tensor/nd-array.ts";
import { parseTensor } from "../../compiler/tensor/parse.ts";
import { verifyTensor } from "../../compiler/tensor/verify.ts";
import { expectClose } from "../tolerance.ts";

const token = "per = token, dtype = f32";
const head = `program p {
  dims T = runtime, K = 2, V = 2
  %q: f32[T, K] = input {label = q, ${token}}
  %k: f32[T, K] = input {label = k, ${token}}
  %v: f32[T, V] = input {label = v, ${token}}
  %g: f32[T] = input {label = g, ${token}}
`;

const T = 3;
const array = (shape: readonly number[], ...data: number[]) =>
  ndArray(shape, Float64Array.from(data));
/** Decays are halves and quarters, so that every number here is exact but for the exponentials. */
const inputs: ReadonlyMap<string, NdArray> = new Map([
  ["q", array([T, 2], 1, 2, 3, 4, 5, 6)],
  ["k", array([T, 2], 1, 0, 2, 1, 0, 3)],
  ["v", array([T, 2], 1, -1, 2, 0, 4, 1)],
  ["g", array([T], Math.log(0.5), Math.log(0.25), Math.log(0.5))],
]);

function run(body: string, sizes: { T_total?: number; token_offset?: number } = {}): NdArray {
  const program = parseTensor(`${head}${body} }`);
  verifyTensor(program, "the test");
  return interpretTensor(program, inputs, { T, chunk: 2, ...sizes }).get("o")!;
}

function expectNumbers(found: NdArray, shape: readonly number[], wanted: readonly number[]): void {
  expect(found.shape).toEqual(shape);
  expectClose(found.data, wanted);
}

const token1 = "return o: token f32 = %o";

test("leaves: whole length, offset, counters", () => {
  const size = `%n: f32[] = dim-size {dim = T} return o: state f32 = %n`;
  expectNumbers(run(size, { T_total: 12 }), [], [12]);
  const place = `%o: f32[T] = token-index ${token1}`;
  expectNumbers(run(place, { token_offset: 7 }), [T], [7, 8, 9]);
  expectNumbers(run(`%o: f32[K] = iota return o: state f32 = %o`), [2], [0, 1]);
});

test("maps broadcast by name", () => {
  expectNumbers(run(`%o: f32[T, K] = mul %q, %g ${token1}`), [T, 2], scaledRows());
  const i = `%i: f32[K] = iota`;
  expectNumbers(run(`${i} %o: f32[T, K] = mul %q, %i ${token1}`), [T, 2], [0, 2, 0, 4, 0, 6]);
  const all = `${i} %o: f32[T, K] = mul %g, %i ${token1}`;
  const logs = [...inputs.get("g")!.data];
  expectNumbers(
    run(all),
    [T, 2],
    logs.flatMap((g) => [0, g]),
  );
});

function scaledRows(): number[] {
  const [q, g] = [inputs.get("q")!.data, inputs.get("g")!.data];
  return [...q].map((x, i) => x * g[Math.floor(i / 2)]!);
}

test("a selection never mixes what it leaves out", () => {
  const bad = `%z: f32[] = const {value = 0} %n: f32[] = const {value = nan}`;
  expectNumbers(
    run(`${bad} %o: f32[T, K] = select %z, %n, %q ${token1}`),
    [T, 2],
    [1, 2, 3, 4, 5, 6],
  );
});

test("folds, rotations, products, sums", () => {
  const state = "return o: state f32 = %o";
  const fold = (axis: number, fn: string, dim: string, end: string) =>
    `%o: f32[${dim}] = reduce %q {fn = ${fn}, axis = ${axis}} ${end}`;
  expectNumbers(run(fold(1, "sum", "T", token1)), [T], [3, 7, 11]);
  expectNumbers(run(fold(0, "max", "K", state)), [2], [5, 6]);
  expectNumbers(run(`%o: f32[T, K] = rotate-half %q ${token1}`), [T, 2], [-2, 1, -4, 3, -6, 5]);
  const product = `%t: f32[K, T] = transpose %k %o: f32[K, V] = matmul %t, %v ${state}`;
  expectNumbers(run(product), [2, 2], [5, -1, 14, 3]);
  const outer = `%i: f32[K] = iota %o: f32[T, K] = outer %g, %i ${token1}`;
  expectNumbers(run(outer), [T, 2], [0, Math.log(0.5), 0, Math.log(0.25), 0, Math.log(0.5)]);
  const sums = (reverse: boolean) => `%o: f32[T, K] = cumsum %q {reverse = ${reverse}} ${token1}`;
  expectNumbers(run(sums(false)), [T, 2], [1, 2, 4, 6, 9, 12]);
  expectNumbers(run(sums(true)), [T, 2], [9, 12, 8, 10, 5, 6]);
  // Of blocks 0 and 2 what is still to come, of block 1 what was.
  const both = "reverse = false, block = 1, earlier_reverse = true, earlier_exclusive = true";
  expectNumbers(run(`%o: f32[T, K] = cumsum %q {${both}} ${token1}`), [T, 2], [0, 0, 3, 4, 0, 0]);
});

test("the causal mask, with and without its diagonal", () => {
  const mask = (strict: boolean) => `%o: f32[T, T] = causal %g {strict = ${strict}} ${token1}`;
  expectNumbers(run(mask(false)), [3, 3], [1, 0, 0, 0.25, 1, 0, 0.125, 0.5, 1]);
  expectNumbers(run(mask(true)), [3, 3], [0, 0, 0, 1, 0, 0, 0.25, 1, 0]);
  expectNumbers(
    run(`%o: f32[T, T] = causal {strict = false} ${token1}`),
    [3, 3],
    [1, 0, 0, 1, 1, 0, 1, 1, 1],
  );
});

const scan = (options: { read: string; reverse: boolean }) =>
  `%o: f32[T, V] = scan %q, %k, %v, %g {state = S, axis = scalar, initial = false,
   read = ${options.read}, causal = true, reverse = ${options.reverse}} ${token1}`;

/** S_t = e^g S_{t-1} + k v^T; o_t = q_t S_t or q_t S_{t-1}: the formula, token by token. */
function scanned(order: readonly number[], isBefore: boolean): number[] {
  const [q, k, v, g] = ["q", "k", "v", "g"].map((name) => inputs.get(name)!.data);
  const S = [0, 0, 0, 0];
  const out = Array.from({ length: 2 * T }, () => 0);
  for (const t of order) {
    const read = () =>
      [0, 1].forEach((y) => {
        out[2 * t + y] = q![2 * t]! * S[y]! + q![2 * t + 1]! * S[2 + y]!;
      });
    if (isBefore) read();
    for (let i = 0; i < 4; i++) {
      S[i] = Math.exp(g![t]!) * S[i]! + k![2 * t + (i >> 1)]! * v![2 * t + (i & 1)]!;
    }
    if (!isBefore) read();
  }
  return out;
}

test.each([
  ["after", false],
  ["before", false],
  ["after", true],
  ["before", true],
] as const)("scan: read %s, reverse %s", (read, reverse) => {
  const order = reverse ? [2, 1, 0] : [0, 1, 2];
  expectNumbers(run(scan({ read, reverse })), [T, 2], scanned(order, read === "before"));
});

test("a scan is the masked product", () => {
  const quadratic = `%t: f32[K, T] = transpose %k %s: f32[T, T] = matmul %q, %t
    %d: f32[T, T] = causal %g {strict = false} %m: f32[T, T] = mul %s, %d
    %o: f32[T, V] = matmul %m, %v ${token1}`;
  expectNumbers(run(quadratic), [T, 2], scanned([0, 1, 2], false));
});

test("a scan without a mask reads the last state; with decays of axes it scales rows or columns", () => {
  const tail = "initial = false, read = after, causal = false, reverse = false}";
  const whole = `%o: f32[T, V] = scan %q, %k, %v {state = S, axis = none, ${tail} ${token1}`;
  expectNumbers(run(whole), [T, 2], [33, 5, 71, 9, 109, 13]);
  const along = (axis: string, log: string) =>
    `%o: f32[K, V] = scan-state %k, %v, %${log} {state = S, axis = ${axis}, initial = false, reverse = false}
     return o: state f32 = %o`;
  const half = `%c: f32[] = const {value = ${Math.log(0.5)}} %i: f32[K] = iota %l: f32[K] = mul %c, %i
    %z: f32[T, K] = sub %q, %q %w: f32[T, K] = add %z, %l`;
  // Row 1 (key) or column 1 (value) is halved before each token.
  expectNumbers(run(`${half} ${along("key", "w")}`), [2, 2], [5, -1, 13, 3]);
  const value = `${half.replaceAll("K]", "V]").replace("sub %q, %q", "sub %v, %v")} ${along("value", "w")}`;
  expectNumbers(run(value), [2, 2], [5, -0.25, 14, 3]);
});

test("loops: tokens and chunks, either way, with a shorter last chunk", () => {
  const loop = (kind: string, reverse: boolean, dims: string, sum: string) =>
    `${kind} ${reverse ? "reverse " : ""}(%S: f32[V] = 0) {
       %r: f32[${dims}] = rows %v ${sum} %n: f32[V] = add %S, %s %y: f32[${dims}] = add %r, %S
       carry %n yield %y
     } = %loop
     %o: f32[T, V] = result %loop {part = yield, index = 0} ${token1}`;
  const whole = "%zero: f32[V] = sub %r, %r %s: f32[V] = add %r, %zero";
  const fold = "%s: f32[V] = reduce %r {fn = sum, axis = 0}";
  expectNumbers(run(loop("recurrence", false, "V", whole)), [T, 2], [1, -1, 3, -1, 7, 0]);
  expectNumbers(run(loop("recurrence", true, "V", whole)), [T, 2], [7, 0, 6, 1, 4, 1]);
  // Chunks of 2: tokens 0 and 1 start from nothing, token 2 from their sum.
  expectNumbers(run(loop("chunks", false, "C, V", fold)), [T, 2], [1, -1, 2, 0, 7, 0]);
  expectNumbers(run(loop("chunks", true, "C, V", fold)), [T, 2], [5, 0, 6, 1, 4, 1]);
});

test("a missing or misshapen input is named", () => {
  const program = parseTensor(`${head} return o: token f32 = %q }`);
  expect(() => interpretTensor(program, new Map(), { T })).toThrow("no input q");
  const wrong = new Map(inputs).set("k", ndArray([T, 5]));
  expect(() => interpretTensor(program, wrong, { T })).toThrow("input k has shape [3,5]");
});
