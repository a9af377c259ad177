/**
 * Goldens: files of cases, `// -----` between them; in each an input, `// ==>`, what comes out.
 * `BLESS=1` writes the outputs; without it a missing or different output fails.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { expect } from "vitest";

export interface GoldenCase {
  readonly title: string;
  readonly input: string;
  readonly output: string | null;
}

export function readGolden(path: string): GoldenCase[] {
  return readFileSync(path, "utf8")
    .split(/^\/\/ -----\n/m)
    .map((text) => {
      const [input, output = null] = text.split(/^\/\/ ==>\n/m) as [string, string?];
      const title = /^\/\/ (.*)$/m.exec(input)?.[1] ?? "case";
      return { title, input, output };
    });
}

/** Checks every case of a file against what `run` makes of its input. */
export function checkGolden(path: string, run: (input: string) => string): void {
  const cases = readGolden(path);
  const outputs = cases.map(({ input }) => run(input));
  if (process.env["BLESS"]) {
    const blessed = cases.map(({ input }, i) => `${input}// ==>\n${outputs[i]}`);
    writeFileSync(path, blessed.join("// -----\n"));
    return;
  }
  cases.forEach(({ title, output }, i) => expect(outputs[i], title).toBe(output));
}
