/** Failures as files: a rule, above it a line with its sizes and the way it ran. */
import type { Cell } from "./cell.ts";
import type { Rule } from "./grammar.ts";

const marker = "// fuzz: ";

export interface Case {
  readonly rule: Rule;
  readonly cell: Cell;
}

/** `heads`: lines of comment above. */
export function printCase({ rule, cell }: Case, heads: readonly string[]): string {
  const how = JSON.stringify({ dims: rule.dims, ...cell });
  return `${heads.map((line) => `// ${line}\n`).join("")}${marker}${how}\n${rule.text}`;
}

export function parseCase(text: string): Case {
  const line = text.split("\n").find((one) => one.startsWith(marker));
  if (line === undefined) throw new Error(`no line begins with \`${marker}\``);
  const { dims, ...cell } = JSON.parse(line.slice(marker.length)) as Cell & Pick<Rule, "dims">;
  return { rule: { text, dims }, cell };
}
