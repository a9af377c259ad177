/**
 * The adjoint of each op: given the cotangent of its result, what it adds to the cotangents of its
 * operands. Regions are `differentiate`'s business, scans are loops by then.
 *
 * Written for float32: nothing is divided out that a product gives, masked exponents stay masked, and
 * the decays of a mask get their gradient by sums over the rectangle of pairs they lie between, never as
 * a difference of row and column sums, which cancels where decays are strong.
 */
import { CompilerBug } from "../support/never.ts";
import type { Origin, TensorBuilder } from "./build.ts";
import {
  type Causal,
  type Dim,
  type MapOp,
  type MatMul,
  type Op,
  type Reduce,
  type ValueId,
  type SumDirection,
} from "./ir.ts";
import type { OpDraft } from "./types.ts";

export interface AdjointContext {
  /** Where new ops go. */
  readonly build: TensorBuilder;
  /** The forward op of an operand, by its old id; null for a region's parameter. */
  readonly opOf: (id: ValueId) => Op | null;
  /** The new value of a forward value. */
  readonly value: (id: ValueId) => ValueId;
  /** Does a value depend on something that has a gradient? */
  readonly isActive: (id: ValueId) => boolean;
  /** Adds to the cotangent of a forward value. */
  readonly add: (id: ValueId, cotangent: ValueId) => void;
}

/** Hands the cotangent of `op` on to its operands. */
export function addAdjoints(op: Op, cotangent: ValueId, context: AdjointContext): void {
  new Adjoints(op, cotangent, context).run();
}

class Adjoints {
  private readonly op: Op;
  private readonly c: ValueId;
  private readonly context: AdjointContext;
  private readonly build: TensorBuilder;
  private readonly origin: Origin;

  constructor(op: Op, cotangent: ValueId, context: AdjointContext) {
    this.op = op;
    this.c = cotangent;
    this.context = context;
    this.build = context.build;
    this.origin = { span: op.span };
  }

  run(): void {
    const { op, c } = this;
    switch (op.kind) {
      case "map":
        return this.map(op);
      case "reduce":
        return this.add(op.arg, () => this.reduce(op));
      case "rotate-half":
        // (a, b) -> (-b, a): its transpose is its negative.
        return this.add(op.arg, () => this.fn("neg", this.make({ kind: "rotate-half", arg: c })));
      case "matmul":
        return this.matmul(op);
      case "outer":
        this.add(op.lhs, () => this.product(c, this.value(op.rhs)));
        return this.add(op.rhs, () => this.product(this.value(op.lhs), c));
      case "transpose":
        return this.add(op.arg, () => this.build.transpose(c, this.origin));
      case "cumsum": {
        // What a token is part of lies the other way.
        const { block, earlier } = op;
        const turned = ({ reverse, exclusive }: SumDirection) => ({ reverse: !reverse, exclusive });
        const draft = { kind: "cumsum", arg: c, ...turned(op), block } as const;
        const both = earlier ? { ...draft, earlier: turned(earlier) } : draft;
        return this.add(op.arg, () => this.make(both));
      }
      case "causal":
        if (op.logDecay !== null) this.add(op.logDecay, () => this.causal(op));
        return;
      case "solve": {
        // X = (I - L)^-1 B: dB = (I - L)^-T dX, dL = dB X^T inside the triangle.
        const turned = this.build.transpose(this.value(op.matrix), this.origin);
        const { upper } = op;
        const dRhs = this.make({ kind: "solve", matrix: turned, rhs: c, upper: !upper });
        this.add(op.rhs, () => dRhs);
        return this.add(op.matrix, () => {
          const whole = this.product(dRhs, this.build.transpose(this.value(op.id), this.origin));
          const draft = { kind: "causal", logDecay: null, strict: true, reverse: upper } as const;
          return this.mul(whole, this.make(draft));
        });
      }
      case "const":
      case "dim-size":
      case "token-index":
      case "iota":
      case "block-mask":
      case "input":
        return;
      default:
        throw new CompilerBug(`differentiate: ${op.kind} has no adjoint here`);
    }
  }

  // --- small things -------------------------------------------------------------------------

  private value(id: ValueId): ValueId {
    return this.context.value(id);
  }

  private make(draft: OpDraft): ValueId {
    return this.build.add(draft, this.origin);
  }

  private fn(fn: MapOp["fn"], ...args: readonly ValueId[]): ValueId {
    return this.build.map(fn, args, this.origin);
  }

  private mul(a: ValueId, b: ValueId): ValueId {
    return this.fn("mul", a, b);
  }

  private number(value: number): ValueId {
    return this.build.const(value);
  }

  private product(a: ValueId, b: ValueId): ValueId {
    return this.build.matmul(a, b, this.origin);
  }

  /** Adds to an operand that has a gradient; `make` is not called for one that has none. */
  private add(id: ValueId, make: () => ValueId): void {
    if (this.context.isActive(id)) this.context.add(id, this.sumTo(make(), this.shapeOf(id)));
  }

  private shapeOf(id: ValueId): readonly Dim[] {
    return this.build.shapeOf(this.value(id));
  }

  /** Sums away the axes that broadcasting added. */
  private sumTo(value: ValueId, shape: readonly Dim[]): ValueId {
    const whole = this.build.shapeOf(value);
    if (whole.length === shape.length) return value;
    // The operand's dims are a subsequence: what is passed over was added.
    let at: number = 0;
    const added = whole.flatMap((dim, axis) => {
      if (shape[at] !== dim) return [axis];
      at++;
      return [];
    });
    return [...added]
      .reverse()
      .reduce<ValueId>(
        (sum, axis) => this.make({ kind: "reduce", fn: "sum", arg: sum, axis }),
        value,
      );
  }

  /** A value of fewer axes at every place of `shape`, along `axis` where it has one. */
  private spread(value: ValueId, shape: readonly Dim[], axis: number): ValueId {
    if (axis === 1 && shape[0] === shape[1]) {
      const ones = this.build.const(1, [shape[0]!]);
      return this.make({ kind: "outer", lhs: ones, rhs: value });
    }
    return this.mul(this.build.const(1, shape), value);
  }

  // --- ops ----------------------------------------------------------------------------------

  private reduce(op: Reduce): ValueId {
    const arg = this.value(op.arg);
    const shape = this.build.shapeOf(arg);
    const kept = op.axis === 0 ? 1 : 0;
    const whole = shape.length > 1 || op.fn === "max" ? this.spread(this.c, shape, kept) : this.c;
    if (op.fn === "sum") {
      return shape.length > 1 ? whole : this.mul(this.build.const(1, shape), this.c);
    }
    // A maximum that is reached more than once shares its cotangent.
    const isMax = this.fn("eq", arg, this.spread(this.value(op.id), shape, kept));
    const count = this.make({ kind: "reduce", fn: "sum", arg: isMax, axis: op.axis });
    return this.mul(isMax, this.spread(this.fn("div", this.c, count), shape, kept));
  }

  private matmul(op: MatMul): void {
    const { c } = this;
    const [a, b] = [this.value(op.lhs), this.value(op.rhs)];
    const turn = (id: ValueId) => this.build.transpose(id, this.origin);
    const outer = (lhs: ValueId, rhs: ValueId) => this.make({ kind: "outer", lhs, rhs });
    const [rankA, rankB] = [a, b].map((id) => this.build.shapeOf(id).length);
    if (rankA === 1 && rankB === 1) {
      this.add(op.lhs, () => this.mul(b, c));
      return this.add(op.rhs, () => this.mul(a, c));
    }
    if (rankA === 1) {
      this.add(op.lhs, () => this.product(b, c));
      return this.addTurned(
        op.rhs,
        () => outer(a, c),
        () => outer(c, a),
      );
    }
    if (rankB === 1) {
      this.addTurned(
        op.lhs,
        () => outer(c, b),
        () => outer(b, c),
      );
      return this.add(op.rhs, () => this.product(c, a));
    }
    this.addTurned(
      op.lhs,
      () => this.product(c, turn(b)),
      () => this.product(b, turn(c)),
    );
    this.addTurned(
      op.rhs,
      () => this.product(turn(a), c),
      () => this.product(turn(c), a),
    );
  }

  /** Adds to a factor, or where that is a transpose, to what is transposed: no product is turned. */
  private addTurned(id: ValueId, plain: () => ValueId, turned: () => ValueId): void {
    const op = this.context.opOf(id);
    if (op?.kind === "transpose") this.add(op.arg, turned);
    else this.add(id, plain);
  }

  /**
   * M[i, j] = exp(sum of g over the tokens between), so dg[r] = sum of dM[i, j] M[i, j] over the pairs
   * that r lies between: those with i from r on, without those whose j is there as well.
   */
  private causal(op: Causal): ValueId {
    const { build, origin } = this;
    const weighted = this.mul(this.c, this.value(op.id));
    const { strict, reverse } = op;
    const [rows] = build.shapeOf(this.value(op.id)) as [Dim];
    if (this.shapeOf(op.logDecay!).length === 0) {
      const places = build.add({ kind: "iota" }, origin, { shape: [rows] });
      const ones = build.const(1, [rows]);
      const row = this.make({ kind: "outer", lhs: places, rhs: ones });
      const col = this.make({ kind: "outer", lhs: ones, rhs: places });
      const distance = reverse ? this.fn("sub", col, row) : this.fn("sub", row, col);
      const steps = strict ? this.fn("sub", distance, this.number(1)) : distance;
      return this.mul(weighted, steps);
    }
    // A token with itself has none between; left out, it cannot drown the others.
    const pairs = strict
      ? weighted
      : this.mul(weighted, this.make({ kind: "causal", logDecay: null, strict: true, reverse }));
    const late = this.make({ kind: "reduce", fn: "sum", arg: pairs, axis: 1 });
    const early = this.make({ kind: "reduce", fn: "sum", arg: pairs, axis: 0 });
    const from = (arg: ValueId, exclusive: boolean) =>
      this.make({ kind: "cumsum", arg, block: null, reverse: !reverse, exclusive });
    if (!strict) return from(this.fn("sub", late, early), false);
    return this.fn("sub", from(late, true), from(early, false));
  }

  private map(op: MapOp): void {
    const { c } = this;
    const [a, b, d] = op.args as [ValueId, ValueId, ValueId];
    const x = () => this.value(a);
    const y = () => this.value(b);
    const out = () => this.value(op.id);
    const one = () => this.number(1);
    const times = (factor: ValueId) => this.mul(c, factor);
    const only = (make: () => ValueId) => this.add(a, make);
    const both = (left: () => ValueId, right: () => ValueId) => {
      this.add(a, left);
      this.add(b, right);
    };
    switch (op.fn) {
      case "neg":
        return only(() => this.fn("neg", c));
      case "as_bf16":
        return this.factor(op);
      case "exp":
        return only(() => times(out()));
      case "log":
        return only(() => this.fn("div", c, x()));
      case "sqrt":
        return only(() => this.fn("div", times(this.number(0.5)), out()));
      case "rsqrt":
        return only(() => {
          const cube = this.mul(this.fn("square", out()), out());
          return times(this.mul(cube, this.number(-0.5)));
        });
      case "abs":
        return only(() => {
          const zero = this.number(0);
          return times(this.fn("sub", this.fn("gt", x(), zero), this.fn("lt", x(), zero)));
        });
      case "sin":
        return only(() => times(this.fn("cos", x())));
      case "cos":
        return only(() => this.fn("neg", times(this.fn("sin", x()))));
      case "tanh":
        return only(() => times(this.fn("sub", one(), this.fn("square", out()))));
      case "sigmoid":
        return only(() => times(this.mul(out(), this.fn("sigmoid", this.fn("neg", x())))));
      case "silu":
        return only(() => {
          const s = this.fn("sigmoid", x());
          const rest = this.fn("sigmoid", this.fn("neg", x()));
          return times(this.mul(s, this.fn("add", this.mul(x(), rest), one())));
        });
      case "softplus":
        return only(() => times(this.fn("sigmoid", x())));
      case "relu":
        return only(() => times(this.fn("gt", x(), this.number(0))));
      case "elu":
        return only(() => times(this.fn("exp", this.fn("min", x(), this.number(0)))));
      case "gelu":
        return only(() => times(this.geluSlope(x(), out())));
      case "square":
        return only(() => times(this.mul(x(), this.number(2))));
      case "recip":
        return only(() => this.fn("neg", times(this.fn("square", out()))));
      case "add":
        return both(
          () => c,
          () => c,
        );
      case "sub":
        return both(
          () => c,
          () => this.fn("neg", c),
        );
      case "mul":
        if (this.scaledBack(a, b)) return;
        return both(
          () => times(y()),
          () => times(x()),
        );
      case "div":
        return both(
          () => this.fn("div", c, y()),
          () => this.fn("neg", this.fn("div", times(out()), y())),
        );
      case "max":
      case "min": {
        // Where they are equal, the first one counts.
        const first = () => (op.fn === "max" ? this.fn("ge", x(), y()) : this.fn("le", x(), y()));
        return both(
          () => times(first()),
          () => times(this.fn("sub", one(), first())),
        );
      }
      case "pow":
        return both(
          () => times(this.mul(y(), this.fn("pow", x(), this.fn("sub", y(), one())))),
          () => {
            const positive = this.fn("gt", x(), this.number(0));
            const safe = this.fn("select", positive, x(), one());
            return times(this.mul(out(), this.fn("log", safe)));
          },
        );
      case "select":
        this.add(b, () => this.fn("select", x(), c, this.number(0)));
        return this.add(d, () => this.fn("select", x(), this.number(0), c));
      case "floor":
      case "lt":
      case "le":
      case "gt":
      case "ge":
      case "eq":
        return;
    }
  }

  /**
   * The factor x exp(s) of a product: dx = c exp(s), and ds = c times the factor as the product reads it. Where x is scaled up in
   * one factor and down in another, the two ds all but cancel: roundings that only one of them saw would be left.
   */
  private factor(op: MapOp): void {
    const { c } = this;
    const [arg] = op.args as [ValueId];
    const scaled = this.context.opOf(arg);
    const isScaled = scaled?.kind === "map" && scaled.fn === "mul";
    const [x, decay] = isScaled ? (scaled.args as [ValueId, ValueId]) : [null, arg];
    const exponent = this.exponentOf(decay);
    if (exponent === null) return this.add(arg, () => c);
    if (x !== null) this.add(x, () => this.mul(c, this.value(decay)));
    this.add(exponent, () => this.mul(c, this.value(op.id)));
  }

  /** The same where x is the product of such a factor, scaled back by exp(s): then it is dx that other products read. */
  private scaledBack(x: ValueId, decay: ValueId): boolean {
    const { opOf } = this.context;
    const [exponent, product] = [this.exponentOf(decay), opOf(x)];
    if (exponent === null || product?.kind !== "matmul") return false;
    const scaled = opOf(product.rhs);
    if (scaled?.kind !== "map" || scaled.fn !== "as_bf16") return false;
    const factor = this.fn("as_bf16", this.mul(this.c, this.value(decay)));
    this.add(x, () => factor);
    this.add(exponent, () => this.mul(factor, this.value(x)));
    return true;
  }

  /** s of exp(s). */
  private exponentOf(id: ValueId): ValueId | null {
    const op = this.context.opOf(id);
    return op?.kind === "map" && op.fn === "exp" ? op.args[0]! : null;
  }

  /** Phi(x) + x phi(x), with Phi from gelu itself: x Phi(x) / x, and near 0 its series. */
  private geluSlope(x: ValueId, gelu: ValueId): ValueId {
    const n = (value: number) => this.number(value);
    const density = this.mul(
      this.fn("exp", this.mul(this.fn("square", x), n(-0.5))),
      n(1 / Math.sqrt(2 * Math.PI)),
    );
    const isSmall = this.fn("lt", this.fn("abs", x), n(1e-3));
    const safe = this.fn("select", isSmall, n(1), x);
    const series = this.fn("add", this.mul(x, n(1 / Math.sqrt(2 * Math.PI))), n(0.5));
    const below = this.fn("select", isSmall, series, this.fn("div", gelu, safe));
    return this.fn("add", below, this.mul(x, density));
  }
}
