/** The formatter: one form, comments kept, nothing said differently; and parsing that never fails. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { formatSource } from "../../compiler/syntax/format.ts";
import { parseSource, parseWithComments } from "../../compiler/syntax/parse.ts";
import { exampleNames, exampleSource } from "../support/examples.ts";
import { randomRule } from "../fuzz/random-rule.ts";

const root = join(import.meta.dirname, "../..");

/** The AST without places: what the text says. */
function meaning(text: string): unknown {
  const { value, diagnostics } = parseSource({ name: "t", text });
  expect(diagnostics).toEqual([]);
  return JSON.parse(
    JSON.stringify(value, (key, inner) => (key === "span" || key === "text" ? undefined : inner)),
  );
}

function comments(text: string): string[] {
  return parseWithComments({ name: "t", text }).value!.comments.map((comment) =>
    comment.text.trimEnd(),
  );
}

async function expectFormatted(text: string): Promise<void> {
  const once = await formatSource(text);
  expect(await formatSource(once)).toBe(once);
  expect(meaning(once)).toEqual(meaning(text));
  expect(comments(once)).toEqual(comments(text));
}

describe("fmt", () => {
  test.each(exampleNames)("%s is formatted", async (name) => {
    const { text } = exampleSource(name);
    expect(await formatSource(text)).toBe(text);
  });

  test("comments survive wherever they stand", async () => {
    await expectFormatted(`// head
// of the file
def f(x)=x*2 // behind a def

// before
attention a( // behind the bracket
  q:[T,K], // first
  // own line
  k : [ T , K ] in (-inf,0], v: bf16[T,V]   // last
)->[T,V]{
  // first in the body
  s=(f(q)@k.T)*causal() // behind a statement
  // between
  return   s@v
  // last in the body
}
// the end`);
  });

  test("brackets are kept where they matter and only there", async () => {
    const format = async (expr: string) => {
      const text = await formatSource(`def f(a, b, c) = ${expr}`);
      return text.replace("def f(a, b, c) = ", "").trim();
    };
    expect(await format("((a))")).toBe("a");
    expect(await format("(a*b)+c")).toBe("a * b + c");
    expect(await format("a*(b+c)")).toBe("a * (b + c)");
    expect(await format("a-(b-c)")).toBe("a - (b - c)");
    expect(await format("(a-b)-c")).toBe("a - b - c");
    expect(await format("(a@b)*c")).toBe("(a @ b) * c");
    expect(await format("a**(b**c)")).toBe("a ** b ** c");
    expect(await format("(a**b)**c")).toBe("(a ** b) ** c");
    expect(await format("-(a+b)")).toBe("-(a + b)");
    expect(await format("(-a)**b")).toBe("(-a) ** b");
    expect(await format("(a@b).T")).toBe("(a @ b).T");
    expect(await format("(a<b)==c")).toBe("(a < b) == c");
  });

  test("calls that are too long for a line have no comma behind the last argument", async () => {
    const long = Array.from({ length: 3 }, (_, i) => `a_name_of_forty_characters_for_a_value_${i}`);
    await expectFormatted(
      `def f(${long.join(", ")}) = max(${long[0]}, max(${long.slice(1).join(", ")}))`,
    );
  });

  test("random rules keep their meaning", async () => {
    await fc.assert(
      fc.asyncProperty(randomRule, async ({ text }) => expectFormatted(text)),
      { numRuns: 100, seed: 7 },
    );
  });

  test("prettier takes the plugin", () => {
    const folder = mkdtempSync(join(tmpdir(), "laspc-fmt-"));
    const file = join(folder, "a.lasp");
    writeFileSync(file, "def f(x)=x+1\n");
    const { status, stderr } = spawnSync(
      process.execPath,
      [
        "node_modules/prettier/bin/prettier.cjs",
        "--plugin",
        "./dist/prettier-plugin.js",
        "--write",
        file,
      ],
      { cwd: root, encoding: "utf8" },
    );
    expect(status, stderr).toBe(0);
    expect(readFileSync(file, "utf8")).toBe("def f(x) = x + 1\n");
    rmSync(folder, { recursive: true, force: true });
  });
});

describe("parsing never throws", () => {
  const words = [
    "attention",
    "def",
    "recurrence",
    "yield",
    "return",
    "per",
    "head",
    "in",
    "scalar",
    "q",
    "[T, K]",
    "(",
    ")",
    "{",
    "}",
    "->",
    ":",
    ",",
    "@",
    ".T",
    "1e9",
    "=",
    "-",
    "$",
    "// x\n",
    "\n",
  ];
  test("on words in any order", () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...words), { maxLength: 40 }), (list) => {
        const { value } = parseSource({ name: "t", text: list.join(" ") });
        expect(value).not.toBeNull();
      }),
      { numRuns: 1000, seed: 7 },
    );
  });

  test("on any text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 100 }), (text) => {
        expect(parseSource({ name: "t", text }).value).not.toBeNull();
      }),
      { numRuns: 1000, seed: 7 },
    );
  });

  test("on examples with a piece cut out", () => {
    const texts = exampleNames.map((name) => exampleSource(name).text);
    fc.assert(
      fc.property(fc.constantFrom(...texts), fc.nat(800), fc.nat(60), (text, from, length) => {
        const cut = text.slice(0, from) + text.slice(from + length);
        expect(parseSource({ name: "t", text: cut }).value).not.toBeNull();
      }),
      { numRuns: 500, seed: 7 },
    );
  });
});
