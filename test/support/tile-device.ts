/**
 * Kernels of any target on the tile interpreter: a device for tests that need no compiler of native code. Numbers are
 * rounded to float32 wherever a storage or a buffer holds them. It poisons what it allocates, and cuts sequences into
 * segments where it is told to.
 */
import { printTile } from "../../compiler/tile/print.ts";
import { parseTile } from "../../compiler/tile/parse.ts";
import { interpretTile } from "../../compiler/tile/interpret.ts";
import type { TileProgram } from "../../compiler/tile/ir.ts";
import type { Target } from "../../compiler/tile/target.ts";
import type {
  ArtifactFiles,
  Device,
  DeviceBuffer,
  HostTensor,
  LaunchSizes,
} from "../../runtime/device.ts";
import { shapeOf } from "../../runtime/device.ts";
import { bytesOf, elementsOf, fromNumbers, toNumbers } from "../../runtime/dtype.ts";
import type { IntraValues } from "../../runtime/intra.ts";
import type { Dtype, FormCode, FormSpec, Manifest, SegmentLaunch } from "../../runtime/plan.ts";
import { launchSegments } from "../../runtime/segments.ts";
import { uploadCuts, withShares } from "../../runtime/shares.ts";

interface TileBuffer extends DeviceBuffer {
  readonly data: Float32Array;
}

/** The target, but that its files hold the text of the tile level, and that its devices cut segments. */
export function interpretedTarget(target: Target): Target {
  const { variants } = target;
  return {
    ...target,
    ...(variants && {
      variants: (form, along) => variants(form, along).map(interpretedTarget),
    }),
    segments: true,
    files: {},
    emit: (kernel) => ({
      file: `${kernel.name}.tile`,
      entry: kernel.name,
      text: printTile({ name: kernel.name, kernels: [kernel] }),
      scalars: [],
      sharedBytes: 0,
      bundles: [],
    }),
  };
}

export interface TileDeviceOptions {
  /** Tokens of a segment; null: sequences stay whole. */
  readonly segment?: number | null;
}

/** Runs an artifact of one `interpretedTarget`. */
export class TileDevice implements Device {
  readonly kind = "tile";
  readonly description = "tile: interpreter, float32";
  private readonly programs = new Map<string, TileProgram>();
  private manifest: Manifest | null = null;
  private codes: ReadonlyMap<string, FormCode> = new Map();
  private dense: DeviceBuffer | null = null;
  private readonly segment: number | null;

  constructor({ segment = null }: TileDeviceOptions = {}) {
    this.segment = segment;
  }

  async load({ manifest, read }: ArtifactFiles): Promise<void> {
    this.manifest = manifest;
    this.dense = await uploadCuts(this);
    const code = manifest.targets.find(({ target }) => target !== "reference")!;
    this.codes = new Map(code.forms.map((form) => [form.form, form]));
    for (const { entry, file } of code.forms.flatMap(({ kernels }) => kernels)) {
      this.programs.set(entry, parseTile(new TextDecoder().decode(read(file))));
    }
  }

  async alloc(dtype: Dtype, shape: readonly number[], zero = false): Promise<TileBuffer> {
    return this.newBuffer(dtype, shape, zero ? 0 : NaN);
  }

  private newBuffer(dtype: Dtype, shape: readonly number[], value = NaN): TileBuffer {
    const data = new Float32Array(elementsOf(shape)).fill(value);
    return { spec: { dtype, shape }, sizeBytes: bytesOf(dtype, shape), data };
  }

  async upload(buffer: DeviceBuffer, { dtype, data }: HostTensor): Promise<void> {
    (buffer as TileBuffer).data.set(toNumbers(dtype, data));
  }

  async download(buffer: DeviceBuffer): Promise<HostTensor> {
    const { spec, data } = buffer as TileBuffer;
    return { dtype: spec.dtype, shape: spec.shape, data: fromNumbers(spec.dtype, data) };
  }

  async launch(
    form: FormSpec,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const { segment, manifest } = this;
    const { B, T, cuSeqlens } = sizes;
    const longest = cuSeqlens
      ? Math.max(...cuSeqlens.slice(1).map((c, i) => c - cuSeqlens[i]!))
      : T;
    if (segment === null || B === 0 || longest <= segment || !manifest!.segments?.[form.name]) {
      return this.launchWhole(form, args, sizes);
    }
    await launchSegments(manifest!, form, args, sizes, segment, {
      alloc: (dtype, shape) => this.newBuffer(dtype, shape),
      view: (buffer, shape) => ({ ...(buffer as TileBuffer), spec: { ...buffer.spec, shape } }),
      launch: (own, bound, ownSizes, _intra: IntraValues, part: SegmentLaunch["part"]) =>
        part === "intra" ? Promise.resolve() : this.launchWhole(own, bound, ownSizes),
      free: () => {},
    });
  }

  private async launchWhole(
    form: FormSpec,
    args: ReadonlyMap<string, DeviceBuffer>,
    sizes: LaunchSizes,
  ): Promise<void> {
    const code = this.codes.get(form.name);
    if (!code) throw new Error(`the artifact has no form ${form.name}`);
    for (const spec of [...form.inputs, ...form.outputs]) {
      const [given, wanted] = [args.get(spec.name)?.spec.shape, shapeOf(spec, sizes)];
      if (given?.join() !== wanted.join()) {
        throw new Error(`${form.name} needs ${spec.name} as [${wanted}], not [${given}]`);
      }
    }
    await withShares(this, form, code, args, sizes, this.dense!, async (bound) => {
      const buffers = new Map<string, Float32Array>();
      for (const [name, { data }] of bound as ReadonlyMap<string, TileBuffer>) {
        buffers.set(name, data);
      }
      // Cuts are carried as the bits of integers.
      const { cuSeqlens, heads, ...integers } = sizes;
      buffers.set("cu_seqlens", Float32Array.from(cuSeqlens ?? [0, 0]));
      for (const work of code.workspaces) {
        const count = elementsOf(shapeOf(work, sizes)) * (code.shares?.[work.name] ?? 1);
        buffers.set(work.name, new Float32Array(count).fill(NaN));
      }
      const scalars: Record<string, number> = { ...integers, packed: cuSeqlens ? 1 : 0 };
      for (const [name, count] of Object.entries(heads)) scalars[`H_${name}`] = count;
      for (const { entry } of code.kernels) {
        interpretTile(this.programs.get(entry)!, buffers, scalars);
      }
    });
  }

  async wait(): Promise<void> {}
  free(): void {}
  async close(): Promise<void> {}
}
