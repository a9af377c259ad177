/** Reads the line grammar of all textual IR: words, numbers, %names and punctuation, line by line. */
export class IrSyntaxError extends Error {}

const token =
  /\s*(%[\w.?]+|-?(?:inf|nan)\b|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|[A-Za-z_][\w-]*|[^\s\w])/y;

/** A cursor over the words of a text; `//` starts a comment, which runs to the end of its line. */
export class IrReader {
  private readonly words: { readonly text: string; readonly line: number }[] = [];
  /** Comments by line, without their slashes. */
  private readonly comments = new Map<number, string>();
  private at = 0;

  constructor(text: string) {
    for (const [i, raw] of text.split("\n").entries()) {
      const slashes = raw.indexOf("//");
      if (slashes >= 0) this.comments.set(i + 1, raw.slice(slashes + 2).trim());
      const line = (slashes < 0 ? raw : raw.slice(0, slashes)).trimEnd();
      token.lastIndex = 0;
      while (token.lastIndex < line.length) {
        const start = token.lastIndex;
        const match = token.exec(line);
        if (!match) throw new IrSyntaxError(`line ${i + 1}: cannot read \`${line.slice(start)}\``);
        this.words.push({ text: match[1]!, line: i + 1 });
      }
    }
  }

  /** The next word, or the one `ahead` words behind it; null at the end. */
  peek(ahead = 0): string | null {
    return this.words[this.at + ahead]?.text ?? null;
  }

  next(): string {
    const word = this.words[this.at++];
    if (!word) throw new IrSyntaxError("the text ends too early");
    return word.text;
  }

  fail(why: string): never {
    throw new IrSyntaxError(`line ${this.line()}: ${why}`);
  }

  /** The comment behind the word read last, on its line; null when there is none. */
  comment(): string | null {
    return this.comments.get(this.line()) ?? null;
  }

  private line(): number {
    return this.words[Math.min(this.at, this.words.length) - 1]?.line ?? 1;
  }

  /** The next word, which has to be one of `words`. */
  oneOf<W extends string>(words: readonly W[]): W {
    const found = this.next();
    const word = words.find((candidate) => candidate === found);
    return word ?? this.fail(`expected one of ${words.join(", ")}; found \`${found}\``);
  }

  /** Nothing may be left. */
  end(): void {
    const word = this.peek();
    if (word !== null) this.fail(`\`${word}\` stands behind the end`);
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
    return numberOf(word) ?? this.fail(`\`${word}\` is not a number`);
  }
}

/** The number a word spells (inf, -inf, nan or a decimal); null: none. */
export function numberOf(word: string): number | null {
  if (/^-?\d/.test(word)) return Number(word);
  return { inf: Infinity, "-inf": -Infinity, nan: NaN }[word] ?? null;
}
