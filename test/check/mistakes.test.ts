/**
 * Mistakes: files whose comments say what is wrong on the line above.
 *
 *   return score @ v
 *   //     ^^^^^ unknown-name: there is no value `score` here
 *
 * Every mistake of a file is found in one run, at its place, with its message, and nothing else is. Of files named
 * `meant-*` every paragraph is one mistake as somebody makes it who knows another notation: it is told once, and
 * what to write instead stands below.
 */
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { check, limitationsOf } from "../../compiler/index.ts";
import { catalogue } from "../../compiler/support/catalogue.ts";
import { type Diagnostic, hasErrors } from "../../compiler/support/diagnostic.ts";
import { positionOf } from "../../compiler/support/span.ts";

const folder = join(import.meta.dirname, "mistakes");
const files = readdirSync(folder).filter((name) => name.endsWith(".lasp"));
const meant = files.filter((name) => name.startsWith("meant-"));
const marker = /^\/\/\s*\^+ /;
const helpMarker = /^\/\/\s*= /;

/** The text without its markers, each line still where the markers say. */
function withoutMarkers(text: string): string {
  return text
    .split("\n")
    .filter((line) => !marker.test(line) && !helpMarker.test(line))
    .join("\n");
}

function markerFor(
  text: string,
  { labels, code, message, help }: Diagnostic,
  withHelp: boolean,
): { line: number; text: string } {
  const { span } = labels[0]!;
  const { line, column } = positionOf(text, span.start);
  const end = text.indexOf("\n", span.start);
  const length = Math.max(1, Math.min(span.end, end < 0 ? text.length : end) - span.start);
  const margin = `//${" ".repeat(Math.max(0, column - 3))}`;
  const told = `${margin}${"^".repeat(length)} ${code}: ${message}`;
  return { line, text: withHelp ? `${told}\n${margin}= ${help}` : told };
}

/** The text with the markers its diagnostics call for. */
function annotated(text: string, withHelp: boolean): string {
  const { value, diagnostics } = check({ name: "mistakes", text }, { dims: {}, dtype: "f32" });
  const limitations = hasErrors(diagnostics) ? [] : value!.flatMap(limitationsOf);
  const notes = [...diagnostics, ...limitations].map((one) => markerFor(text, one, withHelp));
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
    const found = annotated(withoutMarkers(text), meant.includes(name));
    if (process.env["BLESS"]) writeFileSync(path, found);
    expect(found).toBe(text);
  });

  test.each(meant)("%s tells one mistake of each paragraph", (name) => {
    const paragraphs = readFileSync(join(folder, name), "utf8").trim().split(/\n\n+/);
    for (const paragraph of paragraphs.slice(1)) {
      const told = paragraph.split("\n").filter((line) => marker.test(line));
      expect(told.length, paragraph).toBe(1);
    }
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
