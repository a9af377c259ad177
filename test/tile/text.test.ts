/** Tile programs as text: what the compiler makes, and every statement by hand, read back the same. */
import { expect, test } from "vitest";
import { cudaTarget } from "../../codegen/cuda/target.ts";
import { wgslTarget } from "../../codegen/wgsl/target.ts";
import { toKernels, toLoops } from "../../compiler/pipeline.ts";
import { Report } from "../../compiler/support/pass.ts";
import type { Kernel, Stmt, StmtKind } from "../../compiler/tile/ir.ts";
import { parseTile } from "../../compiler/tile/parse.ts";
import { printTile } from "../../compiler/tile/print.ts";
import { verifyTile } from "../../compiler/tile/verify.ts";
import { compileExample, exampleNames } from "../support/examples.ts";

const targets = { cuda: cudaTarget, wgsl: wgslTarget };

test.each(exampleNames)("%s reads back as the same object, notes and all", (name) => {
  const { sharded } = compileExample(name, { dims: { K: 64, V: 48 } });
  for (const { program: form } of sharded.forms) {
    const loops = toLoops(form, new Report());
    for (const target of Object.values(targets)) {
      // Every third op has no note, so that notes begin, change and end.
      const noteOf = ({ id }: { id: number }) => (id % 3 === 0 ? null : `x.lasp:${id % 4}  a // b`);
      const { program } = toKernels(loops, target, { name: "rule", noteOf }, new Report());
      expect(parseTile(printTile(program))).toEqual(program);
    }
  }
});

const every = `tile all {
  kernel all threads 256 roles 128 128 {
    param read token q: bf16[T, 32] heads H_q
    param read head gamma: f32[] heads H_gamma
    param read shared w: f16[32] heads H
    param write state final_S: f32[32, 32] heads H
    param write token d_q: bf16[T, 32] heads H shares 2
    grid column below 64 step 32
    register S: f32[32, 32]
    register x: f32[16, 32]
    register y: f32[16, 32]
    register z: f32[16, 32]
    register square: f32[16, 16]
    shared slab: bf16[16, 32] pad 1 places 3
    shared rows: f32[16]
    shared cols: f32[32]
    shared scratch: f32[32, 16]
    shared parts: f32[16, 2]
    shared pieces: f32[32, 16] pad 8
    register g: f32[]
    load g = gamma[0, 0]
    load cols = w[column, 0]
    loop t below T step 16 reverse {  // rule.lasp:3  x = q  // the query
      copy-async first last slab = q[t, 0]
      copy-async first ahead 1 slab = q[t - 16, 0]
      wait 1
      copy-async ahead 2 slab = q[t - 32, 0]
      @0 barrier
      @0 signal 0
      @1 await 0
      copy x[0:16, 0:32] = slab[0:16, 0:32]
      map x = select(ge(at(row, 1), token(col, t + 16)), mul(x, -1.5e-7), -inf)  // rule.lasp:4  y
      map x = mul(inside(row, t, T), add(rows@row, cols@col))
      map rows = inside(row, column, 40)  //
      map g = div(g, $T_total)
      reduce rows = sum col x scratch scratch
      reduce cols = max row x
      reduce g = sum row rows
      fold parts = sum col square
      join rows = sum parts
      mma-parts pieces = x @ y^T
      join square = sum pieces
      copy rest slab[0:16, 0:32] = x[0:16, 0:32]
      cumsum rows = rows reverse exclusive block 4
      cumsum y = x reverse block 8 earlier forward exclusive
      cumsum rows = rows
      rotate-half y = x width 32
      map square = 0
      solve y lower square
      solve y upper square
      invert square
      loop s below 32 step 16 {
        mma S[s:16, 0:32] += x[0:16, s:16]^T @ slab[0:16, 0:32]
      }
    }
    store final_S[0, column + 0] = S
  }
}
`;

/** `column + 0` is written as `column`. */
const canonical = every.replace("column + 0", "column");

function* statements(body: readonly Stmt[]): Generator<Stmt> {
  for (const stmt of body) {
    yield stmt;
    if (stmt.kind === "loop") yield* statements(stmt.body);
  }
}

test("every statement and expression reads back", () => {
  const program = parseTile(every);
  verifyTile(program, "the test");
  expect(printTile(program)).toBe(canonical);
  const kinds: Record<StmtKind, true> = {
    load: true,
    store: true,
    "copy-async": true,
    wait: true,
    copy: true,
    map: true,
    mma: true,
    "mma-parts": true,
    reduce: true,
    fold: true,
    join: true,
    cumsum: true,
    solve: true,
    invert: true,
    "rotate-half": true,
    loop: true,
    barrier: true,
    signal: true,
    await: true,
  };
  const found = new Set([...statements(program.kernels[0]!.body)].map((stmt) => stmt.kind));
  expect([...found].sort()).toEqual(Object.keys(kinds).sort());
});

test("a note holds until the next one, within its body", () => {
  const { body } = parseTile(every).kernels[0] as Kernel;
  const loop = body[2] as Stmt & { kind: "loop" };
  expect([body[1]!.note, loop.note, body[3]!.note]).toEqual([
    null,
    "rule.lasp:3  x = q  // the query",
    "rule.lasp:3  x = q  // the query",
  ]);
  const notes = loop.body.map((stmt) => stmt.note);
  expect(notes.slice(7, 12)).toEqual([null, "rule.lasp:4  y", "rule.lasp:4  y", null, null]);
});

test.each([
  ["line 2: expected one of read, write; found `reads`", "param read", "param reads"],
  ["line 2: expected one of f32, f16, bf16, i32; found `f64`", "f32[32, 32]", "f64[32, 32]"],
  ["line 4: there is no statement `lode`", "load x", "lode x"],
  ["line 4: there is no storage y", "load x", "load y"],
  ["line 5: there is no function sqare", "square(x)", "sqare(x)"],
  ["line 5: expected one of row, col; found `rows`", "square(x)", "add(x, at(rows, 0))"],
  ["line 4: a view has a row and a column", "q[0, 0]", "q[0]"],
  ["line 8: `more` stands behind the end", "}}", "}} more"],
  ["the text ends too early", "}}", "}"],
])("%s", (why, from, to) => {
  const text = `tile p { kernel k threads 1 {
    param read state q: f32[32, 32] heads H
    register x: f32[32, 32]
    load x = q[0, 0]
    map x = square(x)
    // nothing

    }}`;
  verifyTile(parseTile(text), "the test");
  expect(() => parseTile(text.replace(from, to))).toThrow(why);
});
