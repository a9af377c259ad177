/** Random tensor programs: verified, read back as they are, evaluated, simplified without a change. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { Report } from "../../compiler/support/pass.ts";
import { noSpan } from "../../compiler/support/span.ts";
import { interpretTensor } from "../../compiler/tensor/interpret.ts";
import { type Op, type Program, allOps, mapOperands, operands } from "../../compiler/tensor/ir.ts";
import { parseTensor } from "../../compiler/tensor/parse.ts";
import { simplify } from "../../compiler/tensor/passes/simplify.ts";
import { printTensor } from "../../compiler/tensor/print.ts";
import { verifyTensor } from "../../compiler/tensor/verify.ts";
import { arbitraryProgram, inputsFor } from "../arbitrary.ts";

const runs = { numRuns: 500, seed: 20261123 };

function check(property: (program: Program) => void): void {
  fc.assert(fc.property(arbitraryProgram, property), runs);
}

test("the generator makes every kind of op", () => {
  const kinds = new Set<string>();
  for (const program of fc.sample(arbitraryProgram, runs)) {
    for (const op of allOps(program.ops)) kinds.add(op.kind);
  }
  const all: Record<Op["kind"], true> = {
    input: true,
    const: true,
    "dim-size": true,
    "token-index": true,
    iota: true,
    map: true,
    reduce: true,
    "rotate-half": true,
    matmul: true,
    outer: true,
    transpose: true,
    cumsum: true,
    causal: true,
    "block-mask": true,
    solve: true,
    invert: true,
    delta: true,
    scan: true,
    "scan-state": true,
    recurrence: true,
    chunks: true,
    result: true,
    rows: true,
  };
  expect([...kinds].sort()).toEqual(Object.keys(all).sort());
});

test("what the builder makes is verified", () => {
  check((program) => verifyTensor(program, "the builder"));
});

test("a program with spans reads back as the same object", () => {
  check((program) => {
    expect(parseTensor(printTensor(program, { spans: true }))).toEqual(program);
  });
});

test("without spans everything else reads back", () => {
  check((program) => {
    const text = printTensor(program);
    const again = parseTensor(text);
    expect(printTensor(again)).toBe(text);
    for (const op of allOps(again.ops)) expect(op.span).toBe(noSpan);
  });
});

test("a verified program can be evaluated, and gives the shapes it says", () => {
  check((program) => {
    for (const T of [0, 1, 5]) {
      const outputs = interpretTensor(program, inputsFor(program, T), { T, chunk: 2 });
      const types = new Map([...allOps(program.ops)].map((op) => [op.id, op.type.shape]));
      for (const { label, value } of program.outputs) {
        const sizes = types.get(value)!.map((dim) => {
          if (typeof dim === "number") return dim;
          return dim === "T" ? T : program.dims.get(dim);
        });
        const found = outputs.get(label)!;
        expect(found.shape).toEqual(sizes);
        expect(found.data.length).toBe(found.shape.reduce((product, n) => product * n, 1));
      }
    }
  });
});

test("an operand from further down is refused", () => {
  check((program) => {
    const last = program.ops.at(-1)!;
    const at = program.ops.findIndex((op) => operands(op).length > 0);
    if (at < 0) return;
    const ops = program.ops.map((op, i) => (i === at ? mapOperands(op, () => last.id) : op));
    if (program.ops[at] === last) return;
    expect(() => verifyTensor({ ...program, ops }, "a pass")).toThrow(/before it is defined/);
  });
});

test("simplify keeps every number, bit for bit", () => {
  check((program) => {
    const simple = simplify.run(program, new Report());
    verifyTensor(simple, "simplify");
    for (const T of [0, 1, 5]) {
      const inputs = inputsFor(program, T);
      const before = interpretTensor(program, inputs, { T, chunk: 2 });
      const after = interpretTensor(simple, inputs, { T, chunk: 2 });
      for (const [label, { data }] of before) {
        // Adding zero may turn -0 into 0: the same number.
        const found = after.get(label)!.data;
        const same = data.every((x, i) => x === found[i] || (x !== x && found[i] !== found[i]));
        expect(same, `${label}\n${printTensor(program)}\n${printTensor(simple)}`).toBe(true);
      }
    }
  });
});
