/** Tensor programs as text; `parse.ts` reads it back. */
import { TextWriter } from "../support/text.ts";
import {
  type Delta,
  type Input,
  type Op,
  type Program,
  type TensorType,
  type ValueId,
  operands,
} from "./ir.ts";

export interface PrintOptions {
  /** Also print where each op comes from, as offsets into the source: `@12:30`. */
  readonly spans?: boolean;
}

/** The one text of a program; equal programs print alike whatever their ids. */
export function printTensor(program: Program, options: PrintOptions = {}): string {
  const writer = new TextWriter();
  const names = new Names();
  const dims = [...program.dims].map(([name, size]) => `${name} = ${size ?? "?"}`);
  writer.block(`program ${program.name} {`, () => {
    if (dims.length > 0) writer.line(`dims ${dims.join(", ")}`);
    for (const op of program.ops) printOp(op, writer, names, options);
    const outputs = program.outputs.map(
      (out) => `${out.label}: ${out.per} ${out.dtype} = ${names.of(out.value)}`,
    );
    writer.line(`return ${outputs.join(", ")}`);
  });
  return writer.toString();
}

/** Values by their users' names; a number is added on a clash, unnamed values are numbers. */
class Names {
  private readonly known = new Map<ValueId, string>();
  private readonly taken = new Set<string>();
  private next = 0;

  of(id: ValueId): string {
    return this.known.get(id) ?? `%?${id}`;
  }

  define(id: ValueId, name: string | null): string {
    let unique = name ?? String(this.next++);
    for (let n = 2; this.taken.has(unique); n++) unique = `${name ?? this.next++}.${n}`;
    this.taken.add(unique);
    this.known.set(id, `%${unique}`);
    return `%${unique}`;
  }
}

function printOp(op: Op, writer: TextWriter, names: Names, options: PrintOptions): void {
  const read = (id: ValueId) => names.of(id);
  const span = options.spans ? ` @${op.span.start}:${op.span.end}` : "";
  if (op.kind === "recurrence" || op.kind === "chunks") {
    const inits = op.inits.map((id) => (id === null ? "0" : read(id)));
    const params = op.region.params.map(
      (param, i) => `${names.define(param.id, param.name)}: ${type(param.type)} = ${inits[i]}`,
    );
    const direction = op.reverse ? " reverse" : "";
    const longest = op.kind === "chunks" && op.longest !== null ? ` longest ${op.longest}` : "";
    const piece = op.kind === "chunks" && op.piece !== null ? ` piece ${op.piece}` : "";
    writer.line(`${op.kind}${direction}${longest}${piece} (${params.join(", ")}) {`);
    writer.indent(() => {
      for (const inner of op.region.ops) printOp(inner, writer, names, options);
      if (op.carries.length > 0) writer.line(`carry ${op.carries.map(read).join(", ")}`);
      if (op.yields.length > 0) writer.line(`yield ${op.yields.map(read).join(", ")}`);
    });
    const own = names.define(op.id, op.name ?? "loop");
    writer.line(`} = ${own}${span}`);
    return;
  }
  const args = op.kind === "result" ? [read(op.of)] : operands(op).map(read);
  const word = op.kind === "map" ? op.fn : op.kind;
  const attributes = attributesOf(op);
  const text = [word, args.join(", "), attributes && `{${attributes}}`].filter(Boolean).join(" ");
  writer.line(`${names.define(op.id, op.name)}: ${type(op.type)} = ${text}${span}`);
}

function type({ shape }: TensorType): string {
  return `f32[${shape.join(", ")}]`;
}

/** Everything about an op that is neither its operands nor its type. */
function attributesOf(op: Op): string {
  const list: [string, string | number | boolean][] = [];
  switch (op.kind) {
    case "input":
      list.push(["label", op.label], ["per", op.per], ["dtype", op.dtype]);
      if (op.range) list.push(["range", rangeText(op.range)]);
      break;
    case "const":
      list.push(["value", numberText(op.value)]);
      break;
    case "dim-size":
      list.push(["dim", op.dim]);
      break;
    case "reduce":
      list.push(["fn", op.fn], ["axis", op.axis]);
      break;
    case "cumsum":
      list.push(["reverse", op.reverse]);
      if (op.exclusive) list.push(["exclusive", true]);
      if (op.block !== null) list.push(["block", op.block]);
      if (op.earlier) {
        const { reverse, exclusive } = op.earlier;
        list.push(["earlier_reverse", reverse], ["earlier_exclusive", exclusive]);
      }
      break;
    case "causal":
      list.push(["strict", op.strict]);
      if (op.reverse) list.push(["reverse", true]);
      break;
    case "block-mask":
      list.push(["block", op.block], ["reverse", op.reverse]);
      if (op.within) list.push(["within_strict", op.within.strict]);
      break;
    case "solve":
      list.push(["upper", op.upper]);
      break;
    case "scan":
    case "scan-state":
    case "delta":
      list.push(["state", op.state], ["axis", op.axis], ["initial", op.initial !== null]);
      if (op.kind === "scan") list.push(["read", op.read], ["causal", op.causal]);
      if (op.writes.length > 1) list.push(["writes", op.writes.length]);
      if (op.kind === "delta") list.push(...deltaAttributes(op));
      list.push(["reverse", op.reverse]);
      if (op.kind === "scan-state" && op.every !== null) list.push(["every", op.every]);
      break;
    case "result":
      list.push(["part", op.part], ["index", op.index]);
      break;
    default:
  }
  return list.map(([name, value]) => `${name} = ${value}`).join(", ");
}

/** Which write this is, which writes erase, and which pairs are coupled: "w1w0" for w[1] += s w[0]. */
function deltaAttributes(op: Delta): [string, string | number][] {
  const erases = op.writes.flatMap(({ erase }, i) => (erase === null ? [] : [`w${i}`]));
  const couplings = op.couplings.map(({ to, from }) => `w${to}w${from}`);
  return [
    ["index", op.index],
    ["erase", erases.join("") || "none"],
    ...(couplings.length > 0 ? ([["couplings", couplings.join("_")]] as [string, string][]) : []),
  ];
}

function rangeText(range: NonNullable<Input["range"]>): string {
  const [open, close] = [range.lowOpen ? "(" : "[", range.highOpen ? ")" : "]"];
  return `${open}${numberText(range.low)}, ${numberText(range.high)}${close}`;
}

/** inf, -inf, nan, or the shortest decimal that reads back the same. */
export function numberText(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  return Object.is(value, -0) ? "-0" : String(value);
}
