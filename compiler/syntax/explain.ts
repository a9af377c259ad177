/** What is wrong where the parser stopped, in the words of the text. One mistake is told of an item, the first. */
import { diagnose } from "../support/catalogue.ts";
import { closest } from "../support/closest.ts";
import type { Diagnostic } from "../support/diagnostic.ts";
import { typed } from "./foreign.ts";
import { otherNotation } from "./notation.ts";
import { type Stumble, spanOf } from "./stumble.ts";
import * as t from "./tokens.ts";

export function explain(at: Stumble): Diagnostic {
  return (
    misspelled(at) ??
    notation(at) ??
    keywordAsName(at) ??
    brackets(at) ??
    missing(at) ??
    valueAlone(at) ??
    unexpected(at)
  );
}

/** Keywords that may begin what stands here. */
function wordsOf(at: Stumble): readonly string[] {
  if (at.rules.length === 0) return ["attention", "def"];
  if (at.rule === "statement" || at.rule === "block") return ["return", "yield", "recurrence"];
  if (at.rule === "recurrence") return ["reverse"];
  if (at.rule === "type") return ["scalar"];
  return at.rule === "param" || at.rule === "attention" ? ["per", "shared", "in"] : [];
}

/** `yeild q @ S`: the parser takes the word for a name, and stops behind it. */
function misspelled(at: Stumble): Diagnostic | null {
  const words = wordsOf(at);
  for (const offset of at.rule === "statement" || at.rule === "type" ? [-1, 0] : [0]) {
    const found = at.word(offset);
    if (!at.is(t.Identifier, offset) || found.length < 3) continue;
    const word = closest(found.toLowerCase(), words);
    const isBefore = offset === -1 && (at.is(t.Equals) || at.is(t.Foreign));
    if (word === null || isBefore) continue;
    return diagnose("misspelled-word", { found, word }, [{ span: at.span(offset), text: "" }]);
  }
  return null;
}

function notation(at: Stumble): Diagnostic | null {
  const remark = otherNotation(at);
  if (!remark) return null;
  const { why, help, span } = remark;
  return diagnose("other-notation", { why }, [{ span, text: "" }], help);
}

const keywords = new Set([
  t.Attention,
  t.Def,
  t.Return,
  t.Yield,
  t.Recurrence,
  t.Reverse,
  t.Per,
  t.Shared,
  t.Scalar,
  t.In,
]);

function keywordAsName(at: Stumble): Diagnostic | null {
  const token = at.token();
  if (!token || !keywords.has(token.tokenType)) return null;
  const isNamed = at.is(t.Colon, 1) || at.is(t.Equals, 1) || at.expected === "expected a name";
  const isHead = at.rule === "attention" || at.rule === "def" || at.rule === "block";
  if (!isNamed || (!isHead && at.rule !== "namedType")) return null;
  const name = token.image;
  const what = "a value: it is a word of the language";
  const help = `write another name, such as \`${name}_\``;
  return diagnose("reserved-name", { name, what }, [{ span: at.span(), text: "" }], help);
}

const closingOf: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };

function brackets(at: Stumble): Diagnostic | null {
  const { bracket } = at;
  if (bracket === null) {
    if (!at.isCloser()) return null;
    return diagnose("unopened", { found: at.word() }, [{ span: at.span(), text: "" }]);
  }
  const isEnd = at.token() === undefined;
  // An expression goes on over lines, a statement begins one.
  const isStatement =
    at.is(t.Return) ||
    at.is(t.Yield) ||
    at.is(t.Arrow) ||
    at.is(t.LBrace) ||
    (at.is(t.Identifier) && at.is(t.Equals, 1));
  const isWrong = at.isCloser() && !at.closes();
  const isBlock = bracket.tokenType === t.LBrace;
  if (isBlock && isWrong) {
    return diagnose("unopened", { found: at.word() }, [{ span: at.span(), text: "" }]);
  }
  // Half a statement at the end says more than the brace around it.
  if (isBlock && (!isEnd || at.rule !== "block")) return null;
  if (!isEnd && !isWrong && !(isStatement && at.endsOperand(-1))) return null;
  const next = isEnd ? "the end" : `\`${at.word()}\``;
  const params = { found: bracket.image, closing: closingOf[bracket.image]!, next };
  const labels = [{ span: spanOf(bracket), text: "opened here" }];
  if (!isEnd)
    labels.push({ span: at.span(), text: `\`${params.closing}\` is missing before this` });
  return diagnose("unclosed", params, labels);
}

/** Two operands side by side. */
function missing(at: Stumble): Diagnostic | null {
  // A name is read as the beginning of a statement before it is clear that it is none.
  const isName = at.rule === "statement" && at.is(t.Identifier, -1) && !at.isFirstOnLine(-1);
  const offset = isName ? -1 : 0;
  const isState = at.rules.at(-2) === "recurrence" && at.is(t.Identifier) && at.is(t.Colon, 1);
  const isList = at.bracket?.tokenType === t.LBracket || isArguments(at) || isState;
  const isStart = at.startsOperand(offset) || (isList && at.is(t.LBracket, offset));
  if (!isStart || !at.endsOperand(offset - 1)) {
    return null;
  }
  if (!isList && at.isFirstOnLine(offset)) return null;
  const [left, right] = [at.operandBefore(offset), at.operandFrom(offset)];
  const code = isList ? "missing-comma" : "missing-operator";
  return diagnose(code, { left, right }, [{ span: at.span(offset), text: "" }]);
}

/** Do the innermost brackets hold parameters or arguments? */
function isArguments(at: Stumble): boolean {
  if (at.bracket?.tokenType !== t.LParen) return false;
  return at.callee !== null || at.open.at(-1) === 2 || at.rules.includes("result");
}

/** `(q @ k.T) @ v` as a whole statement. */
function valueAlone(at: Stumble): Diagnostic | null {
  const offset = at.rule === "statement" && at.is(t.Identifier, -1) ? -1 : 0;
  if (at.rule !== "statement" && at.rule !== "block") return null;
  if (at.open.length === 0 || !at.startsOperand(offset) || at.is(t.Equals)) return null;
  const value = at.rest(offset).replace(/\s*\}$/, "");
  const word = at.rules.includes("recurrence") ? "yield" : "return";
  return diagnose("unused-expression", { value, word }, [{ span: at.span(offset), text: "" }]);
}

/** What a person calls the place that a rule parses. */
const wordFor: Readonly<Record<string, string>> = {
  attention: "in the head of an attention",
  def: "in a def",
  param: "in a parameter",
  type: "in a type",
  dim: "in a type",
  range: "in a range",
  bound: "in a range",
  result: "in the result",
  namedType: "in a named type",
  block: "in a block",
  statement: "in a statement",
  recurrence: "in the head of a recurrence",
};

function unexpected(at: Stumble): Diagnostic {
  const where = at.rules.length === 0 ? "at the top of a file" : (wordFor[at.rule] ?? "here");
  const text = at.expected;
  if (at.token() === undefined) {
    const { end } = at.span();
    return diagnose("unexpected-end", { where }, [{ span: { start: end - 1, end }, text }]);
  }
  const span = at.span();
  if (at.is(t.Strange) || at.is(t.Foreign)) {
    const found = at.word();
    const help = typed(found) === null ? null : `write \`${typed(found)}\``;
    return diagnose("unexpected-character", { found }, [{ span, text: "" }], help);
  }
  return diagnose("unexpected-token", { found: `\`${at.word()}\``, where }, [{ span, text }]);
}
