/** Names for Python: unique, and no word of the language (Python 3.14, 2.3.1) or of the file they stand in. */

import { lineEnd } from "../../compiler/support/span.ts";
import { onOneLine } from "../../compiler/support/text.ts";

const words = `
  False None True and as assert async await break class continue def del elif else except finally for
  from global if import in is lambda nonlocal not or pass raise return try while with
  match case type _`;

export const pythonWords: ReadonlySet<string> = new Set(words.trim().split(/\s+/));

/** The word itself where Python allows it as a name, else with an underscore behind it. */
export function pythonName(wanted: string, taken: ReadonlySet<string> = new Set<string>()): string {
  let name = wanted;
  while (pythonWords.has(name) || taken.has(name)) name = `${name}_`;
  return name;
}

/** A user's text inside a doc string, as Python reads it back, each of its lines a line. */
export function docText(text: string): string {
  const quoted = text.replaceAll("\\", "\\\\").replaceAll('"', '\\"');
  return quoted.split(lineEnd).map(onOneLine).join("\n");
}

/** Gives each value of a function a name of its own. */
export class PythonNames {
  private readonly taken: Set<string>;

  constructor(reserved: Iterable<string>) {
    this.taken = new Set([...pythonWords, ...reserved]);
  }

  /** `wanted`, or with a number behind it on a clash. */
  unique(wanted: string): string {
    const base = wanted.replace(/[^A-Za-z0-9_]/g, "_").replace(/^(?=\d)/, "_");
    let name = base;
    for (let n = 2; this.taken.has(name); n++) name = `${base}_${n}`;
    this.taken.add(name);
    return name;
  }
}
