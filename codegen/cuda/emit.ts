/**
 * Tile kernel to CUDA C++: one block of threads for each grid point, points counted along x, the one
 * axis with room for them. Kernels with 16-bit tiles in shared memory multiply on tensor cores
 * (fragments.ts), others in float32. No headers: the text is for NVRTC and nvcc alike.
 */
import { lineComment } from "../../compiler/support/text.ts";
import { registerPressure } from "../../compiler/tile/pressure.ts";
import type { Kernel, Param, Storage } from "../../compiler/tile/ir.ts";
import { mayBeAbsent, mayBeUnwanted, servesPacked } from "../../compiler/tile/ir.ts";
import { flatten, hasLoop, ofRole } from "../../compiler/tile/accesses.ts";
import { warpgroup } from "../../compiler/tile/passes/one-warpgroup.ts";
import type { EmitContext, EmittedKernel } from "../../compiler/tile/target.ts";
import type { Dialect } from "../c-like/dialect.ts";
import { sharedElements } from "../c-like/places.ts";
import { advance, bare, mentions } from "../c-like/text.ts";
import { CLikeWalker } from "../c-like/walk.ts";
import { FragmentWalker } from "./fragments.ts";
import {
  blocksOfWarpgroups,
  fragmentRegisters,
  placeBytesOf,
  registersOfTiles,
  sharedBytesOf,
  sharedPlaces,
} from "./layout.ts";
import { type Helper, type Use, callText, floatText, helperTexts } from "./ops.ts";
import { reservedWords } from "./reserved.ts";

/** Registers of a thread for what is no tile, and for the addresses of each store. */
const registersBesideTiles = 80;
const registersOfStore = 4;

/** Shared memory a block has without asking for more. */
export const staticSharedBytes = 48 * 1024;

/** Are its products those of tensor cores? */
export function isOnTensorCores({ storages }: Kernel): boolean {
  return storages.some(({ memory, dtype }) => memory === "shared" && dtype !== "f32");
}

export function emitCuda(kernel: Kernel, context: EmitContext): EmittedKernel {
  const used = new Set<Helper>();
  const use: Use = (name) => {
    used.add(name);
    return name;
  };
  const onTensorCores = isOnTensorCores(kernel);
  const dialect = dialectFor(() => walker, use, onTensorCores);
  const walker: CLikeWalker = onTensorCores
    ? new FragmentWalker(kernel, dialect, use)
    : new CLikeWalker(kernel, dialect);
  const { writer } = walker;
  const body = writer.capture(() => writer.indent(() => writeBody(walker, kernel)));
  const scalars = scalarsIn(kernel, body);
  const [maps, arrivals] =
    walker instanceof FragmentWalker ? [walker.maps, walker.arrivalCounts.length] : [[], 0];
  const shared = sharedLayout(kernel, onTensorCores, arrivals);
  const isDynamic = onTensorCores || shared.sizeBytes > staticSharedBytes;
  const bounds = `__launch_bounds__(${kernel.threads}, ${blocksBeside(kernel, shared.sizeBytes)})`;
  writer.line(`extern "C" __global__ void ${bounds} ${kernel.name}(`);
  writer.indent(() => {
    for (const param of kernel.params) {
      const type = `${param.access === "read" ? "const " : ""}${elementType(param)}`;
      writer.line(`${type}* __restrict__ ${walker.paramName(param.name)},  // ${describe(param)}`);
    }
    for (const { name, param } of maps) {
      writer.line(`const __grid_constant__ ${use("tensor_map")} ${name},  // of ${param.name}`);
    }
    scalars.forEach((name, i) => {
      writer.line(`int ${name}${i === scalars.length - 1 ? ") {" : ","}`);
    });
    if (isDynamic) {
      writer.line("// Given at launch; the copy and matrix instructions want whole kilobytes.");
      writer.line("extern __shared__ __align__(1024) unsigned char memory[];");
    }
    for (const { storage, offset, bytes, before } of shared.arrays) {
      const { places = 1 } = storage;
      const name = places > 1 ? walker.placesNameOf(storage.id) : walker.nameOf(storage.id);
      const each = `${storage.dtype}[${storage.shape.join(", ")}]`;
      const where = before === null ? "" : `, where ${walker.nameOf(before)} was`;
      const comment =
        places > 1
          ? `${places} of ${each}, ${placeBytesOf(storage)} B each`
          : `${each}: ${bytes} B${where}`;
      if (!isDynamic) writer.line(`__shared__ float ${name}[${bytes / 4}];  // ${comment}`);
      else {
        const type = storage.dtype === "f32" ? "float" : "unsigned char";
        writer.line(`${type}* const ${name} = (${type}*)(memory + ${offset});  // ${comment}`);
      }
    }
    if (arrivals > 0) {
      const place = `(unsigned long long*)(memory + ${shared.arrivals})`;
      writer.line(
        `unsigned long long* const arrivals = ${place};  // where copies of tiles arrive`,
      );
    }
  });
  writer.restore(body);
  writer.line("}");
  const factors = used.has("multiply_to_parts") ? "16-bit and tf32" : "16-bit";
  const head = [
    lineComment("//", `${kernel.name}, from ${context.source}`),
    `// cuda: sm_80 and newer, ${kernel.threads} threads, ${shared.sizeBytes} B ${isDynamic ? "dynamic " : ""}shared memory`,
    `// arithmetic: ${onTensorCores ? `products of ${factors} factors with float32 sums, the rest float32` : "float32"}`,
    `// passes: ${context.passes.join(", ")}`,
  ].join("\n");
  const parts = [...helperTexts(used), writer.toString()];
  return {
    file: `${kernel.name}.cu`,
    entry: kernel.name,
    text: [head, ...parts].join("\n\n"),
    scalars,
    sharedBytes: shared.sizeBytes,
    isDynamic,
    bundles: [],
    ...(maps.length > 0
      ? { maps: maps.map(({ param, rows }) => ({ buffer: param.name, rows })) }
      : {}),
    ...packedChunkOf(kernel),
  };
}

/** A processor's shared memory for each of two, three or four blocks, less what the system takes of it for each. */
const halfOfShared = 113 * 1024;
const thirdOfShared = 75 * 1024;
const quarterOfShared = 56 * 1024;
/** And of seven, of 72 registers for each thread, which tiles of so many leave enough of. */
const seventhOfShared = 31 * 1024;
const leastTiles = 32;

/**
 * Blocks of a processor at least: one is enough where a state is carried, and a bound would make the compiler spill. Of
 * blocks for single chunks two or three hide what each waits for, of those of one warpgroup more.
 */
function blocksBeside(kernel: Kernel, sharedBytes: number): number {
  const { storages, threads } = kernel;
  if (threads === warpgroup && !hasLoop(kernel)) {
    const isLess = registersOfTiles(kernel) <= leastTiles && sharedBytes <= seventhOfShared;
    return isLess ? 7 : blocksOfWarpgroups;
  }
  const isAlone = hasLoop(kernel) || sharedBytes > halfOfShared;
  const most = Math.max(
    0,
    ...storages.map(({ memory, shape: [rows = 1, cols] }) =>
      memory === "register" && cols !== undefined ? (rows * cols) / threads : 0,
    ),
  );
  if (isAlone || most > 32) return 1;
  // Of three blocks a thread has 80 registers, of four 64; what little more its tiles take may wait in memory.
  const tiles = registersOfTiles(kernel);
  if (sharedBytes <= quarterOfShared && tiles <= 64) return 4;
  return sharedBytes <= thirdOfShared && tiles <= 80 ? 3 : 2;
}

/** Tokens of the chunks that are the points of a kernel for packed sequences. */
function packedChunkOf(kernel: Kernel): { packedChunk?: number } {
  const axis = kernel.grid.find(({ extent }) => extent === "T");
  return axis && servesPacked(kernel) ? { packedChunk: axis.step } : {};
}

/** Where shared storages lie: 16-bit tiles first, each from a whole kilobyte on, and behind all where tiles arrive. */
function sharedLayout(kernel: Kernel, onTensorCores: boolean, places: number) {
  const bytesOf = (storage: Storage) =>
    onTensorCores ? sharedBytesOf(storage) : sharedElements(storage) * 4;
  const isNarrow = (storage: Storage) => storage.dtype !== "f32";
  const all = [...sharedPlaces(kernel)].sort(
    (a, b) => Number(b.some(isNarrow)) - Number(a.some(isNarrow)),
  );
  let sizeBytes = 0;
  const arrays = all.flatMap((place) => {
    const offset = place.some(isNarrow) ? Math.ceil(sizeBytes / 1024) * 1024 : sizeBytes;
    sizeBytes = offset + Math.max(...place.map(bytesOf));
    return place.map((storage, n) => {
      const before = n === 0 ? null : place[n - 1]!.id;
      return { storage, offset, bytes: bytesOf(storage), before };
    });
  });
  const arrivals = Math.ceil(sizeBytes / 8) * 8;
  return { arrays, arrivals, sizeBytes: places > 0 ? arrivals + 8 * places : sizeBytes };
}

/** Everything between the shared arrays and the closing bracket. */
function writeBody(walker: CLikeWalker, kernel: Kernel): void {
  const { writer } = walker;
  const lines = writer.capture(() => {
    writer.line("const int point = blockIdx.x;");
    walker.decodePoint();
    walker.declareBases();
    if (walker instanceof FragmentWalker && kernel.roles !== undefined) {
      writeRoles(walker, kernel, kernel.roles);
      return;
    }
    walker.declareRegisters();
    walker.program(kernel.body);
  });
  if (kernel.roles === undefined) {
    const isDivided = walker instanceof FragmentWalker;
    declareThread(walker, lines, isDivided ? ownThread(kernel.threads) : "threadIdx.x");
  }
  writer.restore(lines);
}

/**
 * A branch for each role, its threads counted from 0. The largest role has the first threads: where those of a
 * role begin is a multiple of their number, so that helpers find their warps by what is left of it.
 */
function writeRoles(walker: FragmentWalker, kernel: Kernel, roles: readonly number[]): void {
  const { writer } = walker;
  const order = [...roles.keys()].sort((a, b) => roles[b]! - roles[a]!);
  const held = registersOfRoles(kernel, roles);
  // Told so, the compiler knows that a warp has one role.
  writer.line("const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);");
  let first = 0;
  order.forEach((role, n) => {
    const threads = roles[role]!;
    first += threads;
    const isLast = n === order.length - 1;
    const head = `if (group < ${first / 128}) {`;
    const body = ofRole(kernel.body, role);
    writer.block(n === 0 ? head : isLast ? "else {" : `else ${head}`, () => {
      walker.inRole(role, () => {
        const lines = writer.capture(() => {
          walker.declareRegisters(body);
          walker.program(body);
        });
        if (held !== null) walker.holdRegisters(held[role]!, launchedWith(kernel.threads));
        declareThread(walker, lines, ownThread(threads));
        writer.restore(lines);
      });
    });
  });
}

/** Registers of a thread that so many threads of a processor can have, by eights as they are dealt out. */
function launchedWith(threads: number): number {
  return Math.min(255, Math.floor(65536 / threads / 8) * 8);
}

/**
 * Registers of a thread of each role, where one has two warpgroups and the other one, which needs fewer: what is left
 * goes to the former. null: as many for all.
 */
function registersOfRoles(kernel: Kernel, roles: readonly number[]): readonly number[] | null {
  const [large, small] = [Math.max(...roles), Math.min(...roles)];
  if (large === small) return null;
  const body = ofRole(kernel.body, roles.indexOf(small));
  const tiles = registerPressure({ ...kernel, body }, (rows, cols) =>
    fragmentRegisters(rows, cols, small / 32),
  );
  const stores = [...flatten(body)].filter(({ kind }) => kind === "store").length;
  const launched = launchedWith(kernel.threads);
  // Only what one role gives back can the other take, and both by eights.
  const given = launched - tiles - registersBesideTiles - registersOfStore * stores;
  const more = Math.floor((Math.max(given, 0) * small) / large / 8) * 8;
  const few = launched - (more * large) / small;
  return more > 0 ? roles.map((threads) => (threads === large ? launched + more : few)) : null;
}

/** A thread's number among so many; as a remainder the compiler knows that it has no sign, and divides it by shifts. */
function ownThread(threads: number): string {
  return `(threadIdx.x % ${threads})`;
}

/** The names by which statements call their threads, where `lines` do. */
function declareThread({ writer }: CLikeWalker, lines: readonly string[], thread: string): void {
  if (mentions(lines, "ty")) writer.line(`const int ty = ${thread} / 16;`);
  if (mentions(lines, "tx")) writer.line(`const int tx = ${thread} % 16;`);
  if (mentions(lines, "lane")) writer.line("const int lane = threadIdx.x % 32;");
  if (mentions(lines, "warp")) writer.line(`const int warp = ${thread} / 32;`);
  if (mentions(lines, "thread")) writer.line(`const int thread = ${bare(thread)};`);
}

/** The run-time integers the kernel reads; it takes no others. */
function scalarsIn(kernel: Kernel, body: readonly string[]): string[] {
  const heads = kernel.params.map((param) => param.heads).filter((name) => name !== "H");
  const all = ["B", "T", "H", "T_total", "token_offset", "packed", ...new Set(heads)];
  return all.filter((name) => mentions(body, name));
}

/** "bf16[B, T, H_q, 64]"; of shares "bf16[B, T, H, 4, 64]". */
function describe({ per, dtype, shape, heads, shares }: Param): string {
  const own = [...(shares === undefined ? [] : [shares]), ...shape.filter((dim) => dim !== "T")];
  const lead = {
    token: ["B", "T", heads],
    state: ["B", "H"],
    head: [heads],
    shared: [],
    chunk: ["B", "chunks", "H"],
  }[per];
  return `${dtype}[${[...lead, ...own].join(", ")}]`;
}

function elementType({ dtype }: Param): string {
  if (dtype === "i32") return "int";
  return dtype === "f32" ? "float" : "unsigned short";
}

function dialectFor(walker: () => CLikeWalker, use: Use, onTensorCores: boolean): Dialect {
  const at = (param: Param, index: string) => `${walker().paramName(param.name)}[${index}]`;
  const next = (name: string, sign: "+" | "-", step: string, copiesAhead = false) =>
    copiesAhead
      ? `${name} = ${use("turn_after")}<${sign === "-" ? sign : ""}${step}>(${name})`
      : advance(name, sign, step);
  return {
    float: floatText,
    toInt: (text) => `(int)${text}`,
    toOffset: (text) => `(long long)${text}`,
    headOf: (head, heads, own) => `${use("own_head")}(${head}, ${heads}, ${own})`,
    toFloat: (text) => (/^\w+$/.test(text) ? `(float)${text}` : `(float)(${text})`),
    // Without signs a division takes two thirds of the instructions, which kernels for one chunk feel.
    quotient: (a, b) => `(unsigned)${a} / ${b}`,
    constant: (type, name, value) =>
      `const ${type === "offset" ? "long long" : type} ${name} = ${value};`,
    variable: (_type, name, value) => `float ${name} = ${value};`,
    registers: (name, rows, cols) => `float ${name}[${rows}][${cols}];`,
    loop: (name, from, to, step, copiesAhead) =>
      `for (int ${name} = ${from}; ${name} < ${to}; ${next(name, "+", step, copiesAhead)})`,
    loopDown: (name, from, step, to, copiesAhead) =>
      `for (int ${name} = ${from}; ${name} >= ${to}; ${next(name, "-", step, copiesAhead)})`,
    unroll: "#pragma unroll",
    barrier: "__syncthreads();",
    choose: (condition, a, b) => `(${condition} ? ${a} : ${b})`,
    // Numbers and names cost nothing on either side.
    select: (condition, a, b) =>
      onTensorCores && /[([]/.test(a + b)
        ? `${use("choose")}(${condition}, ${bare(a)}, ${bare(b)})`
        : `(${condition} ? ${a} : ${b})`,
    call: (fn, args) => callText(fn, args, use, onTensorCores),
    read: (param, index) => {
      if (mayBeAbsent(param)) {
        const name = walker().paramName(param.name);
        return `(${name} == nullptr ? 0.0f : ${at(param, index)})`;
      }
      if (param.dtype === "f32") return at(param, index);
      return `${use(`from_${param.dtype as "f16" | "bf16"}`)}(${at(param, index)})`;
    },
    isWanted: (param) =>
      mayBeUnwanted(param) ? `${walker().paramName(param.name)} != nullptr` : null,
    start: () => null,
    sequenceOf: (cuts, step, chunk) => `${use("sequence_of")}(${cuts}, B, T, ${step}, ${chunk})`,
    write: (param, index, value) => {
      const bits =
        param.dtype === "f32" ? value : `${use(`to_${param.dtype as "f16" | "bf16"}`)}(${value})`;
      return `${at(param, index)} = ${bits};`;
    },
    scalar: (name) => name,
    reserved: reservedWords,
  };
}
