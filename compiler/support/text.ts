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
