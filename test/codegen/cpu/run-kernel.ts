/** Writes small tile kernels and runs them on the CPU device, without the compiler above them. */
import { targetCode } from "../../../compiler/artifact.ts";
import { Report, runPasses } from "../../../compiler/support/pass.ts";
import { createCpuTarget } from "../../../codegen/cpu/target.ts";
import type {
  Expr,
  Kernel,
  Param,
  Stmt,
  Storage,
  StorageId,
  View,
  Window,
} from "../../../compiler/tile/ir.ts";
import type { MapFn } from "../../../compiler/tensor/ir.ts";
import { verifyTile } from "../../../compiler/tile/verify.ts";
import type { LaunchSizes } from "../../../runtime/device.ts";
import { shapeOf } from "../../../runtime/device.ts";
import { type CpuOptions, createCpuDevice } from "../../../runtime/devices/cpu.ts";
import { fromNumbers, toNumbers } from "../../../runtime/dtype.ts";
import type { Manifest, TensorSpec } from "../../../runtime/plan.ts";

/** Storages by name; a kernel under construction. */
export class KernelText {
  readonly storages: Storage[] = [];
  private readonly byName = new Map<string, StorageId>();

  /** `{ q: [64, 64], g: [64], total: [] }` */
  constructor(shapes: Readonly<Record<string, readonly number[]>>) {
    for (const [name, shape] of Object.entries(shapes)) {
      const id = this.storages.length as StorageId;
      const memory = shape.length === 1 ? "shared" : "register";
      this.storages.push({ id, name, memory, dtype: "f32", shape, pad: 0 });
      this.byName.set(name, id);
    }
  }

  id(name: string): StorageId {
    return this.byName.get(name)!;
  }

  view(param: string, row: string | number = 0, col: string | number = 0): View {
    return { param, row: index(row), col: index(col) };
  }

  load(dst: string, row: string | number = 0, param = dst, col: string | number = 0): Stmt {
    return { kind: "load", dst: this.id(dst), view: this.view(param, row, col), note: null };
  }

  store(src: string, row: string | number = 0, param = src, col: string | number = 0): Stmt {
    return { kind: "store", src: this.id(src), view: this.view(param, row, col), note: null };
  }

  map(dst: string, expr: Expr, note: string | null = null): Stmt {
    return { kind: "map", dst: this.id(dst), expr, note };
  }

  read(name: string, at: "tile" | "row" | "col" | "scalar"): Expr {
    return { kind: "read", storage: this.id(name), at };
  }

  /** The whole of a tile, or `rows` x `cols` of it from (row, col) on. */
  window(
    name: string,
    part: Partial<{ row: string | number; col: string | number; rows: number; cols: number }> = {},
  ): Window {
    const storage = this.id(name);
    const [rows, cols] = this.storages[storage]!.shape as [number, number];
    return {
      storage,
      row: index(part.row ?? 0),
      col: index(part.col ?? 0),
      rows: part.rows ?? rows,
      cols: part.cols ?? cols,
    };
  }

  mma(dst: Window, lhs: Window, rhs: Window, transposed: "lhs" | "rhs" | null = null): Stmt {
    return {
      kind: "mma",
      dst,
      lhs,
      rhs,
      transposeLhs: transposed === "lhs",
      transposeRhs: transposed === "rhs",
      note: null,
    };
  }
}

export const call = (fn: MapFn, ...args: Expr[]): Expr => ({ kind: "call", fn, args });
export const number = (value: number): Expr => ({ kind: "const", value });

function index(at: string | number) {
  return typeof at === "string" ? { base: at, offset: 0 } : { base: null, offset: at };
}

/** A loop over tokens or to a fixed extent. */
export function loop(
  variable: string,
  extent: number | "T",
  step: number,
  body: readonly Stmt[],
  reverse = false,
): Stmt {
  return { kind: "loop", variable, extent, step, within: null, reverse, body, note: null };
}

export function param(
  name: string,
  access: Param["access"],
  per: Param["per"],
  shape: Param["shape"],
  dtype: Param["dtype"] = "f32",
): Param {
  const heads = per === "token" || per === "head" ? `H_${name}` : "H";
  return { name, access, per, dtype, shape, heads };
}

export type Numbers = Readonly<Record<string, ArrayLike<number>>>;

export const oneSequence: LaunchSizes = {
  B: 1,
  T: 1,
  H: 1,
  T_total: 1,
  token_offset: 0,
  heads: {},
};

/** Emits, compiles and runs a kernel on poisoned outputs; gives the outputs as float64. */
export async function runKernel(
  kernel: Kernel,
  inputs: Numbers,
  sizes: LaunchSizes,
  options: CpuOptions = {},
): Promise<Record<string, Float64Array>> {
  const { manifest, files } = await artifactOf(kernel);
  const device = await createCpuDevice({ poison: true, ...options });
  try {
    await device.load({ manifest, read: (path) => new TextEncoder().encode(files.get(path)) });
    const form = manifest.forms[0]!;
    const args = new Map();
    for (const spec of [...form.inputs, ...form.outputs]) {
      const shape = shapeOf(spec, sizes);
      const buffer = await device.alloc(spec.dtype, shape, false);
      args.set(spec.name, buffer);
      const data = inputs[spec.name];
      if (data) {
        const numbers = fromNumbers(spec.dtype, Float64Array.from(data));
        await device.upload(buffer, { dtype: spec.dtype, shape, data: numbers });
      }
    }
    await device.launch(form, args, sizes);
    const results: Record<string, Float64Array> = {};
    for (const { name } of form.outputs) {
      const { dtype, data } = await device.download(args.get(name)!);
      results[name] = Float64Array.from(toNumbers(dtype, data));
    }
    return results;
  } finally {
    await device.close();
  }
}

/** Kernels as an artifact, each a form of its own by its name. */
export async function artifactOf(
  ...kernels: readonly Kernel[]
): Promise<{ readonly manifest: Manifest; readonly files: Map<string, string> }> {
  const target = await createCpuTarget();
  if ("missing" in target) throw new Error(target.missing);
  const program = { name: "test", kernels };
  const legal = runPasses(target.legalize, program, verifyTile, new Report()).kernels;
  const emitted = legal.map((kernel) => ({
    form: kernel.name,
    kernels: [{ kernel, emitted: target.emit(kernel, { source: "test.lasp", passes: [] }) }],
    workspaces: [],
    shares: {},
  }));
  const forms = kernels.map(({ name, params }) => {
    const specs = (access: Param["access"]) =>
      params.filter((candidate) => candidate.access === access).map(specOf);
    return { name, inputs: specs("read"), outputs: specs("write") };
  });
  const files = new Map<string, string>();
  const manifest: Manifest = {
    schema: 1,
    name: "test",
    source: "test.lasp",
    dims: {},
    inputs: [],
    outputs: [],
    states: [],
    forms,
    targets: [targetCode(target, emitted, files)],
    positional: false,
    plans: [],
  };
  return { manifest, files };
}

function specOf({ name, per, dtype, shape }: Param): TensorSpec {
  const dims = shape.filter((size): size is number => size !== "T");
  return { name, per, dtype: dtype as TensorSpec["dtype"], dims, dimNames: [], range: null };
}
