/** Texts of any size: what is too long or too deep is told at its place, soon, and never by a stack. */
import { describe, expect, test } from "vitest";
import { check, limitationsOf } from "../../compiler/index.ts";

const signature = "q: [T, K], k: [T, K], v: [T, V]";
const attention = (body: string) => `attention a(${signature}) -> [T, V] { ${body} }`;
const times = (n: number, text: (i: number) => string) =>
  Array.from({ length: n }, (_, i) => text(i));
const product = (factor: string) => `return ((${factor} @ k.T) * causal()) @ v`;
const defs = (n: number, body: (i: number) => string) =>
  times(n, (i) => `def d${i + 1}(x) = ${body(i)}`).join("\n");

describe.each([
  ["200 brackets", attention(product(`${"(".repeat(200)}q${")".repeat(200)}`))],
  ["10,000 brackets", attention(`return ${"(".repeat(10_000)}`)],
  ["10,000 signs", attention(product(`${"-".repeat(10_000)}q`))],
  ["10,000 powers", attention(product(`q${" ** 2".repeat(10_000)}`))],
  ["10,000 sums", attention(product(`(q${" + q".repeat(10_000)})`))],
  ["10,000 transposes", attention(product(`q${".T".repeat(10_000)}`))],
  ["10,000 blocks", attention("recurrence S: [K, V] { ".repeat(10_000))],
  [
    "1,000 chained functions",
    `def d0(x) = x\n${defs(1000, (i) => `d${i}(x) + 1`)}\n${attention(product("d1000(q)"))}`,
  ],
  [
    "functions that double 20 times",
    `def d0(x) = x * 2\n${defs(20, (i) => `d${i}(x) + d${i}(x)`)}\n${attention(product("d20(q)"))}`,
  ],
  [
    "functions that double 40 times and do nothing",
    `def d0(x) = x\n${defs(40, (i) => `max(d${i}(x), d${i}(x))`)}\n${attention(product("d40(q)"))}`,
  ],
  [
    "1,000 chained values",
    attention(
      `a0 = q ${times(1000, (i) => `a${i + 1} = tanh(a${i})`).join(" ")} ${product("a1000")}`,
    ),
  ],
  ["a name of a million letters", attention(product("q".repeat(100_000)))],
  ["ten million characters", "// x\n".repeat(2_000_000)],
])("%s", (_, text) => {
  test("is told", () => {
    const started = performance.now();
    const { diagnostics } = check({ name: "long.lasp", text }, { dims: {}, dtype: "f32" });
    expect(diagnostics.map(({ code }) => code)).toContain("unsupported-length");
    expect(diagnostics.length).toBeLessThanOrEqual(200);
    for (const { labels, message } of diagnostics) {
      expect(labels[0]!.span.end).toBeGreaterThan(0);
      expect(message.length).toBeLessThan(300);
    }
    expect(performance.now() - started).toBeLessThan(10_000);
  });
});

test.each([
  ["60 brackets", attention(product(`${"(".repeat(58)}q${")".repeat(58)}`))],
  ["200 sums", attention(product(`(q${" + q".repeat(200)})`))],
  [
    "60 functions",
    `def d0(x) = x\n${defs(60, (i) => `d${i}(x) + 1`)}\n${attention(product("d60(q)"))}`,
  ],
])("%s are none too many", (_, text) => {
  const { value, diagnostics } = check({ name: "long.lasp", text }, { dims: {}, dtype: "f32" });
  expect([...diagnostics, ...value!.flatMap(limitationsOf)]).toEqual([]);
});

test("of many mistakes the first hundred are told, and no warning hides one", () => {
  const unused = times(300, (i) => `a${i} = q * 2`).join(" ");
  const unknown = times(300, (i) => `b${i} = zzz${i}`).join(" ");
  const source = { name: "long.lasp", text: attention(`${unused} ${unknown} ${product("q")}`) };
  const { diagnostics } = check(source, { dims: {}, dtype: "f32" });
  expect(diagnostics.filter(({ severity }) => severity === "error")).toHaveLength(100);
});
