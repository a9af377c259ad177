/** Which attentions are as many, one for each block of a state's columns. */
import { expect, test } from "vitest";
import { columnsApart } from "../../compiler/tensor/columns-apart.ts";
import { toLoops } from "../../compiler/pipeline.ts";
import { Report } from "../../compiler/support/pass.ts";
import { compileExample, compileText } from "../support/examples.ts";

const dims = { K: 32, V: 48 };

function ofText(text: string): string | null {
  const { sharded } = compileText(text, { dims });
  return columnsApart(toLoops(sharded.forms[0]!.program, new Report()));
}

test.each([
  ["retention", "V"],
  ["gla", "V"],
  ["gated-delta-net", "V"],
  // A norm of the output folds along them, a normaliser is a state without them.
  ["lightning", null],
  ["normalised-linear-transformer", null],
])("%s: %s", (name, dim) => {
  const { sharded } = compileExample(name, { dims });
  expect(columnsApart(toLoops(sharded.forms[0]!.program, new Report()))).toBe(dim);
});

test("what reads sizes or places of columns, or gives a result without them, is one", () => {
  const rule = (result: string, type = "[T, V]") => `
    attention a(q: [T, K], k: [T, K], v: [T, V]) -> ${type} {
      o = ((q @ k.T) * causal()) @ v
      return ${result}
    }`;
  expect(ofText(rule("silu(o) * v"))).toBe("V");
  expect(ofText(rule("rotary(o)"))).toBe(null);
  expect(ofText(rule("o, sum(q * k)", "(o: [T, V], n: [T])"))).toBe(null);
});

test("a state that is as wide as it is high, by one name, is one", () => {
  expect(
    ofText(`attention a(q: [T, K], k: [T, K], v: [T, K]) -> [T, K] {
      return ((q @ k.T) * causal()) @ v
    }`),
  ).toBe(null);
});
