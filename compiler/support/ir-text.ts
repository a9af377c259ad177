/** Reads the line grammar of all textual IR: words, numbers, %names and punctuation, line by line. */
export class IrSyntaxError extends Error {}

const token =
  /\s*(%[\w.?]+|-?(?:inf|nan)\b|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|[A-Za-z_][\w-]*|[^\s\w])/y;

/** A cursor over the words of a text; `//` starts a comment. */
export class IrReader {
  private readonly words: { readonly text: string; readonly line: number }[] = [];
  private at = 0;

  constructor(text: string) {
    for (const [i, raw] of text.split("\n").entries()) {
      const line = raw.replace(/\/\/.*$/, "").trimEnd();
      token.lastIndex = 0;
      while (token.lastIndex < line.length) {
        const start = token.lastIndex;
        const match = token.exec(line);
        if (!match) throw new IrSyntaxError(`line ${i + 1}: cannot read \`${line.slice(start)}\``);
        this.words.push({ text: match[1]!, line: i + 1 });
      }
    }
  }

  /** The next word, or null at the end. */
  peek(): string | null {
    return this.words[this.at]?.text ?? null;
  }

  next(): string {
    const word = this.words[this.at++];
    if (!word) throw new IrSyntaxError("the text ends too early");
    return word.text;
  }

  fail(why: string): never {
    const line = this.words[Math.min(this.at, this.words.length) - 1]?.line ?? 1;
    throw new IrSyntaxError(`line ${line}: ${why}`);
  }

  /** Takes `word` when it comes next. */
  accept(word: string): boolean {
    if (this.peek() !== word) return false;
    this.at++;
    return true;
  }

  expect(word: string): void {
    const found = this.next();
    if (found !== word) this.fail(`expected \`${word}\`, found \`${found}\``);
  }

  /** Items between `open` and `close`, separated by commas. */
  list<T>(open: string, close: string, item: () => T): T[] {
    this.expect(open);
    const items: T[] = [];
    while (!this.accept(close)) {
      if (items.length > 0) this.expect(",");
      items.push(item());
    }
    return items;
  }

  /** inf, -inf, nan or a decimal. */
  number(): number {
    const word = this.next();
    const value =
      { inf: Infinity, "-inf": -Infinity, nan: NaN }[word] ??
      (/^-?\d/.test(word) ? Number(word) : null);
    return value ?? this.fail(`\`${word}\` is not a number`);
  }
}
