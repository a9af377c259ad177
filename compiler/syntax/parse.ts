/** Text to AST. Never throws: every mistake of the text is a diagnostic, and there is always an AST. */
import type { ILexingError, IRecognitionException, IToken } from "chevrotain";
import { diagnose } from "../support/catalogue.ts";
import type { Diagnostic, Outcome } from "../support/diagnostic.ts";
import { type Source, type Span, lineStarts, positionOf } from "../support/span.ts";
import type { FileAst } from "./ast.ts";
import { buildFile } from "./build-ast.ts";
import { depthProblem, lengthProblem, mostMistakes, wordProblems } from "./limits.ts";
import { LaspParser } from "./grammar.ts";
import { lexer } from "./tokens.ts";

/** The grammar is analysed once; every parse resets it. It keeps nothing of a text. */
const parser = new LaspParser();

/** A comment and where it stands. */
export interface Comment {
  readonly text: string;
  readonly span: Span;
}

export interface Parsed {
  readonly file: FileAst;
  readonly comments: readonly Comment[];
}

export function parseSource(source: Source): Outcome<FileAst> {
  const { value, diagnostics } = parseWithComments(source);
  return { value: value?.file ?? null, diagnostics };
}

export function parseWithComments(source: Source): Outcome<Parsed> {
  const nothing = (...diagnostics: readonly Diagnostic[]): Outcome<Parsed> => ({
    value: { file: { kind: "file", items: [], span: { start: 0, end: 0 } }, comments: [] },
    diagnostics: diagnostics.slice(0, mostMistakes),
  });
  const tooLong = lengthProblem(source);
  if (tooLong) return nothing(tooLong);
  const lexed = lexer.tokenize(source.text);
  const unreadable = wordProblems(lexed.tokens);
  if (unreadable.length > 0) return nothing(...unreadable);
  const diagnostics = lexed.errors.slice(0, mostMistakes).map((one) => lexingError(one, source));
  const starts = lineStarts(source.text);
  parser.input = lexed.tokens;
  const cst = parser.file();
  for (const error of parser.errors.slice(0, mostMistakes)) {
    const mistake = syntaxError(error, source);
    if (!isEcho(mistake, diagnostics, source, starts)) diagnostics.push(mistake);
  }
  const file = buildFile(cst, source.text, (code, span, found) => {
    // What recovery put in has no place, and was told as missing.
    if (span.end > span.start) diagnostics.push(diagnose(code, { found }, [{ span, text: "" }]));
  });
  const comments = (lexed.groups["comments"] ?? []).map((token) => ({
    text: token.image,
    span: spanOf(token, source),
  }));
  const tooDeep = depthProblem(file);
  if (tooDeep) return nothing(tooDeep);
  diagnostics.sort((a, b) => a.labels[0]!.span.start - b.labels[0]!.span.start);
  return { value: { file, comments }, diagnostics: diagnostics.slice(0, mostMistakes) };
}

/**
 * Recovery stumbles over what the first mistake left: another one on the same line, or a bracket that
 * now closes too much, says nothing new.
 */
function isEcho(
  mistake: Diagnostic,
  before: readonly Diagnostic[],
  source: Source,
  starts: readonly number[],
): boolean {
  const at = (diagnostic: Diagnostic) => diagnostic.labels[0]!.span.start;
  const lineOf = (diagnostic: Diagnostic) => positionOf(source.text, at(diagnostic), starts).line;
  const earlier = before.filter((other) => at(other) <= at(mistake));
  if (earlier.some((other) => lineOf(other) === lineOf(mistake))) return true;
  return earlier.length > 0 && source.text[at(mistake)] === "}";
}

function lexingError({ offset, length }: ILexingError, source: Source): Diagnostic {
  const span = { start: offset, end: offset + length };
  const found = source.text.slice(span.start, span.end);
  return diagnose("unexpected-character", { found }, [{ span, text: "" }]);
}

function syntaxError(error: IRecognitionException, source: Source): Diagnostic {
  const at = error.token;
  const isEnd = Number.isNaN(at.startOffset) || at.image === "";
  const span = isEnd ? endOf(previousOf(error), source) : spanOf(at, source);
  const found = isEnd ? "the end of the file" : `\`${at.image}\``;
  const expected = expectedOf(error.message);
  const code = isEnd ? "unexpected-end" : "unexpected-token";
  const where = wordFor[error.context.ruleStack.at(-1) ?? ""] ?? "here";
  return diagnose(code, { found, expected, where }, [{ span, text: expected }]);
}

/** What a person calls the place that a rule parses. */
const wordFor: Readonly<Record<string, string>> = {
  file: "at the top of a file",
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

/** Chevrotain's message, reduced to what it wanted. */
function expectedOf(message: string): string {
  const single = /^Expecting token of type --> (.*?) <--/s.exec(message);
  if (single) return `expected ${labelOf(single[1]!)}`;
  if (message.startsWith("Redundant input")) return "expected `attention` or `def`";
  const choices = [...message.matchAll(/^\s*\d+\. \[(.*)\]$/gm)].map(
    (match) => match[1]!.split(/,\s(?=\S)/)[0]!,
  );
  const unique = [...new Set(choices.map(labelOf))];
  if (unique.length === 0) return "expected something else";
  return unique.length > 6 ? "expected an expression" : `expected ${unique.join(" or ")}`;
}

function labelOf(name: string): string {
  return /^[A-Z]\w+$/.test(name) ? `\`${name.toLowerCase()}\`` : name;
}

function spanOf(token: IToken, source: Source): Span {
  if (Number.isNaN(token.startOffset)) return endOf(token, source);
  return { start: token.startOffset, end: token.startOffset + token.image.length };
}

/** The place right behind a token: where something is missing. */
function endOf(token: IToken | undefined, source: Source): Span {
  const end =
    token && !Number.isNaN(token.startOffset) ? token.startOffset + token.image.length : 0;
  return { start: Math.max(0, end - 1), end: Math.min(source.text.length, Math.max(end, 1)) };
}

/** Most, but not all, of chevrotain's errors know the token before. */
function previousOf(error: IRecognitionException): IToken | undefined {
  return (error as IRecognitionException & { previousToken?: IToken }).previousToken;
}
