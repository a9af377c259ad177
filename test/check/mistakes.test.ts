/**
 * Mistakes: files whose comments say what is wrong on the line above.
 *
 *   return score @ v
 *   //     ^^^^^ unknown-name: there is no value `score` here
 *
 * Every mistake of a file is found in one run, at its place, with its message, and nothing else is.
 */
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { check } from "../../compiler/index.ts";
import { catalogue } from "../../compiler/support/catalogue.ts";
import type { Diagnostic } from "../../compiler/support/diagnostic.ts";
import { positionOf } from "../../compiler/support/span.ts";

const folder = join(import.meta.dirname, "mistakes");
const files = readdirSync(folder).filter((name) => name.endsWith(".lasp"));
const marker = /^\/\/\s*\^+ /;

/** The text without its markers, each line still where the markers say. */
function withoutMarkers(text: string): string {
  return text
    .split("\n")
    .filter((line) => !marker.test(line))
    .join("\n");
}

function markerFor(
  text: string,
  { labels, code, message }: Diagnostic,
): { line: number; text: string } {
  const { span } = labels[0]!;
  const { line, column } = positionOf(text, span.start);
  const end = text.indexOf("\n", span.start);
  const length = Math.max(1, Math.min(span.end, end < 0 ? text.length : end) - span.start);
  return {
    line,
    text: `//${" ".repeat(Math.max(0, column - 3))}${"^".repeat(length)} ${code}: ${message}`,
  };
}

/** The text with the markers its diagnostics call for. */
function annotated(text: string): string {
  const { diagnostics } = check({ name: "mistakes", text }, { dims: {}, dtype: "f32" });
  const notes = diagnostics.map((diagnostic) => markerFor(text, diagnostic));
  const lines = text
    .split("\n")
    .flatMap((line, i) => [
      line,
      ...notes.filter((note) => note.line === i + 1).map((note) => note.text),
    ]);
  return lines.join("\n");
}

describe("mistakes", () => {
  test.each(files)("%s", (name) => {
    const path = join(folder, name);
    const text = readFileSync(path, "utf8");
    const found = annotated(withoutMarkers(text));
    if (process.env["BLESS"]) writeFileSync(path, found);
    expect(found).toBe(text);
  });

  test("at least 40 different mistakes are pinned", () => {
    const all = files.flatMap((name) =>
      readFileSync(join(folder, name), "utf8")
        .split("\n")
        .filter((line) => marker.test(line))
        .map((line) => line.replace(marker, "")),
    );
    expect(new Set(all).size).toBeGreaterThanOrEqual(40);
  });

  test("every code that checking can give has a mistake here", () => {
    const text = files.map((name) => readFileSync(join(folder, name), "utf8")).join("\n");
    const compiling = ["no-entry", "unknown-entry", "missing-dim"];
    const missing = Object.keys(catalogue).filter(
      (code) =>
        !code.startsWith("unsupported-") &&
        !compiling.includes(code) &&
        !text.includes(`^ ${code}:`),
    );
    expect(missing).toEqual([]);
  });
});
