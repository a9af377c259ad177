/**
 * Makes what fails smaller while it fails: fewer ranks, tokens and heads, plainer inputs, and less text. An expression
 * gives way to one of its parts, to a parameter or to 1, and a statement goes; what does not compile then is refused
 * quickly, so nothing here knows the types of the language.
 */
import type { NodeAst } from "../../compiler/syntax/ast.ts";
import { parseSource } from "../../compiler/syntax/parse.ts";
import { type Span } from "../../compiler/support/span.ts";
import { draws } from "../../runtime/random.ts";
import { type Cell, type Outcome, runCell } from "./cell.ts";
import type { Rule } from "./grammar.ts";

export interface Failure {
  readonly rule: Rule;
  readonly cell: Cell;
  readonly outcome: Exclude<Outcome, { kind: "ok" | "refused" }>;
}

/** The smallest failure of the same kind that was found in so many milliseconds. */
export async function shrink(found: Failure, limitMs: number): Promise<Failure> {
  const end = performance.now() + limitMs;
  const isDone = () => performance.now() > end;
  /** A smaller failure in one of these ways. */
  const smaller = async (of: Failure, ways: Ways): Promise<Failure | null> => {
    for (const { rule, cell } of ways(of)) {
      if (isDone()) return null;
      const outcome = await runCell(rule, cell);
      if (isLike(outcome, found.outcome)) return { rule, cell, outcome };
    }
    return null;
  };
  let best = found;
  for (let before: Failure | null = null; before !== best && !isDone();) {
    before = best;
    for (const ways of [plainerCells, shorterTexts, smallerDims]) {
      for (let next: Failure | null = best; next !== null; next = await smaller(best, ways)) {
        best = next;
      }
    }
  }
  return best;
}

type Candidate = Pick<Failure, "rule" | "cell">;
type Ways = (of: Candidate) => Iterable<Candidate>;

/** Is it the same fault, as far as one can tell? A much smaller error may be another's. */
function isLike(outcome: Outcome, found: Failure["outcome"]): outcome is Failure["outcome"] {
  if (outcome.kind === "crash") {
    return found.kind === "crash" && messageOf(outcome.what) === messageOf(found.what);
  }
  if (outcome.kind !== "wrong" || found.kind !== "wrong") return false;
  return Number.isNaN(found.worst) || outcome.worst > Math.min(found.worst, 1) / 30;
}

/** The first line, without what differs from program to program. */
function messageOf(stack: string): string {
  return stack.split("\n")[0]!.replaceAll(/[%\d]+/g, "");
}

function* smallerDims({ rule, cell }: Candidate): Generator<Candidate> {
  for (const dim of ["K", "V"] as const) {
    for (const size of [1, 2, 3, 8]) {
      if (size >= rule.dims[dim]) break;
      yield { rule: { ...rule, dims: { ...rule.dims, [dim]: size } }, cell };
    }
  }
}

function* plainerCells({ rule, cell }: Candidate): Generator<Candidate> {
  for (const own of plainer(cell)) yield { rule, cell: own };
}

/** Each plainer in one way; the ways that take most away first. */
function* plainer(cell: Cell): Generator<Cell> {
  const plain: Partial<Cell> = {
    ranks: 1,
    data: 1,
    backward: false,
    overlap: false,
    steps: 0,
    segment: 0,
    cacheStates: 0,
    packed: null,
    H: 1,
    B: 1,
    groups: cell.H,
    initial: false,
    schedule: "ring",
    device: "tile-cpu",
  };
  for (const [key, value] of Object.entries(plain)) {
    const own = { ...cell, [key]: value };
    if (own[key as keyof Cell] === cell[key as keyof Cell]) continue;
    if (key === "H") yield { ...own, groups: 1 };
    // Of packed sequences the number is B.
    else if (key !== "B" || cell.packed === null) yield own;
  }
  if (cell.ranks > 2) yield { ...cell, ranks: cell.ranks - 1 };
  if (cell.packed !== null) {
    for (const i of cell.packed.keys()) {
      const packed = cell.packed.filter((_, at) => at !== i);
      const T = packed.reduce((sum, length) => sum + length, 0);
      if (packed.length > 0) yield { ...cell, packed, B: packed.length, T };
    }
  } else {
    for (const T of [1, 2, 3, 8, 16, 33, 48, 66, cell.T - 1]) if (T < cell.T) yield { ...cell, T };
  }
  const kinds = ["declared", ...draws, "each"] as const;
  for (const draw of kinds.slice(0, kinds.indexOf(cell.draw))) yield { ...cell, draw };
}

function* shorterTexts({ rule, cell }: Candidate): Generator<Candidate> {
  const seen = new Set([rule.text]);
  for (const edited of edits(rule.text)) {
    const text = withoutUnused(edited);
    if (seen.has(text) || text.length > rule.text.length) continue;
    seen.add(text);
    yield { rule: { ...rule, text }, cell };
  }
}

function* edits(text: string): Generator<string> {
  const put = ({ start, end }: Span, part: string) => text.slice(0, start) + part + text.slice(end);
  const nodes = nodesOf(text);
  const names = nodes.flatMap((node) => (node.kind === "param" ? [node.name.name] : []));
  for (const { kind, span } of nodes) if (kind === "assign") yield put(span, "");
  const expressions = nodes.filter(({ kind }) =>
    ["binary", "call", "unary", "transpose", "recurrence"].includes(kind),
  );
  for (const node of expressions) {
    for (const part of childrenOf(node)) {
      if (isExpression(part))
        yield put(node.span, `(${text.slice(part.span.start, part.span.end)})`);
    }
    for (const name of names) yield put(node.span, name);
    yield put(node.span, "1");
  }
  // Brackets that are left of what was taken away.
  for (const { index, 0: whole, 1: inner } of text.matchAll(/\((\w+|\([^()]*\))\)/g)) {
    if (!/\w/.test(text[index - 1] ?? "")) {
      yield put({ start: index, end: index + whole.length }, inner!);
    }
  }
  // Reads and parameters that could be others, so that fewer are left.
  for (const node of nodes) {
    if (node.kind !== "name") continue;
    for (const name of names) if (name < node.name) yield put(node.span, name);
  }
}

function isExpression({ kind }: NodeAst): boolean {
  return ["number", "name", "unary", "binary", "call", "transpose", "recurrence"].includes(kind);
}

/** The text without parameters and statements that nothing reads. */
function withoutUnused(text: string): string {
  for (const node of nodesOf(text)) {
    const isParam = node.kind === "param";
    if (!isParam && node.kind !== "assign") continue;
    const name = node.name.name;
    const uses = nodesOf(text).filter((one) => one.kind === "name" && one.name === name);
    const isInside = uses.every(
      ({ span }) => span.start >= node.span.start && span.end <= node.span.end,
    );
    if (!isInside) continue;
    const { start, end } = node.span;
    const rest = text.slice(end).replace(isParam ? /^\s*,/ : /^/, "");
    const shorter = text.slice(0, start) + rest;
    return withoutUnused(shorter);
  }
  return text.replaceAll(/\n\s*\n/g, "\n");
}

function nodesOf(text: string): NodeAst[] {
  const file = parseSource({ name: "rule.lasp", text }).value;
  const all: NodeAst[] = [];
  const walk = (node: NodeAst) => {
    all.push(node);
    for (const child of childrenOf(node)) walk(child);
  };
  if (file !== null) walk(file);
  return all;
}

/** Nodes directly inside a node: whatever has a kind. */
function childrenOf(node: object): NodeAst[] {
  return Object.values(node).flatMap((value): NodeAst[] => {
    if (Array.isArray(value)) return value.flatMap((one) => childrenOf({ one }));
    if (typeof value !== "object" || value === null) return [];
    return "kind" in value ? [value as NodeAst] : childrenOf(value);
  });
}
