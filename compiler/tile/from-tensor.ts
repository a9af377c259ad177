/**
 * Tensor program to tile program: one kernel for each chunk loop, one for what stands outside, and one for each sum of shares.
 *
 *   %loop = chunks (%S = %initial_S) { ... }       kernel retention_forward
 *   %o = result %loop, yield 0               =>      register S: f32[64, 64]
 *   %f = result %loop, carry 0                       load S = initial_S
 *                                                    loop t below T step 64 { load ...; mma ...; store o }
 *                                                    store final_S = S
 *
 * Here sizes become numbers: the chunk length C and, when the target wants smaller tiles, a block of
 * columns that the grid is cut into (an axis nothing folds along, axis-classes.ts, or all fold a share of, column-shares.ts). Both are the
 * target's first choice whose tiles fit its registers. A loop that carries nothing has a grid axis
 * instead: its chunks run side by side, as the pieces of a loop that has them do. What is stored per chunk ties the kernels of a form together:
 * they then have one chunk length.
 *
 * Needs: fuse. Guarantees: a verified tile program; the same statements for the same program.
 */
import { CompilerBug } from "../support/never.ts";
import {
  type Chunks,
  type Dim,
  type Dtype,
  type Input,
  type Op,
  type Output,
  type Program,
  type Result,
  type ValueId,
  operands,
  chunkCountDim,
  chunkDim,
  pieceOf,
  tokenDim,
} from "../tensor/ir.ts";
import { inChunksOf } from "../tensor/in-chunks-of.ts";
import { IntraNames } from "../tensor/intra.ts";
import { captured } from "../tensor/rewrite.ts";
import { axisClasses } from "./axis-classes.ts";
import { type ColumnShares, type Sum, columnShares, sumKernel } from "./column-shares.ts";
import type { GridAxis, Kernel, Loop, Param, Stmt, TileProgram } from "./ir.ts";
import { cutsParam } from "./ir.ts";
import { type Cut, KernelLowering, loopVariable, pieceVariable } from "./lower-kernel.ts";
import type { Pressure } from "./pressure.ts";
import { type Limits, factorDtype } from "./target.ts";

/** A buffer between two kernels of one form. */
export interface Workspace {
  readonly name: string;
  readonly per: "token" | "state" | "chunk";
  readonly dtype: Dtype;
  /** Dims after those that `per` adds. */
  readonly dims: readonly number[];
  /** Tokens of a chunk, for what is stored per chunk. */
  readonly chunk?: number;
  /** Tokens of a chunk, for intra-chunk values: those of one name and length are the same in all forms. */
  readonly intra?: number;
}

export interface Lowered {
  readonly program: TileProgram;
  readonly workspaces: readonly Workspace[];
  /** Of what kernels' blocks of columns have shares of their own, how many a head has: workspaces and outputs by name. */
  readonly shares: Readonly<Record<string, number>>;
}

export interface LoweringOptions {
  readonly limits: Limits;
  /** Prefix of the kernels' names: "retention_forward". */
  readonly name: string;
  /** The source line an op came from, or null. */
  readonly noteOf: (op: Op) => string | null;
  /** Shared by the forms of an attention. */
  readonly intraNames?: IntraNames;
}

export const fromTensorName = "from-tensor";

export function fromTensor(program: Program, options: LoweringOptions): Lowered {
  return new Lowering(program, options).run();
}

/** How a kernel is cut, and the order in which it writes what its loop yields. */
interface Choice {
  readonly chunk: number;
  /** Columns of V; 0: all. */
  readonly block: number;
  readonly sumsEarly: boolean;
  readonly results: readonly Result[];
}

interface Fitted {
  readonly choice: Choice;
  readonly kernel: Kernel;
  /** The most that tiles take of a thread, and what they hold over all. */
  readonly registers: number;
  readonly sum: number;
}

/** A value that some kernel writes, and where; of a square of chunks the length decides how wide it is. */
interface Written {
  readonly buffer: string;
  readonly param: (chunk: number) => Param;
}

class Lowering {
  private readonly ops: ReadonlyMap<ValueId, Op>;
  private readonly written = new Map<ValueId, Written>();
  /** Buffers between kernels, for chunks of a length. */
  private readonly workspaces: ((chunk: number) => Workspace)[] = [];
  private readonly program: Program;
  private readonly options: LoweringOptions;
  private readonly intraNames: IntraNames;
  /** What some kernel reads. */
  private readonly reads = new Set<ValueId>();
  private readonly shares: ColumnShares;
  /** Outputs that are added up from their shares. */
  private readonly sums: Sum[] = [];

  constructor(program: Program, options: LoweringOptions) {
    this.program = program;
    this.options = options;
    this.intraNames = options.intraNames ?? new IntraNames();
    this.ops = new Map(program.ops.map((op) => [op.id, op]));
    this.shares = columnShares(program, options.limits, this.sizeOf);
    this.planBuffers();
  }

  run(): Lowered {
    const { program: source, options } = this;
    const loops = source.ops.filter((op): op is Chunks => op.kind === "chunks");
    const rest = source.outputs.filter((out) => this.isRest(out.value));
    const count = loops.length + (rest.length > 0 ? 1 : 0) + this.sums.length;
    const nameOf = (i: number) => (count > 1 ? `${options.name}_${i + 1}` : options.name);
    const fitted = this.isTied() ? this.alike(loops, nameOf) : null;
    const kernels = loops.map(
      (loop, i) =>
        fitted?.kernels[i] ?? this.fitted(nameOf(i), loop, [], this.chunksFor([loop])).kernel,
    );
    if (rest.length > 0) {
      const chunks = this.chunksFor([]);
      kernels.push(this.fitted(nameOf(loops.length), null, rest, chunks).kernel);
    }
    for (const sum of this.sums) {
      kernels.push(sumKernel(nameOf(kernels.length), sum, options.limits));
    }
    const workspaces = this.workspaces.map((workspace) => workspace(fitted?.chunk ?? 0));
    // What is added up is as long as its shares together.
    const summed = new Set(this.sums.map(({ shares: { name } }) => name));
    const shares = kernels.flatMap(({ params }) =>
      params.flatMap(({ name, shares: count }) =>
        count === undefined || summed.has(name) ? [] : [[name, count] as const],
      ),
    );
    const program = { name: options.name, kernels };
    return { program, workspaces, shares: Object.fromEntries(shares) };
  }

  /** Does what one kernel hands to another depend on the length of chunks? */
  private isTied(): boolean {
    const [some, other] = [64, 32].map((chunk) =>
      JSON.stringify(this.workspaces.map((workspace) => workspace(chunk))),
    );
    return some !== other;
  }

  /** Chunk lengths that all of some loops can have, the target's first choice first. */
  private chunksFor(loops: readonly Chunks[]): readonly number[] {
    const pieces = loops.flatMap((loop) => this.pieceOf(loop) ?? []);
    const longest = Math.min(...pieces, ...loops.map((loop) => loop.longest ?? Infinity));
    const divides = (chunk: number) => pieces.every((piece) => piece % chunk === 0);
    const fitting = this.options.limits.chunks.filter((chunk) => chunk <= longest);
    const whole = fitting.filter(divides);
    // A target's own lengths are powers of two; a piece that none divides is one chunk of all its tokens.
    return whole.length > 0
      ? whole
      : fitting.length > 0 && pieces.length === 0
        ? fitting
        : [longest];
  }

  /** All loops with the first chunk length at which each of them fits. */
  private alike(loops: readonly Chunks[], nameOf: (i: number) => string) {
    let best: { chunk: number; kernels: readonly Kernel[]; registers: number } | null = null;
    for (const chunk of this.chunksFor(loops)) {
      const fitted = loops.map((loop, i) => this.fitted(nameOf(i), loop, [], [chunk]));
      const registers = Math.max(...fitted.map((one) => one.registers));
      const tried = { chunk, kernels: fitted.map(({ kernel }) => kernel), registers };
      if (!best || registers < best.registers) best = tried;
      if (registers <= this.options.limits.tileRegisters) return tried;
    }
    return best!;
  }

  /** Tokens of the pieces that a loop runs in, or gives the states before. */
  private pieceOf(loop: Chunks): number | null {
    const checkpoints = this.program.ops.flatMap((op) =>
      op.kind === "result" && op.of === loop.id && op.part === "checkpoint"
        ? [pieceOf(op.type.shape[0])!]
        : [],
    );
    return loop.piece ?? checkpoints[0] ?? null;
  }

  /** An output that no loop writes. */
  private isRest(value: ValueId): boolean {
    return this.ops.get(value)!.kind !== "result";
  }

  /** Every result of a loop that is an output or is read again gets a buffer. */
  private planBuffers(): void {
    const { reads } = this;
    for (const op of this.program.ops) {
      const ids = op.kind === "chunks" ? [...operands(op), ...captured(op.region)] : operands(op);
      for (const id of ids) reads.add(id);
    }
    for (const op of this.program.ops) {
      if (op.kind === "input") {
        const param = this.inputParam(op);
        this.written.set(op.id, { buffer: op.label, param: () => param });
        continue;
      }
      const outputs = this.program.outputs.filter((out) => out.value === op.id);
      const isOutput = outputs.length > 0 && op.kind === "result";
      if (isOutput && this.isSummed(op)) this.planSum(op, outputs);
      else if (isOutput) {
        const { label, dtype, per } = outputs[0]!;
        const param = this.param(label, op, shareOf(per), dtype, "H");
        this.written.set(op.id, { buffer: label, param: () => param });
      } else if (op.kind === "result" && reads.has(op.id)) this.planWorkspace(op);
    }
  }

  /** Are shares of it added up by a kernel of their own? Small ones whoever launches adds up. */
  private isSummed(op: Result): boolean {
    const isRow = op.part === "yield" && op.type.shape.length === 2;
    return this.shares.counts.has(op.id) && isRow && !this.reads.has(op.id);
  }

  private planSum(op: Result, outputs: readonly Output[]): void {
    const { label, dtype } = outputs[0]!;
    const name = `shares_${label}`;
    const param = this.param(name, op, "token", dtype, "H");
    const cols = param.shape[1] as number;
    this.written.set(op.id, { buffer: name, param: () => param });
    const dims = [param.shares! * cols];
    this.workspaces.push(() => ({ name, per: "token", dtype, dims }));
    this.sums.push(...outputs.map((out) => ({ shares: param, label: out.label, cols })));
  }

  private planWorkspace(op: Result): void {
    const { shape } = op.type;
    const isStacked = shape[0] === chunkCountDim || pieceOf(shape[0]) !== null;
    const per = isStacked ? "chunk" : op.part === "yield" ? "token" : "state";
    // Shares are no other form's.
    const isIntra = per === "token" && !this.shares.counts.has(op.id);
    const intra = isIntra ? this.intraNames.nameOf(this.program, op) : null;
    const name = intra ?? `work_${op.name ?? "value"}_${op.id}`;
    // What is kept of states for products alone is kept as those take it.
    const isFactor = shape[0] === chunkCountDim || (per === "token" && this.isFactor(op.id));
    const dtype = this.options.limits.narrowFactors && isFactor ? this.factors : "f32";
    const param = (chunk: number) => this.param(name, op, per, dtype, "H", chunk);
    this.written.set(op.id, { buffer: name, param });
    this.workspaces.push((chunk) => {
      const { shape: dims, chunk: piece } = param(chunk);
      const own = dims.filter((dim): dim is number => dim !== "T");
      const length = per === "chunk" ? { chunk: piece ?? chunk } : {};
      return {
        name,
        per,
        dtype,
        dims: own,
        ...length,
        ...(intra === null ? {} : { intra: chunk }),
      };
    });
  }

  /** Do products alone read a value, row by row? */
  private isFactor(value: ValueId): boolean {
    return this.program.ops.every((op) => {
      if (op.kind !== "chunks") return true;
      const { ops } = op.region;
      const factors = new Set<ValueId>();
      for (const inner of ops) {
        if (inner.kind === "rows" && inner.arg === value) factors.add(inner.id);
        else if (inner.kind === "transpose" && factors.has(inner.arg)) factors.add(inner.id);
        else if (inner.kind !== "matmul" && operands(inner).some((id) => factors.has(id))) {
          return false;
        }
      }
      return ![...op.carries, ...op.yields].some((id) => factors.has(id));
    });
  }

  private get factors(): Dtype {
    return factorDtype(this.program.ops.flatMap((op) => (op.kind === "input" ? [op.dtype] : [])));
  }

  private inputParam(op: Input): Param {
    const heads = op.per === "token" || op.per === "head" ? `H_${op.label}` : "H";
    return this.param(op.label, op, op.per, op.dtype, heads);
  }

  private param(
    name: string,
    op: Op,
    per: Param["per"],
    dtype: Param["dtype"],
    heads: string,
    chunk = 0,
  ): Param {
    const piece = pieceOf(op.type.shape[0]);
    const own = op.type.shape.filter((dim) => dim !== chunkCountDim && pieceOf(dim) === null);
    const shape = own.map((dim) =>
      dim === tokenDim ? "T" : dim === chunkDim ? chunk : this.sizeOf(dim),
    );
    const shares = this.shares.counts.get(op.id);
    return {
      name,
      access: "read",
      per,
      dtype,
      shape,
      heads,
      ...(shares === undefined ? {} : { shares }),
      ...(piece === null ? {} : { chunk: piece }),
    };
  }

  private sizeOf = (dim: Dim): number => {
    const size = typeof dim === "number" ? dim : this.program.dims.get(dim);
    if (typeof size !== "number") throw new CompilerBug(`from-tensor: ${dim} has no size`);
    return size;
  };

  /** The kernel with the first of `chunks` and of the target's column blocks that fits. */
  private fitted(
    name: string,
    loop: Chunks | null,
    rest: readonly Output[],
    chunks: readonly number[],
  ): { readonly kernel: Kernel; readonly registers: number } {
    const { limits } = this.options;
    const blocks = limits.columnBlocks.length > 0 ? limits.columnBlocks : [0];
    // Where terms of sums do not fit side by side, each is added as it comes.
    const sums = limits.pressureOf === null ? [false] : [false, true];
    const results = loop === null ? [] : this.resultsOf(loop, "yield");
    const choices = chunks.flatMap((chunk) =>
      blocks.flatMap((block) =>
        sums.map((sumsEarly): Choice => ({ chunk, block, sumsEarly, results })),
      ),
    );
    const fit = (choice: Choice): Fitted => {
      const kernel = this.kernel(name, loop, rest, choice);
      const { most, sum } = (limits.pressureOf ?? ofAllTiles)(kernel);
      return { choice, kernel, registers: most, sum };
    };
    let best: Fitted | null = null;
    for (const choice of choices) {
      const fitted = fit(choice);
      if (!best || fitted.registers < best.registers) best = fitted;
      if (fitted.registers <= limits.tileRegisters) {
        // What takes few registers has nothing to gain.
        const isTight = limits.pressureOf !== null && fitted.registers > limits.tileRegisters / 2;
        return isTight ? this.inBestOrder(fitted, fit) : fitted;
      }
    }
    return best!;
  }

  /**
   * Results in the order in which tiles are held least, as far as moving one at a time leads there: what is made of one
   * product is written together. Only where it is a twentieth less, as times do not follow smaller differences.
   */
  private inBestOrder(given: Fitted, fit: (choice: Choice) => Fitted): Fitted {
    const { results } = given.choice;
    const others = results.flatMap((result, from) => {
      const rest = results.toSpliced(from, 1);
      // One place forward is the neighbour one place back.
      const places = results.map((_, to) => to).filter((to) => to !== from && to !== from - 1);
      return places.map((to) => rest.toSpliced(to, 0, result));
    });
    const best = others
      .map((order) => fit({ ...given.choice, results: order }))
      .filter(({ registers }) => registers <= this.options.limits.tileRegisters)
      .reduce((a, b) => (b.sum < a.sum ? b : a), given);
    return best.sum < given.sum * 0.95 ? this.inBestOrder(best, fit) : given;
  }

  /** Results of a loop that are written somewhere, of one part. */
  private resultsOf(loop: Chunks, part: Result["part"]): readonly Result[] {
    return this.program.ops.filter(
      (op): op is Result =>
        op.kind === "result" && op.of === loop.id && op.part === part && this.written.has(op.id),
    );
  }

  private kernel(
    name: string,
    loop: Chunks | null,
    rest: readonly Output[],
    { chunk, block, sumsEarly, results }: Choice,
  ): Kernel {
    const { limits, noteOf } = this.options;
    const ops = new Map(this.ops);
    const kept = new Set(loop ? [...loop.yields, ...loop.carries] : []);
    for (const op of inChunksOf(chunk, loop?.region.ops ?? [], kept)) ops.set(op.id, op);
    const params = loop?.region.params ?? [];
    const needed = this.neededOps(ops, loop, rest);
    const cut = this.cut(loop, rest, needed, chunk, block);
    const used = new Map<string, Param>();
    const chunked = (param: Param) =>
      param.per === "chunk" ? { chunk: param.chunk ?? chunk } : {};
    const bufferOf = (value: ValueId): string | null => {
      const at = this.written.get(value);
      if (!at || this.isMadeBy(value, loop)) return null;
      const param = at.param(chunk);
      used.set(at.buffer, { ...param, ...chunked(param), access: "read" });
      return at.buffer;
    };
    const write = (param: Param): string => {
      used.set(param.name, { ...param, ...chunked(param), access: "write" });
      return param.name;
    };
    const isPerChunk = (buffer: string) => used.get(buffer)?.per === "chunk";
    const lowering = new KernelLowering({
      ops: needed,
      params,
      bufferOf,
      isPerChunk,
      noteOf,
      cut,
    });
    if (loop) {
      for (const id of [...loop.yields, ...loop.carries]) lowering.use(id);
      params.forEach((param, i) => lowering.openState(param, loop.inits[i]!));
      if (sumsEarly) lowering.sumEarly(new Set(loop.carries));
      const stored = (ops: readonly Result[]) =>
        ops.flatMap((op) => {
          const at = this.written.get(op.id)!;
          const outputs = this.program.outputs.filter((out) => out.value === op.id);
          const isWhole = outputs.length > 0 && !this.isSummed(op);
          const labels = isWhole ? outputs.map((out) => out.label) : [at.buffer];
          return labels.map((label) => ({ op, param: { ...at.param(chunk), name: label } }));
        });
      for (const { op, param } of stored(results)) {
        lowering.store("body", loop.yields[op.index]!, write(param));
      }
      lowering.updateStates(params, loop.carries);
      for (const { op, param } of stored(this.resultsOf(loop, "checkpoint"))) {
        lowering.store("piece", params[op.index]!.id, write(param));
      }
      for (const { op, param } of stored(this.resultsOf(loop, "carry"))) {
        lowering.store("epilogue", params[op.index]!.id, write(param));
      }
    }
    for (const out of rest) {
      const op = this.ops.get(out.value)!;
      const param = this.param(out.label, op, shareOf(out.per), out.dtype, "H");
      const { dim } = this.shares;
      const isShared = dim !== null && cut.extent > 0 && !op.type.shape.includes(dim);
      const shares = isShared ? { shares: cut.extent / cut.block } : {};
      lowering.use(out.value);
      lowering.store("prologue", out.value, write({ ...param, ...shares }));
    }
    const isParallel = loop !== null && params.length === 0;
    const piece = loop && this.pieceOf(loop);
    const grid: GridAxis[] = [];
    if (isParallel) grid.push({ name: loopVariable, extent: "T", step: chunk });
    else if (loop?.piece) grid.push({ name: pieceVariable, extent: "T", step: loop.piece });
    if (cut.extent > 0) grid.push({ name: cut.variable, extent: cut.extent, step: cut.block });
    const inner = lowering.statements("body");
    const over = (variable: string, step: number, body: readonly Stmt[]): Loop => {
      const reverse = loop?.reverse ?? false;
      return { kind: "loop", variable, extent: "T", step, within: null, reverse, body, note: null };
    };
    const chunkLoop: Loop = {
      ...over(loopVariable, chunk, inner),
      within: piece === null ? null : { base: pieceVariable, length: piece },
    };
    const loopStmt: readonly Stmt[] = isParallel
      ? inner
      : piece === null || loop!.piece !== null
        ? [chunkLoop]
        : [over(pieceVariable, piece, [...lowering.statements("piece"), chunkLoop])];
    return {
      name,
      params: [
        ...[...used.values()].sort(
          (a, b) => Number(a.access > b.access) - Number(a.access < b.access),
        ),
        ...([...used.values()].some(({ per }) => per === "token" || per === "chunk")
          ? [cutsParam]
          : []),
      ],
      grid,
      threads: limits.threads,
      storages: lowering.storages,
      body: [
        ...lowering.statements("prologue"),
        ...(loop ? loopStmt : []),
        ...lowering.statements("epilogue"),
      ],
    };
  }

  /** Is this value a result of the loop that is being lowered? */
  private isMadeBy(value: ValueId, loop: Chunks | null): boolean {
    const op = this.ops.get(value);
    return op?.kind === "result" && loop !== null && op.of === loop.id;
  }

  /** The ops that this kernel computes, so that uses are counted within it. */
  private neededOps(
    ops: ReadonlyMap<ValueId, Op>,
    loop: Chunks | null,
    rest: readonly Output[],
  ): ReadonlyMap<ValueId, Op> {
    const needed = new Set<ValueId>();
    const visit = (id: ValueId) => {
      const op = ops.get(id);
      if (!op || needed.has(id)) return;
      needed.add(id);
      if (op.kind === "chunks" || op.kind === "result") return;
      operands(op).forEach(visit);
    };
    if (loop) [...loop.yields, ...loop.carries].forEach(visit);
    for (const init of loop?.inits ?? []) if (init !== null) visit(init);
    for (const out of rest) visit(out.value);
    return new Map([...ops].filter(([id]) => needed.has(id)));
  }

  private cut(
    loop: Chunks | null,
    rest: readonly Output[],
    needed: ReadonlyMap<ValueId, Op>,
    chunk: number,
    block: number,
  ): Cut & { readonly extent: number } {
    const { limits } = this.options;
    const { sizeOf } = this;
    const whole = {
      sizeOf,
      chunk,
      alignRows: limits.alignRows,
      alignCols: limits.alignCols,
      isCut: () => false,
      block: 0,
      variable: "column",
      extent: 0,
    };
    if (block === 0) return whole;
    const { dim } = this.shares;
    if (dim !== null) {
      const shapes = new Map([...needed].map(([id, { type }]) => [id, type.shape]));
      for (const { id, type } of loop?.region.params ?? []) shapes.set(id, type.shape);
      const isCutUp = loop ? this.shares.loops.has(loop.id) : this.shares.areCut(needed.keys());
      if (!isCutUp) return whole;
      const isCut = (id: ValueId, axis: number) => shapes.get(id)?.[axis] === dim;
      return { ...whole, isCut, block, extent: sizeOf(dim) };
    }
    const ops = [...this.ops.values(), ...(loop?.region.ops ?? [])].filter(
      (op) => op.kind !== "chunks" && op.kind !== "result",
    );
    const types = new Map([...this.ops.values(), ...ops].map((op) => [op.id, op.type.shape]));
    for (const param of loop?.region.params ?? []) types.set(param.id, param.type.shape);
    const pairs: [ValueId, ValueId, number][] = [];
    loop?.region.params.forEach((param, i) => {
      const rank = param.type.shape.length;
      pairs.push([param.id, loop.carries[i]!, rank]);
      if (loop.inits[i] !== null) pairs.push([param.id, loop.inits[i]!, rank]);
    });
    const classes = axisClasses(ops, pairs, (id) => types.get(id)!);
    const results = [
      ...(loop?.region.params.map((param) => param.id) ?? []),
      ...(loop?.yields ?? []),
      ...rest.map((out) => out.value),
    ];
    for (const value of results) {
      const axis = types.get(value)!.length - 1;
      if (axis < 1) continue;
      const axisClass = classes.classOf(value, axis);
      if (!classes.canCut(axisClass)) continue;
      const extent = sizeOf(types.get(value)![axis]!);
      if (extent <= block) continue;
      const isCut = (id: ValueId, at: number) => classes.classOf(id, at) === axisClass;
      return { ...whole, isCut, block, extent };
    }
    return whole;
  }
}

/** How a kernel writes an output: what heads or all share, it writes its share of. */
function shareOf(per: Output["per"]): Param["per"] {
  return per === "token" || per === "chunk" ? per : "state";
}

/** As if all tiles of a kernel lived all the time. */
function ofAllTiles(kernel: Kernel): Pressure {
  let elements = 0;
  for (const storage of kernel.storages) {
    if (storage.memory === "register" && storage.shape.length === 2) {
      elements += storage.shape[0]! * storage.shape[1]!;
    }
  }
  const registers = elements / kernel.threads;
  return { most: registers, sum: registers };
}
