/** Writes the steps of one rank: each depends on the ones that last touched its buffers. */
import type {
  AllgatherStep,
  AllocStep,
  AllreduceStep,
  FormSpec,
  FreeStep,
  Layout,
  LaunchStep,
  Manifest,
  Part,
  RecvStep,
  ReshardStep,
  SendStep,
  Step,
  TensorSpec,
} from "../../runtime/plan.ts";
import { layoutFor } from "../../runtime/layout.ts";
import { ownOf } from "../../runtime/records.ts";

type WithoutId<S> = S extends Step ? Omit<S, "id" | "after"> : never;
type NewStep = WithoutId<
  | AllocStep
  | LaunchStep
  | SendStep
  | RecvStep
  | AllgatherStep
  | AllreduceStep
  | ReshardStep
  | FreeStep
>;

/** A step that reads or writes a buffer, or a block of one. */
interface Touch {
  readonly step: number;
  readonly writes: boolean;
  readonly part: Part | undefined;
}

export class StepWriter {
  private readonly steps: NewStep[] = [];
  /** By step: those that must have finished. */
  private readonly after: (readonly number[])[] = [];
  private readonly touches = new Map<string, Touch[]>();
  private readonly owned = new Set<string>();
  private readonly manifest: Manifest;

  constructor(manifest: Manifest) {
    this.manifest = manifest;
  }

  /** Is there such a buffer of the plan's own? */
  has(buffer: string): boolean {
    return this.owned.has(buffer);
  }

  /** Launches a form; `renamed` maps its tensors to buffers called otherwise, outputs are new buffers. */
  launch(
    formName: string,
    renamed: Readonly<Record<string, string>> = {},
    {
      part,
      layout = "tokens",
    }: { readonly part?: Part | undefined; readonly layout?: Layout } = {},
  ): void {
    const form = this.form(formName);
    const buffer = (name: string) => ownOf(renamed, name) ?? name;
    for (const spec of form.outputs) {
      this.alloc(buffer(spec.name), spec, "compute", layoutFor(spec, layout));
    }
    const args = Object.fromEntries(
      [...form.inputs, ...form.outputs].map(({ name }) => [name, buffer(name)]),
    );
    const reads = form.inputs.map(({ name }) => buffer(name));
    const writes = form.outputs.map(({ name }) => buffer(name));
    const step = { kind: "launch", form: formName, args, stream: "compute" } as const;
    this.add({ ...step, ...(part && { part }), ...unlessTokens(layout) }, reads, writes, part);
  }

  /** Into a new buffer, one float32 tensor of `dims` for each sequence and head. */
  recv(name: string, dims: readonly number[], from: number, tag: number, part?: Part): void {
    this.alloc(name, stateSpec(name, dims), "transfer");
    const step = { kind: "recv", buffer: name, from, tag, stream: "transfer" } as const;
    this.add({ ...step, ...(part && { part }) }, [], [name], part);
  }

  send(buffer: string, to: number, tag: number, part?: Part): void {
    const step = { kind: "send", buffer, to, tag, stream: "transfer" } as const;
    this.add({ ...step, ...(part && { part }) }, [buffer], [], part);
  }

  /** `into`: one name for each of `group`, this rank's own being `buffer`. */
  allgather(
    buffer: string,
    into: readonly string[],
    group: readonly number[],
    dims: readonly number[],
    tag: number,
  ): void {
    const others = into.filter((name) => name !== buffer);
    for (const name of others) this.alloc(name, stateSpec(name, dims), "transfer");
    const step = { kind: "allgather", buffer, into, group, tag, stream: "transfer" } as const;
    this.add(step, [buffer], others);
  }

  /** Into a new buffer, all of a tensor that rank `from` has a copy of: of that layout. */
  recvTensor(name: string, spec: TensorSpec, layout: Layout, from: number, tag: number): void {
    this.alloc(name, spec, "transfer", layout);
    this.add({ kind: "recv", buffer: name, from, tag, stream: "transfer" }, [], [name]);
  }

  /** Moves a tensor to another layout, into a new buffer where this rank then has a part of it. */
  reshard(move: Pick<ReshardStep, "spec" | "buffer" | "into" | "from" | "to" | "tag">): void {
    const { spec, buffer, into, to } = move;
    if (into !== null) this.alloc(into, spec, "transfer", typeof to === "number" ? "tokens" : to);
    const step = { kind: "reshard", ...move, stream: "transfer" } as const;
    this.add(step, buffer === null ? [] : [buffer], into === null ? [] : [into]);
  }

  /** A new buffer of zeros: this rank's part of a sum that others add to. */
  zeros(spec: TensorSpec): void {
    this.alloc(spec.name, spec, "compute", "tokens", true);
  }

  /** The sum over ranks, in their order, in place. */
  allreduce(buffer: string, group: readonly number[], tag: number): void {
    this.add({ kind: "allreduce", buffer, group, tag, stream: "transfer" }, [buffer], [buffer]);
  }

  /** The steps; every buffer that is no result is freed behind the last step that uses it. */
  finish(results: ReadonlySet<string>): readonly Step[] {
    const freed = new Map<number, string[]>();
    for (const buffer of this.owned) {
      if (results.has(buffer)) continue;
      const last = Math.max(...this.touches.get(buffer)!.map(({ step }) => step));
      freed.set(last, [...(freed.get(last) ?? []), buffer]);
    }
    const steps: Step[] = [];
    const ids: number[] = [];
    const sorted = (after: readonly number[]) =>
      [...new Set(after.map((old) => ids[old]!))].sort((a, b) => a - b);
    this.steps.forEach((step, i) => {
      ids[i] = steps.length;
      steps.push({ ...step, id: steps.length, after: sorted(this.after[i]!) });
      for (const buffer of freed.get(i) ?? []) {
        // On the stream of its last use, so that computing does not wait for what others still take.
        const after = sorted(this.touches.get(buffer)!.map((touch) => touch.step));
        steps.push({ kind: "free", buffer, stream: step.stream, id: steps.length, after });
      }
    });
    return steps;
  }

  private alloc(
    buffer: string,
    spec: TensorSpec,
    stream: Step["stream"],
    layout: Layout = "tokens",
    zero = false,
  ): void {
    if (this.owned.has(buffer)) return;
    const step = { kind: "alloc", buffer, spec: specOf(buffer, spec), zero, stream } as const;
    this.add({ ...step, ...unlessTokens(layout) }, [], [buffer]);
    this.owned.add(buffer);
  }

  private form(name: string): FormSpec {
    return this.manifest.forms.find((form) => form.name === name)!;
  }

  private add(
    step: NewStep,
    reads: readonly string[],
    writes: readonly string[],
    part?: Part,
  ): void {
    const id = this.steps.length;
    const after = new Set<number>();
    const touch = (name: string, isWrite: boolean) => {
      const known = this.touches.get(name) ?? [];
      for (const other of known) {
        if ((isWrite || other.writes) && overlap(part, other.part)) after.add(other.step);
      }
      // What this write comes after, later steps need not name.
      const kept = known.filter((other) => !(isWrite && covers(part, other.part)));
      this.touches.set(name, [...kept, { step: id, writes: isWrite, part }]);
    };
    for (const name of reads) touch(name, false);
    for (const name of writes) touch(name, true);
    after.delete(id);
    this.steps.push(step);
    this.after.push([...after]);
  }
}

function overlap(a: Part | undefined, b: Part | undefined): boolean {
  return a === undefined || b === undefined || a.of !== b.of || a.index === b.index;
}

function covers(a: Part | undefined, b: Part | undefined): boolean {
  return a === undefined || (a.of === b?.of && a.index === b.index);
}

function stateSpec(name: string, dims: readonly number[]): TensorSpec {
  return { name, per: "state", dtype: "f32", dims, dimNames: dims.map(String), range: null };
}

/** The spec of a buffer that holds such a tensor: heads are counted by the tensor's name. */
function specOf(buffer: string, spec: TensorSpec): TensorSpec {
  const counts = buffer !== spec.name && (spec.per === "token" || spec.per === "head");
  const headsOf = spec.headsOf ?? spec.name;
  return { ...spec, name: buffer, ...(counts ? { headsOf } : {}) };
}

function unlessTokens(layout: Layout): { layout?: Layout } {
  return layout === "tokens" ? {} : { layout };
}
