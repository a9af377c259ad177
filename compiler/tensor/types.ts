/** The one rule for result types: builder, verifier and reader all ask here. */
import { CompilerBug, assertNever } from "../support/never.ts";
import {
  type Dim,
  type Op,
  type RegionKind,
  type TensorType,
  type ValueId,
  type Write,
  chunkCountDim,
  pieceDim,
  pieceOf,
  chunkDim,
  tokenDim,
} from "./ir.ts";

/** An op without what the builder gives it. Leaves carry their type, all others get it computed. */
export type OpDraft = OmitEach<Op, "id" | "type" | "name" | "span">;
type OmitEach<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;

export const scalarType: TensorType = { shape: [] };

export function sameShape(a: readonly Dim[], b: readonly Dim[]): boolean {
  return a.length === b.length && a.every((dim, i) => dim === b[i]);
}

/** Is `part` a subsequence of `whole`? Then a value of shape `part` broadcasts into `whole`. */
export function broadcastsInto(part: readonly Dim[], whole: readonly Dim[]): boolean {
  let at = 0;
  for (const dim of whole) if (at < part.length && part[at] === dim) at++;
  return at === part.length;
}

/** The shape of a `map`: the operand shape every other one broadcasts into; null when there is none. */
export function broadcastShape(shapes: readonly (readonly Dim[])[]): readonly Dim[] | null {
  let whole: readonly Dim[] = [];
  for (const shape of shapes) if (shape.length > whole.length) whole = shape;
  if (shapes.every((shape) => broadcastsInto(shape, whole))) return whole;
  // [T] with [K]: neither holds the other; the only other order is token-like dims first.
  const [a, b] = shapes.filter((shape) => shape.length === 1);
  const tokens: readonly Dim[] = [tokenDim, chunkDim];
  if (whole.length === 1 && a && b) {
    const pair = tokens.includes(a[0]!) ? [...a, ...b] : [...b, ...a];
    if (tokens.includes(pair[0]!) && shapes.every((s) => broadcastsInto(s, pair))) return pair;
  }
  return null;
}

/**
 * The type of `draft`; `given` is the type a leaf (input, const, iota, token-index) states itself.
 * Throws CompilerBug on operands that do not fit: after `check`, that is never the user's mistake.
 */
export function resultType(
  draft: OpDraft,
  typeOf: (id: ValueId) => TensorType,
  region: RegionKind | null,
  given: TensorType | null,
): TensorType {
  const fail = (why: string): never => {
    throw new CompilerBug(`${draft.kind}: ${why}`);
  };
  const shape = (id: ValueId) => typeOf(id).shape;
  const of = (...dims: Dim[]): TensorType => ({ shape: dims });
  switch (draft.kind) {
    case "input":
    case "const":
    case "iota":
    case "token-index":
      return given ?? fail("needs a type");
    case "dim-size":
    case "recurrence":
    case "chunks":
      return scalarType;
    case "map": {
      const whole = broadcastShape(draft.args.map(shape));
      return whole ? { shape: whole } : fail(`cannot broadcast ${show(draft.args.map(shape))}`);
    }
    case "reduce": {
      const arg = shape(draft.arg);
      if (draft.axis < 0 || draft.axis >= arg.length) fail(`no axis ${draft.axis}`);
      return { shape: arg.filter((_, i) => i !== draft.axis) };
    }
    case "rotate-half":
    case "cumsum":
    case "invert":
      return typeOf(draft.arg);
    case "matmul": {
      const [lhs, rhs] = [shape(draft.lhs), shape(draft.rhs)];
      if (lhs.length === 0 || rhs.length === 0 || lhs.at(-1) !== rhs[0]) {
        fail(`inner dims differ: ${show([lhs, rhs])}`);
      }
      return of(...lhs.slice(0, -1), ...rhs.slice(1));
    }
    case "outer":
      return of(...shape(draft.lhs), ...shape(draft.rhs));
    case "transpose":
      return of(...[...shape(draft.arg)].reverse());
    case "causal":
    case "block-mask": {
      const dim = region === "chunks" ? chunkDim : tokenDim;
      return of(dim, dim);
    }
    case "solve":
      return typeOf(draft.rhs);
    case "scan":
      return of(shape(draft.q)[0]!, ...shape(draft.writes[0]!.v).slice(1));
    case "scan-state": {
      const [{ k, v }] = draft.writes as [Write];
      const state = [shape(k)[1]!, shape(v)[1]!];
      return of(...(draft.every === null ? state : [pieceDim(draft.every), ...state]));
    }
    case "delta":
      return typeOf(draft.writes[draft.index]!.v);
    case "result":
      return given ?? fail("needs a type");
    case "rows": {
      const arg = shape(draft.arg);
      const isStack = arg[0] === chunkCountDim || pieceOf(arg[0]) !== null;
      if (region === "chunks" && isStack) return of(...arg.slice(1));
      if (arg[0] !== tokenDim) fail(`${show([arg])} has no token axis`);
      if (region === "chunks") return of(chunkDim, ...arg.slice(1));
      return region === "recurrence" ? of(...arg.slice(1)) : fail("stands outside a region");
    }
    default:
      return assertNever(draft);
  }
}

function show(shapes: readonly (readonly Dim[])[]): string {
  return shapes.map((shape) => `[${shape.join(", ")}]`).join(" and ");
}
