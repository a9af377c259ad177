/**
 * Mistakes of those who know another notation: each says what was meant and what is written here. They are asked
 * in order, only once the parser has stopped, so nothing here decides what is a program.
 */
import type { Span } from "../support/span.ts";
import { insteadOfCall, modules, typed } from "./foreign.ts";
import type { Stumble } from "./stumble.ts";
import { aboutWord } from "./notation-words.ts";
import { aboutHead } from "./notation-heads.ts";
import * as t from "./tokens.ts";

/** Why the text cannot be read, at a place, and what to write. */
export interface Remark {
  readonly why: string;
  readonly help: string;
  readonly span: Span;
}

export function otherNotation(at: Stumble): Remark | null {
  return aboutForeignCall(at) ?? aboutWord(at) ?? aboutHead(at) ?? aboutSign(at);
}

const remark = (at: Stumble, why: string, help: string, offset = 0): Remark => ({
  why,
  help,
  span: at.span(offset),
});

/** `einsum("tk,sk->ts", q, k)`: what is wrong with its arguments does not matter. */
function aboutForeignCall(at: Stumble): Remark | null {
  const name = at.callee;
  if (!name) return null;
  const help = insteadOfCall(name.image, []);
  if (help === null) return null;
  const span = { start: name.startOffset, end: name.endOffset! + 1 };
  return { why: `there is no function \`${name.image}\``, help, span };
}

function aboutSign(at: Stumble): Remark | null {
  const sign = at.word();
  if (at.is(t.Foreign)) return aboutForeignSign(at, sign);
  if (at.is(t.DotT, -1) && sign === "(") {
    return remark(at, "`.T` is not called", `leave out the \`()\`: write \`${at.between(-2, 0)}\``);
  }
  if (sign === "[" && at.endsOperand(-1)) return aboutIndex(at);
  if (sign === "{" && at.is(t.Identifier, -1) && at.word(-1).endsWith("_")) {
    return aboutSubscript(at, at.word(-1).replace(/_+$/, ""));
  }
  if (sign === "=" && at.is(t.Identifier, -1) && at.callee) return aboutNamedArgument(at);
  if (/^[<>]=?$|^==$/.test(sign) && at.rule !== "param") {
    const why = "comparisons do not follow one another";
    return remark(at, why, "write their product: `(a < b) * (b < c)`");
  }
  return (
    aboutNumber(at, 0) ??
    aboutNumber(at, -1) ??
    (at.is(t.Strange) ? aboutStrangeSign(at, sign) : null)
  );
}

/** `1_000`, `0.5f`. The word behind the number may have been read as the beginning of a statement. */
function aboutNumber(at: Stumble, offset: 0 | -1): Remark | null {
  const [digits, suffix] = [at.word(offset - 1), at.word(offset)];
  const isOne = at.is(t.Identifier, offset) && at.is(t.NumberLiteral, offset - 1);
  if (!isOne || !at.isAdjacent(offset)) return null;
  const number = digits + suffix;
  const isGrouped = /^[\d_]+$/.test(number);
  const why = isGrouped ? "the digits of a number stand together" : "a number ends with a digit";
  const help = isGrouped
    ? `write \`${number.replaceAll("_", "")}\``
    : `write \`${digits}\`, or \`${digits} * ${suffix}\` for a product`;
  return { why, help, span: { start: at.span(offset - 1).start, end: at.span(offset).end } };
}

function aboutForeignSign(at: Stumble, sign: string): Remark {
  const before = at.is(t.Identifier, -1) ? at.word(-1) : "x";
  if (sign.startsWith("#") || sign.startsWith("/*")) {
    const words = sign.replace(/^(?:#+|\/\*+)\s*|\s*\*+\/$/g, "").replace(/\s+/g, " ");
    return remark(at, "a comment starts with `//`", `write \`// ${words}\``);
  }
  if (sign.startsWith('"')) {
    const words = sign.replace(/^"+\s*|\s*"+$/g, "").replace(/\s+/g, " ");
    const isComment = at.isFirstOnLine();
    const help = isComment ? `write it as a comment: \`// ${words}\`` : "leave it out";
    return remark(at, "there are no strings", help);
  }
  const rest = at.rest(1);
  switch (sign) {
    case ":=":
      return remark(at, "a value is given with `=`", `write \`${before} = ${rest}\``);
    case "=>": {
      const help = `write \`def f(${before}) = ${rest}\` at the top of the file, and call it`;
      return remark(at, "a function is written with `def`", help);
    }
    case "!=":
      return remark(at, "there is no `!=`", "write `1 - (a == b)`");
    case "&&":
      return remark(at, "there is no `&&`", "both at once are the product: `(a > 0) * (a < 1)`");
    case "||":
      return remark(at, "there is no `||`", "one or the other is the larger: `max(a < 0, a > 1)`");
    default: {
      const operator = sign.slice(0, -1);
      const isSum = operator === "+" || /^[\w.]+(?:\([^()]*\))?$/.test(rest);
      const help = `write \`${before} = ${before} ${operator} ${isSum ? rest : `(${rest})`}\``;
      return remark(at, `there is no \`${sign}\``, help);
    }
  }
}

function aboutStrangeSign(at: Stumble, sign: string): Remark | null {
  const before = at.is(t.Identifier, -1) ? at.word(-1) : "x";
  switch (sign) {
    case ";":
      return remark(at, "a statement ends without a sign", "leave out the `;`");
    case "^":
      return /^[Tt]/.test(at.word(1))
        ? remark(at, "a transpose is written `.T`", `write \`${before}.T\``)
        : remark(at, "a power is written `**`", `write \`${before} ** ${at.word(1)}\``);
    case "'":
      return remark(at, "a transpose is written `.T`", `write \`${before}.T\``);
    case "?":
      return remark(at, "a choice is written `where`", "write `where(condition, a, b)`");
    case "&":
      return remark(at, "there is no `&`", "both at once are the product: `(a > 0) * (a < 1)`");
    case "|":
      if (!at.endsOperand(-1))
        return remark(at, "there is no `|x|`", `write \`abs(${at.word(1)})\``);
      return remark(at, "there is no `|`", "one or the other is the larger: `max(a < 0, a > 1)`");
    case "\\":
      return aboutLatex(at);
    case "!":
    case "~":
      return remark(at, `there is no \`${sign}\``, "the opposite of a comparison is `1 - (a > b)`");
    case ".":
      return aboutDot(at);
  }
  const instead = typed(sign);
  if (instead === null) return null;
  const what = /^[A-Za-z]{2,}$/.test(instead) && instead !== "in" && instead !== "inf";
  const why = what
    ? `\`${sign}\` is not a letter of names`
    : `\`${sign}\` is not a sign of the language`;
  return remark(at, why, `write \`${instead}\``);
}

/** `q \\cdot k^\\top`. */
function aboutLatex(at: Stumble): Remark | null {
  if (!at.is(t.Identifier, 1)) return null;
  const word = at.word(1);
  const product = /^(?:cdot|times|odot|circ)$/.test(word);
  const instead = product ? "*" : /^(?:top|intercal|mathsf)$/.test(word) ? ".T" : word;
  return remark(at, `\`\\${word}\` is not a sign of the language`, `write \`${instead}\``);
}

const transposes = new Set(["t", "mT", "mH", "H", "transpose", "permute", "swapaxes", "adjoint"]);

/** `torch.exp(g)`, `g.exp()`, `k.transpose(-1, -2)`, `x.shape`. */
function aboutDot(at: Stumble): Remark | null {
  const [before, name] = [at.word(-1), at.word(1)];
  const value = at.is(t.Identifier, -1) ? before : "x";
  if (at.is(t.Strange, 1) && name === ".")
    return remark(at, "there is no `..`", "write two bounds in brackets: `in (-inf, 0]`");
  if (!at.is(t.Identifier, 1)) return null;
  if (transposes.has(name)) {
    return remark(at, "a transpose is written `.T`", `write \`${value}.T\``, 1);
  }
  if (modules.has(before)) {
    let last = 1;
    while (at.word(last + 1) === "." && at.is(t.Identifier, last + 2)) last += 2;
    const called = at.word(last);
    const help = insteadOfCall(called, []) ?? `write \`${called}(...)\``;
    return remark(at, "functions have no module in front of them", help, -1);
  }
  if (at.word(2) !== "(") {
    const why = `a value has no \`.${name}\``;
    return remark(at, why, "a dim's size is its name, such as `K`; a transpose is `.T`", 1);
  }
  const help = insteadOfCall(name, [value]) ?? `write \`${name}(${value})\``;
  return remark(at, "a function is called with its argument in brackets", help, 1);
}

/** `k[t]`, `S[t - 1]`. */
function aboutIndex(at: Stumble): Remark {
  const name = at.word(-1);
  const why = "values are not indexed: names with T mean the current token's row in a recurrence";
  const isToken = /^(?:[tijn:\d]|\.)/.test(at.word(1));
  const help = isToken
    ? `write \`${at.is(t.Identifier, -1) ? name : "the value alone"}\``
    : `write \`${name}(${at.word(1)})\` for a call`;
  return remark(at, why, help);
}

/** `S_{t-1}`. */
function aboutSubscript(at: Stumble, name: string): Remark {
  const why = "tokens have no numbers: a state stands for the one before until it is updated";
  return remark(at, why, `write \`${name} = ... ${name} ...\``, -1);
}

/** `l2norm(q, eps=1e-6)`, `sum(x, dim=-1)`. */
function aboutNamedArgument(at: Stumble): Remark {
  const name = at.word(-1);
  const callee = at.callee!.image;
  const why = "arguments are given in order, without their names";
  if (/^(?:dim|axis|keepdims?|dtype|device)$/.test(name)) {
    const first = at.between(at.open.at(-1)! + 1 - at.at, -2) || "x";
    return remark(at, why, `write \`${callee}(${first})\`: it is over the last axis`, -1);
  }
  const start = at.open.at(-1)! - 1 - at.at;
  return remark(at, why, `write \`${at.between(start, -1)} ${at.word(1)})\``, -1);
}
