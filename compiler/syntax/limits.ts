/**
 * How large a text may be. What is beyond is told at its place: the parser and everything behind it recurse into
 * expressions, and a stack that overflows tells nobody anything.
 */
import type { IToken } from "chevrotain";
import { diagnose } from "../support/catalogue.ts";
import type { Diagnostic } from "../support/diagnostic.ts";
import type { Source, Span } from "../support/span.ts";
import type { FileAst } from "./ast.ts";
import * as t from "./tokens.ts";

/** Characters of a file, and of a name or number. */
export const longestSource = 1 << 18;
export const longestWord = 64;
/** Brackets, signs and powers inside one another. */
export const deepestNesting = 64;
/** Operators that wait for one another's result: `a + b + c` is two. */
export const deepestExpression = 256;
/** Mistakes that are told of a file. */
export const mostMistakes = 100;

function tooLong(why: string, span: Span): Diagnostic {
  return diagnose("unsupported-length", { why }, [{ span, text: "" }]);
}

export function lengthProblem({ text }: Source): Diagnostic | null {
  if (text.length <= longestSource) return null;
  const why = `the file has ${text.length} characters, and ${longestSource} are the most`;
  return tooLong(why, { start: 0, end: 1 });
}

/** Words too long, or the first bracket or sign that is too deep. */
export function wordProblems(tokens: readonly IToken[]): Diagnostic[] {
  const long = tokens.filter(
    ({ image, tokenType }) => image.length > longestWord && tokenType !== t.Foreign,
  );
  const deep = firstTooDeep(tokens);
  return [
    ...long.map((token) => {
      const what = token.tokenType === t.Identifier ? "a name" : "a word";
      const why = `${what} of ${token.image.length} characters, and ${longestWord} are the most`;
      return tooLong(why, spanOf(token));
    }),
    ...(deep === null ? [] : [nestingProblem(spanOf(deep))]),
  ];
}

function nestingProblem(span: Span): Diagnostic {
  return tooLong(`more than ${deepestNesting} brackets and signs stand inside one another`, span);
}

function spanOf({ startOffset, image }: IToken): Span {
  return { start: startOffset, end: startOffset + Math.min(image.length, longestWord) };
}

const opening = new Set([t.LParen, t.LBracket, t.LBrace]);
const closing = new Set([t.RParen, t.RBracket, t.RBrace]);
/** A minus behind one of these subtracts; elsewhere it is a sign, which holds what follows. */
const operands = new Set([t.Identifier, t.NumberLiteral, t.DotT, t.RParen, t.RBracket]);

function firstTooDeep(tokens: readonly IToken[]): IToken | null {
  // Signs and powers of each open bracket, in a row.
  const rows = [0];
  let depth = 0;
  for (const [i, token] of tokens.entries()) {
    const { tokenType } = token;
    const before = tokens[i - 1];
    const isSign = tokenType === t.Minus && !(before && operands.has(before.tokenType));
    if (opening.has(tokenType)) {
      rows.push(0);
      depth++;
    } else if (closing.has(tokenType)) {
      depth -= (rows.pop() ?? 0) + 1;
      if (rows.length === 0) [rows[0], depth] = [0, 0];
    } else if (isSign || tokenType === t.Power) {
      rows[rows.length - 1]!++;
      depth++;
    } else if (!operands.has(tokenType)) {
      depth -= rows.at(-1)!;
      rows[rows.length - 1] = 0;
    }
    if (depth > deepestNesting) return token;
  }
  return null;
}

/** The first expression whose operators wait for one another too long; walks without recursion. */
export function depthProblem(file: FileAst): Diagnostic | null {
  const rest: { node: object; depth: number }[] = [{ node: file, depth: 0 }];
  for (let next = rest.pop(); next !== undefined; next = rest.pop()) {
    const { node, depth } = next;
    if (depth > deepestExpression) {
      const why = `more than ${deepestExpression} operators wait for one another in one expression`;
      return tooLong(why, (node as { span: Span }).span);
    }
    for (const child of Object.values(node) as unknown[]) {
      if (Array.isArray(child)) rest.push({ node: child, depth });
      else if (typeof child === "object" && child !== null) {
        rest.push({ node: child, depth: depth + ("kind" in child ? 1 : 0) });
      }
    }
  }
  return null;
}
