/**
 * Types written for a batch of heads, `[B, H, T, K]`, or with another name for the tokens. Told once of an
 * attention, and nothing else of it: every type of its body would be another one.
 */
import { diagnose } from "../support/catalogue.ts";
import type { Diagnostic, Label } from "../support/diagnostic.ts";
import type { AttentionAst, TypeAst } from "../syntax/ast.ts";
import { tokenDim } from "../tensor/ir.ts";

interface Typed {
  readonly name: string;
  readonly type: TypeAst;
}

export function misreadAxes(ast: AttentionAst): Diagnostic | null {
  const params = ast.params.map(({ name, type }) => ({ name: name.name, type }));
  const results = ast.result.items.map(({ name, type }) => ({ name: name?.name ?? "->", type }));
  return (
    heads(ast) ??
    batched([...params, ...results]) ??
    (ast.params.some(({ per }) => per) ? null : noTokens(params))
  );
}

/** `gamma: [H]`, `w: [H, K]`. */
function heads({ params }: AttentionAst): Diagnostic | null {
  const first = params.find(
    ({ type, per }) => per === null && axes(type)[0] === "H" && axes(type).length < 3,
  );
  if (!first) return null;
  const [, rest] = axes(first.type);
  const name = first.name.name;
  const help = `write \`${name}: ${rest === undefined ? "scalar" : `[${rest}]`} per head\``;
  return diagnose("missing-per", { name }, [{ span: first.type.span, text: "" }], help);
}

/** Batch and heads among the axes. */
function batched(typed: readonly Typed[]): Diagnostic | null {
  const wide = typed.filter(({ type }) => axes(type).length > 2);
  const [first] = wide;
  if (!first) return null;
  const names = axes(first.type);
  const last = names.at(-1) ?? "K";
  const isHeads = last === "H" || last === tokenDim;
  const kept = `[${isHeads ? tokenDim : `${tokenDim}, ${last}`}]`;
  const written = first.name === "->" ? `-> ${kept}` : `${first.name}: ${kept}`;
  const isBatch = names.includes("H") || names.includes("B") || names[0] !== tokenDim;
  const help = isBatch ? `write \`${written}\`: batch and heads are mapped over` : null;
  return diagnose("too-many-axes", {}, labels(wide), help);
}

/** No parameter varies with T. */
function noTokens(params: readonly Typed[]): Diagnostic | null {
  const matrices = params.filter(({ type }) => axes(type).length === 2);
  const [first] = matrices;
  if (!first || params.some(({ type }) => axes(type).includes(tokenDim))) return null;
  const [rows, columns] = axes(first.type);
  const written = `${first.name}: [${tokenDim}, ${columns}]`;
  const help = `write \`${written}\`: the tokens are always called ${tokenDim}`;
  return diagnose("no-token-axis", { rows: rows! }, labels(matrices), help);
}

function axes({ dims }: TypeAst): string[] {
  return (dims ?? []).map(({ value }) => String(value));
}

function labels(typed: readonly Typed[]): Label[] {
  return typed.map(({ type }, i) => ({ span: type.span, text: i === 0 ? "" : "and here" }));
}
