/** What every tensor program satisfies; a failure is a bug of the pass that made it. */
import { CompilerBug } from "../support/never.ts";
import {
  type Op,
  type Program,
  type RegionKind,
  type TensorType,
  type ValueId,
  mapOperands,
  operands,
  tokenDim,
} from "./ir.ts";
import { printTensor } from "./print.ts";
import { resultType, sameShape } from "./types.ts";

/** Throws CompilerBug naming `after`, the pass that ran last, and showing the program. */
export function verifyTensor(program: Program, after: string): void {
  const fail = (why: string): never => {
    throw new CompilerBug(`${after}: ${program.name}: ${why}`, printTensor(program));
  };
  const types = new Map<ValueId, TensorType>();
  const owners = new Map<ValueId, Op & { kind: "recurrence" | "chunks" }>();
  const labels = new Set<string>();
  const define = (id: ValueId, type: TensorType) => {
    if (types.has(id)) fail(`%${id} is defined twice`);
    types.set(id, type);
  };
  const typeOf = (id: ValueId): TensorType =>
    types.get(id) ?? fail(`%${id} is used before it is defined`);

  const checkOp = (op: Op, kind: RegionKind | null): void => {
    operands(op).forEach(typeOf);
    const { id, type, name: _name, span: _span, ...draft } = op;
    const given = resultType(draft, typeOf, kind, type);
    if (!sameShape(given.shape, type.shape)) {
      fail(`%${id}: ${op.kind} gives [${given.shape.join(", ")}], not [${type.shape.join(", ")}]`);
    }
    for (const dim of type.shape) checkDim(dim);
    switch (op.kind) {
      case "input":
        if (labels.has(op.label)) fail(`two inputs are called ${op.label}`);
        labels.add(op.label);
        if (op.per === "token" && type.shape[0] !== tokenDim) fail(`${op.label} has no token axis`);
        break;
      case "recurrence":
      case "chunks":
        checkRegion(op);
        owners.set(op.id, op);
        break;
      case "result": {
        const owner = owners.get(op.of) ?? fail(`%${id} is a result of no loop`);
        const part = op.part === "yield" ? owner.yields : owner.carries;
        if (op.index >= part.length) fail(`%${id}: the loop has no ${op.part} ${op.index}`);
        break;
      }
      case "scan":
      case "scan-state":
        checkScan(op);
        break;
      default:
    }
    define(id, type);
  };

  const checkDim = (dim: string | number): void => {
    const known = typeof dim === "number" || program.dims.has(dim) || dim === "C";
    if (!known) fail(`the dim ${dim} is not declared`);
  };

  const checkScan = (op: Op & { kind: "scan" | "scan-state" }): void => {
    if ((op.axis === "none") !== (op.logDecay === null)) fail(`%${op.id}: axis and decay disagree`);
    const key = typeOf(op.k).shape.slice(1);
    if (op.kind === "scan" && !sameShape(typeOf(op.q).shape, typeOf(op.k).shape)) {
      fail(`%${op.id}: query and key have different shapes`);
    }
    const state = [...key, ...typeOf(op.v).shape.slice(1)];
    if (op.initial !== null && !sameShape(typeOf(op.initial).shape, state)) {
      fail(`%${op.id}: the first state is not [${state.join(", ")}]`);
    }
  };

  const checkRegion = (op: Op & { kind: "recurrence" | "chunks" }): void => {
    const { params } = op.region;
    if (op.inits.length !== params.length || op.carries.length !== params.length) {
      fail(`%${op.id}: states, first values and carried values differ in number`);
    }
    const outside = new Map(types);
    params.forEach((param, i) => {
      const init = op.inits[i]!;
      if (init !== null && !sameShape(typeOf(init).shape, param.type.shape)) {
        fail(`%${op.id}: the first value of ${param.name} has another shape`);
      }
      define(param.id, param.type);
    });
    for (const inner of op.region.ops) checkOp(inner, op.kind);
    op.carries.forEach((id, i) => {
      if (!sameShape(typeOf(id).shape, params[i]!.type.shape)) {
        fail(`%${op.id}: ${params[i]!.name} changes its shape`);
      }
    });
    op.yields.forEach(typeOf);
    // What is inside a region is not seen outside of it; its ids stay taken.
    for (const id of types.keys()) if (!outside.has(id)) hidden.add(id);
    for (const id of hidden) types.delete(id);
  };
  const hidden = new Set<ValueId>();

  for (const op of program.ops) {
    mapOperands(op, (id) => (hidden.has(id) ? fail(`%${id} is read outside its loop`) : id));
    checkOp(op, null);
  }
  for (const { label, value, per } of program.outputs) {
    const type = typeOf(value);
    if (per === "token" && type.shape[0] !== tokenDim) fail(`output ${label} has no token axis`);
  }
}
