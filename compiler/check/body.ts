/** Statements and expressions: names to values, shapes checked as each op is made. */
import { diagnose } from "../support/catalogue.ts";
import { closest } from "../support/closest.ts";
import type { Span } from "../support/span.ts";
import type {
  AttentionAst,
  BinaryAst,
  BinaryOperator,
  CallAst,
  DefAst,
  ExprAst,
  RecurrenceAst,
  StmtAst,
  TransposeAst,
  TypeAst,
} from "../syntax/ast.ts";
import type { Origin, RegionOwner, TensorBuilder } from "../tensor/build.ts";
import { type BinaryFn, type Dim, type ValueId, tokenDim } from "../tensor/ir.ts";
import { broadcastShape, sameShape } from "../tensor/types.ts";
import { insteadOfCall } from "../syntax/foreign.ts";
import { deepestNesting } from "../syntax/limits.ts";
import type { Report } from "./check.ts";
import {
  builtins,
  l2norm,
  mean,
  pointwise,
  reduceRows,
  rmsnorm,
  rotary,
  softmax,
} from "./functions.ts";
import {
  type Operand,
  elementwiseHelp,
  nameHelp,
  productHelp,
  vectorTransposeHelp,
} from "./hints.ts";

export interface ScopeEntry {
  readonly kind: "param" | "local" | "state";
  /** null after a mistake: uses of it keep quiet. */
  id: ValueId | null;
  readonly span: Span;
  used: boolean;
}
export type Scope = Map<string, ScopeEntry>;

/** A value and the text it came from; `id` null after a reported mistake. */
export interface Checked {
  readonly id: ValueId | null;
  readonly span: Span;
}

const operators = {
  "+": "add",
  "-": "sub",
  "*": "mul",
  "/": "div",
  "**": "pow",
  "<": "lt",
  "<=": "le",
  ">": "gt",
  ">=": "ge",
  "==": "eq",
} as const satisfies Record<Exclude<BinaryOperator, "@">, BinaryFn>;

/** Expressions of an attention, those of its functions counted at each call. */
const mostExpressions = 10_000;

/** Where an expression stands: which names it sees, and whether it is one token's. */
interface Place {
  readonly scope: Scope;
  readonly inRecurrence: boolean;
  /** The scope outside the recurrence, whose [T, ...] values are read by row. */
  readonly outer: Scope | null;
  /** Spans of a def's body stand for the call's. */
  readonly call: Span | null;
  readonly defs: readonly string[];
}

/** The text that is checked, and names in it whose definitions could not be read. */
export interface FileText {
  readonly text: string;
  readonly broken: ReadonlySet<string>;
}

export class BodyChecker {
  /** Every state met, and where it is declared. */
  readonly states = new Map<string, Span>();
  private expressions = 0;
  private readonly rows = new Map<ValueId, ValueId>();
  private readonly build: TensorBuilder;
  private readonly defs: ReadonlyMap<string, DefAst>;
  private readonly dims: ReadonlyMap<string, number | "runtime" | null>;
  private readonly report: Report;
  private readonly shapeOfType: (type: TypeAst) => Dim[];
  private readonly file: FileText;
  /** Kinds of unknown names that were told. */
  private readonly told = new Set<string>();

  constructor(
    build: TensorBuilder,
    defs: ReadonlyMap<string, DefAst>,
    dims: ReadonlyMap<string, number | "runtime" | null>,
    report: Report,
    shapeOfType: (type: TypeAst) => Dim[],
    file: FileText,
  ) {
    this.build = build;
    this.defs = defs;
    this.dims = dims;
    this.report = report;
    this.shapeOfType = shapeOfType;
    this.file = file;
  }

  /** The attention's results, or null when it has none. */
  attention(ast: AttentionAst, scope: Scope): Checked[] | null {
    const place: Place = { scope, inRecurrence: false, outer: null, call: null, defs: [] };
    const results = this.statements(ast.body, place);
    if (results === null) {
      const { name, span } = ast.name;
      this.report(diagnose("missing-return", { name }, [{ span, text: "" }]));
    }
    return results;
  }

  private statements(body: readonly StmtAst[], place: Place): Checked[] | null {
    let results: Checked[] | null = null;
    for (const stmt of body) {
      if (results !== null) {
        this.report(diagnose("unreachable", { word: "return" }, [{ span: stmt.span, text: "" }]));
        break;
      }
      switch (stmt.kind) {
        case "assign":
          this.assign(stmt.name.name, stmt.name.span, stmt.value, place);
          break;
        case "return":
          results = stmt.values.map((value) => this.checked(value, place));
          break;
        case "yield":
          this.report(diagnose("yield-outside", {}, [{ span: stmt.span, text: "" }]));
          results = stmt.values.map((value) => this.checked(value, place));
          break;
        case "expr-stmt":
          results =
            stmt.value.kind === "recurrence"
              ? this.recurrence(stmt.value, place)
              : [this.checked(stmt.value, place)];
          break;
      }
    }
    return results;
  }

  private checked(expr: ExprAst, place: Place, name: string | null = null): Checked {
    return { id: this.expr(expr, place, name), span: place.call ?? expr.span };
  }

  private assign(name: string, span: Span, value: ExprAst, place: Place): void {
    const known = place.scope.get(name);
    if (known) {
      this.report(
        diagnose("reassigned", { name }, [
          { span, text: "given again here" },
          { span: known.span, text: "first given here" },
        ]),
      );
    }
    const isDim = this.dims.has(name);
    if (isDim || Object.hasOwn(builtins, name) || this.defs.has(name)) {
      this.report(
        diagnose("reserved-name", { name, what: "a value" }, [
          { span, text: isDim ? "a dim has this name" : "a function has this name" },
        ]),
      );
    }
    const id = this.expr(value, place, name);
    if (!known) place.scope.set(name, { kind: "local", id, span, used: false });
  }

  // --- recurrences --------------------------------------------------------------------------

  private recurrence(ast: RecurrenceAst, place: Place): Checked[] {
    if (place.inRecurrence) {
      this.report(diagnose("nested-recurrence", {}, [{ span: ast.span, text: "" }]));
      return [{ id: null, span: ast.span }];
    }
    const states = ast.states.map(({ name, type }) => {
      const shape = this.shapeOfType(type);
      if (shape.length < 1 || shape.length > 2 || shape.includes(tokenDim)) {
        this.report(diagnose("state-type", {}, [{ span: type.span, text: showShape(shape) }]));
      }
      const known = place.scope.get(name.name);
      // `S = zeros(K, V)` was told already.
      if (known && !(known.kind === "local" && known.id === null)) {
        const first = known.span;
        this.report(
          diagnose("duplicate-name", { name: name.name }, [
            { span: name.span, text: "" },
            { span: first, text: "first defined here" },
          ]),
        );
      }
      this.states.set(name.name, name.span);
      return { name: name.name, type: { shape }, init: null };
    });
    const yields: Checked[] = [];
    let owner: RegionOwner | null = null;
    let broken = false;
    let isCut = false;
    this.rows.clear();
    owner = this.build.region(
      "recurrence",
      states,
      ast.reverse,
      (params) => {
        const scope: Scope = new Map();
        ast.states.forEach(({ name }, i) =>
          scope.set(name.name, { kind: "state", id: params[i]!, span: name.span, used: true }),
        );
        const inner: Place = { ...place, scope, inRecurrence: true, outer: place.scope };
        yields.push(...this.recurrenceBody(ast, inner));
        const last = ast.body.findIndex(({ kind }) => kind === "yield" || kind === "return");
        isCut = last >= 0 && last < ast.body.length - 1;
        const carries = ast.states.map(({ name, type }, i) => {
          const entry = scope.get(name.name)!;
          if (entry.id === params[i] && !isCut) {
            const text = showShape(states[i]!.type.shape);
            this.report(
              diagnose("state-not-updated", { name: name.name }, [
                { span: { start: name.span.start, end: type.span.end }, text },
              ]),
            );
          }
          broken ||= entry.id === null;
          return entry.id ?? params[i]!;
        });
        for (const [name, entry] of scope) {
          if (entry.used) continue;
          this.report(diagnose("unused-value", { name }, [{ span: entry.span, text: "" }]));
        }
        broken ||= yields.some((value) => value.id === null);
        return { carries, yields: broken ? [] : yields.map((value) => value.id!) };
      },
      { span: ast.span },
    );
    return yields.map(({ span }, i) => ({ id: broken ? null : owner!.yields[i]!, span }));
  }

  private recurrenceBody(ast: RecurrenceAst, place: Place): Checked[] {
    let yields: Checked[] | null = null;
    for (const stmt of ast.body) {
      if (yields !== null) {
        const again = ast.body.some(
          (one) => one.kind === "yield" && one.span.start > stmt.span.start,
        );
        const help = again
          ? "name what is read first, `before = q @ S`, and yield once, at the end"
          : null;
        const at = [{ span: stmt.span, text: "" }];
        this.report(diagnose("unreachable", { word: "yield" }, at, help));
        break;
      }
      if (stmt.kind === "assign") {
        const state = place.scope.get(stmt.name.name);
        if (state?.kind === "state") this.updateState(stmt.name.name, state, stmt.value, place);
        else this.assign(stmt.name.name, stmt.name.span, stmt.value, place);
      } else if (stmt.kind === "expr-stmt") {
        this.report(diagnose("nested-recurrence", {}, [{ span: stmt.span, text: "" }]));
      } else {
        if (stmt.kind === "return") {
          this.report(diagnose("return-inside", {}, [{ span: stmt.span, text: "" }]));
        }
        yields = stmt.values.map((value) => this.checked(value, place));
      }
    }
    if (yields === null) this.report(diagnose("missing-yield", {}, [{ span: ast.span, text: "" }]));
    return yields ?? [{ id: null, span: ast.span }];
  }

  private updateState(name: string, state: ScopeEntry, value: ExprAst, place: Place): void {
    const id = this.expr(value, place, name);
    if (id !== null && state.id !== null) {
      const [declared, found] = [this.build.shapeOf(state.id), this.build.shapeOf(id)];
      if (!sameShape(declared, found)) {
        const types = { name, declared: showShape(declared), found: showShape(found) };
        this.report(
          diagnose("state-shape", types, [
            { span: value.span, text: `has type ${types.found}` },
            { span: state.span, text: `declared ${types.declared}` },
          ]),
        );
        state.id = null;
        return;
      }
    }
    state.id = id;
  }

  // --- expressions --------------------------------------------------------------------------

  /** Beyond the limit, in functions that are put in place again and again, there is no end to come to. */
  private isBeyond(span: Span): boolean {
    if (++this.expressions === mostExpressions + 1) {
      const why = `with its functions put in place an attention has more than ${mostExpressions} expressions`;
      this.report(diagnose("unsupported-length", { why }, [{ span, text: "" }]));
    }
    return this.expressions > mostExpressions;
  }

  private expr(expr: ExprAst, place: Place, name: string | null = null): ValueId | null {
    if (this.isBeyond(place.call ?? expr.span)) return null;
    const at: Origin = { name, span: place.call ?? expr.span };
    switch (expr.kind) {
      case "number":
        return this.build.const(expr.value, [], at);
      case "name":
        return this.name(expr.name, expr.span, place, at);
      case "unary": {
        const arg = this.expr(expr.arg, place);
        if (arg === null) return null;
        const op = this.build.opOf(arg);
        if (op?.kind === "const") return this.build.const(-op.value, op.type.shape, at);
        return this.build.map("neg", [arg], at);
      }
      case "binary":
        return this.binary(expr, place, at);
      case "transpose": {
        const arg = this.expr(expr.arg, place);
        if (arg === null) return null;
        if (this.build.shapeOf(arg).length === 2) return this.build.transpose(arg, at);
        this.noTranspose(expr, arg, null);
        return null;
      }
      case "call":
        return this.call(expr, place, at);
      case "recurrence": {
        const yields = this.recurrence(expr, place);
        if (yields.length !== 1) {
          const found = String(yields.length);
          this.report(diagnose("yield-count", { found }, [{ span: expr.span, text: "" }]));
          return null;
        }
        return yields[0]!.id;
      }
    }
  }

  private name(name: string, span: Span, place: Place, at: Origin): ValueId | null {
    const own = place.scope.get(name);
    if (own) {
      own.used = true;
      return own.id;
    }
    const outer = place.outer?.get(name);
    if (outer) {
      outer.used = true;
      return outer.id === null ? null : this.row(outer.id, at);
    }
    if (this.dims.has(name)) return this.build.add({ kind: "dim-size", dim: name }, at);
    this.unknownName(name, span, place);
    return null;
  }

  /** Told once, and of names that are wrong in the same way the first. */
  private unknownName(name: string, span: Span, place: Place): void {
    const known = [...place.scope.keys(), ...(place.outer?.keys() ?? []), ...this.dims.keys()];
    const isFunction = (word: string) => Object.hasOwn(builtins, word) || this.defs.has(word);
    const meant = nameHelp(name, new Set(known), isFunction);
    const kind = meant?.kind ?? name;
    if (this.told.has(kind) || this.file.broken.has(name)) return;
    this.told.add(kind);
    const near = meant ? null : closest(name, known);
    const help = meant?.help ?? (near ? `did you mean \`${near}\`?` : null);
    this.report(diagnose("unknown-name", { name }, [{ span, text: "not known here" }], help));
  }

  /** Inside a recurrence, an outer [T, ...] value means the current token's row. */
  private row(id: ValueId, at: Origin): ValueId {
    if (this.build.shapeOf(id)[0] !== tokenDim) return id;
    const known = this.rows.get(id);
    if (known !== undefined) return known;
    const name = this.build.opOf(id)?.name ?? null;
    const row = this.build.add({ kind: "rows", arg: id }, { ...at, name });
    this.rows.set(id, row);
    return row;
  }

  private binary(expr: BinaryAst, place: Place, at: Origin): ValueId | null {
    if (expr.operator === "@" && this.isDiagonal(expr)) return null;
    const isProduct = expr.operator === "@";
    const [left, right] = isProduct
      ? this.factors(expr, place)
      : [this.expr(expr.left, place), this.expr(expr.right, place)];
    if (left === null || right === null) return null;
    if (expr.operator === "@") return this.product(expr, left, right, at);
    if (!this.fits([expr.left, expr.right], [left, right], expr.operator)) return null;
    return this.build.map(operators[expr.operator], [left, right], at);
  }

  /** `diag(x) @ S`: the call is what is wrong, and the whole product what is written instead. */
  private isDiagonal({ left, right }: BinaryAst): boolean {
    for (const [call, other] of [
      [left, right],
      [right, left],
    ] as const) {
      const [arg] = call.kind === "call" && call.name.name === "diag" ? call.args : [];
      if (!arg || call.kind !== "call" || this.defs.has("diag")) continue;
      const [x, y] = [this.written(arg), this.written(other)];
      const help = `write \`${call === left ? `${x} * ${y}` : `${y} * ${x}`}\``;
      const at = [{ span: call.name.span, text: "not known" }];
      this.report(diagnose("unknown-function", { name: "diag" }, at, help));
      return true;
    }
    return false;
  }

  /** The operands of `@`. A vector has no transpose, and what was meant shows in the other operand. */
  private factors({ left, right }: BinaryAst, place: Place): [ValueId | null, ValueId | null] {
    const vectors: { side: TransposeAst; id: ValueId }[] = [];
    const factor = (side: ExprAst): ValueId | null => {
      if (side.kind !== "transpose") return this.expr(side, place);
      const id = this.expr(side.arg, place);
      if (id === null) return null;
      if (this.build.shapeOf(id).length !== 2) {
        vectors.push({ side, id });
        return id;
      }
      return this.build.transpose(id, { name: null, span: place.call ?? side.span });
    };
    const [a, b] = [factor(left), factor(right)];
    const [vector] = vectors;
    if (!vector) return [a, b];
    const { side, id } = vector;
    const text = (expr: ExprAst) =>
      this.written(vectors.some((one) => one.side === expr) ? (expr as TransposeAst).arg : expr);
    const operand = (expr: ExprAst, of: ValueId): Operand => ({
      text: text(expr),
      shape: this.build.shapeOf(of),
    });
    const isKnown = a !== null && b !== null;
    const help = isKnown
      ? vectorTransposeHelp(operand(left, a), operand(right, b), side === left ? "left" : "right")
      : null;
    this.noTranspose(side, id, help);
    return [null, null];
  }

  private noTranspose(expr: TransposeAst, arg: ValueId, help: string | null): void {
    const type = showShape(this.build.shapeOf(arg));
    const at = [{ span: expr.span, text: `has type ${type}` }];
    this.report(diagnose("transpose-rank", { name: this.text(expr.arg), type }, at, help));
  }

  private product(expr: BinaryAst, left: ValueId, right: ValueId, at: Origin): ValueId | null {
    const [a, b] = [this.build.shapeOf(left), this.build.shapeOf(right)];
    const labels = [
      { span: expr.left.span, text: `has type ${showShape(a)}` },
      { span: expr.right.span, text: `has type ${showShape(b)}` },
    ];
    if (a.length === 0 || b.length === 0) {
      const name = this.text(a.length === 0 ? expr.left : expr.right);
      this.report(diagnose("product-of-scalar", { name }, labels));
      return null;
    }
    if (a.at(-1) !== b[0]) {
      const params = {
        left: this.text(expr.left),
        right: this.text(expr.right),
        columns: this.sized(a.at(-1)!),
        rows: this.sized(b[0]!),
      };
      const help = productHelp(
        { text: this.written(expr.left), shape: a },
        { text: this.written(expr.right), shape: b },
      );
      this.report(diagnose("product-mismatch", params, labels, help));
      return null;
    }
    return this.build.matmul(left, right, at);
  }

  /** Do the operands broadcast? Reports when they do not, or when it is not clear how. */
  private fits(
    exprs: readonly ExprAst[],
    ids: readonly ValueId[],
    operator: BinaryOperator | null = null,
  ): boolean {
    const shapes = ids.map((id) => this.build.shapeOf(id));
    const whole = broadcastShape(shapes);
    const labels = exprs.map((expr, i) => ({
      span: expr.span,
      text: `has type ${showShape(shapes[i]!)}`,
    }));
    if (whole === null) {
      const [left, right] = exprs.map((expr, i) => `${this.text(expr)} (${showShape(shapes[i]!)})`);
      const help = operator === null ? null : this.meantBy(operator, exprs, shapes);
      this.report(diagnose("shape-mismatch", { left: left!, right: right! }, labels, help));
      return false;
    }
    const twice = whole.length === 2 && whole[0] === whole[1];
    const small = shapes.findIndex((shape) => shape.length === 1);
    if (!twice || small < 0) return true;
    const large = shapes.findIndex((shape) => shape.length === 2);
    this.report(
      diagnose(
        "ambiguous-broadcast",
        { small: this.text(exprs[small]!), large: this.text(exprs[large]!) },
        labels,
      ),
    );
    return false;
  }

  private meantBy(
    operator: BinaryOperator,
    [left, right]: readonly ExprAst[],
    [a, b]: readonly (readonly Dim[])[],
  ): string | null {
    const isOuter = right!.kind === "call" && right!.name.name === "outer";
    const outer = isOuter ? (right as CallAst).args.map((arg) => this.written(arg)) : null;
    return elementwiseHelp(
      operator,
      { text: this.written(left!), shape: a! },
      { text: this.written(right!), shape: b! },
      outer,
    );
  }

  // --- calls --------------------------------------------------------------------------------

  private call(expr: CallAst, place: Place, at: Origin): ValueId | null {
    const { name } = expr.name;
    const def = this.defs.get(name);
    if (def) return this.callDef(def, expr, place);
    const builtin = Object.hasOwn(builtins, name) ? builtins[name] : undefined;
    if (!builtin) return this.unknownFunction(expr, place);
    const args = expr.args.map((arg) => this.expr(arg, place));
    if (args.some((arg) => arg === null)) return null;
    if (!builtin.counts.includes(args.length)) {
      this.wrongCount(expr, builtin.usage);
      return null;
    }
    return this.builtin(expr, args as ValueId[], place, at);
  }

  private unknownFunction(expr: CallAst, place: Place): null {
    const { name, span } = expr.name;
    const meant = insteadOfCall(
      name,
      expr.args.map((arg) => this.written(arg)),
    );
    const near = closest(name, [...Object.keys(builtins), ...this.defs.keys()]);
    const help = meant ?? (near ? `did you mean \`${near}\`?` : null);
    if (!this.file.broken.has(name)) {
      this.report(diagnose("unknown-function", { name }, [{ span, text: "not known" }], help));
    }
    // Its arguments are of the same notation.
    if (meant === null) expr.args.forEach((arg) => this.expr(arg, place));
    return null;
  }

  private wrongCount(expr: CallAst, usage: string): void {
    const n = expr.args.length;
    const params = {
      name: expr.name.name,
      wanted: usage,
      found: `${n} argument${n === 1 ? "" : "s"}`,
    };
    this.report(diagnose("argument-count", params, [{ span: expr.span, text: "" }]));
  }

  private builtin(expr: CallAst, args: ValueId[], place: Place, at: Origin): ValueId | null {
    const { build } = this;
    const { name } = expr.name;
    const [x, y] = args as [ValueId, ValueId];
    const shapes = args.map((arg) => build.shapeOf(arg));
    const wrong = (i: number, wanted: string, help: string | null = null): null => {
      const found = showShape(shapes[i]!);
      const at = [{ span: expr.args[i]!.span, text: `has type ${found}` }];
      this.report(diagnose("argument-shape", { name, wanted, found }, at, help));
      return null;
    };
    const unary = pointwise.find((fn) => fn === name);
    if (unary) return build.map(unary, [x], at);
    const isVector = (i: number) => shapes[i]!.length > 0;
    switch (name) {
      case "max":
      case "min":
      case "pow":
        return this.fits(expr.args, args) ? build.map(name, args, at) : null;
      case "where":
        return this.fits(expr.args, args) ? build.map("select", args, at) : null;
      case "sum":
      case "mean":
      case "rowmax":
      case "softmax":
      case "l2norm":
      case "rmsnorm":
        if (!isVector(0)) return wrong(0, "rows of numbers, such as [T, K]");
        if (shapes[0]!.length === 1 && shapes[0]![0] === tokenDim) {
          return wrong(0, "rows of numbers, such as [T, K]");
        }
        return this.rowwise(expr, args, at);
      case "rotary": {
        if (place.inRecurrence) return this.notInRecurrence(expr);
        if (shapes[0]!.length !== 2 || shapes[0]![0] !== tokenDim)
          return wrong(0, "a [T, K] value");
        const dim = shapes[0]![1]!;
        const size = typeof dim === "number" ? dim : this.dims.get(dim);
        if (typeof size === "number" && size % 2 === 1) {
          const params = { axis: typeof dim === "number" ? `${dim} columns` : `${dim} = ${size}` };
          this.report(diagnose("odd-rotary", params, [{ span: expr.args[0]!.span, text: "" }]));
          return null;
        }
        const base = this.setting(expr, 1, 10000);
        return base === null ? null : rotary(build, x, base, at);
      }
      case "outer":
        // An update of a state that no recurrence declares, which was told.
        if (!place.inRecurrence && this.told.has("state")) return null;
        if (shapes[0]!.length !== 1) return wrong(0, "two vectors", this.outerHelp(expr, place));
        if (shapes[1]!.length !== 1) return wrong(1, "two vectors");
        return build.add({ kind: "outer", lhs: x, rhs: y }, at);
      case "causal":
        if (place.inRecurrence) return this.notInRecurrence(expr);
        return build.add({ kind: "causal", logDecay: null, strict: false, reverse: false }, at);
      case "causal_decay": {
        if (place.inRecurrence) return this.notInRecurrence(expr);
        const shape = shapes[0]!;
        if (shape.length > 1 || (shape.length === 1 && shape[0] !== tokenDim)) {
          return wrong(0, "a scalar or a [T] value, the logarithm of the decay");
        }
        return build.add({ kind: "causal", logDecay: x, strict: false, reverse: false }, at);
      }
      default:
        return null;
    }
  }

  private outerHelp({ args }: CallAst, place: Place): string | null {
    if (place.inRecurrence) return null;
    const [k, v] = args.map((arg) => this.written(arg));
    return `the sum over all tokens is \`${k}.T @ ${v}\`; one token's is \`outer\` in a recurrence`;
  }

  private rowwise(expr: CallAst, args: ValueId[], at: Origin): ValueId | null {
    const { build } = this;
    const x = args[0]!;
    switch (expr.name.name) {
      case "sum":
        return reduceRows(build, "sum", x, at);
      case "rowmax":
        return reduceRows(build, "max", x, at);
      case "mean":
        return mean(build, x, at);
      case "softmax":
        return softmax(build, x, at);
      case "l2norm": {
        const eps = this.setting(expr, 1, 1e-6);
        return eps === null ? null : l2norm(build, x, eps, at);
      }
      default: {
        const eps = this.setting(expr, 2, 1e-6);
        const weight = args[1] ?? null;
        if (weight !== null && !this.fits(expr.args.slice(0, 2), [x, weight])) return null;
        return eps === null ? null : rmsnorm(build, x, weight, eps, at);
      }
    }
  }

  /** A numeric argument that is fixed at compile time. */
  private setting(expr: CallAst, index: number, otherwise: number): number | null {
    const arg = expr.args[index];
    if (!arg) return otherwise;
    if (arg.kind === "number") return arg.value;
    const { name } = expr.name;
    this.report(diagnose("not-a-number", { name }, [{ span: arg.span, text: "" }]));
    return null;
  }

  private notInRecurrence(expr: CallAst): null {
    const { name } = expr.name;
    this.report(diagnose("mask-in-recurrence", { name }, [{ span: expr.span, text: "" }]));
    return null;
  }

  /** A def's body in place of its call; every op of it comes from the call's text. */
  private callDef(def: DefAst, expr: CallAst, place: Place): ValueId | null {
    const { name } = def.name;
    if (place.defs.includes(name)) {
      this.report(
        diagnose("recursive-def", { name }, [
          { span: expr.span, text: "called here" },
          { span: def.name.span, text: "defined here" },
        ]),
      );
      return null;
    }
    if (place.defs.length === deepestNesting) {
      const why = `more than ${deepestNesting} functions call one another`;
      this.report(
        diagnose("unsupported-length", { why }, [{ span: place.call ?? expr.span, text: "" }]),
      );
      return null;
    }
    const args = expr.args.map((arg) => this.checked(arg, place));
    if (args.length !== def.params.length) {
      this.wrongCount(expr, `${name}(${def.params.map((param) => param.name).join(", ")})`);
      return null;
    }
    const scope: Scope = new Map();
    def.params.forEach((param, i) =>
      scope.set(param.name, { kind: "param", id: args[i]!.id, span: param.span, used: true }),
    );
    const inner: Place = {
      scope,
      inRecurrence: place.inRecurrence,
      outer: null,
      call: place.call ?? expr.span,
      defs: [...place.defs, name],
    };
    const results = this.statements(def.body, inner);
    if (results === null || results.length !== 1) {
      const { span } = def.name;
      this.report(diagnose("missing-return", { name }, [{ span, text: "returns one value" }]));
      return null;
    }
    return results[0]!.id;
  }

  // --- words --------------------------------------------------------------------------------

  private sized(dim: Dim): string {
    const size = typeof dim === "string" ? this.dims.get(dim) : dim;
    return typeof size === "number" && size !== dim ? `${size} (${dim})` : String(dim);
  }

  /** An expression as it stands in the text, on one line. */
  private written({ span }: ExprAst): string {
    return this.file.text.slice(span.start, span.end).replace(/\s+/g, " ");
  }

  /** A short name for an expression, in the user's words. */
  private text(expr: ExprAst): string {
    switch (expr.kind) {
      case "name":
        return `\`${expr.name}\``;
      case "number":
        return `\`${expr.text}\``;
      case "call":
        return `\`${expr.name.name}(...)\``;
      case "transpose":
        return expr.arg.kind === "name" ? `\`${expr.arg.name}.T\`` : "the transpose";
      case "binary":
        return expr.operator === "@" ? "the product" : "this value";
      default:
        return "this value";
    }
  }
}

export function showShape(shape: readonly Dim[]): string {
  return shape.length === 0 ? "scalar" : `[${shape.join(", ")}]`;
}
