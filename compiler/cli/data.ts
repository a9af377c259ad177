/** Inputs from files or a seed, outputs to files. */
import { totalmem } from "node:os";
import { basename, extname, join } from "node:path";
import { type HostTensor, type LaunchSizes, shapeOf } from "../../runtime/device.ts";
import { bytesOf, fromNumbers, toNumbers } from "../../runtime/dtype.ts";
import { npyHeadBytes, npyLayout, readNpy, writeNpy } from "../../runtime/npy.ts";
import type { Manifest, TensorSpec } from "../../runtime/plan.ts";
import { type Draw, randomTensor, drawOf } from "../../runtime/random.ts";
import { cotangentsOf } from "../../runtime/plan.ts";
import {
  readSafetensors,
  safetensorsHeadBytes,
  safetensorsLayout,
  writeSafetensors,
} from "../../runtime/safetensors.ts";
import { type Compiled, check } from "../index.ts";
import type { Source } from "../support/span.ts";
import type { Input } from "../tensor/ir.ts";
import { type Arguments, UsageError, UserError } from "./arguments.ts";
import { writeTogether, writeWhole } from "./files.ts";
import { type InputFile, withInputFile } from "./reading.ts";

export interface Data {
  /** Sizes that the input files tell, for dims nobody gave. */
  readonly dims: Readonly<Record<string, number>>;
  /** Is there any input from a file? */
  readonly hasFiles: boolean;
  /** All inputs, those without a file drawn from the seed, and the run-time sizes. */
  readonly complete: (
    compiled: Compiled,
    options?: CompleteOptions,
  ) => {
    readonly inputs: ReadonlyMap<string, HostTensor>;
    readonly sizes: LaunchSizes;
  };
}

export interface CompleteOptions {
  /** Tokens, whatever was asked for. */
  readonly T?: number;
  /** Tokens at most, but of packed sequences. */
  readonly longest?: number;
  readonly draw?: Draw;
}

/** Reads `--input q=q.npy` and `--input all.safetensors`. */
export async function gatherInputs(args: Arguments, source: Source): Promise<Data> {
  const files = new Map<string, HostTensor>();
  for (const text of args.list("input")) {
    const [name, path] = text.includes("=")
      ? (text.split(/=(.*)/s) as [string, string])
      : [null, text];
    for (const [label, tensor] of await readTensors(path, name)) {
      if (files.has(label)) throw new UsageError(`--input gives ${label} twice`);
      files.set(label, tensor);
    }
  }
  const given = args.dims();
  const known = { ...sizesFromFiles(args, source, files), ...given };
  return {
    dims: known,
    hasFiles: files.size > 0,
    complete: ({ manifest }, options = {}) => completeInputs(args, manifest, files, known, options),
  };
}

async function readTensors(path: string, name: string | null): Promise<Map<string, HostTensor>> {
  const read = readers.get(extname(path));
  if (!read) throw new UserError(`${path}: inputs are .npy or .safetensors files`);
  return withInputFile(path, async (file) => {
    try {
      return await read(file, name, path);
    } catch (error) {
      throw error instanceof UserError
        ? error
        : new UserError(`${path}: ${(error as Error).message}`);
    }
  });
}

/** By the end of a file's name. What its head says must fit its size before the rest is read. */
const readers = new Map([
  [".npy", readArray],
  [".safetensors", readNamed],
]);

async function readArray({ head, sizeBytes }: InputFile, name: string | null, path: string) {
  npyLayout(await head(npyHeadBytes), sizeBytes);
  return new Map([[name ?? basename(path, ".npy"), readNpy(await head(sizeBytes))]]);
}

async function readNamed({ head, sizeBytes }: InputFile, name: string | null) {
  const headBytes = safetensorsHeadBytes(await head(8), sizeBytes);
  safetensorsLayout(await head(headBytes), sizeBytes);
  const tensors = readSafetensors(await head(sizeBytes));
  if (name === null) return tensors;
  const [only] = tensors.values();
  const found = tensors.get(name) ?? (tensors.size === 1 ? only : undefined);
  if (!found) throw new Error(`it has no tensor ${name}, but ${[...tensors.keys()].join(", ")}`);
  return new Map([[name, found]]);
}

/** B, T, H, K, ... as the shapes of the files say. */
function sizesFromFiles(
  args: Arguments,
  source: Source,
  files: ReadonlyMap<string, HostTensor>,
): Record<string, number> {
  const sizes = new Map<string, number>();
  if (files.size === 0) return {};
  const checked = check(source, { dims: {}, dtype: "f32" }).value ?? [];
  const entry = args.text("entry");
  const attention = checked.find(({ name }) => entry === null || name === entry);
  for (const op of attention?.program.ops ?? []) {
    const file = op.kind === "input" ? files.get(op.label) : undefined;
    if (op.kind !== "input" || !file) continue;
    layoutOf(op).forEach((dim, axis) => {
      const size = file.shape[axis];
      if (typeof dim === "string" && size !== undefined && !sizes.has(dim)) sizes.set(dim, size);
    });
    if (op.per !== "token") continue;
    sizes.set("H", Math.max(sizes.get("H") ?? 0, file.shape[2] ?? 0));
    sizes.set(`H_${op.label}`, file.shape[2] ?? 0);
  }
  return Object.fromEntries(sizes);
}

function layoutOf(op: Input): readonly (string | number)[] {
  const dims = op.type.shape;
  switch (op.per) {
    case "token":
      return ["B", "T", "", ...dims.slice(1)];
    case "head":
      return ["", ...dims];
    default:
      return dims;
  }
}

function completeInputs(
  args: Arguments,
  manifest: Manifest,
  files: ReadonlyMap<string, HostTensor>,
  known: Readonly<Record<string, number>>,
  { T: wanted, longest = Infinity, draw = "declared" }: CompleteOptions,
) {
  const cuSeqlens = cutsOf(args, known);
  const T = cuSeqlens?.at(-1) ?? wanted ?? Math.min(known["T"] ?? 256, longest);
  const H = known["H"] ?? 1;
  const heads = Object.fromEntries(
    Object.entries(known).flatMap(([name, size]) =>
      name.startsWith("H_") && size > 0 ? [[name.slice(2), size]] : [],
    ),
  ) as Record<string, number>;
  const sizes: LaunchSizes = {
    B: cuSeqlens ? cuSeqlens.length - 1 : (known["B"] ?? 1),
    T,
    H,
    T_total: T,
    token_offset: 0,
    heads,
    ...(cuSeqlens ? { cuSeqlens } : {}),
  };
  for (const [name, count] of Object.entries(heads)) {
    if (!manifest.inputs.some((spec) => spec.name === name)) {
      throw new UsageError(`--dim H_${name}: the attention has no input ${name}`);
    }
    if (H % count !== 0)
      throw new UserError(`${name} has ${count} heads, which does not divide ${H}`);
  }
  const states = manifest.states.map((state): TensorSpec => ({
    name: `initial_${state.name}`,
    per: "state",
    dtype: "f32",
    dims: state.dims,
    dimNames: state.dims.map(String),
    range: null,
  }));
  const all = [...manifest.inputs, ...states, ...cotangentsOf(manifest)];
  const specs = new Map(all.map((spec) => [spec.name, spec]));
  for (const name of files.keys()) {
    if (!specs.has(name)) {
      throw new UserError(
        `the attention has no input ${name}; it has ${[...specs.keys()].join(", ")}`,
      );
    }
  }
  checkMemory([...all, ...manifest.outputs], sizes);
  const inputs = new Map<string, HostTensor>();
  for (const [i, spec] of [...specs.values()].entries()) {
    const shape = shapeOf(spec, sizes);
    const file = files.get(spec.name);
    if (file) inputs.set(spec.name, fitted(spec, file, shape));
    else if (!spec.name.startsWith("initial_")) {
      inputs.set(spec.name, randomTensor(spec, shape, args.integer("seed", 0), drawOf(draw, i)));
    }
  }
  return { inputs, sizes };
}

/** Throws where the tensors of a call alone are more than this machine has memory for. */
function checkMemory(specs: readonly TensorSpec[], sizes: LaunchSizes): void {
  const bytes = specs.reduce((sum, spec) => sum + bytesOf(spec.dtype, shapeOf(spec, sizes)), 0);
  if (bytes <= totalmem()) return;
  const gib = (count: number) => `${(count / 2 ** 30).toFixed(1)} GiB`;
  throw new UserError(
    `the tensors of this call take ${gib(bytes)}, and this machine has ${gib(totalmem())} of memory`,
  );
}

/** `--cu-seqlens 0,5,5,70`: where packed sequences begin, and the end of the last. */
function cutsOf(args: Arguments, known: Readonly<Record<string, number>>): number[] | null {
  const text = args.text("cu-seqlens");
  if (text === null) return null;
  const cuts = text.split(",").map((cut) => (/^\d+$/.test(cut) ? Number(cut) : NaN));
  const isSorted = cuts.every((cut, i) => Number.isSafeInteger(cut) && cut >= (cuts[i - 1] ?? 0));
  if (cuts.length < 2 || cuts[0] !== 0 || !isSorted) {
    throw new UsageError(`--cu-seqlens is 0 and then cuts that never fall, not \`${text}\``);
  }
  if ((known["B"] ?? 1) !== 1 || (known["T"] ?? cuts.at(-1)) !== cuts.at(-1)) {
    throw new UsageError(`--cu-seqlens packs one row of ${cuts.at(-1)} tokens: leave B and T out`);
  }
  return cuts;
}

/** A file's tensor in the dtype the kernels store it in; its shape must be right. */
function fitted(spec: TensorSpec, file: HostTensor, shape: readonly number[]): HostTensor {
  if (file.shape.join() !== shape.join()) {
    throw new UserError(
      `input ${spec.name} has shape [${file.shape.join(", ")}], but [${shape.join(", ")}] is needed`,
    );
  }
  if (file.dtype === spec.dtype) return file;
  const data = fromNumbers(spec.dtype, toNumbers(file.dtype, file.data));
  return { dtype: spec.dtype, shape, data };
}

/** Throws UserError on the first number outside its parameter's declared range. */
export function checkRanges(manifest: Manifest, inputs: ReadonlyMap<string, HostTensor>): void {
  for (const { name, range } of manifest.inputs) {
    const tensor = inputs.get(name);
    if (!range || !tensor) continue;
    const { low, high, lowOpen, highOpen } = range;
    const bad = toNumbers(tensor.dtype, tensor.data).find(
      (x) => !(lowOpen ? x > low : x >= low) || !(highOpen ? x < high : x <= high),
    );
    if (bad !== undefined) {
      const text = `${lowOpen ? "(" : "["}${low}, ${high}${highOpen ? ")" : "]"}`;
      throw new UserError(`input ${name} holds ${bad}, outside its range ${text}`);
    }
  }
}

/** One .npy file for each tensor; into one file when the name ends in .safetensors. */
export async function writeOutputs(
  folder: string,
  tensors: ReadonlyMap<string, HostTensor>,
): Promise<void> {
  if (extname(folder) === ".safetensors") return writeWhole(folder, writeSafetensors(tensors));
  const files = [...tensors].map(
    ([name, tensor]) => [join(folder, `${name}.npy`), writeNpy(tensor)] as const,
  );
  await writeTogether(new Map(files));
}
