/**
 * Takes a recurrence apart: composes its statements into S' = decay * S + sum of k v^T, and lifts
 * everything else from one token to all of them.
 *
 * Every value of the body is one of
 *   plain   does not depend on a state: computed for all tokens at once, [K] becomes [T, K]
 *   state   scale * S + sum k_i v_i^T, each part plain: what the transition is classified by
 *   read    q @ (a state value): becomes a scan; what is made from it is plain again
 * A state update that itself uses a read is a dense transition and is reported, as is anything that
 * is not affine in the state.
 */
import type { TensorBuilder } from "./build.ts";
import {
  type DecayAxis,
  type Dim,
  type MatMul,
  type Op,
  type Recurrence,
  type ValueId,
  operands,
  tokenDim,
} from "./ir.ts";
import { logOf } from "./log-decay.ts";
import { originOf } from "./rewrite.ts";

/** Thrown inside this file only, and turned into `AffineFailure` at its door. */
class NotAffine extends Error {
  readonly op: Op;
  readonly code: string;
  constructor(op: Op, code: string, message: string) {
    super(message);
    this.op = op;
    this.code = code;
  }
}

export interface AffineFailure {
  readonly code: string;
  readonly op: Op;
  readonly why: string;
}

export type AffineResult =
  /** New values of the recurrence's yields, [T, ...] each. */
  | { readonly ok: true; readonly yields: readonly ValueId[]; readonly classes: readonly string[] }
  | { readonly ok: false; readonly failure: AffineFailure };

interface Update {
  readonly k: ValueId;
  readonly v: ValueId;
}
/** scale * S + sum k v^T. Scales keep the state axis they vary along; values are lifted. */
interface StateForm {
  readonly state: number;
  readonly scales: readonly { readonly value: ValueId; readonly axis: DecayAxis }[];
  readonly updates: readonly Update[];
}

/**
 * `outer` gives the new value of what the body reads from outside. Scans are added to `build`.
 */
export function liftRecurrence(
  build: TensorBuilder,
  recurrence: Recurrence,
  outer: (id: ValueId) => ValueId,
  stateName: (wanted: string) => string,
): AffineResult {
  try {
    const lifter = new Lifter(build, recurrence, outer, stateName);
    const yields = recurrence.yields.map((id) => lifter.liftTokens(id));
    return { ok: true, yields, classes: lifter.classes() };
  } catch (error) {
    if (!(error instanceof NotAffine)) throw error;
    return { ok: false, failure: { code: error.code, op: error.op, why: error.message } };
  }
}

class Lifter {
  private readonly ops = new Map<ValueId, Op>();
  private readonly lifted = new Map<ValueId, ValueId>();
  private readonly forms = new Map<ValueId, StateForm>();
  private readonly tainted = new Set<ValueId>();
  private readonly carries: readonly StateForm[];
  private readonly decays: readonly { axis: DecayAxis; log: ValueId | null }[];
  private readonly names = new Map<string, string>();
  private readonly build: TensorBuilder;
  private readonly recurrence: Recurrence;
  private readonly outer: (id: ValueId) => ValueId;
  private readonly stateName: (wanted: string) => string;

  constructor(
    build: TensorBuilder,
    recurrence: Recurrence,
    outer: (id: ValueId) => ValueId,
    stateName: (wanted: string) => string,
  ) {
    this.build = build;
    this.recurrence = recurrence;
    this.outer = outer;
    this.stateName = stateName;
    recurrence.region.params.forEach((param, state) => {
      this.tainted.add(param.id);
      this.forms.set(param.id, { state, scales: [], updates: [] });
    });
    for (const op of recurrence.region.ops) {
      this.ops.set(op.id, op);
      if (operands(op).some((id) => this.tainted.has(id))) this.tainted.add(op.id);
    }
    this.carries = recurrence.carries.map((id, state) => {
      const form = this.form(id, this.ops.get(id) ?? recurrence);
      if (form.state !== state) {
        throw this.fail(recurrence, "unsupported-transition", "a state becomes another state");
      }
      return form;
    });
    this.decays = this.carries.map((form, state) => this.decay(form, state));
  }

  /** One line for each state: what its transition is. */
  classes(): string[] {
    return this.recurrence.region.params.map((param, i) => {
      const { axis, log } = this.decays[i]!;
      const perToken = log !== null && this.build.shapeOf(log)[0] === tokenDim;
      if (axis === "none") return `${param.name}: identity`;
      const where = axis === "scalar" ? "scalar" : `diagonal over the ${axis} axis`;
      return `${param.name}: ${where}, ${perToken ? "per token" : "constant"}`;
    });
  }

  /** The value of a yield for all tokens, [T, ...] even when it is the same at each. */
  liftTokens(id: ValueId): ValueId {
    const value = this.lift(id);
    if (this.isPerToken(value)) return value;
    const ones = this.build.const(1, [tokenDim, ...this.build.shapeOf(value)]);
    return this.build.mul(ones, value);
  }

  private isPerToken(value: ValueId): boolean {
    return this.build.shapeOf(value)[0] === tokenDim;
  }

  private fail(op: Op, code: string, message: string): NotAffine {
    return new NotAffine(op, code, message);
  }

  /** The log decay of a state's own update. */
  private decay(form: StateForm, state: number): { axis: DecayAxis; log: ValueId | null } {
    const axes = new Set(form.scales.map((scale) => scale.axis));
    if (axes.has("key") && axes.has("value")) {
      const why = "the state decays along both of its axes at once";
      throw this.fail(this.update(state), "unsupported-transition", why);
    }
    let log: ValueId | null = null;
    for (const { value } of form.scales) {
      const next = logOf(this.build, value);
      if (next === null) {
        const why = "the decay of the state is not known to be positive";
        throw this.fail(this.update(state), "unsupported-decay-sign", why);
      }
      log = log === null ? next : this.build.map("add", [log, next]);
    }
    const axis = axes.has("key") ? "key" : axes.has("value") ? "value" : "scalar";
    return { axis: log === null ? "none" : axis, log };
  }

  private update(state: number): Op {
    return this.ops.get(this.recurrence.carries[state]!) ?? this.recurrence;
  }

  private form(id: ValueId, reader: Op): StateForm {
    const known = this.forms.get(id);
    if (known) return known;
    const op = this.ops.get(id);
    if (!op || !this.tainted.has(id)) {
      throw this.fail(op ?? reader, "unsupported-transition", "the new state forgets the old one");
    }
    const form = this.composed(op);
    this.forms.set(id, form);
    return form;
  }

  private composed(op: Op): StateForm {
    const nonlinear = (why: string) => this.fail(op, "unsupported-transition", why);
    if (op.kind !== "map") throw nonlinear(`\`${op.kind}\` of a state is not an affine update`);
    const [a, b] = op.args as [ValueId, ValueId];
    const [inA, inB] = [this.isState(a), b !== undefined && this.isState(b)];
    switch (op.fn) {
      case "mul":
        if (inA && inB)
          throw nonlinear("the update is not affine: it multiplies a state by a state");
        return inA ? this.scaled(a, b, op) : this.scaled(b, a, op);
      case "div":
        if (inB) throw nonlinear("the update is not affine: it divides by a state");
        return this.scaled(a, b, op, "recip");
      case "neg":
        throw this.fail(op, "unsupported-decay-sign", "the update flips the sign of the state");
      case "add":
      case "sub": {
        if (inA && inB) throw nonlinear("the update adds two copies of a state");
        if (inB && op.fn === "sub") {
          throw this.fail(op, "unsupported-decay-sign", "the update flips the sign of the state");
        }
        const form = this.form(inA ? a : b, op);
        const updates = this.outers(inA ? b : a, op);
        const signed = op.fn === "sub" ? updates.map((u) => this.negated(u, op)) : updates;
        return { ...form, updates: [...form.updates, ...signed] };
      }
      default:
        throw nonlinear(`the update is not affine: \`${op.fn}\` of a state`);
    }
  }

  /** Is this value a state (scaled, updated), as opposed to something read out of one? */
  private isState(id: ValueId): boolean {
    if (!this.tainted.has(id)) return false;
    const op = this.ops.get(id);
    if (!op) return true;
    if (op.kind === "matmul" || op.kind === "outer") return false;
    return operands(op).some((arg) => this.isState(arg));
  }

  private axisOf(factor: ValueId, state: number): DecayAxis {
    const shape = this.regionShape(factor);
    if (shape.length === 0) return "scalar";
    const [key, value] = this.recurrence.region.params[state]!.type.shape;
    if (shape.length === 1 && shape[0] === key) return "key";
    return shape.length === 1 && shape[0] === value ? "value" : "none";
  }

  private scaled(state: ValueId, factor: ValueId, op: Op, inverse?: "recip"): StateForm {
    const form = this.form(state, op);
    const axis = this.axisOf(factor, form.state);
    if (axis === "none") {
      const why = "the state is scaled by a whole matrix";
      throw this.fail(op, "unsupported-transition", why);
    }
    const plain = this.plain(factor, op);
    const value = inverse ? this.build.map(inverse, [plain], originOf(op)) : plain;
    return {
      ...form,
      scales: [...form.scales, { value, axis }],
      updates: form.updates.map(({ k, v }) =>
        axis === "value"
          ? { k, v: this.build.mul(v, value, originOf(op)) }
          : { k: this.build.mul(k, value, originOf(op)), v },
      ),
    };
  }

  private negated({ k, v }: Update, op: Op): Update {
    return { k, v: this.build.map("neg", [v], originOf(op)) };
  }

  /** A plain matrix as a sum of outer products. */
  private outers(id: ValueId, reader: Op): Update[] {
    const op = this.ops.get(id);
    const fail = (why: string) => this.fail(op ?? reader, "unsupported-transition", why);
    if (op?.kind === "outer") {
      return [{ k: this.tokens(op.lhs, op), v: this.tokens(op.rhs, op) }];
    }
    if (op?.kind === "map") {
      const [a, b] = op.args as [ValueId, ValueId];
      switch (op.fn) {
        case "add":
          return [...this.outers(a, op), ...this.outers(b, op)];
        case "sub":
          return [...this.outers(a, op), ...this.outers(b, op).map((u) => this.negated(u, op))];
        case "neg":
          return this.outers(a, op).map((u) => this.negated(u, op));
        case "mul":
        case "div": {
          const matrixFirst = this.regionShape(a).length === 2;
          if (!matrixFirst && op.fn === "div") throw fail("it divides by a matrix");
          const [matrix, factor] = matrixFirst ? [a, b] : [b, a];
          const shape = this.regionShape(factor);
          const value = this.plain(factor, op);
          const scale = (x: ValueId) => this.build.map(op.fn as "mul" | "div", [x, value]);
          return this.outers(matrix, op).map(({ k, v }) => {
            const rows = this.regionShape(matrix)[0];
            if (shape.length === 0 || (shape.length === 1 && shape[0] === rows)) {
              return { k: scale(k), v };
            }
            if (shape.length === 1) return { k, v: scale(v) };
            throw fail("it multiplies two matrices elementwise");
          });
        }
        default:
      }
    }
    throw fail("what is added to the state is not a sum of outer products");
  }

  /** A [K] or [V] value of the token as [T, ...]. */
  private tokens(id: ValueId, op: Op): ValueId {
    if (this.tainted.has(id)) this.plain(id, op);
    return this.liftTokens(id);
  }

  /** The lifted value of something that must not depend on a state. */
  private plain(id: ValueId, op: Op): ValueId {
    if (this.tainted.has(id)) {
      const why =
        "the update reads the state it updates (a dense transition), which is not compiled yet";
      throw this.fail(this.reading(id) ?? op, "unsupported-transition", why);
    }
    return this.lift(id);
  }

  /** The op that reads a state, somewhere above `id`. */
  private reading(id: ValueId): Op | null {
    const op = this.ops.get(id);
    if (!op || op.kind === "matmul") return op ?? null;
    const next = operands(op).find((arg) => this.tainted.has(arg));
    return next === undefined ? op : (this.reading(next) ?? op);
  }

  private regionShape(id: ValueId): readonly Dim[] {
    const op = this.ops.get(id);
    if (op) return op.type.shape;
    const param = this.recurrence.region.params.find((p) => p.id === id);
    return param ? param.type.shape : this.build.shapeOf(this.outer(id));
  }

  private lift(id: ValueId): ValueId {
    const known = this.lifted.get(id);
    if (known !== undefined) return known;
    const op = this.ops.get(id);
    if (!op && this.tainted.has(id)) {
      throw this.fail(
        this.recurrence,
        "unsupported-read",
        "a whole state per token is not a result",
      );
    }
    const value = op ? this.liftOp(op) : this.outer(id);
    this.lifted.set(id, value);
    return value;
  }

  private liftOp(op: Op): ValueId {
    const { build } = this;
    const origin = originOf(op);
    if (this.isState(op.id)) {
      throw this.fail(op, "unsupported-read", "a state is used without a query: write q @ S");
    }
    switch (op.kind) {
      case "rows":
        return this.outer(op.arg);
      case "const":
      case "dim-size":
      case "iota": {
        const { id: _id, type, name, span, ...draft } = op;
        return build.add(draft, { name, span }, type);
      }
      case "map":
        return build.map(
          op.fn,
          op.args.map((arg) => this.lift(arg)),
          origin,
        );
      case "reduce": {
        const arg = this.lift(op.arg);
        const axis = op.axis + (this.isPerToken(arg) ? 1 : 0);
        return build.add({ kind: "reduce", fn: op.fn, arg, axis }, origin);
      }
      case "rotate-half":
        return build.add({ kind: "rotate-half", arg: this.lift(op.arg) }, origin);
      case "transpose":
        return build.transpose(this.lift(op.arg), origin);
      case "matmul":
        return this.liftMatmul(op);
      default: {
        const why = `\`${op.kind}\` cannot stand in a recurrence here`;
        throw this.fail(op, "unsupported-read", why);
      }
    }
  }

  private liftMatmul(op: MatMul): ValueId {
    const { build } = this;
    const origin = originOf(op);
    if (this.isState(op.rhs)) return this.read(this.lift(op.lhs), op.rhs, op);
    if (this.isState(op.lhs)) {
      const lhs = this.ops.get(op.lhs);
      if (lhs?.kind === "transpose") return this.read(this.lift(op.rhs), lhs.arg, op);
      throw this.fail(op, "unsupported-read", "the state is read along its value axis (S @ x)");
    }
    const [a, b] = [this.lift(op.lhs), this.lift(op.rhs)];
    const [tokensA, tokensB] = [this.isPerToken(a), this.isPerToken(b)];
    if (!tokensA && !tokensB) return build.matmul(a, b, origin);
    const [rankA, rankB] = [op.lhs, op.rhs].map((id) => this.regionShape(id).length);
    if (rankA === 1 && rankB === 1) {
      const product = build.mul(a, b, origin);
      return build.add({ kind: "reduce", fn: "sum", arg: product, axis: 1 }, origin);
    }
    if (tokensA && !tokensB && rankA === 1) return build.matmul(a, b, origin);
    if (tokensB && !tokensA && rankB === 1) return build.matmul(b, build.transpose(a), origin);
    throw this.fail(op, "unsupported-read", "a matrix that differs for each token is not built");
  }

  /** q @ (state value), as a sum of scans, plus what this token added since. */
  private read(query: ValueId, stateValue: ValueId, op: Op): ValueId {
    const { build } = this;
    const form = this.form(stateValue, op);
    const carry = this.carries[form.state]!;
    const after =
      form.scales.length === carry.scales.length && form.updates.length === carry.updates.length;
    const q = this.isPerToken(query)
      ? query
      : build.mul(build.const(1, [tokenDim, ...build.shapeOf(query)]), query);
    if (after) return this.scans(q, form.state, "after", op);
    let keyed = q;
    for (const { value, axis } of form.scales) {
      if (axis !== "value") keyed = build.mul(keyed, value, originOf(op));
    }
    let out = this.scans(keyed, form.state, "before", op);
    for (const { value, axis } of form.scales) {
      if (axis === "value") out = build.mul(out, value, originOf(op));
    }
    for (const { k, v } of form.updates) {
      const product = build.mul(q, k, originOf(op));
      const weight = build.add({ kind: "reduce", fn: "sum", arg: product, axis: 1 }, originOf(op));
      out = build.map("add", [out, build.mul(v, weight, originOf(op))], originOf(op));
    }
    return out;
  }

  private scans(q: ValueId, state: number, read: "after" | "before", op: Op): ValueId {
    const { build } = this;
    const param = this.recurrence.region.params[state]!;
    const { axis, log } = this.decays[state]!;
    if (param.type.shape.length !== 2) {
      throw this.fail(op, "unsupported-transition", "a state that is not a matrix");
    }
    const [key, value] = param.type.shape as [Dim, Dim];
    const updates = this.carries[state]!.updates;
    const zeros = { k: build.const(0, [tokenDim, key]), v: build.const(0, [tokenDim, value]) };
    const parts = (updates.length > 0 ? updates : [zeros]).map(({ k, v }, i) =>
      build.add(
        {
          kind: "scan",
          state: this.nameOf(param.name, i),
          q,
          k,
          v,
          logDecay: log,
          initial: null,
          axis,
          read,
          reverse: this.recurrence.reverse,
          causal: true,
        },
        originOf(op),
      ),
    );
    return parts.reduce((sum, part) => build.map("add", [sum, part], originOf(op)));
  }

  /** Two reads of one state share its name; each further update of a state has a name of its own. */
  private nameOf(state: string, part: number): string {
    const key = `${state}/${part}`;
    const known = this.names.get(key) ?? this.stateName(state);
    this.names.set(key, known);
    return known;
  }
}
