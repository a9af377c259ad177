/**
 * Tensor program to a Python function over torch tensors, one statement a line:
 *
 *   %log_g: f32[] = log %gamma              log_g = torch.log(gamma)
 *   chunks (%S: f32[K, V] = %initial_S) {   S = initial_S
 *     %k.2: f32[C, K] = rows %k             for chunk in chunks(sizes.T, 64):
 *     %0: f32[K, C] = transpose %k.2    =>      k_rows = k[..., chunk.rows, :]
 *     %1: f32[K, V] = matmul %0, %v.2           S = S + k_rows.mT @ v_rows
 *     %2: f32[K, V] = add %S, %1
 *     carry %2
 *   }
 *
 * A program speaks of one sequence and one head. Its values become tensors [..., own dims] whose leading
 * axes are batch and head, each of size 1 or missing where the value does not vary; axes are therefore
 * counted from the last. Values without a name that are used once stand inside the expression that uses
 * them. The file `package/tensor_ops.py` has the few ops that torch does not.
 *
 * Needs: no scan, scan-state or delta (`chunk` or `tokens.ts` before). Total on every other program.
 */
import { CompilerBug, assertNever } from "../../compiler/support/never.ts";
import { TextWriter, lineComment } from "../../compiler/support/text.ts";
import {
  type Chunks,
  type Dim,
  type Op,
  type Program,
  type Recurrence,
  type SumDirection,
  type TensorType,
  type ValueId,
  allOps,
  chunkCountDim,
  chunkDim,
  operands,
  tokenDim,
} from "../../compiler/tensor/ir.ts";
import {
  type Expression,
  apply,
  atom,
  bound,
  level,
  numberExpression,
  numberText,
  product,
} from "./expressions.ts";
import { PythonNames } from "./names.ts";
import { triangleOf } from "../../compiler/tensor/triangle.ts";

export interface PrintOptions {
  /** The function's name, and what its doc string says. */
  readonly name: string;
  readonly summary: string;
  /** "retention.lasp:6  scores = ..." for the line an op came from. */
  readonly noteOf: (op: Op) => string | null;
}

/** Tokens of a chunk where nothing bounds it: long enough to hide Python, short enough for C x C masks. */
const longestChunk = 64;
/** An expression longer than this gets a line and a name of its own. */
const longestInline = 60;

/** What `package/tensor_ops.py` gives to printed functions. */
export const printedImports = [
  "Sizes",
  "block_mask",
  "below",
  "cat",
  "causal",
  "chunks",
  "cumsum",
  "rotate_half",
  "solve",
  "stack",
] as const;

/** What printed functions and their module name besides. */
const ownNames = [
  "math",
  "torch",
  "functional",
  "Tensor",
  "sizes",
  "chunk",
  "t",
  "forward",
  "backward",
];

export function printFunction(program: Program, options: PrintOptions): string {
  return new FunctionPrinter(program, options).print();
}

type Loop = Recurrence | Chunks;

class FunctionPrinter {
  private readonly writer = new TextWriter("    ");
  private readonly names = new PythonNames([...printedImports, ...ownNames]);
  private readonly values = new Map<ValueId, Expression>();
  private readonly types = new Map<ValueId, TensorType>();
  private readonly ops = new Map<ValueId, Op>();
  /** Lists that collect the yields of a loop, by owner and index. */
  private readonly parts = new Map<string, string>();
  private readonly uses: ReadonlyMap<ValueId, readonly (Loop | null)[]>;
  /** What results are called, for those that no line of the source names. */
  private readonly labels: ReadonlyMap<ValueId, string>;
  private region: Loop | null = null;
  private lastNote: string | null = null;
  private readonly program: Program;
  private readonly options: PrintOptions;

  constructor(program: Program, options: PrintOptions) {
    this.program = program;
    this.options = options;
    this.uses = usesOf(program);
    this.labels = new Map(program.outputs.map(({ value, label }) => [value, label]));
    for (const op of allOps(program.ops)) {
      this.ops.set(op.id, op);
      this.types.set(op.id, op.type);
      if (op.kind !== "recurrence" && op.kind !== "chunks") continue;
      for (const param of op.region.params) this.types.set(param.id, param.type);
    }
  }

  print(): string {
    const { writer, program, options } = this;
    writer.line(`def ${options.name}(`);
    writer.indent(() => {
      writer.line("sizes: Sizes,");
      for (const op of program.ops) {
        if (op.kind !== "input") continue;
        const name = this.names.unique(op.label);
        this.values.set(op.id, atom(name));
        writer.line(`${name}: Tensor,  # [B, H${this.dimsText(op.type)}]`);
      }
    });
    writer.block(
      ") -> tuple[Tensor, ...]:",
      () => {
        writer.line(`"""${options.summary}"""`);
        for (const op of program.ops) if (op.kind !== "input") this.statement(op);
        const results = program.outputs.map(({ value }) => this.tensor(value).text);
        writer.line(`return (${results.join(", ")}${results.length === 1 ? "," : ""})`);
      },
      "",
    );
    return writer.toString().trimEnd() + "\n";
  }

  /** ", T, K" */
  private dimsText({ shape }: TensorType): string {
    return shape.map((dim) => `, ${dim === tokenDim ? dim : this.size(dim)}`).join("");
  }

  private size(dim: Dim): string {
    if (dim === tokenDim) return "sizes.T";
    if (dim === chunkDim) return "chunk.count";
    const size = typeof dim === "number" ? dim : this.program.dims.get(dim);
    if (typeof size !== "number") throw new CompilerBug(`print: ${dim} has no size`);
    return String(size);
  }

  private sizesOf(shape: readonly Dim[]): string {
    return shape.map((dim) => `, ${this.size(dim)}`).join("");
  }

  /** Tokens of a chunk: one length for all loops, since values may go from one to the next. */
  private get chunkLength(): number {
    const bounds = this.program.ops.flatMap((op) =>
      op.kind === "chunks" && op.longest !== null ? [op.longest] : [],
    );
    return Math.min(longestChunk, ...bounds);
  }

  // --- statements ---------------------------------------------------------------------------------

  private statement(op: Op): void {
    if (op.kind === "recurrence" || op.kind === "chunks") return this.loop(op);
    const value = this.expression(op);
    const users = this.uses.get(op.id) ?? [];
    const isLight = value.value !== null || op.kind === "result";
    const isInner = op.name === null && users.length === 1 && users[0] === this.region;
    if (isLight || (isInner && value.text.length <= longestInline)) {
      this.values.set(op.id, value);
      return;
    }
    if (op.kind !== "rows") this.note(op);
    this.values.set(op.id, atom(this.assign(this.nameFor(op), value.text)));
  }

  /** What the value is called in the source, or as a result; rows say that they are. */
  private nameFor(op: Op): string {
    const name = op.name ?? this.labels.get(op.id) ?? "x";
    if (op.kind !== "rows") return name;
    return `${name}_${this.region?.kind === "recurrence" ? "t" : "rows"}`;
  }

  private assign(wanted: string, text: string): string {
    const name = this.names.unique(wanted);
    this.writer.line(`${name} = ${text}`);
    return name;
  }

  /** The source line, where it is another than that of the statement before. */
  private note(op: Op): void {
    const note = this.options.noteOf(op);
    if (note !== null && note !== this.lastNote) this.writer.line(lineComment("#", note));
    if (note !== null) this.lastNote = note;
  }

  private loop(op: Loop): void {
    const { writer } = this;
    const states = op.region.params.map((param, i) => {
      const init = op.inits[i];
      const type = this.sizesOf(param.type.shape).slice(2);
      const first = init === null ? `sizes.zeros(${type})` : this.tensor(init!).text;
      const name = this.assign(param.name, first);
      this.values.set(param.id, atom(name));
      return name;
    });
    const results = this.program.ops.flatMap((result) =>
      result.kind === "result" && result.of === op.id ? [result] : [],
    );
    const lists = op.yields.map((_, index) => {
      const result = results.find((r) => r.part === "yield" && r.index === index);
      if (!result) return null;
      const wanted = result.name ?? this.labels.get(result.id) ?? "rows";
      const name = this.names.unique(`${wanted}_parts`);
      writer.line(`${name}: list[Tensor] = []`);
      return { name, wanted, result };
    });
    const range = op.kind === "chunks" ? `chunks(sizes.T, ${this.chunkLength})` : "range(sizes.T)";
    const head = op.kind === "chunks" ? "chunk" : "t";
    writer.line(`for ${head} in ${op.reverse ? `reversed(${range})` : range}:`);
    this.lastNote = null;
    this.region = op;
    writer.indent(() => {
      for (const inner of op.region.ops) this.statement(inner);
      lists.forEach((list, i) => {
        if (list) writer.line(`${list.name}.append(${this.tensor(op.yields[i]!).text})`);
      });
      const carries = op.carries.map((id) => this.tensor(id).text);
      if (states.length > 0) writer.line(`${states.join(", ")} = ${carries.join(", ")}`);
    });
    this.region = null;
    this.lastNote = null;
    for (const [i, list] of lists.entries()) {
      if (!list) continue;
      const isCut = op.kind === "chunks" && this.types.get(op.yields[i]!)!.shape[0] === chunkDim;
      const parts = op.reverse ? `${list.name}[::-1]` : list.name;
      const { wanted, result } = list;
      const [, ...dims] = result.type.shape;
      const text = `${isCut ? "cat" : "stack"}(${parts}, sizes${this.sizesOf(dims)})`;
      this.parts.set(`${op.id} ${i}`, this.assign(wanted, text));
    }
    states.forEach((name, i) => this.parts.set(`${op.id} carry ${i}`, name));
  }

  // --- expressions --------------------------------------------------------------------------------

  private get(id: ValueId): Expression {
    const value = this.values.get(id);
    if (!value) throw new CompilerBug(`print: %${id} has no value`);
    return value;
  }

  /** A value where a number will not do. */
  private tensor(id: ValueId): Expression {
    const value = this.get(id);
    if (value.value === null) return value;
    return atom(`sizes.full(${value.text}${this.sizesOf(this.types.get(id)!.shape)})`);
  }

  /** A tensor's text, to be followed by an index or a method. */
  private subject(id: ValueId): string {
    return bound(this.tensor(id), level.atom);
  }

  private rank(id: ValueId): number {
    return this.types.get(id)!.shape.length;
  }

  private expression(op: Exclude<Op, Loop>): Expression {
    switch (op.kind) {
      case "const":
        return numberExpression(op.value);
      case "dim-size":
        // Lengths are tensors too, since functions of them may follow.
        if (op.dim === tokenDim) return atom("sizes.full(float(sizes.T_total))");
        if (op.dim === chunkDim) return atom("sizes.full(float(chunk.count))");
        return numberExpression(Number(this.size(op.dim)));
      case "token-index":
        return atom(
          op.type.shape[0] === tokenDim ? "sizes.tokens()" : `sizes.tokens()[${this.row}]`,
        );
      case "iota":
        return atom(`sizes.count(${this.size(op.type.shape[0]!)})`);
      case "map":
        return this.map(op);
      case "reduce": {
        const method = op.fn === "sum" ? "sum" : "amax";
        return atom(`${this.subject(op.arg)}.${method}(${op.axis - this.rank(op.arg)})`);
      }
      case "rotate-half":
        return atom(`rotate_half(${this.tensor(op.arg).text})`);
      case "matmul":
        return this.matmul(op.lhs, op.rhs);
      case "outer": {
        const [lhs, rhs] = [`${this.subject(op.lhs)}[..., :, None]`, this.subject(op.rhs)];
        return { ...atom(`${lhs} * ${rhs}[..., None, :]`), level: level.product };
      }
      case "transpose":
        return atom(`${this.subject(op.arg)}.mT`);
      case "cumsum": {
        const options = [
          ...(op.reverse ? ["reverse=True"] : []),
          ...(op.exclusive ? ["exclusive=True"] : []),
          ...(op.block === null ? [] : [`block=${op.block}`]),
          ...(op.earlier ? [`earlier=(${pythonFlags(op.earlier).join(", ")})`] : []),
        ].map((option) => `, ${option}`);
        return atom(
          `cumsum(${this.tensor(op.arg).text}, ${-this.rank(op.arg)}${options.join("")})`,
        );
      }
      case "causal": {
        const options = `${op.strict ? ", strict=True" : ""}${op.reverse ? ", reverse=True" : ""}`;
        const decay = op.logDecay === null ? "None" : this.decayText(op.logDecay);
        return atom(`causal(${decay}, sizes, ${this.size(op.type.shape[0]!)}${options})`);
      }
      case "block-mask": {
        const reverse = op.reverse ? ", reverse=True" : "";
        const within = op.within ? `, within="${op.within.strict ? "strict" : "whole"}"` : "";
        const size = this.size(op.type.shape[0]!);
        return atom(`block_mask(${op.block}, sizes, ${size}${reverse}${within})`);
      }
      case "solve": {
        const upper = op.upper ? ", upper=True" : "";
        return atom(`solve(${this.tensor(op.matrix).text}, ${this.tensor(op.rhs).text}${upper})`);
      }
      case "result":
        return atom(this.parts.get(`${op.of} ${op.part === "carry" ? "carry " : ""}${op.index}`)!);
      case "rows":
        return this.rows(op.arg);
      case "input":
      case "invert":
      case "scan":
      case "scan-state":
      case "delta":
        throw new CompilerBug(`print: ${op.kind} stands where none may`);
      default:
        return assertNever(op);
    }
  }

  private map(op: Op & { kind: "map" }): Expression {
    const { shape } = op.type;
    const isBlocks = (id: ValueId) => this.ops.get(id)?.kind === "block-mask";
    const blocks = op.fn === "mul" && shape.length === 2 ? op.args.find(isBlocks) : undefined;
    const other = op.args.find((id) => id !== blocks)!;
    if (blocks !== undefined && this.get(other).value === null) {
      // Outside of the blocks may stand what is no number: a mask selects, it never multiplies.
      const x = this.spread(this.tensor(other), this.types.get(other)!.shape, shape);
      return atom(`torch.where(${this.tensor(blocks).text} != 0, ${x.text}, 0.0)`);
    }
    const typed = op.args.map((id) => ({
      id,
      value: this.get(id),
      shape: this.types.get(id)!.shape,
    }));
    // Axes that no tensor brings must come from a number that has them.
    const missing = shape.filter(
      (dim) => !typed.some((arg) => arg.value.value === null && arg.shape.includes(dim)),
    );
    const isNumbers = typed.every(({ value }) => value.value !== null);
    const args = typed.map((arg, i) => {
      const { id, value } = arg;
      const isNumber = value.value !== null;
      const brings = missing.length > 0 && arg.shape.some((dim) => missing.includes(dim));
      // Of numbers alone, or of two to choose from, torch would make a tensor of its own dtype.
      const isChoice =
        op.fn === "select" && (i === 0 || (i === 1 && typed[2]!.value.value !== null));
      if (isNumber && !brings && !isNumbers && !isChoice) return value;
      return this.spread(isNumber ? this.tensor(id) : value, arg.shape, shape);
    });
    return apply(op.fn, args);
  }

  /** A tensor with axes of size 1 for the dims of the whole that it lacks. */
  private spread(value: Expression, own: readonly Dim[], whole: readonly Dim[]): Expression {
    if (own.length === whole.length) return value;
    let at = 0;
    const index = whole.map((dim) => {
      if (at < own.length && own[at] === dim) return (at++, ":");
      return "None";
    });
    // Colons in front say nothing, since the axes before them are not named either.
    while (index[0] === ":") index.shift();
    const suffix = `[..., ${index.join(", ")}]`;
    const test = value.test === null ? null : `(${value.test})${suffix}`;
    return { ...atom(`${bound(value, level.atom)}${suffix}`), test };
  }

  private matmul(lhs: ValueId, rhs: ValueId): Expression {
    const [rows, cols] = [this.rank(lhs), this.rank(rhs)];
    if (rows === 2 && cols === 2) {
      const triangle = triangleOf(lhs, (id) => this.ops.get(id));
      if (!triangle) return product(this.tensor(lhs), this.tensor(rhs));
      const options = [
        ...(triangle.strict ? ["strict=True"] : []),
        ...(triangle.upper ? ["upper=True"] : []),
      ];
      return atom(
        `below(${[this.tensor(lhs).text, this.tensor(rhs).text, ...options].join(", ")})`,
      );
    }
    if (rows === 1 && cols === 1) {
      return atom(`(${this.subject(lhs)} * ${this.subject(rhs)}).sum(-1)`);
    }
    if (rows === 1) {
      const row = atom(`${this.subject(lhs)}[..., None, :]`);
      return atom(`(${product(row, this.tensor(rhs)).text})[..., 0, :]`);
    }
    const column = atom(`${this.subject(rhs)}[..., :, None]`);
    return atom(`(${product(this.tensor(lhs), column).text})[..., 0]`);
  }

  /** One log decay for each token of the mask. */
  private decayText(id: ValueId): string {
    if (this.rank(id) === 1) return this.tensor(id).text;
    const value = this.get(id);
    return value.value === null
      ? `${bound(value, level.atom)}[..., None]`
      : `sizes.full(${numberText(value.value)}, 1)`;
  }

  private rows(arg: ValueId): Expression {
    // A number is the same in every row.
    if (this.get(arg).value !== null) return this.get(arg);
    const { shape } = this.types.get(arg)!;
    const colons = ", :".repeat(shape.length - 1);
    const perChunk = shape[0] === chunkCountDim;
    return atom(`${this.subject(arg)}[..., ${perChunk ? "chunk.index" : this.row}${colons}]`);
  }

  /** The loop's own part of a token axis. */
  private get row(): string {
    return this.region?.kind === "recurrence" ? "t" : "chunk.rows";
  }
}

/** The region in which each use of a value stands. */
function usesOf(program: Program): Map<ValueId, (Loop | null)[]> {
  const uses = new Map<ValueId, (Loop | null)[]>();
  const use = (id: ValueId, region: Loop | null) => {
    const known = uses.get(id);
    if (known) known.push(region);
    else uses.set(id, [region]);
  };
  const visit = (ops: readonly Op[], region: Loop | null) => {
    for (const op of ops) {
      for (const id of operands(op)) use(id, region);
      if (op.kind !== "recurrence" && op.kind !== "chunks") continue;
      visit(op.region.ops, op);
      for (const id of [...op.carries, ...op.yields]) use(id, op);
    }
  };
  visit(program.ops, null);
  for (const { value } of program.outputs) use(value, null);
  return uses;
}

function pythonFlags({ reverse, exclusive }: SumDirection): string[] {
  return [reverse, exclusive].map((flag) => (flag ? "True" : "False"));
}
