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

/** Where the lines of a text begin. */
export function lineStarts(text: string): readonly number[] {
  return [0, ...[...text.matchAll(lineEnd)].map((at) => at.index + at[0].length)];
}

/** `starts`: where lines begin, for whoever asks more than once. */
export function positionOf(text: string, offset: number, starts = lineStarts(text)): Position {
  let [line, beyond] = [0, starts.length];
  while (beyond - line > 1) {
    const middle = (line + beyond) >> 1;
    if (starts[middle]! <= offset) line = middle;
    else beyond = middle;
  }
  return { line: line + 1, column: offset - starts[line]! + 1 };
}

/** The whole line, trimmed, that holds an offset. */
export function lineAt(text: string, offset: number, starts = lineStarts(text)): string {
  const { line } = positionOf(text, offset, starts);
  return text.slice(starts[line - 1], starts[line]).trim();
}

export function joinSpans(a: Span, b: Span): Span {
  return { start: Math.min(a.start, b.start), end: Math.max(a.end, b.end) };
}
