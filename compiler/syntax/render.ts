/** A diagnostic for people: the message, the lines it is about, what stands there, and what to do. */
import type { Diagnostic, Label } from "../support/diagnostic.ts";
import { type Source, lineEnd, positionOf } from "../support/span.ts";
import { onOneLine } from "../support/text.ts";

export interface RenderOptions {
  readonly color: boolean;
}

/**
 *   error[shape-mismatch]: ...
 *     --> retention.lasp:6:13
 *    6 |   scores = q @ k
 *      |            ^   - has type [T, K]
 *      |            |
 *      = help: ...
 */
export function renderDiagnostic(
  source: Source,
  diagnostic: Diagnostic,
  options: RenderOptions,
): string {
  const paint = painter(options.color);
  const { severity, code, message, labels, help } = diagnostic;
  const tone = severity === "error" ? paint.red : paint.yellow;
  const lines = [`${tone(`${severity}[${code}]`)}${paint.bold(`: ${onOneLine(message)}`)}`];
  const [primary] = labels;
  if (primary && primary.span.end > 0) {
    const { line, column } = positionOf(source.text, primary.span.start);
    lines.push(`  ${paint.blue("-->")} ${onOneLine(source.name)}:${line}:${column}`);
    const places = labels.map((label, i) => ({
      label,
      isPrimary: i === 0,
      ...place(source, label),
    }));
    const width = String(Math.max(...places.map((at) => at.line))).length;
    const seen = [...new Set(places.map((at) => at.line))].sort((a, b) => a - b);
    for (const number of seen) {
      const text = source.text.split(lineEnd)[number - 1] ?? "";
      const head = String(number).padStart(width + 1);
      lines.push(`${paint.blue(`${head} |`)} ${shown(text)}`);
      for (const at of places.filter((one) => one.line === number)) {
        const mark = (at.isPrimary ? "^" : "-").repeat(at.length);
        const gutter = paint.blue(`${" ".repeat(width + 1)} |`);
        const shown = at.isPrimary ? tone(mark) : paint.blue(mark);
        lines.push(
          `${gutter} ${" ".repeat(at.column - 1)}${shown} ${onOneLine(at.label.text)}`.trimEnd(),
        );
      }
    }
  }
  if (help !== null) lines.push(`  ${paint.blue("=")} help: ${onOneLine(help)}`);
  return lines.join("\n");
}

/** Where a label's marks go: its first line, cut at the line's end. */
function place(source: Source, { span }: Label): { line: number; column: number; length: number } {
  const { line, column } = positionOf(source.text, span.start);
  const [rest = ""] = source.text.slice(span.start).split(lineEnd, 1);
  return { line, column, length: Math.max(1, Math.min(span.end - span.start, rest.length)) };
}

/** A line as a terminal may have it: as wide as it is, and nothing in it that moves the cursor. */
function shown(line: string): string {
  return line.replaceAll("\t", " ").replace(/[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu, "\ufffd");
}

function painter(color: boolean) {
  const wrap = (code: number) => (text: string) => (color ? `\x1b[${code}m${text}\x1b[0m` : text);
  return { red: wrap(31), yellow: wrap(33), blue: wrap(34), bold: wrap(1) };
}
