/** Gathers what the levels made into an artifact: the manifest, and the files it names. */
import type {
  FormCode,
  FormSpec,
  GridSize,
  KernelSpec,
  Manifest,
  SegmentLaunch,
  StateSpec,
  TargetCode,
  TensorSpec,
} from "../runtime/plan.ts";
import { schemaVersion } from "../runtime/plan.ts";
import { CompilerBug } from "./support/never.ts";
import type { Dim, Input, Program } from "./tensor/ir.ts";
import { countsTokens, pieceOf, tokenDim } from "./tensor/ir.ts";
import { printTensor } from "./tensor/print.ts";
import { type LevelForm, byLevel, formAt } from "./tensor/levels.ts";
import type { Sharded, State } from "./tensor/passes/shard.ts";
import type { Workspace } from "./tile/from-tensor.ts";
import type { Kernel } from "./tile/ir.ts";
import type { EmittedKernel, Target } from "./tile/target.ts";

/** Files of an artifact by path inside it. */
export type Files = Map<string, string>;

export interface EmittedForm {
  readonly form: string;
  readonly kernels: readonly { readonly kernel: Kernel; readonly emitted: EmittedKernel }[];
  readonly workspaces: readonly Workspace[];
  readonly shares: Readonly<Record<string, number>>;
}

/** The signature and forms of an attention, without code. */
export function manifestOf(program: Program, sharded: Sharded, source: string): Manifest {
  const dims = Object.fromEntries(
    [...program.dims].flatMap(([name, size]) => (typeof size === "number" ? [[name, size]] : [])),
  ) as Record<string, number>;
  const definition = formSpec("definition", program);
  return {
    schema: schemaVersion,
    name: program.name,
    source,
    dims,
    inputs: definition.inputs,
    outputs: definition.outputs,
    states: sharded.states.map((state) => stateSpec(state, program)),
    forms: [definition, ...sharded.forms.map((form) => formSpec(form.name, form.program))],
    positional: countsTokens(program),
    ...segmentsOf(sharded),
    targets: [],
    plans: [],
  };
}

/** The forward and the gradients by segments, where there are forms that hand on their states. */
function segmentsOf({ states, forms }: Sharded): Pick<Manifest, "segments"> {
  if (!forms.some(({ name }) => name === "exchange")) return {};
  type Pairs = (state: string) => readonly (readonly [string, string])[];
  const renamed = (of: readonly State[], pairs: Pairs) =>
    Object.fromEntries(of.flatMap(({ name }) => pairs(name)));
  const last = (label: string) => [label, `segment_${label}`] as const;
  const first: Pairs = (S) => [[`initial_${S}`, `segment_${S}`]];
  const levels = [...byLevel(states).entries()];
  const below = (level: number) => states.filter((state) => state.level < level);
  const above = (level: number) => states.filter((state) => state.level > level);
  // Two recurrences of a range and its outputs take the same intra-chunk values.
  const intra = { form: "forward", over: "segments", args: {}, part: "intra" } as const;
  const hasMatrices = states.some(({ dense }) => dense);
  /** `finals`: what the last states of whole sequences are called. */
  const upTo = (finals: Pairs): SegmentLaunch[] => [
    ...(hasMatrices ? [intra] : []),
    ...levels.flatMap(([level, own]): SegmentLaunch[] => {
      const args = renamed(below(level), first);
      const form = (name: LevelForm) =>
        ({ form: formAt(name, level), over: "segments", args }) as const;
      return [
        form("summary"),
        ...(own.some(({ dense }) => dense) ? [form("transition")] : []),
        { form: formAt("exchange", level), over: "sequences", args: renamed(own, finals) },
      ];
    }),
  ];
  const backTo: SegmentLaunch[] = [...levels].reverse().flatMap(([level]): SegmentLaunch[] => [
    // The cotangents depend on what the segment begins with wherever reads are not linear in states.
    {
      form: formAt("summary_bwd", level),
      over: "segments",
      args: {
        ...renamed(states, first),
        ...renamed(above(level), (S) => [[`d_final_${S}`, `d_segment_${S}`]]),
      },
    },
    { form: formAt("exchange_bwd", level), over: "sequences", args: {} },
  ]);
  const forward: SegmentLaunch = {
    form: "forward",
    over: "segments",
    args: renamed(states, (S) => [...first(S), last(`final_${S}`)]),
  };
  const backward = (form: string): SegmentLaunch[] => [
    ...upTo((S) => [last(`final_${S}`)]).map((launch) => ({ ...launch, again: true }) as const),
    ...backTo,
    {
      form,
      over: "segments",
      args: renamed(states, (S) => [
        ...first(S),
        [`d_final_${S}`, `d_segment_${S}`],
        last(`d_initial_${S}`),
      ]),
    },
  ];
  const hasGradients = forms.some(({ name }) => name === "exchange_bwd");
  const gradients = forms.filter(({ name }) => hasGradients && name.startsWith("backward"));
  return {
    segments: {
      forward: [...upTo(() => []), forward],
      ...Object.fromEntries(gradients.map(({ name }) => [name, backward(name)])),
    },
  };
}

function stateSpec(state: State, program: Program): StateSpec {
  return {
    name: state.name,
    dims: sizes(state.type.shape, program),
    causal: state.causal,
    reverse: state.reverse,
    dense: state.dense,
    logDecay: state.decay === null ? null : `decay_${state.name}`,
    level: state.level,
  };
}

function formSpec(name: string, program: Program): FormSpec {
  const inputs = program.ops.filter((op): op is Input => op.kind === "input");
  const typed = new Map(program.ops.map((op) => [op.id, op.type]));
  return {
    name,
    inputs: inputs.map((op) => tensorSpec(op.label, op.per, op.dtype, op.type.shape, program, op)),
    outputs: program.outputs.map((out) => ({
      ...tensorSpec(out.label, out.per, out.dtype, typed.get(out.value)!.shape, program, null),
      ...(name.startsWith("backward") ? { headsOf: out.label.replace(/^d_/, "") } : {}),
    })),
  };
}

function tensorSpec(
  name: string,
  per: TensorSpec["per"],
  dtype: TensorSpec["dtype"],
  shape: readonly Dim[],
  program: Program,
  input: Input | null,
): TensorSpec {
  const own = shape.filter((dim) => dim !== tokenDim && pieceOf(dim) === null);
  const chunk = pieceOf(shape[0]);
  return {
    name,
    per,
    dtype,
    dims: sizes(own, program),
    dimNames: own.map(String),
    range: input?.range ?? null,
    ...(chunk !== null && { chunk }),
  };
}

function sizes(shape: readonly Dim[], program: Program): number[] {
  return shape.map((dim) => {
    const size = typeof dim === "number" ? dim : program.dims.get(dim);
    if (typeof size !== "number") throw new CompilerBug(`artifact: ${dim} has no size`);
    return size;
  });
}

/** The reference target: every form as text of the tensor level, before any loop is made. */
export function referenceCode(program: Program, sharded: Sharded, files: Files): TargetCode {
  const forms = [{ name: "definition", program }, ...sharded.forms];
  const codes = forms.map((form): FormCode => {
    const file = `reference/${form.name}.ir`;
    files.set(file, printTensor(form.program));
    const { inputs, outputs } = formSpec(form.name, form.program);
    const buffers = [
      ...inputs.map(({ name }) => ({ name, access: "read" as const })),
      ...outputs.map(({ name }) => ({ name, access: "write" as const })),
    ];
    const kernel: KernelSpec = {
      entry: form.name,
      file,
      buffers,
      scalars: ["B", "T", "H", "T_total", "token_offset"],
      grid: [],
      threads: 1,
      sharedBytes: 0,
    };
    return { form: form.name, kernels: [kernel], workspaces: [] };
  });
  return { target: "reference", files: [], forms: codes };
}

/** The kernels of one target, their texts put into `files` under the target's folder. */
export function targetCode(
  { name: target, files: shared }: Pick<Target, "name" | "files">,
  forms: readonly EmittedForm[],
  files: Files,
): TargetCode {
  for (const [name, text] of Object.entries(shared)) files.set(`${target}/${name}`, text);
  return {
    target,
    files: Object.keys(shared).map((name) => `${target}/${name}`),
    forms: forms.map(({ form, kernels, workspaces, shares }) => ({
      form,
      kernels: kernels.map(({ kernel, emitted }) => {
        const file = `${target}/${emitted.file}`;
        files.set(file, emitted.text);
        return kernelSpec(kernel, emitted, file);
      }),
      workspaces: workspaces.map(({ name, per, dtype, dims, chunk, intra }) => ({
        name,
        per,
        ...(chunk === undefined ? {} : { chunk }),
        ...(intra === undefined ? {} : { intra }),
        dtype,
        dims,
        dimNames: dims.map(String),
        range: null,
      })),
      ...(Object.keys(shares).length === 0 ? {} : { shares }),
    })),
  };
}

function kernelSpec(kernel: Kernel, emitted: EmittedKernel, file: string): KernelSpec {
  const axes = kernel.grid.map((axis): GridSize => ({ of: [axis.extent], by: axis.step }));
  return {
    entry: emitted.entry,
    file,
    buffers: [
      ...kernel.params
        .filter(({ name }) => !emitted.bundles.some(({ parts }) => parts.includes(name)))
        .map(({ name, access }) => ({ name, access })),
      ...emitted.bundles.map(({ name, parts }) => {
        const { access } = kernel.params.find((param) => param.name === parts[0])!;
        return { name, access, parts };
      }),
    ],
    ...(emitted.maps === undefined || emitted.maps.length === 0 ? {} : { maps: emitted.maps }),
    scalars: emitted.scalars,
    grid: [{ of: ["B", "H"], by: 1 }, ...axes],
    threads: kernel.threads,
    sharedBytes: emitted.sharedBytes,
    ...(emitted.isDynamic ? { dynamicShared: true } : {}),
    ...(emitted.packedChunk === undefined ? {} : { packedChunk: emitted.packedChunk }),
  };
}
