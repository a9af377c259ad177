/** The tile interpreter against small kernels worked out by hand: who reads what, and the bounds. */
import { describe, expect, test } from "vitest";
import { type TileSizes, interpretTile } from "../../compiler/tile/interpret.ts";
import { parseTile } from "../../compiler/tile/parse.ts";
import { verifyTile } from "../../compiler/tile/verify.ts";

function run(kernel: string, buffers: Record<string, number[]>, sizes: Partial<TileSizes> = {}) {
  const program = parseTile(`tile p { kernel k threads 1 { ${kernel} } }`);
  verifyTile(program, "the test");
  const memory = new Map(
    Object.entries(buffers).map(([name, data]) => [name, Float64Array.from(data)]),
  );
  const all = { B: 1, T: 2, H: 1, T_total: 2, token_offset: 0, ...sizes } as TileSizes;
  interpretTile(program, memory, all);
  return Object.fromEntries([...memory].map(([name, data]) => [name, [...data]]));
}

const count = (n: number) => Array.from({ length: n }, (_, i) => i + 1);
const zeros = (n: number) => Array.from({ length: n }, () => 0);

describe("layouts", () => {
  test("token buffers are [B, T, heads, cols], and heads may be shared", () => {
    const kernel = `param read token q: f32[T, 2] heads H_q
      param write token o: f32[T, 2] heads H
      register x: f32[4, 2]
      loop t below T step 4 { load x = q[t, 0] store o[t, 0] = x }`;
    // B 2, T 3, two heads of q for four: heads 0 and 1 read the first.
    const found = run(kernel, { q: count(24), o: zeros(48) }, { B: 2, T: 3, H: 4, H_q: 2 });
    const wanted = [0, 1].flatMap((batch) =>
      [0, 1, 2].flatMap((token) =>
        [0, 0, 1, 1].flatMap((part) => {
          const first = ((batch * 3 + token) * 2 + part) * 2;
          return [first + 1, first + 2];
        }),
      ),
    );
    expect(found["o"]).toEqual(wanted);
  });

  test("blocks of columns have a share each of what they fold", () => {
    const kernel = `param read token v: f32[T, 4] heads H
      param write token o: f32[T] heads H shares 2
      param write state s: f32[] heads H shares 2
      grid column below 4 step 2
      register x: f32[2, 2]
      register sums: f32[2]
      register sum: f32[]
      load x = v[0, column]
      reduce sums = sum col x
      reduce sum = sum row sums
      store o[0, 0] = sums
      store s[0, 0] = sum`;
    // B 1, T 2, H 2: each row of four is two sums of two.
    const found = run(kernel, { v: count(16), o: zeros(8), s: zeros(4) }, { T: 2, H: 2 });
    expect(found["o"]).toEqual([3, 7, 11, 15, 19, 23, 27, 31]);
    expect(found["s"]).toEqual([3 + 19, 7 + 23, 11 + 27, 15 + 31]);
  });

  test("state, head and shared buffers", () => {
    const kernel = `param read state S: f32[2, 2] heads H
      param read head gamma: f32[] heads H_gamma
      param read shared w: f32[2] heads H
      param write state o: f32[2, 2] heads H
      register x: f32[2, 2]  register g: f32[]  shared v: f32[2]
      load x = S[0, 0] load g = gamma[0, 0] load v = w[0, 0]
      map x = add(mul(x, g), v@col)
      store o[0, 0] = x`;
    const buffers = { S: count(16), gamma: [10, 100], w: [0.5, 0.25], o: zeros(16) };
    const found = run(kernel, buffers, { B: 2, H: 2, H_gamma: 2 });
    const scale = [10, 10, 10, 10, 100, 100, 100, 100];
    const wanted = count(16).map((x, i) => x * scale[i % 8]! + (i % 2 === 0 ? 0.5 : 0.25));
    expect(found["o"]).toEqual(wanted);
  });

  test("scalars and vectors of states", () => {
    const kernel = `param read state d: f32[] heads H
      param write state o: f32[3] heads H
      register g: f32[]  shared v: f32[3]
      load g = d[0, 0] map v = mul(g, at(row, 1)) store o[0, 0] = v`;
    const found = run(kernel, { d: [2, 3], o: zeros(6) }, { H: 2 });
    expect(found["o"]).toEqual([2, 4, 6, 3, 6, 9]);
  });
});

describe("bounds", () => {
  const kernel = `param read token q: f32[T, 3] heads H
    param write token o: f32[T, 3] heads H
    register x: f32[2, 4]
    loop t below T step 2 { load x = q[t, 0] map x = add(x, 1) store o[t, 0] = x }`;

  test("a load outside is zero, a store outside is nothing", () => {
    const found = run(kernel, { q: count(9), o: zeros(9) }, { T: 3 });
    expect(found["o"]).toEqual(count(9).map((x) => x + 1));
    const padded = kernel.replace("add(x, 1)", "select(eq(x, 0), 7, x)");
    expect(run(padded, { q: count(9), o: zeros(9) }, { T: 3 })["o"]).toEqual(count(9));
    const sum = `param read token q: f32[T, 3] heads H
      param write state o: f32[] heads H
      register x: f32[4, 4]  shared v: f32[4]  register s: f32[]
      load x = q[0, 0] reduce v = sum col x reduce s = sum row v store o[0, 0] = s`;
    expect(run(sum, { q: count(9), o: [0] }, { T: 3 })["o"]).toEqual([45]);
  });

  test("no tokens, no steps", () => {
    expect(run(kernel, { q: [], o: [] }, { T: 0 })["o"]).toEqual([]);
  });

  test("what nothing wrote is NaN", () => {
    const unset = kernel.replace("load x = q[t, 0]", "");
    expect(run(unset, { q: count(6), o: zeros(6) })["o"]).toEqual(
      Array.from({ length: 6 }, () => NaN),
    );
  });

  test("a cut grid writes its own columns", () => {
    const cut = `param write state o: f32[1, 5] heads H
      grid column below 5 step 2
      register x: f32[1, 2]
      map x = at(col, column) store o[0, column] = x`;
    expect(run(cut, { o: zeros(5) })["o"]).toEqual([0, 1, 2, 3, 4]);
  });
});

describe("statements", () => {
  /** Runs `body` on x, a 2 x 4 tile of 1 to 8, and gives what it leaves in `result`. */
  const on = (body: string, result: string, shape: string, storages = "") => {
    const size = shape === "" ? 1 : shape.split(", ").reduce((n, dim) => n * Number(dim), 1);
    const kernel = `param read state in: f32[2, 4] heads H
      param write state out: f32[${shape}] heads H
      register x: f32[2, 4] ${storages}
      load x = in[0, 0] ${body} store out[0, 0] = ${result}`;
    const sizes = { T: 3, T_total: 40, token_offset: 20 };
    return run(kernel, { in: count(8), out: zeros(size) }, sizes)["out"];
  };

  test("products add to their window", () => {
    const storages = "register s: f32[3, 2] register y: f32[4, 1]";
    const body = `map s = 100 map y = at(row, 1)
      mma s[1:2, 0:1] += x[0:2, 0:4] @ y[0:4, 0:1]`;
    expect(on(body, "s", "3, 2", storages)).toEqual([100, 100, 130, 100, 170, 100]);
    const gram = "map s = 0 mma s[0:2, 0:2] += x[0:2, 0:4] @ x[0:2, 0:4]^T";
    expect(on(gram, "s", "3, 2", storages)).toEqual([30, 70, 70, 174, 0, 0]);
    const turned = "map s = 0 mma s[0:2, 0:2] += x[0:2, 0:2]^T @ x[0:2, 2:2]";
    expect(on(turned, "s", "3, 2", storages)).toEqual([38, 44, 48, 56, 0, 0]);
  });

  test("copies turn and move", () => {
    const body = "map y = 0 copy y[1:3, 0:2] = x[0:2, 1:3]^T";
    expect(on(body, "y", "4, 2", "shared y: f32[4, 2] pad 1")).toEqual([0, 0, 2, 6, 3, 7, 4, 8]);
  });

  test("folds", () => {
    const storages = "shared r: f32[2] shared c: f32[4] register s: f32[]";
    expect(on("reduce r = sum col x", "r", "2", storages)).toEqual([10, 26]);
    expect(on("reduce c = max row x", "c", "4", storages)).toEqual([5, 6, 7, 8]);
    expect(on("reduce c = sum row x reduce s = max row c", "s", "", storages)).toEqual([12]);
  });

  test("sums along, both ways", () => {
    expect(on("cumsum x = x", "x", "2, 4")).toEqual([1, 2, 3, 4, 6, 8, 10, 12]);
    expect(on("cumsum x = x reverse", "x", "2, 4")).toEqual([6, 8, 10, 12, 5, 6, 7, 8]);
    const vector = "reduce c = sum row x cumsum c = c reverse";
    expect(on(vector, "c", "4", "shared c: f32[4]")).toEqual([36, 30, 22, 12]);
  });

  test("rotations turn `width` columns and clear the rest", () => {
    const y = "register y: f32[2, 4]";
    const whole = on("rotate-half y = x width 4", "y", "2, 4", y);
    expect(whole).toEqual([-3, -4, 1, 2, -7, -8, 5, 6]);
    expect(on("rotate-half y = x width 2", "y", "2, 4", y)).toEqual([-2, 1, 0, 0, -6, 5, 0, 0]);
  });

  test("counters, bounds and sizes in expressions", () => {
    const index = "map x = add(mul(10, at(row, 1)), token(col, 2))";
    expect(on(index, "x", "2, 4")).toEqual([32, 33, 34, 35, 42, 43, 44, 45]);
    expect(on("map x = inside(col, 1, T)", "x", "2, 4")).toEqual([1, 1, 0, 0, 1, 1, 0, 0]);
    expect(on("map s = $T_total", "s", "", "register s: f32[]")).toEqual([40]);
  });

  test("loops run backwards from the last step below the extent", () => {
    const order = (direction: string) =>
      on(
        `map s = 0 loop t below 5 step 2 ${direction} { map s = add(mul(s@row, 10), at(row, t)) }`,
        "s",
        "1",
        "shared s: f32[1]",
      );
    expect(order("")).toEqual([24]);
    expect(order("reverse")).toEqual([420]);
  });
});
