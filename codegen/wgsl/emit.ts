/** Tile kernel to WGSL: one workgroup of 16 x 16 invocations for each grid point. */
import { lineComment } from "../../compiler/support/text.ts";
import type { MapFn } from "../../compiler/tensor/ir.ts";
import type { Kernel, Param } from "../../compiler/tile/ir.ts";
import { servesPacked } from "../../compiler/tile/ir.ts";
import type { EmitContext, EmittedKernel } from "../../compiler/tile/target.ts";
import type { Dialect } from "../c-like/dialect.ts";
import { advance, infix } from "../c-like/text.ts";
import { CLikeWalker } from "../c-like/walk.ts";
import bf16 from "./helpers/bf16.wgsl";
import elu from "./helpers/elu.wgsl";
import f16 from "./helpers/f16.wgsl";
import gelu from "./helpers/gelu.wgsl";
import softplus from "./helpers/softplus.wgsl";
import { reservedWords } from "./reserved.ts";

const helperTexts = { softplus, elu, gelu, f16, bf16 };

/** Storage buffers that every WebGPU device offers a shader; see Limits in the WebGPU specification. */
export const storageBuffers = 8;

export interface Binding {
  readonly name: string;
  readonly params: readonly Param[];
}

/** What is bundled first: what is small. */
const sizesInOrder: readonly Param["per"][] = ["head", "shared", "state", "chunk", "token"];

/**
 * The kernel's storage bindings. When there are more than a shader may have, params of one access and
 * dtype share a buffer, the small ones first: the device lays them one behind the other, and takes what
 * was written apart again.
 */
export function bindingsOf(kernel: Kernel): Binding[] {
  let bindings = kernel.params.map((param): Binding => ({ name: param.name, params: [param] }));
  // As a walker spells them.
  const taken = new Set(
    [...kernel.params, ...kernel.storages].map(({ name }) => name.replace(/^_+/, "")),
  );
  for (const access of ["read", "write"] as const) {
    for (const dtype of ["f32", "bf16", "f16"] as const) {
      const excess = bindings.length - storageBuffers;
      const members = kernel.params
        .filter((param) => param.access === access && param.dtype === dtype)
        .sort((a, b) => sizesInOrder.indexOf(a.per) - sizesInOrder.indexOf(b.per));
      if (excess <= 0 || members.length < 2) continue;
      const params = members.slice(0, Math.max(excess + 1, countSmall(members)));
      let name = `${dtype}_${access === "read" ? "inputs" : "outputs"}`;
      while (taken.has(name)) name = `all_${name}`;
      bindings = [...bindings.filter((one) => !params.includes(one.params[0]!)), { name, params }];
    }
  }
  return bindings;
}

function countSmall(params: readonly Param[]): number {
  return params.filter(({ per }) => per === "head" || per === "shared").length;
}

export function emitWgsl(kernel: Kernel, context: EmitContext): EmittedKernel {
  const bindings = bindingsOf(kernel);
  const scalars = scalarsOf(kernel);
  const used = new Set<keyof typeof helperTexts>();
  const starts = new Map<Param, string>();
  const walker: CLikeWalker = new CLikeWalker(
    kernel,
    dialectFor(bindings, starts, used, () => walker),
  );
  const { writer } = walker;
  const body = () => {
    writer.line("let ty = i32(local.y);");
    writer.line("let tx = i32(local.x);");
    writer.line("let thread = ty * 16 + tx;");
    writer.line("// Workgroups are counted over x and y, since one axis has room for 65535.");
    writer.line("let point = i32(group.x + group.y * groups.x);");
    writer.block(`if (point >= ${pointsText(kernel)}) {`, () => writer.line("return;"));
    walker.decodePoint();
    declareStarts(kernel, bindings, starts, walker);
    walker.declareBases();
    walker.declareRegisters();
    walker.program(kernel.body);
  };
  bindings.forEach((binding, i) => {
    const [param] = binding.params as [Param];
    const access = param.access === "read" ? "read" : "read_write";
    const name = binding.params.length > 1 ? binding.name : walker.paramName(param.name);
    writer.line(`// ${binding.params.map(describe).join("; ")}`);
    writer.line(
      `@group(0) @binding(${i}) var<storage, ${access}> ${name}: array<${elementOf(param)}>;`,
    );
  });
  writer.block("struct Sizes {", () => scalars.forEach((name) => writer.line(`${name}: i32,`)));
  writer.line(`@group(0) @binding(${bindings.length}) var<uniform> sizes: Sizes;`);
  writer.line();
  const shared = walker.sharedArrays();
  for (const { name, elements, comment } of shared) {
    writer.line(`var<workgroup> ${name}: array<f32, ${elements}>;  // ${comment}`);
  }
  writer.line();
  writer.line("@compute @workgroup_size(16, 16)");
  writer.line(`fn ${kernel.name}(`);
  writer.indent(() => {
    writer.line("@builtin(local_invocation_id) local: vec3<u32>,");
    writer.line("@builtin(workgroup_id) group: vec3<u32>,");
    writer.line("@builtin(num_workgroups) groups: vec3<u32>,");
  });
  writer.block(") {", body);
  const sharedBytes = shared.reduce((sum, { elements }) => sum + elements * 4, 0);
  const head = [
    lineComment("//", `${kernel.name}, from ${context.source}`),
    `// wgsl: ${kernel.threads} invocations, ${sharedBytes} of 16384 B workgroup memory, f32 arithmetic`,
    `// passes: ${context.passes.join(", ")}`,
    "",
  ].join("\n");
  const helpers = [...used].map((name) => helperTexts[name]).join("");
  return {
    file: `${kernel.name}.wgsl`,
    entry: kernel.name,
    text: `${head}\n${helpers}${writer.toString()}`,
    scalars,
    sharedBytes,
    bundles: bindings
      .filter(({ params }) => params.length > 1)
      .map(({ name, params }) => ({ name, parts: params.map((param) => param.name) })),
  };
}

function scalarsOf(kernel: Kernel): string[] {
  const heads = kernel.params.filter(({ heads: name }) => name !== "H").map(({ heads }) => heads);
  const packed = servesPacked(kernel) ? ["packed"] : [];
  return ["B", "T", "H", "T_total", "token_offset", ...packed, ...new Set(heads)];
}

function describe(param: Param): string {
  const lead = {
    token: "[B, T, heads",
    state: "[B, H",
    head: "[heads",
    shared: "[",
    chunk: "[B, chunks, H",
  }[param.per];
  const own = param.shape.filter((dim) => dim !== "T");
  const shape = `${lead}${lead === "[" || own.length === 0 ? "" : ", "}${own.join(", ")}]`;
  return `${param.name}: ${param.dtype}${shape}`;
}

/** The type of a binding's elements; 16-bit outputs share words, so that writes must not tear. */
function elementOf(param: Param): string {
  if (param.dtype === "f32" || param.dtype === "i32") return param.dtype;
  return param.access === "read" ? "u32" : "atomic<u32>";
}

function pointsText(kernel: Kernel): string {
  const factors = kernel.grid.map(({ extent, step }) =>
    extent === "T" ? `((sizes.T + ${step - 1}) / ${step})` : String(Math.ceil(extent / step)),
  );
  return ["sizes.B * sizes.H", ...factors].join(" * ");
}

/** Declares where the parts of each bundle begin, every one from the one before; `starts` gets the names. */
function declareStarts(
  kernel: Kernel,
  bindings: readonly Binding[],
  starts: Map<Param, string>,
  walker: CLikeWalker,
): void {
  const isPacked = servesPacked(kernel);
  for (const { params } of bindings) {
    params.slice(1).forEach((param, i) => {
      const before = params[i]!;
      const name = walker.unique(`${walker.paramName(param.name)}_start`);
      const place = [starts.get(before) ?? [], elementsText(before, isPacked)].flat().join(" + ");
      walker.writer.line(`let ${name} = ${place};`);
      starts.set(param, name);
    });
  }
}

function dialectFor(
  bindings: readonly Binding[],
  starts: ReadonlyMap<Param, string>,
  used: Set<keyof typeof helperTexts>,
  walker: () => CLikeWalker,
): Dialect {
  const bundleOf = (param: Param) =>
    bindings.find(({ params }) => params.length > 1 && params.includes(param));
  const bufferOf = (param: Param) => bundleOf(param)?.name ?? walker().paramName(param.name);
  return {
    float: wgslFloat,
    toInt: (text) => text,
    toOffset: (text) => text,
    headOf: (head, heads, own) => `${head} / (${heads} / ${own})`,
    toFloat: (text) => `f32(${text})`,
    quotient: (a, b) => `${a} / ${b}`,
    constant: (_type, name, value) => `let ${name} = ${value};`,
    variable: (_type, name, value) => `var ${name} = ${value};`,
    registers: (name, rows, cols) => `var ${name}: array<array<f32, ${cols}>, ${rows}>;`,
    loop: (name, from, to, step) =>
      `for (var ${name} = ${from}; ${name} < ${to}; ${advance(name, "+", step)})`,
    loopDown: (name, from, step, to) =>
      `for (var ${name} = ${from}; ${name} >= ${to}; ${advance(name, "-", step)})`,
    unroll: null,
    barrier: "workgroupBarrier();",
    choose: (condition, a, b) => `select(${b}, ${a}, ${condition})`,
    select: (condition, a, b) => `select(${b}, ${a}, ${condition})`,
    call: (fn, args) => wgslCall(fn, args, used),
    sequenceOf: null,
    isWanted: () => null,
    start: (param) => starts.get(param) ?? null,
    read: (param, at) => {
      const buffer = bufferOf(param);
      if (param.dtype === "f32") return `${buffer}[${at}]`;
      const dtype = param.dtype as "f16" | "bf16";
      used.add(dtype);
      return `from_${param.dtype}(${buffer}[(${at}) / 2], ${at})`;
    },
    write: (param, at, value) => {
      const buffer = bufferOf(param);
      if (param.dtype === "f32") return `${buffer}[${at}] = ${value};`;
      used.add(param.dtype as "f16" | "bf16");
      const shift = `((u32(${at}) & 1u) * 16u)`;
      const word = `&${buffer}[(${at}) / 2]`;
      // The other half of the word is another invocation's: clear and set this half only.
      return (
        `atomicAnd(${word}, ~(0xffffu << ${shift})); ` +
        `atomicOr(${word}, to_${param.dtype}(${value}) << ${shift});`
      );
    },
    scalar: (name) => `sizes.${name}`,
    reserved: reservedWords,
  };
}

/** The elements of a whole param; 16-bit ones fill whole words. */
function elementsText({ per, heads, shape, dtype, chunk = 1 }: Param, isPacked: boolean): string {
  const rows = `sizes.B * ((sizes.T + ${chunk - 1}) / ${chunk})`;
  const slots = `sizes.T / ${chunk} + sizes.B`;
  const fixed = shape.reduce<number>((p, n) => p * (n === "T" ? 1 : n), 1);
  const factors = {
    // Packed sequences share one row of tokens.
    token: [
      isPacked ? "select(sizes.B, 1, sizes.packed == 1)" : "sizes.B",
      "sizes.T",
      `sizes.${heads}`,
    ],
    state: ["sizes.B", "sizes.H"],
    head: [`sizes.${heads}`],
    shared: [],
    chunk: [isPacked ? `select(${rows}, ${slots}, sizes.packed == 1)` : rows, "sizes.H"],
  }[per];
  const product = [...factors, ...(fixed === 1 && factors.length > 0 ? [] : [fixed])].join(" * ");
  return dtype === "f32" ? product : `(${product} + 1) / 2 * 2`;
}

/** WGSL has no infinite literals; the largest float is as good as one in a maximum. */
function wgslFloat(value: number): string {
  if (!Number.isFinite(value)) return value > 0 ? "3.4028234e38" : "-3.4028234e38";
  const text = String(Math.fround(value) === value ? value : Number(value.toPrecision(9)));
  return /[.e]/.test(text) ? text : `${text}.0`;
}

function wgslCall(fn: MapFn, args: readonly string[], used: Set<keyof typeof helperTexts>): string {
  const [x, y] = args;
  const plain = infix(fn, args);
  if (plain !== null) return plain;
  switch (fn) {
    case "neg":
      return `-${x}`;
    case "as_bf16":
      return x!;
    case "sigmoid":
      return `(1.0 / (1.0 + exp(-${x})))`;
    case "silu":
      return `(${x} / (1.0 + exp(-${x})))`;
    case "relu":
      return `max(${x}, 0.0)`;
    case "square":
      return `(${x} * ${x})`;
    case "recip":
      return `(1.0 / ${x})`;
    case "rsqrt":
      return `inverseSqrt(${x})`;
    case "softplus":
    case "elu":
    case "gelu":
      used.add(fn);
      return `${fn}(${x})`;
    case "exp":
    case "log":
    case "sqrt":
    case "abs":
    case "sin":
    case "cos":
    case "tanh":
    case "floor":
      return `${fn}(${x})`;
    case "max":
    case "min":
    case "pow":
      return `${fn}(${x}, ${y})`;
    default:
      throw new Error(`wgsl: ${fn} is a test and handled as one`);
  }
}
