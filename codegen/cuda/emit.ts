/**
 * Tile kernel to CUDA C++: one block of 16 x 16 threads for each grid point, points counted along x,
 * the one axis with room for them. No headers: the text is for NVRTC and nvcc alike.
 */
import type { Kernel, Param } from "../../compiler/tile/ir.ts";
import type { EmitContext, EmittedKernel } from "../../compiler/tile/target.ts";
import type { Dialect } from "../c-like/dialect.ts";
import { CLikeWalker, advance } from "../c-like/walk.ts";
import { type Helper, type Use, callText, floatText, helpers } from "./ops.ts";
import { reservedWords } from "./reserved.ts";

/** Shared memory a block has without asking for more. */
export const staticSharedBytes = 48 * 1024;

export function emitCuda(kernel: Kernel, context: EmitContext): EmittedKernel {
  const used = new Set<Helper>();
  const use: Use = (name) => {
    used.add(name);
    return name;
  };
  const walker: CLikeWalker = new CLikeWalker(
    kernel,
    dialectFor(() => walker, use),
  );
  const { writer } = walker;
  const body = writer.capture(() => writer.indent(() => writeBody(walker, kernel)));
  const scalars = scalarsIn(kernel, body);
  const shared = walker.sharedArrays();
  const sharedBytes = shared.reduce((sum, { elements }) => sum + elements * 4, 0);
  // One block a processor is enough: a lower bound on blocks would make the compiler spill.
  const bounds = `__launch_bounds__(${kernel.threads}, 1)`;
  writer.line(`extern "C" __global__ void ${bounds} ${kernel.name}(`);
  writer.indent(() => {
    for (const param of kernel.params) {
      const type = `${param.access === "read" ? "const " : ""}${elementType(param)}`;
      writer.line(`${type}* __restrict__ ${walker.paramName(param.name)},  // ${describe(param)}`);
    }
    scalars.forEach((name, i) => {
      writer.line(`int ${name}${i === scalars.length - 1 ? ") {" : ","}`);
    });
    for (const { name, elements, comment } of shared) {
      writer.line(`__shared__ float ${name}[${elements}];  // ${comment}`);
    }
  });
  writer.restore(body);
  writer.line("}");
  const head = [
    `// ${kernel.name}, from ${context.source}`,
    `// cuda: sm_80 and newer, ${kernel.threads} threads, ${sharedBytes} of ${staticSharedBytes} B shared memory, f32 arithmetic`,
    `// passes: ${context.passes.join(", ")}`,
  ].join("\n");
  const parts = [...[...used].sort().map((name) => helpers[name].trimEnd()), writer.toString()];
  return {
    file: `${kernel.name}.cu`,
    entry: kernel.name,
    text: [head, ...parts].join("\n\n"),
    scalars,
    sharedBytes,
    bundles: [],
  };
}

/** Everything between the shared arrays and the closing bracket. */
function writeBody(walker: CLikeWalker, kernel: Kernel): void {
  const { writer } = walker;
  const lines = writer.capture(() => {
    writer.line("const int point = blockIdx.x;");
    walker.decodePoint();
    walker.declareBases();
    walker.declareRegisters();
    walker.body(kernel.body);
  });
  if (mentions(lines, "ty")) writer.line("const int ty = threadIdx.x / 16;");
  if (mentions(lines, "tx")) writer.line("const int tx = threadIdx.x % 16;");
  if (mentions(lines, "thread")) writer.line("const int thread = threadIdx.x;");
  writer.restore(lines);
}

function mentions(lines: readonly string[], word: string): boolean {
  const pattern = new RegExp(`\\b${word}\\b`);
  return lines.some((line) => pattern.test(line.replace(/\/\/.*/, "")));
}

/** The run-time integers the kernel reads; it takes no others. */
function scalarsIn(kernel: Kernel, body: readonly string[]): string[] {
  const heads = kernel.params.map((param) => param.heads).filter((name) => name !== "H");
  const all = ["T", "H", "T_total", "token_offset", "packed", ...new Set(heads)];
  return all.filter((name) => mentions(body, name));
}

/** "bf16[B, T, H_q, 64]" */
function describe({ per, dtype, shape, heads }: Param): string {
  const own = shape.filter((dim) => dim !== "T");
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

function dialectFor(walker: () => CLikeWalker, use: Use): Dialect {
  const at = (param: Param, index: string) => `${walker().paramName(param.name)}[${index}]`;
  return {
    float: floatText,
    toInt: (text) => `(int)${text}`,
    toOffset: (text) => `(long long)${text}`,
    toFloat: (text) => (/^\w+$/.test(text) ? `(float)${text}` : `(float)(${text})`),
    constant: (type, name, value) =>
      `const ${type === "offset" ? "long long" : type} ${name} = ${value};`,
    variable: (_type, name, value) => `float ${name} = ${value};`,
    registers: (name, rows, cols) => `float ${name}[${rows}][${cols}];`,
    loop: (name, from, to, step) =>
      `for (int ${name} = ${from}; ${name} < ${to}; ${advance(name, "+", step)})`,
    loopDown: (name, from, step, to) =>
      `for (int ${name} = ${from}; ${name} >= ${to}; ${advance(name, "-", step)})`,
    unroll: "#pragma unroll",
    barrier: "__syncthreads();",
    choose: (condition, a, b) => `(${condition} ? ${a} : ${b})`,
    call: (fn, args) => callText(fn, args, use),
    read: (param, index) => {
      if (param.dtype === "f32") return at(param, index);
      return `${use(`from_${param.dtype as "f16" | "bf16"}`)}(${at(param, index)})`;
    },
    start: () => null,
    write: (param, index, value) => {
      const bits =
        param.dtype === "f32" ? value : `${use(`to_${param.dtype as "f16" | "bf16"}`)}(${value})`;
      return `${at(param, index)} = ${bits};`;
    },
    scalar: (name) => name,
    reserved: reservedWords,
  };
}
