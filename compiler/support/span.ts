/** A half-open range `[start, end)` of UTF-16 offsets into one source text. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** A named text. Line and column are worked out only where something is shown to a person. */
export interface Source {
  readonly name: string;
  readonly text: string;
}

/** The span of things that no source text wrote. */
export const noSpan: Span = { start: 0, end: 0 };

/** Line and column, both counted from 1, of an offset. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

/** What ends a line, as the lexer has it. */
export const lineEnd = /\r\n|\r|\n/g;

export function positionOf(text: string, offset: number): Position {
  const starts = [...text.slice(0, offset).matchAll(lineEnd)].map((at) => at.index + at[0].length);
  return { line: starts.length + 1, column: offset - (starts.at(-1) ?? 0) + 1 };
}

/** The whole line, trimmed, that holds an offset. */
export function lineAt(text: string, offset: number): string {
  const { column } = positionOf(text, offset);
  const [line = ""] = text.slice(offset - column + 1).split(lineEnd, 1);
  return line.trim();
}

export function joinSpans(a: Span, b: Span): Span {
  return { start: Math.min(a.start, b.start), end: Math.max(a.end, b.end) };
}
