import { lineEnd } from "./span.ts";

/** Builds indented text line by line; every printer and emitter in the project writes through it. */
export class TextWriter {
  private readonly lines: string[] = [];
  private depth = 0;
  private readonly unit: string;

  constructor(unit = "  ") {
    this.unit = unit;
  }

  line(text = ""): this {
    this.lines.push(text === "" ? "" : this.unit.repeat(this.depth) + text);
    return this;
  }

  /** Writes `head`, then what `body` writes one step deeper, then `tail`. */
  block(head: string, body: () => void, tail = "}"): this {
    this.line(head);
    this.indent(body);
    return this.line(tail);
  }

  indent(body: () => void): this {
    this.depth++;
    body();
    this.depth--;
    return this;
  }

  /** What `body` writes, taken out again: for text that decides what stands before it. */
  capture(body: () => void): string[] {
    const start = this.lines.length;
    body();
    return this.lines.splice(start);
  }

  /** Puts captured lines back, as they were. */
  restore(lines: readonly string[]): this {
    this.lines.push(...lines);
    return this;
  }

  toString(): string {
    return this.lines.join("\n") + "\n";
  }
}

/**
 * Characters that end a line, or hide or turn what stands beside them, in some language that is emitted
 * or on a terminal: controls, separators of lines, marks of direction, halves of pairs.
 */
const unprintable = /[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu;

/** Text of a user's as one line that shows all of it: what cannot be printed as its code, a tab as a space. */
export function onOneLine(text: string): string {
  return text.replaceAll("\t", " ").replace(unprintable, codeOf);
}

/** As JavaScript and Python write it: \u2028, or \U000e0001 beyond four digits. */
function codeOf(character: string): string {
  const code = character.codePointAt(0)!.toString(16);
  return code.length > 4 ? `\\U${code.padStart(8, "0")}` : `\\u${code.padStart(4, "0")}`;
}

/**
 * A user's text as a comment to the end of a line, in any language that is emitted. C joins a line that ends
 * with a backslash to the next one, whatever white space is between.
 */
export function lineComment(mark: "//" | "#" | ";", text: string): string {
  const line = onOneLine(text).trim();
  return `${mark} ${/(?:\\|\?\?\/)$/.test(line) ? `${line} .` : line}`;
}

/** A user's text in Markdown, between as many back-quotes as it takes: in a line, or as a block of its lines. */
export function codeSpan(text: string): string {
  const mark = backQuotes(text, 1);
  const space = mark.length > 1 ? " " : "";
  return `${mark}${space}${onOneLine(text)}${space}${mark}`;
}

export function codeBlock(text: string): string {
  const lines = text.split(lineEnd).map((line) => onOneLine(line).trimEnd());
  const mark = backQuotes(text, 3);
  return [mark, ...lines, mark].join("\n");
}

function backQuotes(text: string, least: number): string {
  const longest = Math.max(0, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
  return "`".repeat(Math.max(least, longest + 1));
}

/** A user's text between the tags of an SVG. */
export function xmlText(text: string): string {
  const line = onOneLine(text);
  return line.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
