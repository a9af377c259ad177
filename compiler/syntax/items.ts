/**
 * The words of a file, cut where its items begin. Each is parsed on its own, so what is wrong with one
 * says nothing about the next, even where a bracket is left open.
 */
import type { IToken } from "chevrotain";
import * as t from "./tokens.ts";

const opening = new Set([t.LParen, t.LBracket, t.LBrace]);
const closing = new Set([t.RParen, t.RBracket, t.RBrace]);
/** `def f(x) = recurrence ... { ... }` may go on behind the brace. */
const operators = new Set([t.Plus, t.Minus, t.Star, t.Slash, t.At, t.Power, t.DotT]);
const heads = new Set([t.Attention, t.Def]);

/** Pieces of the tokens, in order; each begins with `attention` or `def`, or is what stands between such. */
export function cutItems(tokens: readonly IToken[]): IToken[][] {
  const items: IToken[][] = [];
  let depth = 0;
  for (const [i, token] of tokens.entries()) {
    if (i === 0 || beginsItem(token, tokens[i - 1]!, items.at(-1)![0]!, depth)) {
      items.push([]);
      depth = 0;
    }
    items.at(-1)!.push(token);
    if (opening.has(token.tokenType)) depth++;
    if (closing.has(token.tokenType)) depth = Math.max(0, depth - 1);
  }
  return items;
}

function beginsItem(token: IToken, before: IToken, first: IToken, depth: number): boolean {
  const isOutside = token.startLine! > before.endLine! && token.startColumn! <= first.startColumn!;
  if (heads.has(token.tokenType)) {
    // A keyword behind `def` was to be its name. Brackets around an item were left open.
    return !heads.has(before.tokenType) && (depth === 0 || isOutside);
  }
  // What stands behind an item and begins like one is the next, whatever it is.
  const isBehind = depth === 0 && before.tokenType === t.RBrace;
  return isBehind && isOutside && !closing.has(token.tokenType) && !operators.has(token.tokenType);
}
