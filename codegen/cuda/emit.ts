/** Tile kernel to CUDA C++: one block of 16 x 16 threads for each grid point. No headers. */
import type { MapFn } from "../../compiler/tensor/ir.ts";
import type { Kernel, Param } from "../../compiler/tile/ir.ts";
import type { EmitContext, EmittedKernel } from "../../compiler/tile/target.ts";
import type { Dialect } from "../c-like/dialect.ts";
import { CLikeWalker, advance, infix } from "../c-like/walk.ts";
import numbers from "./helpers/numbers.cuh";
import { reservedWords } from "./reserved.ts";

export function emitCuda(kernel: Kernel, context: EmitContext): EmittedKernel {
  const scalars = usedScalars(kernel);
  const walker: CLikeWalker = new CLikeWalker(
    kernel,
    dialectFor(() => walker),
  );
  const { writer } = walker;
  const names = kernel.params.map((param) => walker.paramName(param.name));
  const shared = walker.sharedArrays();
  const sharedBytes = shared.reduce((sum, { elements }) => sum + elements * 4, 0);
  writer.line(`extern "C" __global__ void __launch_bounds__(${kernel.threads}, 1) ${kernel.name}(`);
  writer.indent(() => {
    kernel.params.forEach((param, i) => {
      const type = `${param.access === "read" ? "const " : ""}${elementOf(param)}`;
      writer.line(`${type}* __restrict__ ${names[i]},  // ${describe(param)}`);
    });
    scalars.forEach((name, i) => {
      writer.line(`int ${name}${i === scalars.length - 1 ? ")" : ","}`);
    });
  });
  writer.block("{", () => {
    for (const { name, elements, comment } of shared) {
      writer.line(`__shared__ float ${name}[${elements}];  // ${comment}`);
    }
    const lines = writer.capture(() => {
      writer.line("const int point = blockIdx.x;");
      walker.decodePoint();
      walker.declareBases();
      walker.declareRegisters();
      walker.body(kernel.body);
    });
    const mentions = (word: RegExp) => lines.some((line) => word.test(line));
    if (mentions(/\bty\b/)) writer.line("const int ty = threadIdx.x / 16;");
    if (mentions(/\btx\b/)) writer.line("const int tx = threadIdx.x % 16;");
    if (mentions(/\bthread\b/)) writer.line("const int thread = threadIdx.x;");
    writer.restore(lines);
  });
  const narrow = kernel.params.some((param) => param.dtype !== "f32");
  const head = [
    `// ${kernel.name}, from ${context.source}`,
    `// cuda: sm_80 and newer, ${kernel.threads} threads, ${sharedBytes} of 49152 B shared memory, f32 arithmetic`,
    `// passes: ${context.passes.join(", ")}`,
    "",
  ].join("\n");
  return {
    file: `${kernel.name}.cu`,
    entry: kernel.name,
    text: `${head}\n${narrow ? `${numbers}\n` : ""}${writer.toString()}`,
    scalars,
    sharedBytes,
    bundles: [],
  };
}

/** The scalars the kernel reads, so that the compiler has nothing to warn about. */
function usedScalars(kernel: Kernel): string[] {
  const heads = kernel.params.filter(({ heads: name }) => name !== "H").map(({ heads }) => heads);
  const text = JSON.stringify([kernel.body, kernel.grid]);
  const tokens = kernel.params.some(({ per }) => per === "token") || text.includes('"T"');
  return [
    ...(tokens ? ["T"] : []),
    "H",
    ...(text.includes("T_total") ? ["T_total"] : []),
    ...(text.includes('"global":true') ? ["token_offset"] : []),
    ...new Set(heads),
  ];
}

function describe(param: Param): string {
  const lead = { token: "[B, T, heads", state: "[B, H", head: "[heads", shared: "[" }[param.per];
  const own = param.shape.filter((dim) => dim !== "T");
  return `${param.dtype}${lead}${lead === "[" || own.length === 0 ? "" : ", "}${own.join(", ")}]`;
}

function elementOf(param: Param): string {
  return param.dtype === "f32" ? "float" : "unsigned short";
}

function dialectFor(walker: () => CLikeWalker): Dialect {
  return {
    float: cudaFloat,
    toFloat: (text) => `(float)(${text})`,
    constant: (type, name, value) =>
      `const ${type === "offset" ? "long long" : type} ${name} = ${value};`,
    variable: (_type, name, value) => `float ${name} = ${value};`,
    registers: (name, rows, cols) => `float ${name}[${rows}][${cols}];`,
    loop: (name, from, to, step) =>
      `for (int ${name} = ${from}; ${name} < ${to}; ${advance(name, "+", step)})`,
    loopDown: (name, from, step) =>
      `for (int ${name} = ${from}; ${name} >= 0; ${advance(name, "-", step)})`,
    unroll: "#pragma unroll",
    barrier: "__syncthreads();",
    choose: (condition, a, b) => `(${condition} ? ${a} : ${b})`,
    call: cudaCall,
    read: (param, index) => {
      const at = `${walker().paramName(param.name)}[${index}]`;
      return param.dtype === "f32" ? at : `from_${param.dtype}(${at})`;
    },
    write: (param, index, value) => {
      const at = `${walker().paramName(param.name)}[${index}]`;
      return `${at} = ${param.dtype === "f32" ? value : `to_${param.dtype}(${value})`};`;
    },
    scalar: (name) => name,
    reserved: reservedWords,
  };
}

function cudaFloat(value: number): string {
  if (Number.isNaN(value)) return "__int_as_float(0x7fffffff)";
  if (!Number.isFinite(value)) {
    return value > 0 ? "__int_as_float(0x7f800000)" : "__int_as_float(0xff800000)";
  }
  const text = String(Math.fround(value) === value ? value : Number(value.toPrecision(9)));
  return `${/[.e]/.test(text) ? text : `${text}.0`}f`;
}

function cudaCall(fn: MapFn, args: readonly string[]): string {
  const [x, y] = args;
  const plain = infix(fn, args);
  if (plain !== null) return plain;
  switch (fn) {
    case "neg":
      return `-${x}`;
    case "sigmoid":
      return `(1.0f / (1.0f + expf(-${x})))`;
    case "silu":
      return `(${x} / (1.0f + expf(-${x})))`;
    case "softplus":
      return `(fmaxf(${x}, 0.0f) + log1pf(expf(-fabsf(${x}))))`;
    case "elu":
      return `(${x} > 0.0f ? ${x} : expm1f(${x}))`;
    case "gelu":
      return `(0.5f * ${x} * (1.0f + erff(${x} * 0.70710678f)))`;
    case "relu":
      return `fmaxf(${x}, 0.0f)`;
    case "square":
      return `(${x} * ${x})`;
    case "recip":
      return `(1.0f / ${x})`;
    case "abs":
      return `fabsf(${x})`;
    case "max":
    case "min":
      return `f${fn}f(${x}, ${y})`;
    case "pow":
      return `powf(${x}, ${y})`;
    case "exp":
    case "log":
    case "sqrt":
    case "rsqrt":
    case "sin":
    case "cos":
    case "tanh":
    case "floor":
      return `${fn}f(${x})`;
    default:
      throw new Error(`cuda: ${fn} is a test and handled as one`);
  }
}
