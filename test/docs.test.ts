/** The documents are true: snippets check, files they name exist, catalogues are complete. */
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { builtins } from "../compiler/check/functions.ts";
import { check, compile } from "../compiler/index.ts";
import { catalogue, pageOf } from "../compiler/support/catalogue.ts";
import { hasErrors } from "../compiler/support/diagnostic.ts";
import { defaults } from "./support/examples.ts";

const root = join(import.meta.dirname, "..");
const read = (path: string) => readFileSync(join(root, path), "utf8");

describe("docs/language.md", () => {
  const snippets = [...read("docs/language.md").matchAll(/```lasp\n(.*?)```/gs)].map((m) => m[1]!);
  test("has snippets", () => expect(snippets.length).toBeGreaterThan(5));

  test.each(snippets.map((text, i) => [i, text] as const))(
    "snippet %d checks and compiles",
    (_, text) => {
      const source = { name: "language.md", text };
      const checked = check(source, { dims: {}, dtype: "f32" });
      expect(checked.diagnostics).toEqual([]);
      for (const { name } of checked.value!) {
        const { diagnostics } = compile(source, { ...defaults, entry: name });
        expect(hasErrors(diagnostics), JSON.stringify(diagnostics)).toBe(false);
      }
    },
  );

  test("names every function", () => {
    const text = read("docs/language.md");
    for (const name of Object.keys(builtins))
      expect(text, name).toMatch(new RegExp(`\\b${name}\\b`));
  });
});

test("docs/diagnostics.md is what the catalogue says", () => {
  const pages = Object.keys(catalogue).map(
    (code) => `## ${pageOf(code)!.replace("\n\n  ", "\n\n> ")}`,
  );
  const text = `# Diagnostics\n\nEvery code, as \`laspc explain CODE\` prints it.\n\n${pages.join("\n")}`;
  const path = join(root, "docs/diagnostics.md");
  if (process.env["BLESS"]) writeFileSync(path, text);
  expect(readFileSync(path, "utf8")).toBe(text);
});

test("the README's lasp snippet compiles", () => {
  const text = /```lasp\n(.*?)```/s.exec(read("README.md"))![1]!;
  expect(compile({ name: "README.md", text }, defaults).diagnostics).toEqual([]);
});

test("every file that a document names exists", () => {
  const documents = [
    "README.md",
    "CONTRIBUTING.md",
    "AGENTS.md",
    "docs/architecture.md",
    "docs/gpu-checks.md",
    "docs/javascript.md",
    "docs/language.md",
    "docs/pytorch.md",
  ];
  for (const document of documents) {
    const text = read(document);
    const named = [
      ...text.matchAll(
        /`((?:compiler|codegen|runtime|test|docs|scripts|dsl-examples)\/[\w./-]+\.\w+)`/g,
      ),
    ];
    const linked = [...text.matchAll(/\]\((?!https?:)([^)#]+)\)/g)];
    for (const [, path] of named)
      expect(existsSync(join(root, path!)), `${document}: ${path}`).toBe(true);
    const folder = document.includes("/") ? document.slice(0, document.lastIndexOf("/")) : ".";
    for (const [, path] of linked) {
      expect(existsSync(join(root, folder, path!)), `${document}: ${path}`).toBe(true);
    }
  }
  expect(readdirSync(join(root, "docs/decisions")).length).toBeGreaterThan(2);
  expect(read("docs/architecture.md").split("\n").length).toBeLessThanOrEqual(200);
});
