/**
 * The ring of LASP: a chain of states, rank to rank.
 *
 *   launch summary                              needs keys, values and gates only: before any recv
 *   recv   initial_S from the rank before
 *   launch fold                                 final = decay * initial + summary
 *   send   to the rank after                    before the outputs: nobody waits for those
 *   launch forward with initial_S
 *
 * One message of B x H x K x V x 4 bytes for each pair of neighbours, whatever the length. Without a
 * mask the chain ends with the whole sequence's state, which then travels back down, and `output`
 * takes the place of `forward`. A dense transition (a delta rule) has no summary of K x V numbers: each
 * rank then runs `forward` on the state it receives and sends the final one on. Source: LASP, arXiv 2404.02882, algorithm 2 (whose released code
 * receives before it computes anything; here the summary is ready by then).
 */
import type {
  AllocStep,
  FormSpec,
  FreeStep,
  LaunchStep,
  Manifest,
  Plan,
  RankPlan,
  RecvStep,
  SendStep,
  StateSpec,
  Step,
  TensorSpec,
} from "../../runtime/plan.ts";
import { Unsupported } from "../support/never.ts";

export function ringPlan(manifest: Manifest, ranks: number): Plan {
  return {
    name: `ring-${ranks}`,
    schedule: "ring",
    ranks: Array.from({ length: ranks }, (_, rank) => rankPlan(manifest, rank, ranks)),
  };
}

function rankPlan(manifest: Manifest, rank: number, ranks: number): RankPlan {
  const writer = new StepWriter(manifest);
  if (ranks === 1 || manifest.states.length === 0) {
    writer.launch("forward");
    return { rank, steps: writer.finish(manifest) };
  }
  const { states } = manifest;
  if (states.some((state) => state.dense)) return chainPlan(manifest, rank, ranks);
  const needsTotal = states.some((state) => !state.causal);
  const isLast = (state: StateSpec) => rank === (state.reverse ? 0 : ranks - 1);
  const after = (state: StateSpec) => rank + (state.reverse ? -1 : 1);
  const before = (state: StateSpec) => rank - (state.reverse ? -1 : 1);
  const isFirst = (state: StateSpec) => rank === (state.reverse ? ranks - 1 : 0);
  const folds = needsTotal || states.some((state) => !isLast(state));
  if (folds) writer.launch("summary");
  states.forEach((state, tag) => {
    if (!isFirst(state)) writer.recv(`initial_${state.name}`, state, before(state), tag);
  });
  if (folds) {
    writer.launch(
      "fold",
      Object.fromEntries(states.map(({ name }) => [`final_${name}`, `folded_${name}`])),
    );
    writer.freeAll((name) => name.startsWith("summary_") || name.startsWith("decay_"));
    states.forEach((state, tag) => {
      if (!isLast(state)) writer.send(`folded_${state.name}`, after(state), tag);
    });
  }
  if (!needsTotal) {
    // Freeing waits for the send, so it stands behind the output, which does not.
    writer.launch("forward");
    writer.freeAll((name) => name.startsWith("folded_"));
    // Every rank's forward gives a final state; only the chain's last is the sequence's.
    writer.freeAll((name) => states.some((s) => name === `final_${s.name}` && !isLast(s)));
    writer.freeAll((name) => name.startsWith("initial_"));
    return { rank, steps: writer.finish(manifest) };
  }
  states.forEach((state, tag) => {
    const total = `total_${state.name}`;
    if (state.causal) return;
    if (isLast(state)) writer.rename(`folded_${state.name}`, total);
    else writer.recv(total, state, after(state), states.length + tag);
    if (!isFirst(state)) writer.send(total, before(state), states.length + tag);
  });
  writer.launch("output");
  for (const state of states) {
    const total = state.causal ? `folded_${state.name}` : `total_${state.name}`;
    if (isLast(state)) writer.rename(total, `final_${state.name}`);
  }
  writer.freeAll((name) => /^(folded|total|initial)_/.test(name));
  return { rank, steps: writer.finish(manifest) };
}

/** Down the chain with whole forwards: what a dense transition needs. */
function chainPlan(manifest: Manifest, rank: number, ranks: number): RankPlan {
  const { states } = manifest;
  const [{ reverse }] = states as [StateSpec];
  if (states.some((state) => state.reverse !== reverse)) {
    const names = states.map(({ name }) => name).join(" and ");
    throw new Unsupported(
      `the states ${names} run in both directions and one is dense: no chain can carry them yet`,
    );
  }
  const writer = new StepWriter(manifest);
  const step = reverse ? -1 : 1;
  const [first, last] = reverse ? [ranks - 1, 0] : [0, ranks - 1];
  states.forEach((state, tag) => {
    if (rank !== first) writer.recv(`initial_${state.name}`, state, rank - step, tag);
  });
  writer.launch("forward");
  states.forEach((state, tag) => {
    if (rank !== last) writer.send(`final_${state.name}`, rank + step, tag);
  });
  writer.freeAll((name) => rank !== last && states.some((state) => name === `final_${state.name}`));
  writer.freeAll((name) => name.startsWith("initial_"));
  return { rank, steps: writer.finish(manifest) };
}

/** The forward, then the gradients of all inputs, on one device. */
export function backwardPlan(manifest: Manifest): Plan {
  const writer = new StepWriter(manifest);
  writer.launch("forward");
  writer.launch("backward");
  const steps = writer.finish(manifest);
  return { name: "backward-1", schedule: "backward", ranks: [{ rank: 0, steps }] };
}

type NewStep =
  | Omit<AllocStep, "id">
  | Omit<LaunchStep, "id">
  | Omit<SendStep, "id">
  | Omit<RecvStep, "id">
  | Omit<FreeStep, "id">;

/** Appends steps, each after the ones that last touched its buffers. */
class StepWriter {
  private readonly steps: Step[] = [];
  /** The last step that wrote a buffer, and those that read it since. */
  private readonly touched = new Map<string, { write: number; reads: number[] }>();
  /** Names that stand for another buffer: renaming costs nothing. */
  private readonly names = new Map<string, string>();
  private readonly owned = new Set<string>();
  private readonly manifest: Manifest;

  constructor(manifest: Manifest) {
    this.manifest = manifest;
  }

  /** The steps; a renamed buffer gets its final name from the start. */
  finish(manifest: Manifest): readonly Step[] {
    // What the forward kept for its gradient ends with the plan.
    const caches = this.form("forward").outputs.filter(({ per }) => per === "chunk");
    this.freeAll((buffer) => caches.some(({ name }) => name === buffer));
    const kept = new Set([
      ...manifest.outputs.map(({ name }) => name),
      ...manifest.states.map(({ name }) => `final_${name}`),
    ]);
    const final = new Map<string, string>();
    for (const [alias, buffer] of this.names) if (kept.has(alias)) final.set(buffer, alias);
    const called = (name: string) => final.get(name) ?? name;
    return this.steps.map((step): Step => {
      if (step.kind !== "launch") return { ...step, buffer: called(step.buffer) };
      const args = Object.entries(step.args).map(([name, buffer]) => [name, called(buffer)]);
      return { ...step, args: Object.fromEntries(args) };
    });
  }

  launch(formName: string, renamed: Readonly<Record<string, string>> = {}): void {
    const form = this.form(formName);
    const buffer = (name: string) => this.actual(renamed[name] ?? name);
    for (const spec of form.outputs) this.alloc(buffer(spec.name), spec);
    const args = Object.fromEntries(
      [...form.inputs, ...form.outputs].map(({ name }) => [name, buffer(name)]),
    );
    const reads = form.inputs.map(({ name }) => buffer(name));
    const writes = form.outputs.map(({ name }) => buffer(name));
    this.add({ kind: "launch", form: formName, args, stream: "compute", after: [] }, reads, writes);
  }

  recv(name: string, state: StateSpec, from: number, tag: number): void {
    this.alloc(name, stateSpec(name, state));
    this.add({ kind: "recv", buffer: name, from, tag, stream: "transfer", after: [] }, [], [name]);
  }

  send(name: string, to: number, tag: number): void {
    const buffer = this.actual(name);
    this.add({ kind: "send", buffer, to, tag, stream: "transfer", after: [] }, [buffer], []);
  }

  rename(buffer: string, alias: string): void {
    this.names.set(alias, this.actual(buffer));
  }

  freeAll(which: (name: string) => boolean): void {
    const kept = new Set(
      [...this.names].filter(([alias]) => !which(alias)).map(([, buffer]) => buffer),
    );
    for (const buffer of this.owned) {
      if (!which(buffer) || kept.has(buffer)) continue;
      this.add({ kind: "free", buffer, stream: "compute", after: [] }, [], [buffer]);
      this.owned.delete(buffer);
    }
  }

  private actual(name: string): string {
    return this.names.get(name) ?? name;
  }

  private alloc(buffer: string, spec: TensorSpec): void {
    this.add(
      {
        kind: "alloc",
        buffer,
        spec: { ...spec, name: buffer },
        zero: false,
        stream: "compute",
        after: [],
      },
      [],
      [buffer],
    );
    this.owned.add(buffer);
  }

  private form(name: string): FormSpec {
    return this.manifest.forms.find((form) => form.name === name)!;
  }

  private add(step: NewStep, reads: readonly string[], writes: readonly string[]): void {
    const id = this.steps.length;
    const after = new Set<number>();
    for (const name of reads) {
      const known = this.touched.get(name);
      if (known) after.add(known.write);
    }
    for (const name of writes) {
      const known = this.touched.get(name);
      if (known) [known.write, ...known.reads].forEach((other) => after.add(other));
    }
    for (const name of reads) {
      const known = this.touched.get(name);
      if (known) known.reads.push(id);
      else this.touched.set(name, { write: -1, reads: [id] });
    }
    for (const name of writes) this.touched.set(name, { write: id, reads: [] });
    const sorted = [...after].filter((other) => other >= 0).sort((a, b) => a - b);
    this.steps.push({ ...step, id, after: sorted } as Step);
  }
}

function stateSpec(name: string, state: StateSpec): TensorSpec {
  const dimNames = state.dims.map(String);
  return { name, per: "state", dtype: "f32", dims: state.dims, dimNames, range: null };
}
