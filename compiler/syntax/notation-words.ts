/** Words that other languages begin statements with, or join values by. */
import type { Remark } from "./notation.ts";
import type { Stumble } from "./stumble.ts";
import * as t from "./tokens.ts";

const loops = new Set(["for", "while", "loop", "foreach", "scan", "fori_loop"]);
const choices = new Set(["if", "elif", "else", "unless", "match", "switch"]);
const givers = new Set(
  "let const var val mut auto set float double int local tensor Tensor".split(" "),
);
const imports = new Set(["import", "from", "using", "use", "include", "require", "package"]);
const items = new Set(
  "function fn func fun class kernel void proc procedure sub lambda public export async template".split(
    " ",
  ),
);
const joins: Readonly<Record<string, string>> = {
  and: "both at once are the product: `(a > 0) * (a < 1)`",
  or: "one or the other is the larger: `max(a < 0, a > 1)`",
  not: "the opposite of a comparison is `1 - (a > b)`",
};

/** The parser stops behind a foreign word that could have been a name, or at one that could not. */
export function aboutWord(at: Stumble): Remark | null {
  const line = at.lineStart;
  for (let offset = line; offset <= 0; offset++) {
    if (at.word(offset) === "lambda" && at.is(t.Identifier, offset)) return aboutLambda(at, offset);
  }
  const offset = at.rule === "statement" && at.is(t.Identifier, -1) ? -1 : 0;
  return at.is(t.Identifier, offset) ? aboutName(at, offset) : null;
}

function aboutName(at: Stumble, offset: number): Remark | null {
  const [word, span] = [at.word(offset), at.span(offset)];
  const isJoin = Object.hasOwn(joins, word);
  if (isJoin) return { why: `there is no \`${word}\``, help: joins[word]!, span };
  if (choices.has(word)) return aboutChoice(at, offset);
  if (at.rules.length === 0) return aboutTop(at, offset);
  const isStatement = at.rule === "statement" || at.rule === "block";
  if (!isStatement) return null;
  if (loops.has(word)) {
    const help =
      "write `recurrence S: [K, V] { S = S + outer(k, v) yield q @ S }`, where `k` is the token's row; " +
      "batch and heads are not written";
    return { why: "a loop over tokens is written as a recurrence", help, span };
  }
  if (givers.has(word) && at.is(t.Identifier, offset + 1)) {
    const why = "a value is given without a word in front of its name";
    return { why, help: `write \`${at.rest(offset + 1)}\``, span };
  }
  if (word === "state" && at.is(t.Identifier, offset + 1)) {
    const why = "a state is declared by its recurrence";
    return { why, help: `write \`recurrence ${at.word(offset + 1)}: [K, V] { ... }\``, span };
  }
  if (word === "pass" || word === "print" || word === "assert") {
    return { why: `there is no \`${word}\``, help: "leave it out", span };
  }
  return null;
}

/** In front of all items. */
function aboutTop(at: Stumble, offset: number): Remark | null {
  const [word, span] = [at.word(offset), at.span(offset)];
  if (imports.has(word)) {
    return {
      why: "nothing is imported: every function is there",
      help: `leave out \`${at.rest(offset)}\``,
      span,
    };
  }
  if (items.has(word)) {
    const name = at.is(t.Identifier, offset + 1) ? at.word(offset + 1) : "name";
    const why = "what takes q, k and v is an attention, and a helper is a def";
    const help = `write \`attention ${name}(q: [T, K], k: [T, K], v: [T, V]) -> [T, V] { ... }\` or \`def ${name}(x) = ...\``;
    return { why, help, span };
  }
  return null;
}

/** `if g > 0: ...`, `1 if g > 0 else 0`. */
function aboutChoice(at: Stumble, offset: number): Remark {
  const why = "a choice is written `where`, for each element";
  let help = "write `x = where(condition, a, b)`";
  const line = at.lineStart;
  let otherwise = offset;
  while (at.token(otherwise) && at.word(otherwise) !== "else") otherwise++;
  if (!at.isFirstOnLine(offset) && at.word(offset) === "if" && at.token(otherwise)) {
    let first = offset;
    while (first > line && !["=", "return", "yield", "(", ","].includes(at.word(first - 1)))
      first--;
    const parts = [
      at.between(offset + 1, otherwise),
      at.between(first, offset),
      at.rest(otherwise + 1),
    ];
    if (parts.every((part) => part !== "")) help = `write \`where(${parts.join(", ")})\``;
  }
  return { why, help, span: at.span(offset) };
}

function aboutLambda(at: Stumble, offset: number): Remark {
  let colon = offset;
  while (at.token(colon) && at.word(colon) !== ":") colon++;
  const name = at.word(offset - 1) === "=" ? at.word(offset - 2) : "f";
  const params = at.between(offset + 1, colon) || "x";
  const body = at.rest(colon + 1) || "...";
  const help = `write \`def ${name}(${params}) = ${body}\` at the top of the file`;
  return { why: "a function is written with `def`", help, span: at.span(offset) };
}
