/** Ways to read a state that say the same. */
import { expect, test } from "vitest";
import { compileText } from "../support/examples.ts";
import { printTensor } from "../../compiler/tensor/print.ts";

test.each(["sum(q * n)", "sum(n * q)", "n @ q"])("%s is q @ n, of a vector state", (read) => {
  const scansOf = (normaliser: string) => {
    const { scans } = compileText(
      `attention mlstm(q: [T, K], k: [T, K], v: [T, V], i: [T], f: [T]) -> [T, V] {
        recurrence S: [K, V], n: [K] {
          S = sigmoid(f) * S + exp(i) * outer(k, v)
          n = sigmoid(f) * n + exp(i) * k
          yield (q @ S) / max(abs(${normaliser}), 1)
        }
      }`,
      { dims: { K: 32, V: 48 } },
    );
    return printTensor(scans);
  };
  expect(scansOf(read)).toBe(scansOf("q @ n"));
});
