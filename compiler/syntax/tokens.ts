/** The words of the language. Keywords win over names only when the whole word matches. */
import { Lexer, createToken } from "chevrotain";

export const Identifier = createToken({
  name: "Identifier",
  pattern: /[A-Za-z_][A-Za-z0-9_]*/,
  label: "a name",
});

function keyword(word: string) {
  const name = word[0]!.toUpperCase() + word.slice(1);
  return createToken({ name, pattern: word, longer_alt: Identifier, label: `\`${word}\`` });
}
function symbol(name: string, text: string) {
  return createToken({ name, pattern: text, label: `\`${text}\`` });
}

export const Attention = keyword("attention");
export const Def = keyword("def");
export const Return = keyword("return");
export const Yield = keyword("yield");
export const Recurrence = keyword("recurrence");
export const Reverse = keyword("reverse");
export const Per = keyword("per");
export const Shared = keyword("shared");
export const Scalar = keyword("scalar");
export const In = keyword("in");

export const NumberLiteral = createToken({
  name: "NumberLiteral",
  pattern: /(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?/,
  label: "a number",
});
/** `.T` with nothing word-like after it. */
export const DotT = createToken({ name: "DotT", pattern: /\.\s*T\b/, label: "`.T`" });

export const Arrow = symbol("Arrow", "->");
export const Power = symbol("Power", "**");
export const LessEqual = symbol("LessEqual", "<=");
export const GreaterEqual = symbol("GreaterEqual", ">=");
export const EqualEqual = symbol("EqualEqual", "==");
export const Less = symbol("Less", "<");
export const Greater = symbol("Greater", ">");
export const Equals = symbol("Equals", "=");
export const Plus = symbol("Plus", "+");
export const Minus = symbol("Minus", "-");
export const Star = symbol("Star", "*");
export const Slash = symbol("Slash", "/");
export const At = symbol("At", "@");
export const LParen = symbol("LParen", "(");
export const RParen = symbol("RParen", ")");
export const LBracket = symbol("LBracket", "[");
export const RBracket = symbol("RBracket", "]");
export const LBrace = symbol("LBrace", "{");
export const RBrace = symbol("RBrace", "}");
export const Comma = symbol("Comma", ",");
export const Colon = symbol("Colon", ":");

/**
 * What other languages write, and papers. No rule takes it: the parser stumbles over it, and `notation.ts` says
 * what stands here in its place. Comments and strings of theirs are one word, whatever is in them.
 */
export const Foreign = createToken({
  name: "Foreign",
  pattern: /\/\*[\s\S]*?\*\/|"""[\s\S]*?"""|"[^"\n\r]*"|#[^\n\r]*|\*\*=|[-+*/@:!]=|=>|&&|\|\|/,
  line_breaks: true,
});
/** Any other character. */
export const Strange = createToken({
  name: "Strange",
  // oxlint-disable-next-line no-control-regex
  pattern: /[\uD800-\uDBFF][\uDC00-\uDFFF]|[\u0000-\uFFFF]/,
  line_breaks: true,
});

const WhiteSpace = createToken({ name: "WhiteSpace", pattern: /\s+/, group: Lexer.SKIPPED });
export const Comment = createToken({ name: "Comment", pattern: /\/\/[^\n\r]*/, group: "comments" });

export const allTokens = [
  WhiteSpace,
  Comment,
  Foreign,
  DotT,
  NumberLiteral,
  Arrow,
  Power,
  LessEqual,
  GreaterEqual,
  EqualEqual,
  Less,
  Greater,
  Equals,
  Plus,
  Minus,
  Star,
  Slash,
  At,
  LParen,
  RParen,
  LBracket,
  RBracket,
  LBrace,
  RBrace,
  Comma,
  Colon,
  Attention,
  Def,
  Return,
  Yield,
  Recurrence,
  Reverse,
  Per,
  Shared,
  Scalar,
  In,
  Identifier,
  Strange,
];

/** Words that cannot be names. */
export const keywords = [
  "attention",
  "def",
  "return",
  "yield",
  "recurrence",
  "reverse",
  "per",
  "shared",
  "scalar",
  "in",
] as const;

export const lexer = new Lexer(allTokens, {
  positionTracking: "full",
  skipValidations: true,
});
