/** Text to AST. Never throws: every mistake of the text is a diagnostic, and there is always an AST. */
import type { CstNode, IToken } from "chevrotain";
import { diagnose } from "../support/catalogue.ts";
import type { Diagnostic, Outcome } from "../support/diagnostic.ts";
import type { Source, Span } from "../support/span.ts";
import type { FileAst } from "./ast.ts";
import { buildFile } from "./build-ast.ts";
import { depthProblem, lengthProblem, mostMistakes, wordProblems } from "./limits.ts";
import { explain } from "./explain.ts";
import { LaspParser } from "./grammar.ts";
import { cutItems } from "./items.ts";
import { Stumble, spanOf } from "./stumble.ts";
import { Attention, Def, Identifier, lexer } from "./tokens.ts";

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
    value: {
      file: { kind: "file", items: [], broken: [], span: { start: 0, end: 0 } },
      comments: [],
    },
    diagnostics: diagnostics.slice(0, mostMistakes),
  });
  const tooLong = lengthProblem(source);
  if (tooLong) return nothing(tooLong);
  const lexed = lexer.tokenize(source.text);
  const unreadable = wordProblems(lexed.tokens);
  if (unreadable.length > 0) return nothing(...unreadable);
  const pieces = cutItems(lexed.tokens).map((tokens) => parseItem(tokens, source));
  const whole = pieces.flatMap(({ item }) => item ?? []);
  const broken = pieces.flatMap(({ item, name }) => (item === null && name ? [name] : []));
  const diagnostics = pieces.flatMap(({ mistake }) => mistake ?? []);
  const file = buildFile(whole, broken, source.text, (code, span, found, help) => {
    diagnostics.push(diagnose(code, { found }, [{ span, text: "" }], help));
  });
  const comments = (lexed.groups["comments"] ?? []).map((token) => ({
    text: token.image,
    span: spanOf(token),
  }));
  const tooDeep = depthProblem(file);
  if (tooDeep) return nothing(tooDeep);
  diagnostics.sort((a, b) => a.labels[0]!.span.start - b.labels[0]!.span.start);
  return { value: { file, comments }, diagnostics: diagnostics.slice(0, mostMistakes) };
}

interface Piece {
  readonly item: CstNode | null;
  readonly mistake: Diagnostic | null;
  /** Of an item with a mistake, where it is known. */
  readonly name: string | null;
}

/** Parses up to the first mistake: what comes behind is often only its echo. */
function parseItem(tokens: readonly IToken[], source: Source): Piece {
  const told = (at: Stumble): Piece => {
    const name = tokens[1]?.tokenType === Identifier ? tokens[1].image : null;
    return { item: null, mistake: explain(at), name };
  };
  const head = tokens[0]!.tokenType;
  if (head !== Attention && head !== Def) {
    return told(new Stumble(tokens, 0, [], "expected `attention` or `def`", source.text));
  }
  parser.input = [...tokens];
  const item = head === Def ? parser.def() : parser.attention();
  const [error] = parser.errors;
  if (!error) return { item, mistake: null, name: null };
  const at = tokens.indexOf(error.token);
  const isBehind = error.message.startsWith("Redundant input");
  const rules = isBehind ? [] : error.context.ruleStack;
  const expected = expectedOf(error.message);
  const piece = told(
    new Stumble(tokens, at < 0 ? tokens.length : at, rules, expected, source.text),
  );
  // The item is whole, and something stands behind it.
  return isBehind ? { ...piece, item } : piece;
}

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
