/**
 * Takes a recurrence apart: composes its statements into the affine scan, and lifts everything else from
 * one token to all of them.
 *
 * Every value of the body is one of
 *   plain   does not depend on a state: computed for all tokens at once, [K] becomes [T, K]
 *   state   scale * S + sum k_i w_i^T: what the transition is classified by
 *   read    q @ (a state value): a scan, or inside an update of the same state a linear form
 *
 * A written value w is a linear form  v + e^T S_{t-1} + sum of c w_j  (w_j: what earlier statements of
 * the token wrote). Where no write has an e, the transition is the scale alone: identity, scalar or
 * diagonal. Otherwise it is scale + sum k_i e_i^T, diagonal plus rank r, and the w are the results of
 * `delta` ops. A read before the decay or after it, two Householder steps, erase and
 * write gates: all come down to the same three coefficients.
 *
 * Whatever is not of this form is reported at the statement that breaks it.
 * Sources: DeltaNet in chunks, arXiv 2406.06484; Gated DeltaNet, 2412.06464; DeltaProduct, 2502.10297.
 */
import type { TensorBuilder } from "./build.ts";
import {
  type DecayAxis,
  type Delta,
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
/** Of a decay or a gate that is a function of the state. */
const decayOfInputs =
  "let a decay depend on inputs alone: `exp(g)` with a parameter `g: [T] in (-inf, 0]`";

class NotAffine extends Error {
  readonly op: Op;
  readonly code: AffineFailure["code"];
  readonly help: string | null;
  constructor(op: Op, code: AffineFailure["code"], message: string, help: string | null) {
    super(message);
    this.op = op;
    this.code = code;
    this.help = help;
  }
}

export interface AffineFailure {
  readonly code: "unsupported-transition" | "unsupported-decay-sign" | "unsupported-read";
  readonly op: Op;
  readonly why: string;
  /** What to write instead, where more is known than of all such failures. */
  readonly help: string | null;
}

export type AffineResult =
  /** New values of the recurrence's yields, [T, ...] each. */
  | { readonly ok: true; readonly yields: readonly ValueId[]; readonly classes: readonly string[] }
  | { readonly ok: false; readonly failure: AffineFailure };

/** v + erase^T S_{t-1} + sum of scale w(source): a value of the V axis, linear in one state. */
interface Linear {
  readonly plain: ValueId | null;
  readonly erase: ValueId | null;
  readonly of: ReadonlyMap<Source, ValueId>;
}
/** What a statement writes along the V axis; the same object wherever the write is carried on. */
interface Source {
  readonly value: Linear;
}
interface Update {
  readonly k: ValueId;
  readonly source: Source;
}
/** scale * S_{t-1} + sum k w^T. Scales keep the state axis they vary along; values are lifted. */
interface StateForm {
  readonly state: number;
  readonly scales: readonly { readonly value: ValueId; readonly axis: DecayAxis }[];
  readonly updates: readonly Update[];
}
interface Decay {
  readonly axis: DecayAxis;
  readonly log: ValueId | null;
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
    const { code, op, message: why, help } = error;
    return { ok: false, failure: { code, op, why, help } };
  }
}

class Lifter {
  private readonly ops = new Map<ValueId, Op>();
  private readonly lifted = new Map<ValueId, ValueId>();
  private readonly forms = new Map<ValueId, StateForm>();
  /** The states each value depends on. */
  private readonly depends = new Map<ValueId, ReadonlySet<number>>();
  private readonly carries = new Map<number, StateForm | "under way">();
  private readonly decays = new Map<number, Decay>();
  private readonly written = new Map<Source, ValueId>();
  private readonly names: readonly string[];
  private readonly build: TensorBuilder;
  private readonly recurrence: Recurrence;
  private readonly outer: (id: ValueId) => ValueId;

  constructor(
    build: TensorBuilder,
    recurrence: Recurrence,
    outer: (id: ValueId) => ValueId,
    stateName: (wanted: string) => string,
  ) {
    this.build = build;
    this.recurrence = recurrence;
    this.outer = outer;
    const { params, ops } = recurrence.region;
    params.forEach((param, state) => {
      this.depends.set(param.id, new Set([state]));
      this.forms.set(param.id, { state, scales: [], updates: [] });
    });
    for (const given of ops) {
      const op = this.asProduct(given);
      this.ops.set(op.id, op);
      const reads = operands(op).flatMap((id) => [...this.statesOf(id)]);
      if (reads.length > 0) this.depends.set(op.id, new Set(reads));
    }
    this.names = params.map(({ name }) => stateName(name));
    params.forEach((_, state) => this.decay(state));
  }

  /** The sum of a vector state times other numbers is a product of both: sum(q * n) is q @ n. */
  private asProduct(op: Op): Op {
    const times = op.kind === "reduce" && op.fn === "sum" ? this.ops.get(op.arg) : undefined;
    if (times?.kind !== "map" || times.fn !== "mul") return op;
    const [a, b] = times.args as [ValueId, ValueId];
    const areVectors = [a, b].every((id) => this.regionShape(id).length === 1);
    if (!areVectors || this.isState(a) === this.isState(b)) return op;
    const [lhs, rhs] = this.isState(b) ? [a, b] : [b, a];
    const { id, type, name, span } = op;
    return { kind: "matmul", lhs, rhs, id, type, name, span };
  }

  /** One line for each state: what its transition is. */
  classes(): string[] {
    return this.recurrence.region.params.map((param, state) => {
      const { axis, log } = this.decay(state);
      const perToken = log !== null && this.build.shapeOf(log)[0] === tokenDim;
      const scale =
        axis === "none"
          ? "identity"
          : `${axis === "scalar" ? "scalar" : `diagonal over the ${axis} axis`}, ` +
            (perToken ? "per token" : "constant");
      const rank = this.carry(state).updates.filter(({ source }) => this.readsState(source)).length;
      return `${param.name}: ${scale}${rank > 0 ? `, plus rank ${rank}` : ""}`;
    });
  }

  /** The value of a yield for all tokens, [T, ...] even when it is the same at each. */
  liftTokens(id: ValueId): ValueId {
    return this.perToken(this.lift(id));
  }

  private perToken(value: ValueId): ValueId {
    if (this.isPerToken(value)) return value;
    const ones = this.build.const(1, [tokenDim, ...this.build.shapeOf(value)]);
    return this.build.mul(ones, value);
  }

  private isPerToken(value: ValueId): boolean {
    return this.build.shapeOf(value)[0] === tokenDim;
  }

  private statesOf(id: ValueId): ReadonlySet<number> {
    return this.depends.get(id) ?? new Set();
  }

  private fail(
    op: Op,
    code: AffineFailure["code"],
    message: string,
    help: string | null = null,
  ): NotAffine {
    return new NotAffine(op, code, message, help);
  }

  // --- a state's own update -----------------------------------------------------------------

  /** The form of a state after the token. */
  private carry(state: number): StateForm {
    const known = this.carries.get(state);
    if (known === "under way") {
      const why = "two states are updated from each other in the same token";
      throw this.fail(this.update(state), "unsupported-transition", why);
    }
    if (known) return known;
    this.carries.set(state, "under way");
    const form = this.form(this.recurrence.carries[state]!, this.update(state));
    if (form.state !== state) {
      const why = "a state becomes another state";
      throw this.fail(this.recurrence, "unsupported-transition", why);
    }
    this.carries.set(state, form);
    return form;
  }

  /** The log decay of a state's own update. */
  private decay(state: number): Decay {
    const known = this.decays.get(state);
    if (known) return known;
    const { build } = this;
    const form = this.carry(state);
    const axes = new Set(form.scales.map((scale) => scale.axis));
    if (axes.has("key") && axes.has("value")) {
      const why = "the state decays along both of its axes at once";
      throw this.fail(this.update(state), "unsupported-transition", why);
    }
    let log: ValueId | null = null;
    for (const { value } of form.scales) {
      const next = logOf(build, value);
      if (next === null) {
        const why = "the decay of the state is not known to be positive";
        throw this.fail(this.update(state), "unsupported-decay-sign", why);
      }
      log = log === null ? next : build.map("add", [log, next]);
    }
    const along: DecayAxis = axes.has("key") ? "key" : axes.has("value") ? "value" : "scalar";
    if (along === "value" && form.updates.some(({ source }) => this.readsState(source))) {
      const why = "a state that is read by its own update cannot also decay along its value axis";
      throw this.fail(this.update(state), "unsupported-transition", why);
    }
    if (log !== null && along !== "scalar") log = this.perToken(log);
    const decay: Decay = { axis: log === null ? "none" : along, log };
    this.decays.set(state, decay);
    return decay;
  }

  private update(state: number): Op {
    return this.ops.get(this.recurrence.carries[state]!) ?? this.recurrence;
  }

  private form(id: ValueId, reader: Op): StateForm {
    const known = this.forms.get(id);
    if (known) return known;
    const op = this.ops.get(id);
    if (!op || !this.isState(id)) {
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
        if (inA && inB) {
          const why = "the update is not affine: it multiplies a state by a state";
          throw this.fail(op, "unsupported-transition", why, decayOfInputs);
        }
        return inA ? this.scaled(a, b, op) : this.scaled(b, a, op);
      case "div":
        if (inB) throw nonlinear("the update is not affine: it divides by a state");
        return this.scaled(a, b, op, "recip");
      case "neg":
        throw this.fail(op, "unsupported-decay-sign", "the update flips the sign of the state");
      case "add":
      case "sub": {
        if (inA && inB) {
          const isOther = [...this.statesOf(a)].some((state) => !this.statesOf(b).has(state));
          const what = isOther ? "one state to another" : "two copies of a state";
          throw nonlinear(`the update adds ${what}`);
        }
        if (inB && op.fn === "sub") {
          throw this.fail(op, "unsupported-decay-sign", "the update flips the sign of the state");
        }
        const form = this.form(inA ? a : b, op);
        const updates = this.outers(inA ? b : a, form.state, op);
        const signed = op.fn === "sub" ? updates.map((u) => this.negated(u, op)) : updates;
        return { ...form, updates: [...form.updates, ...signed] };
      }
      default:
        throw nonlinear(`the update is not affine: \`${op.fn}\` of a state`);
    }
  }

  /** Is this value a state (scaled, updated), as opposed to something read out of one? */
  private isState(id: ValueId): boolean {
    if (this.statesOf(id).size === 0) return false;
    const op = this.ops.get(id);
    if (!op) return true;
    if (op.kind === "matmul" || op.kind === "outer") return false;
    return operands(op).some((arg) => this.isState(arg));
  }

  private axisOf(factor: ValueId, state: number): DecayAxis {
    const shape = this.regionShape(factor);
    if (shape.length === 0) return "scalar";
    const [key, value] = this.stateShape(state);
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
    const plain = this.plain(factor, form.state, op);
    const value = inverse ? this.build.map(inverse, [plain], originOf(op)) : plain;
    const updates = form.updates.map(({ k, source }) =>
      axis === "value"
        ? { k, source: this.scaledByChannel(source, value, op) }
        : { k: this.build.mul(k, value, originOf(op)), source },
    );
    return { ...form, scales: [...form.scales, { value, axis }], updates };
  }

  private scaledByChannel({ value }: Source, factor: ValueId, op: Op): Source {
    if (value.erase !== null || value.of.size > 0) {
      const why = "what is read from the state is scaled along its value axis before it is written";
      throw this.fail(op, "unsupported-transition", why);
    }
    return { value: { ...value, plain: this.build.mul(value.plain!, factor, originOf(op)) } };
  }

  private negated({ k, source }: Update, op: Op): Update {
    return { k: this.build.map("neg", [k], originOf(op)), source };
  }

  /** Key and value dims of a state; a vector is a matrix of one column. */
  private stateShape(state: number): readonly [Dim, Dim] {
    const [key, value = 1] = this.recurrence.region.params[state]!.type.shape;
    return [key!, value];
  }

  private isVector(state: number): boolean {
    return this.recurrence.region.params[state]!.type.shape.length === 1;
  }

  /** What is added to a state, as a sum of outer products. */
  private outers(id: ValueId, state: number, reader: Op): Update[] {
    if (this.isVector(state)) {
      const k = this.perToken(this.plain(id, state, reader));
      const plain = this.build.const(1, [tokenDim, 1]);
      return [{ k, source: { value: { plain, erase: null, of: new Map() } } }];
    }
    const op = this.ops.get(id);
    const fail = (why: string) => this.fail(op ?? reader, "unsupported-transition", why);
    if (op?.kind === "outer") {
      const k = this.perToken(this.plain(op.lhs, state, op));
      return [{ k, source: { value: this.linear(op.rhs, state, op) } }];
    }
    if (op?.kind === "map") {
      const [a, b] = op.args as [ValueId, ValueId];
      const outers = (arg: ValueId) => this.outers(arg, state, op);
      switch (op.fn) {
        case "add":
          return [...outers(a), ...outers(b)];
        case "sub":
          return [...outers(a), ...outers(b).map((u) => this.negated(u, op))];
        case "neg":
          return outers(a).map((u) => this.negated(u, op));
        case "mul":
        case "div": {
          const matrixFirst = this.regionShape(a).length === 2;
          if (!matrixFirst && op.fn === "div") throw fail("it divides by a matrix");
          const [matrix, factor] = matrixFirst ? [a, b] : [b, a];
          const [shape, rows] = [this.regionShape(factor), this.regionShape(matrix)[0]];
          if (shape.length > 1) throw fail("it multiplies two matrices elementwise");
          const plain = this.plain(factor, state, op);
          const value = op.fn === "div" ? this.build.map("recip", [plain]) : plain;
          return outers(matrix).map(({ k, source }) =>
            shape.length === 0 || shape[0] === rows
              ? { k: this.build.mul(k, value, originOf(op)), source }
              : { k, source: this.scaledByChannel(source, value, op) },
          );
        }
        default:
      }
    }
    throw fail("what is added to the state is not a sum of outer products");
  }

  // --- linear forms -------------------------------------------------------------------------

  /** A value along the V axis as a linear form of the state before the token. */
  private linear(id: ValueId, state: number, reader: Op): Linear {
    if (!this.statesOf(id).has(state)) {
      return { plain: this.perToken(this.lift(id)), erase: null, of: new Map() };
    }
    const op = this.ops.get(id);
    const fail = (why: string) =>
      this.fail(op ?? reader, "unsupported-transition", `the update is not affine: ${why}`);
    if (op?.kind === "matmul") return this.linearRead(op, state);
    if (op?.kind !== "map") throw fail(`\`${op?.kind ?? "this"}\` of what is read from the state`);
    const origin = originOf(op);
    const [a, b] = op.args as [ValueId, ValueId];
    switch (op.fn) {
      case "neg":
        return this.scaledLinear(this.linear(a, state, op), this.build.const(-1), op);
      case "add":
      case "sub": {
        if (op.args.some((arg) => this.regionShape(arg).length !== op.type.shape.length)) {
          throw fail("it adds a number to what is read from the state");
        }
        const [x, y] = [this.linear(a, state, op), this.linear(b, state, op)];
        return this.sum(
          x,
          op.fn === "add" ? y : this.scaledLinear(y, this.build.const(-1), op),
          op,
        );
      }
      case "mul":
      case "div": {
        const [inA, inB] = [this.statesOf(a).has(state), this.statesOf(b).has(state)];
        if (inB && (inA || op.fn === "div"))
          throw fail("it is a product of two reads of the state");
        const [read, factor] = inA ? [a, b] : [b, a];
        if (this.regionShape(factor).length > 0) {
          const why = "what is read from the state is scaled along its value axis";
          throw this.fail(op, "unsupported-transition", why);
        }
        const plain = this.lift(factor);
        const value = op.fn === "div" ? this.build.map("recip", [plain], origin) : plain;
        return this.scaledLinear(this.linear(read, state, op), value, op);
      }
      default:
        throw fail(`\`${op.fn}\` of what is read from the state`);
    }
  }

  private scaledLinear({ plain, erase, of }: Linear, factor: ValueId, op: Op): Linear {
    const times = (x: ValueId) => this.build.mul(x, factor, originOf(op));
    return {
      plain: plain === null ? null : times(plain),
      erase: erase === null ? null : times(erase),
      of: new Map([...of].map(([source, scale]) => [source, times(scale)])),
    };
  }

  private sum(x: Linear, y: Linear, op: Op): Linear {
    const add = (a: ValueId | null, b: ValueId | null) =>
      a === null ? b : b === null ? a : this.build.map("add", [a, b], originOf(op));
    const of = new Map(x.of);
    for (const [source, scale] of y.of) of.set(source, add(of.get(source) ?? null, scale)!);
    return { plain: add(x.plain, y.plain), erase: add(x.erase, y.erase), of };
  }

  /** x @ (a value of the state), as a linear form. */
  private linearRead(op: MatMul, state: number): Linear {
    const { build } = this;
    const origin = originOf(op);
    const [query, stateValue] = this.readOf(op);
    const form = this.form(stateValue, op);
    if (form.scales.some(({ axis }) => axis === "value")) {
      const why = "a state that is read by its own update cannot also decay along its value axis";
      throw this.fail(op, "unsupported-transition", why);
    }
    const q = this.perToken(this.plain(query, state, op));
    const erase = form.scales.reduce((x, { value }) => build.mul(x, value, origin), q);
    let linear: Linear = { plain: null, erase, of: new Map() };
    for (const { k, source } of form.updates) {
      linear = this.sum(linear, this.scaledSource(source, this.dot(q, k, op), op), op);
    }
    return linear;
  }

  /** factor * w(source); what depends on no state stays plain. */
  private scaledSource(source: Source, factor: ValueId, op: Op): Linear {
    const { plain } = source.value;
    return this.readsState(source)
      ? { plain: null, erase: null, of: new Map([[source, factor]]) }
      : { plain: this.build.mul(plain!, factor, originOf(op)), erase: null, of: new Map() };
  }

  private readsState({ value }: Source): boolean {
    return value.erase !== null || value.of.size > 0;
  }

  private dot(a: ValueId, b: ValueId, op: Op): ValueId {
    const product = this.build.mul(a, b, originOf(op));
    return this.build.add({ kind: "reduce", fn: "sum", arg: product, axis: 1 }, originOf(op));
  }

  /** The query and the state of a product that reads a state along its key axis. */
  private readOf(op: MatMul): readonly [ValueId, ValueId] {
    if (this.isState(op.rhs)) return [op.lhs, op.rhs];
    const lhs = this.ops.get(op.lhs);
    if (this.isState(op.lhs) && lhs?.kind === "transpose") return [op.rhs, lhs.arg];
    if (this.isState(op.lhs)) {
      // A vector has no sides.
      const [state] = this.statesOf(op.lhs);
      if (this.isVector(state!)) return [op.rhs, op.lhs];
      const why = "the state is read along its value axis (S @ x)";
      const help = "declare the state [K, V], add `outer(k, v)` to it, and read it as `q @ S`";
      throw this.fail(op, "unsupported-read", why, help);
    }
    const why = "the update is not affine: a product with what is read from the state";
    throw this.fail(op, "unsupported-transition", why);
  }

  // --- what is written ----------------------------------------------------------------------

  /** A written value for all tokens, [T, V]. */
  private valueOf(source: Source, state: number, op: Op): ValueId {
    if (!this.readsState(source)) return source.value.plain!;
    const known = this.written.get(source);
    if (known !== undefined) return known;
    const { updates } = this.carry(state);
    const index = updates.findIndex((update) => update.source === source);
    const value =
      index < 0 ? this.liftLinear(source.value, state, op) : this.delta(state, index, updates, op);
    this.written.set(source, value);
    return value;
  }

  /** A linear form for all tokens. */
  private liftLinear(value: Linear, state: number, op: Op): ValueId {
    const { build } = this;
    const parts: ValueId[] = value.plain === null ? [] : [value.plain];
    if (value.erase !== null) parts.push(this.scan(value.erase, state, "before", op));
    for (const [source, scale] of value.of) {
      parts.push(build.mul(this.valueOf(source, state, op), scale, originOf(op)));
    }
    return parts.reduce((sum, part) => build.map("add", [sum, part], originOf(op)));
  }

  private delta(state: number, index: number, updates: readonly Update[], op: Op): ValueId {
    const { build } = this;
    const { axis, log } = this.decay(state);
    const sources = updates.map(({ source }) => source);
    const couplings: Delta["couplings"][number][] = [];
    const writes = updates.map(({ k, source }, to) => {
      const { plain, erase, of } = this.expanded(source.value, sources, op);
      for (const [other, scale] of of) {
        couplings.push({ to, from: sources.indexOf(other), scale: this.perToken(scale) });
      }
      const V = this.stateShape(state)[1];
      return { k, v: plain ?? build.const(0, [tokenDim, V]), erase };
    });
    return build.add(
      {
        kind: "delta",
        state: this.names[state]!,
        index,
        writes,
        couplings,
        logDecay: log,
        initial: null,
        axis,
        reverse: this.recurrence.reverse,
      },
      { ...originOf(op), name: "delta" },
    );
  }

  /** The form with every source that is not carried on written out. */
  private expanded(value: Linear, kept: readonly Source[], op: Op): Linear {
    let result: Linear = { ...value, of: new Map() };
    for (const [source, scale] of value.of) {
      const part: Linear = kept.includes(source)
        ? { plain: null, erase: null, of: new Map([[source, scale]]) }
        : this.scaledLinear(this.expanded(source.value, kept, op), scale, op);
      result = this.sum(result, part, op);
    }
    return result;
  }

  // --- lifting ------------------------------------------------------------------------------

  /** The lifted value of something that must not depend on `state`. */
  private plain(id: ValueId, state: number, op: Op): ValueId {
    if (this.statesOf(id).has(state)) {
      const why = "a key or a factor of the update depends on the state it updates";
      throw this.fail(this.reading(id) ?? op, "unsupported-transition", why);
    }
    return this.lift(id);
  }

  /** The op that reads a state, somewhere above `id`. */
  private reading(id: ValueId): Op | null {
    const op = this.ops.get(id);
    if (!op || op.kind === "matmul") return op ?? null;
    const next = operands(op).find((arg) => this.statesOf(arg).size > 0);
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
    if (!op && this.statesOf(id).size > 0) {
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
    if (this.isState(op.lhs) || this.isState(op.rhs)) {
      const value = this.read(op);
      if (op.type.shape.length > 0) return value;
      return build.add({ kind: "reduce", fn: "sum", arg: value, axis: 1 }, origin);
    }
    const [a, b] = [this.lift(op.lhs), this.lift(op.rhs)];
    const [tokensA, tokensB] = [this.isPerToken(a), this.isPerToken(b)];
    if (!tokensA && !tokensB) return build.matmul(a, b, origin);
    const [rankA, rankB] = [op.lhs, op.rhs].map((id) => this.regionShape(id).length);
    if (rankA === 1 && rankB === 1) return this.dot(this.perToken(a), this.perToken(b), op);
    if (tokensA && !tokensB && rankA === 1) return build.matmul(a, b, origin);
    if (tokensB && !tokensA && rankB === 1) return build.matmul(b, build.transpose(a), origin);
    throw this.fail(op, "unsupported-read", "a matrix that differs for each token is not built");
  }

  /** q @ (state value): a scan, and what this token added since. */
  private read(op: MatMul): ValueId {
    const { build } = this;
    const origin = originOf(op);
    const [query, stateValue] = this.readOf(op);
    const form = this.form(stateValue, op);
    const { state } = form;
    const q = this.perToken(this.lift(query));
    // Forms are kept by value, so the state after the token has one.
    if (form === this.carry(state)) return this.scan(q, state, "after", op);
    const along = (wanted: boolean) =>
      form.scales.filter(({ axis }) => (axis === "value") === wanted).map(({ value }) => value);
    const times = (x: ValueId, factor: ValueId) => build.mul(x, factor, origin);
    const keyed = along(false).reduce(times, q);
    let out = along(true).reduce(times, this.scan(keyed, state, "before", op));
    for (const { k, source } of form.updates) {
      const added = build.mul(this.valueOf(source, state, op), this.dot(q, k, op), origin);
      out = build.map("add", [out, added], origin);
    }
    return out;
  }

  private scan(q: ValueId, state: number, read: "after" | "before", op: Op): ValueId {
    const { build } = this;
    const { axis, log } = this.decay(state);
    const [key, value] = this.stateShape(state);
    const writes = this.carry(state).updates.map(({ k, source }) => ({
      k,
      v: this.valueOf(source, state, op),
    }));
    const nothing = () => ({
      k: build.const(0, [tokenDim, key]),
      v: build.const(0, [tokenDim, value]),
    });
    return build.add(
      {
        kind: "scan",
        state: this.names[state]!,
        q,
        writes: writes.length > 0 ? writes : [nothing()],
        logDecay: log,
        initial: null,
        axis,
        read,
        reverse: this.recurrence.reverse,
        causal: true,
      },
      originOf(op),
    );
  }
}
