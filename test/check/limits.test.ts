/** Rules that check but are not compiled: each is told on the statement that breaks it, and why. */
import { describe, expect, test } from "vitest";
import { wgslTarget } from "../../codegen/wgsl/target.ts";
import { compile } from "../../compiler/index.ts";
import { defaults, exampleSource } from "../support/examples.ts";

const signature = "q: [T, K], k: [T, K], v: [T, V]";
const recurrence = (body: string) => `recurrence S: [K, V] { ${body} }`;

describe.each([
  [
    "softmax over the scores",
    "unsupported-scores",
    "softmax(q @ k.T)",
    "",
    "return softmax(q @ k.T) @ v",
  ],
  [
    "a square of the scores",
    "unsupported-scores",
    "square(q @ k.T)",
    "",
    "return (square(q @ k.T) * causal()) @ v",
  ],
  [
    "scores times scores",
    "unsupported-scores",
    "((q @ k.T) * (k @ q.T))",
    "",
    "return ((q @ k.T) * (k @ q.T)) @ v",
  ],
  [
    "a constant added to the scores",
    "unsupported-scores",
    "(q @ k.T + 1)",
    "",
    "return (q @ k.T + 1) @ v",
  ],
  [
    "a mask from data",
    "unsupported-scores",
    "where((q @ k.T) < 0.5, q @ k.T, 0)",
    "",
    "return where((q @ k.T) < 0.5, q @ k.T, 0) @ v",
  ],
  [
    "products of scores",
    "unsupported-scores",
    "((q @ k.T) @ (q @ k.T))",
    "",
    "return ((q @ k.T) @ (q @ k.T)) @ v",
  ],
  ["a sum over tokens on its own", "unsupported-scores", "k.T @ v", "", "return q @ tanh(k.T @ v)"],
  [
    "a function of what an update reads",
    "unsupported-transition",
    "tanh(k @ S)",
    "",
    recurrence("S = S + outer(k, v - tanh(k @ S)) yield q @ S"),
  ],
  [
    "a product of two reads in an update",
    "unsupported-transition",
    "(k @ S) * (q @ S)",
    "",
    recurrence("S = S + outer(k, (k @ S) * (q @ S)) + outer(k, v) yield q @ S"),
  ],
  [
    "a gate for each value channel on what an update reads",
    "unsupported-transition",
    "sigmoid(v) * (k @ S)",
    "",
    recurrence("S = S - outer(k, sigmoid(v) * (k @ S)) yield q @ S"),
  ],
  [
    "a key that depends on the state",
    "unsupported-transition",
    "q @ S",
    "",
    recurrence("S = S + outer(k * sum(q @ S), v) yield q @ S"),
  ],
  [
    "a delta rule that decays the value axis",
    "unsupported-transition",
    "k @ S",
    "g: [T, V] in (-inf, 0]",
    recurrence("S = exp(g) * S S = S + outer(k, v - k @ S) yield q @ S"),
  ],
  [
    "decays along both axes",
    "unsupported-transition",
    "exp(h) * (exp(g) * S) + outer(k, v)",
    "g: [T, V] in (-inf, 0], h: [T, K] in (-inf, 0]",
    recurrence("S = exp(h) * (exp(g) * S) + outer(k, v) yield q @ S"),
  ],
  [
    "a state that another is added to",
    "unsupported-transition",
    "S + R",
    "",
    "recurrence S: [K, V], R: [K, V] { R = 0.9 * R + outer(k, v) S = S + R yield q @ S }",
  ],
  [
    "two states updated from each other",
    "unsupported-transition",
    "R + outer(k, k @ S + v)",
    "",
    "recurrence S: [K, V], R: [K, V] { S = S + outer(k, q @ R) R = R + outer(k, k @ S + v) yield q @ S + q @ R }",
  ],
  [
    "a state squared",
    "unsupported-transition",
    "S * S",
    "",
    recurrence("S = S * S + outer(k, v) yield q @ S"),
  ],
  [
    "a function of the state",
    "unsupported-transition",
    "tanh(S)",
    "",
    recurrence("S = tanh(S) + outer(k, v) yield q @ S"),
  ],
  [
    "a state that forgets itself",
    "unsupported-transition",
    "outer(k, v)",
    "",
    recurrence("S = outer(k, v) yield q @ S"),
  ],
  [
    "a decay of unknown sign",
    "unsupported-decay-sign",
    "a * S + outer(k, v)",
    "a: [T]",
    recurrence("S = a * S + outer(k, v) yield q @ S"),
  ],
  [
    "a read along the values",
    "unsupported-read",
    "S @ v",
    "",
    recurrence("S = S + outer(k, v) yield v * sum(S @ v) * sum(q)"),
  ],
] as const)("%s", (_, code, at, more, body) => {
  test(`is ${code} at ${at}`, () => {
    const params = more === "" ? signature : `${signature}, ${more}`;
    const text = `attention rule(${params}) -> [T, V] { ${body} }`;
    const outcome = compile({ name: "rule.lasp", text }, { ...defaults, targets: [wgslTarget] });
    expect(outcome.value).toBeNull();
    expect(outcome.diagnostics.map((diagnostic) => diagnostic.code)).toEqual([code]);
    const { span } = outcome.diagnostics[0]!.labels[0]!;
    expect(text.slice(span.start, span.end)).toBe(at);
  });
});

test("heads too wide for a shader's memory are an error that names the limit", () => {
  const { text } = exampleSource("kda");
  const at = (K: number) =>
    compile(
      { name: "kda.lasp", text },
      { ...defaults, dims: { K, V: K }, targets: [wgslTarget], backward: true },
    ).diagnostics.map(({ message }) => message);
  expect(at(256)).toEqual([]);
  expect(at(512)[0]).toMatch(/needs more shared memory than 16384 bytes/);
});

test("a size nobody gave, an entry nobody named", () => {
  const text = `attention a(${signature}) -> [T, V] { return ((q @ k.T) * causal()) @ v }`;
  const codes = (source: string, options: object) =>
    compile({ name: "rule.lasp", text: source }, { ...defaults, ...options }).diagnostics.map(
      ({ code }) => code,
    );
  expect(codes(text, { dims: { K: 4 } })).toEqual(["missing-dim"]);
  expect(codes(`${text}\n${text.replace(" a(", " b(")}`, {})).toEqual(["no-entry"]);
  expect(codes(text, { entry: "b" })).toEqual(["unknown-entry"]);
});
