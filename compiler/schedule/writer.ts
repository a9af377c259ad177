/** Writes the steps of one rank: each depends on the ones that last touched its buffers. */
import type {
  AllocStep,
  FormSpec,
  FreeStep,
  LaunchStep,
  Manifest,
  RecvStep,
  SendStep,
  Step,
  TensorSpec,
} from "../../runtime/plan.ts";

type NewStep =
  | Omit<AllocStep, "id">
  | Omit<LaunchStep, "id">
  | Omit<SendStep, "id">
  | Omit<RecvStep, "id">
  | Omit<FreeStep, "id">;

export class StepWriter {
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

  /** Into a new buffer, one float32 tensor of `dims` for each sequence and head. */
  recv(name: string, dims: readonly number[], from: number, tag: number): void {
    this.alloc(name, stateSpec(name, dims));
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

function stateSpec(name: string, dims: readonly number[]): TensorSpec {
  return { name, per: "state", dtype: "f32", dims, dimNames: dims.map(String), range: null };
}
