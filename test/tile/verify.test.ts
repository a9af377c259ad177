/** Every rule of the tile verifier, broken once: what it says, and that it names pass and kernel. */
import { expect, test } from "vitest";
import { CompilerBug } from "../../compiler/support/never.ts";
import { parseTile } from "../../compiler/tile/parse.ts";
import { verifyTile } from "../../compiler/tile/verify.ts";

const sound = `tile p { kernel k threads 256 {
  param read token q: f32[T, 32] heads H_q
  param read head gamma: f32[] heads H_gamma
  param write token o: f32[T, 32] heads H
  grid column below 64 step 32
  register S: f32[32, 32]
  register x: f32[16, 32]
  register y: f32[16, 32]
  shared slab: f32[16, 32] pad 1
  shared half: f16[16, 32]
  shared rows: f32[16]
  shared scratch: f32[32, 16]
  register g: f32[]
  loop t below T step 16 {
    load x = q[t, column]
    copy slab[0:16, 0:32] = x[0:16, 0:32]
    reduce rows = sum col x scratch scratch
    reduce g = sum row rows
    cumsum rows = rows
    rotate-half y = x width 32
    map x = mul(x, add(rows@row, at(col, t)))
    loop s below 32 step 16 {
      mma S[s:16, 0:32] += x[0:16, s:16]^T @ slab[0:16, 0:32]
    }
    store o[t, column] = x
  }
}}`;

test("the sound program is sound", () => verifyTile(parseTile(sound), "the test"));

test.each([
  ["two storages share a name", "shared half:", "shared slab:"],
  ["two params share a name", "param read head gamma", "param read head q"],
  ["two grid axes share a name", "  register S", "  grid column below 2 step 1\n  register S"],
  ["column runs below 64 by 0", "grid column below 64 step 32", "grid column below 64 step 0"],
  ["t runs below T by -16", "below T step 16", "below T step -16"],
  ["S has shape [32, 0]", "S: f32[32, 32]", "S: f32[32, 0]"],
  ["S has shape [32, 32, 2]", "S: f32[32, 32]", "S: f32[32, 32, 2]"],
  ["g is no register", "register g: f32[]", "shared g: f32[]"],
  ["S has a pad but is no shared tile", "S: f32[32, 32]", "S: f32[32, 32] pad 1"],
  ["q is per state but has shape [T, 32]", "read token q", "read state q"],
  ["q is per token but has shape [32, 32]", "q: f32[T, 32]", "q: f32[32, 32]"],
  ["o is per token and has 3 shares of 2 blocks", "heads H\n  grid", "heads H shares 3\n  grid"],
  ["gamma is per head and has 2 shares of 2 blocks", "heads H_gamma", "heads H_gamma shares 2"],
  ["t is shadowed", "loop s below 32", "loop t below 32"],
  ["there is no param r in", "load x = q", "load x = r"],
  ["o is not for read in", "load x = q", "load x = o"],
  ["q is not for write in", "store o[t, column]", "store q[t, column]"],
  ["gamma and x differ in rank in", "load x = q", "load x = gamma"],
  ["s is not in scope in", "q[t, column]", "q[s, column]"],
  ["the offset is -1 in", "q[t, column]", "q[t + -1, column]"],
  ["sizes differ in: copy", "= x[0:16, 0:32]", "= x[0:16, 0:16]"],
  ["sizes differ in: copy", "= x[0:16, 0:32]", "= x[0:16, 0:32]^T"],
  ["the window leaves x in", "= x[0:16, 0:32]", "= x[8:16, 0:32]"],
  ["the window leaves x in", "x[0:16, s:16]^T", "x[0:16, t:16]^T"],
  // In its last iteration s is 32, and 32 + 16 > 32.
  ["the window leaves S in", "loop s below 32 step 16", "loop s below 33 step 16"],
  ["a window of 0 in", "x[0:16, s:16]^T", "x[0:16, s:0]^T"],
  ["rows is no tile in", "copy slab[", "copy rows["],
  ["sizes do not fit a product in", "@ slab[0:16, 0:32]", "@ slab[0:16, 0:16]"],
  ["sizes differ in: reduce", "reduce rows = sum col", "reduce rows = sum row"],
  ["a vector has no columns in", "reduce g = sum row rows", "reduce g = sum col rows"],
  ["a scalar has nothing to fold in", "reduce g = sum row rows", "reduce g = sum row g"],
  ["slab does not hold the partial results in", "scratch scratch", "scratch slab"],
  ["sizes differ in: cumsum", "cumsum rows = rows", "cumsum rows = x"],
  ["sizes differ in: cumsum", "cumsum rows = rows", "cumsum g = g"],
  ["y is read and written in: rotate-half", "y = x width", "y = y width"],
  ["slab is read and written in: copy", "= x[0:16, 0:32]", "= slab[0:16, 0:32]"],
  ["S is read and written in: mma", "x[0:16, s:16]^T", "S[0:16, s:16]^T"],
  ["halves of 31 columns do not fit in", "width 32", "width 31"],
  ["halves of 64 columns do not fit in", "width 32", "width 64"],
  ["slab is not read as a row in", "add(rows@row", "add(slab@row"],
  ["S has another size than x in", "mul(x,", "mul(S,"],
  ["rows does not run along the col of x in", "rows@row", "rows@col"],
  ["rows is a vector and has no columns in", "cumsum rows = rows", "map rows = at(col, 0)"],
  ["mul takes 2 operands in", "mul(x, ", "mul(x, x, "],
  ["exp takes 1 operands in", "mul(x, ", "exp(x, "],
  ["a wait for less than nothing in", "cumsum rows = rows", "wait -1"],
  ["an asynchronous copy needs shared memory in", "load x", "copy-async x"],
  ["an asynchronous copy converts nothing in", "load x = q", "copy-async half = q"],
  [
    "slab has no place for a copy 1 turns ahead in",
    "load x = q",
    "wait 0\n    copy-async ahead 1 slab = q",
  ],
  ["slab is copied ahead before its turn's wait", "load x = q", "copy-async ahead 1 slab = q"],
])("%s", (why, from, to) => {
  const changed = sound.replace(from, to);
  expect(() => verifyTile(parseTile(changed), "some-pass")).toThrow(`some-pass: kernel k: ${why}`);
});

test("the failure is a bug that shows the program", () => {
  const program = parseTile(sound);
  const twice = { ...program, kernels: [program.kernels[0]!, program.kernels[0]!] };
  try {
    verifyTile(twice, "some-pass");
    expect.unreachable();
  } catch (error) {
    expect(error).toBeInstanceOf(CompilerBug);
    expect((error as CompilerBug).message).toBe("some-pass: p: two kernels share a name");
    expect((error as CompilerBug).context).toContain("tile p {");
  }
});

test("storages are numbered in order", () => {
  const program = parseTile(sound);
  const kernel = program.kernels[0]!;
  const storages = [...kernel.storages].reverse();
  const kernels = [{ ...kernel, storages }];
  expect(() => verifyTile({ ...program, kernels }, "some-pass")).toThrow("ids skip a number");
});

const divided = `tile p { kernel k threads 256 roles 128 128 {
  param read token q: f32[T, 16] heads H
  param write token o: f32[T, 16] heads H
  register x: f32[16, 16]
  register y: f32[16, 16]
  shared handed: f32[16, 16]
  loop t below T step 16 {
    wait 0
    @0 load x = q[t, 0]
    @0 copy handed[0:16, 0:16] = x[0:16, 0:16]
    @0 signal 0
    @1 await 0
    @1 copy y[0:16, 0:16] = handed[0:16, 0:16]
    @1 store o[t, 0] = y
  }
}}`;

test("a sound program with roles is sound", () => verifyTile(parseTile(divided), "the test"));

test.each([
  ["there is no role 1", "roles 128 128", "roles 256"],
  ["x is written by two roles", "@1 await 0", "@1 await 0\n@1 load x = q[t, 0]"],
  ["x is another role's", "@1 store o[t, 0] = y", "@1 store o[t, 0] = x"],
  ["handed is read before it is handed over", "@1 await 0", ""],
  ["handed is read before it is handed over", "@0 signal 0", ""],
  ["it belongs to a role", "@0 signal 0", "signal 0"],
])("%s", (message, part, broken) => {
  const program = parseTile(divided.replace(part, broken));
  expect(() => verifyTile(program, "the test")).toThrow(message);
});
