/**
 * The forward in two parts, so that a rank computes while its first state is still on its way:
 *
 *   local   q, k, v, g                       -> local_i, what read i gives of the range's own tokens
 *   join    q, ..., local_i, initial_S       -> o, with what read i gives of the first state added
 *
 * What is read of a state is linear in it, so it is the sum of what the range writes and of what the first state
 * becomes; `join` follows the latter through the same transitions with nothing written. This holds of reads whose query, and
 * of states whose writes, come from inputs alone. Others are known when first states have arrived: `join` computes them whole.
 */
import { stateInput } from "./exchange.ts";
import { type Delta, type Program, type Scan, type ValueId, type Write, operands } from "./ir.ts";
import { comesFromReads } from "./levels.ts";
import { type Form, type State, prune } from "./passes/shard.ts";
import { Rewriter, indexOps, originOf } from "./rewrite.ts";

export function overlapForms(program: Program, states: readonly State[]): Form[] {
  if (states.length === 0) return [];
  const first = new Set(states.filter(({ level }) => level === 0).map(({ name }) => name));
  const ops = indexOps(program);
  const reads = readsOf(program).filter(
    (op) => first.has(op.state) && (op.kind === "delta" || !comesFromReads(ops, op.q)),
  );
  return [
    { name: "local", program: local(program, reads) },
    { name: "join", program: join(program, states, reads) },
  ];
}

/** Scans, and what a delta writes where it is not only written: a read behind it names it. */
function readsOf(program: Program): readonly (Scan | Delta)[] {
  const outside = program.ops.filter(({ kind }) => kind !== "scan" && kind !== "delta");
  const named = new Set(outside.flatMap((op) => operands(op)));
  return program.ops.filter(
    (op): op is Scan | Delta => op.kind === "scan" || (op.kind === "delta" && named.has(op.id)),
  );
}

function local(program: Program, reads: readonly (Scan | Delta)[]): Program {
  const rewriter = new Rewriter(program);
  for (const op of program.ops) rewriter.copy(op);
  const outputs = reads.map(({ id }, i) => ({
    label: `local_${i}`,
    value: rewriter.get(id),
    dtype: "f32" as const,
    per: "token" as const,
  }));
  return prune(rewriter.build.finish(outputs), true);
}

function join(
  program: Program,
  states: readonly State[],
  reads: readonly (Scan | Delta)[],
): Program {
  const rewriter = new Rewriter(program);
  const { build, get } = rewriter;
  for (const op of program.ops) if (op.kind === "input") rewriter.copy(op);
  const initials = new Map(
    states.map(({ name, type }) => [name, stateInput(build, `initial_${name}`, type)]),
  );
  const locals = new Map(
    reads.map(({ id, type }, i): [ValueId, ValueId] => {
      const draft = { kind: "input", label: `local_${i}`, per: "token" } as const;
      const origin = { name: `local_${i}` };
      return [id, build.add({ ...draft, dtype: "f32", range: null }, origin, type)];
    }),
  );
  const nothing = (like: ValueId) => build.const(0, build.shapeOf(like));
  /** What deltas write because of the first state alone. */
  const followed = new Map<ValueId, ValueId>();
  /** With what the range itself writes. */
  const whole = (op: Scan | Delta): ValueId => {
    const { id: _id, type: _type, ...draft } = rewriter.mapped(op);
    return build.add({ ...draft, initial: initials.get(op.state)! }, originOf(op));
  };
  const followDelta = (op: Delta): ValueId => {
    const { id: _id, type: _type, ...draft } = rewriter.mapped(op);
    const writes = draft.writes.map((write) => ({ ...write, v: nothing(write.v) }));
    return build.add({ ...draft, writes, initial: initials.get(op.state)! }, originOf(op));
  };
  const follow = (op: Scan): ValueId => {
    const initial = initials.get(op.state)!;
    const { id: _id, type: _type, ...draft } = rewriter.mapped(op);
    if (!op.causal) return build.matmul(draft.q, initial, originOf(op));
    const [{ k, v }] = draft.writes as [Write];
    const own = op.writes.flatMap((write) => {
      const value = followed.get(write.v);
      return value === undefined ? [] : [{ k: get(write.k), v: value }];
    });
    const writes = own.length > 0 ? own : [{ k: nothing(k), v: nothing(v) }];
    return build.add({ ...draft, writes, initial }, originOf(op));
  };
  for (const op of program.ops) {
    if (op.kind === "input") continue;
    if (op.kind !== "scan" && op.kind !== "delta") {
      rewriter.copy(op);
      continue;
    }
    if (op.kind === "delta") followed.set(op.id, followDelta(op));
    const local = locals.get(op.id);
    const value =
      local === undefined
        ? whole(op)
        : build.map(
            "add",
            [local, op.kind === "delta" ? followed.get(op.id)! : follow(op)],
            originOf(op),
          );
    rewriter.set(op.id, value);
  }
  const outputs = program.outputs.map((out) => ({ ...out, value: get(out.value) }));
  return prune(build.finish(outputs), true);
}
