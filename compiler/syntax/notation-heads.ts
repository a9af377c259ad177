/** Heads of attentions, defs and recurrences, and types, as other languages write them. */
import type { Remark } from "./notation.ts";
import type { Stumble } from "./stumble.ts";
import * as t from "./tokens.ts";

const remark = (at: Stumble, why: string, help: string, offset = 0): Remark => ({
  why,
  help,
  span: at.span(offset),
});

export function aboutHead(at: Stumble): Remark | null {
  return (
    aboutPythonDef(at) ??
    aboutParameter(at) ??
    aboutType(at) ??
    aboutRange(at) ??
    aboutResult(at) ??
    aboutBody(at) ??
    aboutStatement(at)
  );
}

/** The type that most have a parameter of this name for. */
export function usualType(name: string): string {
  const word = name.toLowerCase();
  if (/^v|value/.test(word)) return "[T, V]";
  if (/^(?:q|k|w|query|key)/.test(word)) return "[T, K]";
  if (/^(?:gamma|scale|slope|decay|a_log|tau)/.test(word)) return "scalar per head";
  return /^(?:x|a|b)$/.test(word) ? "[T, K]" : "[T]";
}

/** `def retention(q, k, v): ...`, `def f(x: Tensor) -> Tensor: ...`. */
function aboutPythonDef(at: Stumble): Remark | null {
  const [first, name, open] = at.tokens;
  if (first?.tokenType !== t.Def) return null;
  if (at.at === 1) return aboutDefName(at);
  if (at.rule === "block" && at.rules.length > 1 && !at.is(t.Colon) && !at.is(t.Arrow)) return null;
  if (at.rule !== "def" && at.rule !== "block") return null;
  const isBody = at.rule === "block" && at.open.length > 0;
  if (isBody || name === undefined || open?.tokenType !== t.LParen) return null;
  const isTyped = at.is(t.Colon) && at.open.length > 0;
  if (at.open.length === 0 && at.is(t.RParen, -1) && at.startsOperand()) {
    const help = `write \`${at.between(-at.at, 0)} = ${at.rest(0)}\``;
    return remark(at, "`=` is missing between the head of a def and its expression", help);
  }
  if (!isTyped && !at.is(t.Colon) && !at.is(t.Arrow) && !at.is(t.Return)) return null;
  const params = paramsOf(at);
  const isAttention = params.length > 2 || params.some((param) => /^(?:q|k|v)$/i.test(param));
  const called = name.tokenType === t.Identifier ? name.image : "mine";
  if (isAttention) {
    const typed = params.map((param) => `${param}: ${usualType(param)}`).join(", ");
    const why = "an attention begins with `attention`, has types, and its body in braces";
    const help = `write \`attention ${called}(${typed}) -> [T, V] { ... }\``;
    return { why, help, span: at.span(-at.at) };
  }
  const why = "a def has no types, and its body behind `=` or in braces";
  const help = `write \`def ${called}(${params.join(", ")}) = ...\``;
  return remark(at, why, help);
}

/** `def attention(q, k, v): ...` */
function aboutDefName(at: Stumble): Remark | null {
  const name = at.tokens[1];
  if (name === undefined) return null;
  const params = paramsOf(at);
  if (params.length === 0) return null;
  const typed = params.map((param) => `${param}: ${usualType(param)}`).join(", ");
  const why =
    "an attention begins with `attention` and its name, has types, and its body in braces";
  return {
    why,
    help: `write \`attention mine(${typed}) -> [T, V] { ... }\``,
    span: at.span(-at.at),
  };
}

/** The names in the round brackets of a def's head, at their own depth. */
function paramsOf(at: Stumble): string[] {
  const names: string[] = [];
  let depth = 0;
  for (const [i, { tokenType, image }] of at.tokens.entries()) {
    if (tokenType === t.LParen || tokenType === t.LBracket) depth++;
    if (tokenType === t.RParen || tokenType === t.RBracket) depth--;
    if (i > 1 && depth === 0) break;
    const before = at.tokens[i - 1]?.tokenType;
    const isParam = depth === 1 && (before === t.LParen || before === t.Comma);
    if (isParam && tokenType === t.Identifier) names.push(image);
  }
  return names;
}

/** `q, k` without types; `gamma = 0.9`; `g: [T] <= 0`. */
function aboutParameter(at: Stumble): Remark | null {
  const isHead = at.rule === "attention" && at.open.length === 1;
  if (at.rule === "attention" && at.open.length === 0) return aboutAttentionName(at);
  if (isHead && at.is(t.LBracket) && (at.is(t.LParen, -1) || at.is(t.Comma, -1))) {
    const end = closing(at, 1) + 1;
    const help = `write \`${at.word(end)}: ${at.between(0, end)}\``;
    return remark(at, "the name of a parameter stands in front of its type", help);
  }
  if (at.rule !== "param" && !isHead) return null;
  if (at.is(t.Equals)) {
    const why = "a parameter has no default value";
    const help = `leave out \`= ${at.word(1)}\`; the call gives the value`;
    return remark(at, why, help);
  }
  if (/^[<>]=?$/.test(at.word()) && isHead) {
    const range = at.word().startsWith("<") ? "(-inf, 0]" : "[0, inf)";
    return remark(at, "the range of a parameter is written `in`", `write \`in ${range}\``);
  }
  const name = at.word(-1);
  if (name === "self" && at.rule === "param") {
    return remark(at, "an attention has no `self`", "leave it out", -1);
  }
  if (at.rule === "param" && at.is(t.Identifier, -1) && (at.is(t.Comma) || at.is(t.RParen))) {
    return remark(
      at,
      `parameter \`${name}\` has no type`,
      `write \`${name}: ${usualType(name)}\``,
      -1,
    );
  }
  if (at.rule === "param" && at.is(t.LBracket) && at.is(t.Identifier, -1)) {
    return remark(
      at,
      `\`:\` is missing between \`${name}\` and its type`,
      `write \`${name}: ...\``,
    );
  }
  return null;
}

/** `attention (q: ...)`, `attention gated-delta(...)`. */
function aboutAttentionName(at: Stumble): Remark | null {
  if (at.at === 1 && at.is(t.LParen)) {
    return remark(at, "the attention has no name", "write `attention mine(`");
  }
  if (at.at !== 2 || !at.is(t.Minus)) return null;
  let end = 1;
  while (at.token(end) && !at.is(t.LParen, end)) end++;
  const name = at.between(-1, end).replace(/\W+/g, "_");
  return remark(at, "a name has letters, digits and `_`", `write \`${name}\``);
}

/** `q: Tensor`, `gamma: float`, `q: (T, K)`, `q: Float[Tensor, "T K"]`, `-> o: [T, V]`. */
function aboutType(at: Stumble): Remark | null {
  if (at.rule === "dim" && at.is(t.Foreign)) {
    return remark(at, "a type is the names of its axes", "write `[T, K]`");
  }
  if (at.rule !== "type") return null;
  const written = at.word(-1);
  const isResult = at.rules.includes("result");
  if (at.is(t.LParen) && !at.is(t.Identifier, -1)) {
    const axes = at.between(1, closing(at, 1));
    return remark(at, "a type stands in square brackets", `write \`[${axes || "T, K"}]\``);
  }
  if (!at.is(t.Identifier, -1)) return null;
  if (at.is(t.Colon)) {
    const why = "named results stand in round brackets";
    const help = `write \`-> (${written}: ${at.between(1, closing(at, 2) + 1) || "[T, V]"})\``;
    return remark(at, why, help, -1);
  }
  if (!at.is(t.Comma) && !at.is(t.RParen) && !at.is(t.LBrace) && !at.is(t.Equals)) return null;
  const param = at.is(t.Colon, -2) ? at.word(-3) : "";
  const isNumber = /^(?:float|int|double|number|bool|f32|f16|bf16|float32)$/i.test(written);
  const wanted = isNumber ? "scalar per head" : isResult ? "[T, V]" : usualType(param);
  const help = `write \`${isResult ? "-> " : `${param}: `}${wanted}\``;
  return remark(at, `\`${written}\` is not a type, which has the names of its axes`, help, -1);
}

/** Offset of the bracket that closes what is open at an offset, or of the end. */
function closing(at: Stumble, from: number): number {
  let to = from;
  while (at.token(to) && !at.is(t.RParen, to) && !at.is(t.RBracket, to)) to++;
  return to;
}

/** `g: [T] in -inf..0`. */
function aboutRange(at: Stumble): Remark | null {
  if (at.rule !== "range" || !at.is(t.In, -1)) return null;
  const why = "a range is two bounds in brackets, square where the bound belongs to it";
  return remark(at, why, "write `in (-inf, 0]`");
}

/** No result, no `->`, or `-> (T, V)`. */
function aboutResult(at: Stumble): Remark | null {
  if (at.rule === "namedType" && at.rules.at(-2) === "result" && !at.is(t.Colon)) {
    const axes = at.between(-1, closing(at, 0));
    return remark(at, "a type stands in square brackets", `write \`-> [${axes}]\``, -2);
  }
  if (at.rule !== "attention" || !at.is(t.RParen, -1)) return null;
  const isThere = at.is(t.LBracket) || at.is(t.LParen) || at.is(t.Scalar);
  if (isThere) {
    return remark(
      at,
      "`->` is missing in front of the result's type",
      `write \`-> ${at.rest(0).replace(/\s*\{.*/, "")}\``,
    );
  }
  if (at.is(t.LBrace) || at.is(t.Equals) || at.is(t.Return)) {
    return remark(at, "the result has no type", "write `-> [T, V] {`");
  }
  return at.is(t.Colon) || at.is(t.Foreign)
    ? remark(at, "the result's type stands behind `->`", "write `-> [T, V] {`")
    : null;
}

/** Bodies without braces. */
function aboutBody(at: Stumble): Remark | null {
  const isState = at.rules.includes("recurrence");
  if (isState && at.is(t.LParen) && at.is(t.Recurrence, -1)) {
    const states = at.between(1, closing(at, closing(at, 1) + 1));
    return remark(
      at,
      "the states of a recurrence stand without brackets",
      `write \`recurrence ${states} {\``,
    );
  }
  if (isState && at.rule === "namedType" && at.is(t.Identifier, -1) && !at.is(t.Colon)) {
    const why = `state \`${at.word(-1)}\` has no type`;
    return remark(at, why, `write \`${at.word(-1)}: [K, V]\``, -1);
  }
  if (at.rule === "recurrence" && at.is(t.Identifier) && at.word() === "reversed") {
    return remark(at, "a recurrence from the last token is `reverse`", "write `reverse`");
  }
  if (at.rule !== "block" || at.is(t.LBrace, -1)) return null;
  // Another state, and a comma is missing.
  if (isState && at.is(t.Identifier) && at.is(t.Colon, 1)) return null;
  const isBefore =
    at.rules.at(-2) !== "block" &&
    !at.tokens.slice(0, at.at).some((one) => one.tokenType === t.LBrace);
  const isHead = isState ? !hasOpened(at) : isBefore;
  if (!isHead) return null;
  const owner = isState ? "recurrence" : at.tokens[0]!.image;
  if (isState && at.is(t.Equals)) {
    const why = "a state starts at zero, or at the `initial_S` of the call";
    return remark(at, why, `leave out \`= ${at.word(1)}\``);
  }
  if (at.token() === undefined) return null;
  const why = `the body of ${owner === "attention" ? "an" : "a"} ${owner} stands in braces`;
  const body = at.is(t.Equals)
    ? `{ return ${at.rest(1)} }`
    : at.is(t.Colon)
      ? "{ ... }"
      : `{ ${at.rest(0)} }`;
  const help = at.is(t.Colon)
    ? "write `{` in place of the `:`, and `}` behind the last statement"
    : `write \`${body}\``;
  return remark(at, why, help);
}

/** Does the recurrence that is being read have its `{` already? */
function hasOpened(at: Stumble): boolean {
  for (let offset = -1; at.token(offset); offset--) {
    if (at.is(t.LBrace, offset)) return true;
    if (at.is(t.Recurrence, offset)) return false;
  }
  return false;
}

/** `a, b = ...`, `s: [T, T] = ...`, `return (a, b)`, and a value that nobody takes. */
function aboutStatement(at: Stumble): Remark | null {
  const name = at.word(-1);
  if (at.is(t.Comma) && (at.rule === "block" || at.rules.length === 0) && at.isFirstOnLine(1)) {
    return remark(at, "a statement ends without a sign", "leave out the `,`");
  }
  if (at.rule === "statement" && at.is(t.Identifier, -1)) {
    if (at.is(t.EqualEqual)) {
      return remark(at, "a value is given with `=`", `write \`${name} = ${at.rest(1)}\``);
    }
    if (at.is(t.Comma)) {
      const why = "a statement gives one name a value";
      return remark(at, why, `write \`${name} = ...\` and \`${at.word(1)} = ...\` on two lines`);
    }
    if (at.is(t.Colon)) {
      return remark(
        at,
        "only parameters, results and states have types",
        `write \`${name} = ...\``,
      );
    }
  }
  const open = at.open.at(-1);
  if (at.is(t.Comma) && open !== undefined && !at.callee && at.is(t.LParen, open - at.at)) {
    const word = at.word(open - 1 - at.at);
    if (word !== "return" && word !== "yield") return null;
    const values = at
      .rest(open - 1 - at.at)
      .replace(/\(/, "")
      .replace(/\)\s*\}?$/, "");
    return remark(at, "several results stand without brackets", `write \`${values}\``);
  }
  const isDef = at.is(t.Def) && at.rule === "block";
  if (!isDef) return null;
  return remark(
    at,
    "a def stands at the top of the file",
    `move \`${at.rest(0)}\` in front of the attention`,
  );
}
