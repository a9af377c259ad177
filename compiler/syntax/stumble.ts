/** Where the parser of an item stopped, and what stands around there. */
import type { IToken, TokenType } from "chevrotain";
import type { Span } from "../support/span.ts";
import * as t from "./tokens.ts";

/** Behind one of these an operand has ended, and with one of those it begins. */
const operandEnds = new Set<TokenType>([
  t.Identifier,
  t.NumberLiteral,
  t.DotT,
  t.RParen,
  t.RBracket,
]);
const operandStarts = new Set<TokenType>([t.Identifier, t.NumberLiteral, t.LParen]);
const pairs = new Map([
  [t.LParen, t.RParen],
  [t.LBracket, t.RBracket],
  [t.LBrace, t.RBrace],
]);
const closers = new Set(pairs.values());

export class Stumble {
  readonly tokens: readonly IToken[];
  /** Index of the token that no rule takes; beyond the last at the end. */
  readonly at: number;
  /** The rules that were being parsed, the innermost last. */
  readonly rules: readonly string[];
  /** "expected ...", in words. */
  readonly expected: string;
  readonly text: string;
  /** Open brackets before `at`, as indices, the innermost last. */
  readonly open: readonly number[];

  constructor(
    tokens: readonly IToken[],
    at: number,
    rules: readonly string[],
    expected: string,
    text: string,
  ) {
    this.tokens = tokens;
    this.at = at;
    this.rules = rules;
    this.expected = expected;
    this.text = text;
    const open: number[] = [];
    for (let i = 0; i < at; i++) {
      const { tokenType } = tokens[i]!;
      if (pairs.has(tokenType)) open.push(i);
      if (closers.has(tokenType)) open.pop();
    }
    this.open = open;
  }

  get rule(): string {
    return this.rules.at(-1) ?? "";
  }

  /** A token by its distance from the one that was found. */
  token(offset = 0): IToken | undefined {
    return this.tokens[this.at + offset];
  }
  word(offset = 0): string {
    return this.token(offset)?.image ?? "";
  }
  is(type: TokenType, offset = 0): boolean {
    return this.token(offset)?.tokenType === type;
  }
  span(offset = 0): Span {
    return spanOf(this.token(offset) ?? this.tokens.at(-1)!);
  }

  endsOperand(offset: number): boolean {
    const token = this.token(offset);
    return token !== undefined && operandEnds.has(token.tokenType);
  }
  startsOperand(offset = 0): boolean {
    const token = this.token(offset);
    return token !== undefined && operandStarts.has(token.tokenType);
  }
  isCloser(offset = 0): boolean {
    const token = this.token(offset);
    return token !== undefined && closers.has(token.tokenType);
  }
  /** The text of the operand that ends in front of a token. */
  operandBefore(offset: number): string {
    let from = offset - 1;
    if (this.is(t.DotT, from)) from--;
    for (let depth = 0; this.token(from); from--) {
      if (this.isCloser(from)) depth++;
      else if (pairs.has(this.token(from)!.tokenType)) depth--;
      if (depth <= 0) break;
    }
    const isCall = this.is(t.LParen, from) && this.is(t.Identifier, from - 1);
    return this.between(isCall ? from - 1 : from, offset);
  }
  /** The text of the operand that begins with a token. */
  operandFrom(offset: number): string {
    let to = offset;
    if (this.is(t.Identifier, to) && this.is(t.LParen, to + 1)) to++;
    for (let depth = 0; this.token(to); to++) {
      if (pairs.has(this.token(to)!.tokenType)) depth++;
      else if (this.isCloser(to)) depth--;
      if (depth <= 0) break;
    }
    return this.between(offset, this.is(t.DotT, to + 1) ? to + 2 : to + 1);
  }
  /** Does the line begin with this token? */
  isFirstOnLine(offset = 0): boolean {
    const [before, token] = [this.token(offset - 1), this.token(offset)];
    return before === undefined || token === undefined || token.startLine! > before.endLine!;
  }
  /** Nothing between this token and the one before. */
  isAdjacent(offset = 0): boolean {
    const [before, token] = [this.token(offset - 1), this.token(offset)];
    return before !== undefined && before.endOffset! + 1 === token?.startOffset;
  }

  /** The innermost open bracket, and what it closes with. */
  get bracket(): IToken | null {
    return this.tokens[this.open.at(-1) ?? -1] ?? null;
  }
  closes(offset = 0): boolean {
    return this.bracket !== null && this.is(pairs.get(this.bracket.tokenType)!, offset);
  }
  /** The function whose arguments stand here; null: these are no arguments. */
  get callee(): IToken | null {
    const bracket = this.open.at(-1);
    if (bracket === undefined || bracket < 3) return null;
    const name = this.tokens[bracket - 1]!;
    const isCall = name.tokenType === t.Identifier && this.tokens[bracket]!.tokenType === t.LParen;
    return isCall ? name : null;
  }

  /** The first token of the line that holds `at`, as an offset. */
  get lineStart(): number {
    let offset = Math.min(0, this.tokens.length - 1 - this.at);
    while (!this.isFirstOnLine(offset)) offset--;
    return offset;
  }

  /** The text from one token up to, but without, another. */
  between(from: number, to: number): string {
    const [first, last] = [this.token(from), this.token(to - 1)];
    if (!first || !last || to <= from) return "";
    return this.text.slice(first.startOffset, last.endOffset! + 1).replace(/\s+/g, " ");
  }
  /** The text from a token to the end of its line, without what other languages end lines with. */
  rest(from: number): string {
    const token = this.token(from);
    if (!token) return "";
    const [line = ""] = this.text.slice(token.startOffset).split(/\r\n|\r|\n/, 1);
    return line.replace(/\s*(?:;|\/\/|#).*$/, "").trim();
  }
}

export function spanOf(token: IToken): Span {
  return { start: token.startOffset, end: token.startOffset + token.image.length };
}
