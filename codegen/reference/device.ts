/**
 * The reference device: forms of the tensor level run by its interpreter, in float64, batch by batch and
 * head by head. Slow on purpose; what every other device is measured against.
 */
import type {
  ArtifactFiles,
  Device,
  DeviceBuffer,
  HostTensor,
  LaunchSizes,
} from "../../runtime/device.ts";
import { checkCuts } from "../../runtime/device.ts";
import { bytesOf, elementsOf, fromNumbers, toNumbers } from "../../runtime/dtype.ts";
import type { Dtype, FormSpec, TensorSpec } from "../../runtime/plan.ts";
import { type InterpretSizes, interpretTensor } from "../../compiler/tensor/interpret.ts";
import type { Program } from "../../compiler/tensor/ir.ts";
import { parseTensor } from "../../compiler/tensor/parse.ts";
import { type NdArray, ndArray } from "../../compiler/tensor/nd-array.ts";
import type { Rounding } from "../../compiler/tensor/rounding.ts";
import { ownOf } from "../../runtime/records.ts";

export interface ReferenceBuffer extends DeviceBuffer {
  /** Kept in float64 whatever the dtype says. */
  readonly data: Float64Array;
}

/** What evaluates programs, one sequence and head at a time, so many of them side by side. */
export interface Evaluator {
  readonly width: number;
  readonly evaluate: (
    program: Program,
    inputs: ReadonlyMap<string, NdArray>,
    sizes: InterpretSizes,
    rounding: Rounding | null,
  ) => Promise<ReadonlyMap<string, NdArray>>;
}

/** On this thread. */
const here: Evaluator = {
  width: 1,
  evaluate: async (...args) => {
    // Let others run between heads: a large reference takes a while.
    await new Promise((resolve) => setImmediate(resolve));
    return interpretTensor(...args);
  },
};

/**
 * `programs`: each form's program, by the form's name; without them the artifact's own are read. With `rounding` what
 * narrower arithmetic makes of them.
 */
export function createReferenceDevice(
  programs: ReadonlyMap<string, Program> = new Map(),
  rounding: Rounding | null = null,
  evaluator: Evaluator = here,
): ReferenceDevice {
  return new ReferenceDevice(programs, rounding, evaluator);
}

export class ReferenceDevice implements Device {
  readonly kind = "reference";
  readonly description = "reference: float64 interpreter";
  private programs: ReadonlyMap<string, Program>;

  private readonly rounding: Rounding | null;
  private readonly evaluator: Evaluator;

  constructor(
    programs: ReadonlyMap<string, Program>,
    rounding: Rounding | null,
    evaluator: Evaluator,
  ) {
    this.programs = programs;
    this.rounding = rounding;
    this.evaluator = evaluator;
  }

  async load(artifact: ArtifactFiles): Promise<void> {
    const code = artifact.manifest.targets.find(({ target }) => target === "reference");
    const decoder = new TextDecoder();
    const loaded = (code?.forms ?? []).map(
      ({ form, kernels: [kernel] }) =>
        [form, parseTensor(decoder.decode(artifact.read(kernel!.file)))] as const,
    );
    this.programs = new Map([...loaded, ...this.programs]);
  }

  async alloc(dtype: Dtype, shape: readonly number[]): Promise<ReferenceBuffer> {
    const data = new Float64Array(elementsOf(shape));
    return { spec: { dtype, shape }, sizeBytes: bytesOf(dtype, shape), data };
  }

  async upload(buffer: DeviceBuffer, tensor: HostTensor): Promise<void> {
    (buffer as ReferenceBuffer).data.set(toNumbers(tensor.dtype, tensor.data));
  }

  async download(buffer: DeviceBuffer): Promise<HostTensor> {
    const { spec, data } = buffer as ReferenceBuffer;
    return { dtype: spec.dtype, shape: spec.shape, data: fromNumbers(spec.dtype, data) };
  }

  async launch(
    form: FormSpec,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const program = this.programs.get(form.name);
    if (!program) throw new Error(`the reference has no form ${form.name}`);
    // What is shared is summed up over those who share it.
    for (const { name } of form.outputs) (args.get(name) as ReferenceBuffer).data.fill(0);
    checkCuts(sizes);
    // Heads may be evaluated in any order; their parts of what is shared are added up in one.
    let placed: Promise<void> = Promise.resolve();
    const running: Promise<void>[] = [];
    for (let b = 0; b < sizes.B; b++) {
      // Of packed sequences each is evaluated on its own.
      const cuts = sizes.cuSeqlens;
      const T = cuts ? cuts[b + 1]! - cuts[b]! : sizes.T;
      const own = cuts ? { ...sizes, T, T_total: T, token_offset: 0 } : sizes;
      const first = cuts ? cuts[b]! : b * T;
      for (let h = 0; h < sizes.H; h++) {
        const inputs = new Map<string, NdArray>();
        for (const spec of form.inputs) {
          inputs.set(
            spec.name,
            takePart(spec, args.get(spec.name) as ReferenceBuffer, b, h, own, first),
          );
        }
        if (running.length === this.evaluator.width) await running.shift();
        const found = this.evaluator.evaluate(program, inputs, own, this.rounding);
        placed = Promise.all([found, placed]).then(([outputs]) => {
          for (const spec of form.outputs) {
            const to = args.get(spec.name) as ReferenceBuffer;
            putPart(spec, to, outputs.get(spec.name)!, b, h, own, first);
          }
        });
        // Told to whoever waits for the last.
        placed.catch(() => {});
        running.push(placed);
      }
    }
    await placed;
  }

  async wait(): Promise<void> {}

  free(): void {}

  async close(): Promise<void> {}
}

/** Where the rows of (b, h) begin in a whole tensor, and how far apart they lie. */
function placeOf(
  spec: TensorSpec,
  b: number,
  h: number,
  sizes: LaunchSizes,
  first: number,
): { shape: number[]; start: number; rows: number; width: number; stride: number } {
  const heads = ownOf(sizes.heads, spec.headsOf ?? spec.name) ?? sizes.H;
  const own = Math.floor(h / (sizes.H / heads));
  const width = elementsOf(spec.dims);
  const shape = [...spec.dims];
  switch (spec.per) {
    case "token":
      return {
        shape: [sizes.T, ...shape],
        start: (first * heads + own) * width,
        rows: sizes.T,
        width,
        stride: heads * width,
      };
    case "head":
      return { shape, start: own * width, rows: 1, width, stride: width };
    case "shared":
      return { shape, start: 0, rows: 1, width, stride: width };
    case "state":
      return { shape, start: (b * sizes.H + h) * width, rows: 1, width, stride: width };
    case "chunk": {
      const tokens = spec.chunk!;
      const rows = Math.ceil(sizes.T / tokens);
      const before = sizes.cuSeqlens ? Math.floor(first / tokens) + b : b * rows;
      const start = (before * sizes.H + h) * width;
      return { shape: [rows, ...shape], start, rows, width, stride: sizes.H * width };
    }
  }
}

function takePart(
  spec: TensorSpec,
  { data }: ReferenceBuffer,
  b: number,
  h: number,
  sizes: LaunchSizes,
  first: number,
): NdArray {
  const { shape, start, rows, width, stride } = placeOf(spec, b, h, sizes, first);
  const part = new Float64Array(rows * width);
  for (let row = 0; row < rows; row++) {
    const from = start + row * stride;
    part.set(data.subarray(from, from + width), row * width);
  }
  return ndArray(shape, part);
}

function putPart(
  spec: TensorSpec,
  { data }: ReferenceBuffer,
  part: NdArray,
  b: number,
  h: number,
  sizes: LaunchSizes,
  first: number,
): void {
  const { start, rows, width, stride } = placeOf(spec, b, h, sizes, first);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < width; i++) data[start + row * stride + i]! += part.data[row * width + i]!;
  }
}

/** The float64 numbers a buffer holds, before any rounding to its dtype. */
export function exactNumbers(buffer: DeviceBuffer): Float64Array {
  return (buffer as ReferenceBuffer).data;
}
