/**
 * Intra-chunk values: what loops that carry nothing compute of inputs alone, such as inverted triangles and masked scores.
 * Equal values of several forms have one name, so that whoever runs the forms can compute them once.
 */
import { type Op, type Program, type Result, type ValueId, mapOperands, operands } from "./ir.ts";
import { indexOps } from "./rewrite.ts";

/** The names of an attention's intra-chunk values, over all of its forms. */
export class IntraNames {
  /** Numbers of values by what they are made of. */
  private readonly numbers = new Map<string, number>();
  private readonly names = new Map<number, string>();

  /** The name of a loop's result; null: it is made of more than inputs, or of a state. */
  nameOf(program: Program, result: Result): string | null {
    const ops = indexOps(program);
    const loop = ops.get(result.of);
    if (loop?.kind !== "chunks" || loop.region.params.length > 0) return null;
    const number = this.numberOf(ops, loop.yields[result.index]!);
    if (number === null) return null;
    const known = this.names.get(number);
    if (known !== undefined) return known;
    const taken = new Set(this.names.values());
    const base = `intra_${result.name ?? "value"}`;
    let name = base;
    for (let n = 2; taken.has(name); n++) name = `${base}_${n}`;
    this.names.set(number, name);
    return name;
  }

  private numberOf(ops: ReadonlyMap<ValueId, Op>, id: ValueId): number | null {
    const text = this.textOf(ops, ops.get(id)!);
    if (text === null) return null;
    const number = this.numbers.get(text) ?? this.numbers.size;
    this.numbers.set(text, number);
    return number;
  }

  private textOf(ops: ReadonlyMap<ValueId, Op>, op: Op): string | null {
    if (op.kind === "input") return op.per === "state" ? null : `input ${op.label}`;
    if (op.kind === "result" || op.kind === "chunks" || op.kind === "recurrence") return null;
    const args = operands(op).map((arg) => this.numberOf(ops, arg));
    if (args.includes(null)) return null;
    const { id: _id, name: _name, span: _span, ...own } = mapOperands(op, () => -1 as ValueId);
    return JSON.stringify([own, args]);
  }
}
