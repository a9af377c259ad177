/**
 * The CUDA target, sm_80 and newer. Forms with 16-bit tensors and products of chunks run on tensor cores;
 * what is float32, and single tokens, on ordinary cores.
 */
import { Report } from "../../compiler/support/pass.ts";
import { hasLoop, ofRole } from "../../compiler/tile/accesses.ts";
import { type Sharing, divideRoles } from "../../compiler/tile/passes/divide-roles.ts";
import { dropRepeats } from "../../compiler/tile/passes/drop-repeats.ts";
import { foldEarly } from "../../compiler/tile/passes/fold-early.ts";
import { gatherProducts } from "../../compiler/tile/passes/gather-products.ts";
import { insertBarriers } from "../../compiler/tile/passes/insert-barriers.ts";
import { multiplyInRegisters } from "../../compiler/tile/passes/multiply-in-registers.ts";
import { oneWarpgroup } from "../../compiler/tile/passes/one-warpgroup.ts";
import { pipelineCopies } from "../../compiler/tile/passes/pipeline-copies.ts";
import { placeOperands } from "../../compiler/tile/passes/place-operands.ts";
import { recomputeTiles } from "../../compiler/tile/passes/recompute-tiles.ts";
import { scaleAfter } from "../../compiler/tile/passes/scale-after.ts";
import { spreadFolds } from "../../compiler/tile/passes/spread-folds.ts";
import { stageWaits } from "../../compiler/tile/passes/stage-waits.ts";
import { stageOperands } from "../../compiler/tile/passes/stage-operands.ts";
import { remembered } from "../../compiler/support/remembered.ts";
import { cheapFns } from "../../compiler/tile/cost.ts";
import { type Pressure, pressureOf, registerPressure } from "../../compiler/tile/pressure.ts";
import type { Axis, Kernel } from "../../compiler/tile/ir.ts";
import type { Limits, Target } from "../../compiler/tile/target.ts";
import { type Dim, type MapFn, type Program, allOps } from "../../compiler/tensor/ir.ts";
import { split } from "../../compiler/tensor/passes/split.ts";
import { splitChain } from "../../compiler/tensor/passes/split-chain.ts";
import { arrivalBytes } from "./arrivals.ts";
import { emitCuda, isOnTensorCores } from "./emit.ts";
import {
  blocksOfWarpgroups,
  fragmentRegisters,
  registersOfTiles,
  sharedBytesOf,
  sumsInRegisters,
  warpsOf,
} from "./layout.ts";

const limits: Limits = {
  threads: 256,
  alignRows: 16,
  alignCols: 16,
  // What a block has without opting in to more.
  sharedBytes: 49152,
  // 255 registers a thread, less what addresses and products take.
  tileRegisters: 160,
  chunks: [64, 32, 16],
  columnBlocks: [128, 64, 32],
  narrowFactors: false,
  pressureOf: null,
};

/** Of a chunk that one warpgroup computes: what its tiles leave is enough for addresses and products, in five blocks on a processor. */
const smallTiles = 48;
/** What the system takes of a processor's shared memory for each block. */
const systemBytes = 1024;

const place = placeOperands(sumsInRegisters);

/**
 * KiB of shared memory that a block may ask for (CUDA C++ Programming Guide, compute capabilities). Kernels for
 * less run where there is more.
 */
export const architectures = { sm_80: 163, sm_86: 99, sm_89: 99, sm_90: 227 } as const;
export type Architecture = keyof typeof architectures;

/**
 * Threads of the role that carries the state and of the other, and registers for tiles: what a thread may have less
 * what addresses and products take.
 */
const sharings: readonly Sharing[] = [
  [
    { threads: 128, registers: 160 },
    { threads: 128, registers: 160 },
  ],
  [
    { threads: 256, registers: 96 },
    { threads: 128, registers: 96 },
  ],
];

/** On tensor cores, of 255 registers of a thread those that tiles may take. */
const tileRegisters = 192;

const onOrdinaryCores: Target = {
  name: "cuda",
  segments: true,
  limits,
  legalize: [stageOperands(limits), insertBarriers],
  files: {},
  emit: emitCuda,
};

/**
 * Without products wide tiles share nothing, and narrow ones keep more of the GPU busy; so they do where products are
 * of one state after the other, and its heads alone too few.
 */
const narrow: Target = { ...onOrdinaryCores, limits: { ...limits, columnBlocks: [16] } };

/** The target for GPUs of an architecture and those with as much shared memory. */
export function cudaTargetFor(architecture: Architecture): Target {
  const whole = tensorTarget(architectures[architecture] * 1024);
  // Where a kernel finds no roles all its threads wait for each other; side by side chunks do not.
  const fits = (kernel: Kernel) => whole.fits!(kernel);
  const withRoles: Target = {
    ...whole,
    fits: (kernel) => fits(kernel) && (!hasLoop(kernel) || kernel.roles !== undefined),
  };
  // Of a state that one role has no room for, blocks of columns: what they all read lies in the cache.
  const byColumns = (block: number, sharedAlong: string | null, target: Target): Target => ({
    ...target,
    limits: {
      ...target.limits,
      columnBlocks: [block],
      ...(sharedAlong === null ? {} : { sharedAlong }),
    },
  });
  // What summaries invert is the forward's, whatever else goes before them.
  const chain = { ...whole, prepare: [splitChain] };
  const chained = { ...withRoles, prepare: [splitChain] };
  const withoutRoles: readonly Target[] = [{ ...whole, prepare: [split] }, whole];
  return {
    ...onOrdinaryCores,
    variants: (form, sharedAlong) => {
      if (!suitsTensorCores(form)) {
        return [multiplies(form) && !goesByOne(form) ? onOrdinaryCores : narrow];
      }
      // Triangles are inverted side by side, also where a role that carries states on could do it.
      const isChained = inverts(form);
      const ways = [...(isChained ? [chained, withRoles] : [withRoles, chained]), ...withoutRoles];
      const columns = columnsOfLargeState(form);
      if (columns === null) {
        const first = givesStatesAlone(form) ? [withRoles, chain] : [];
        return distinct(...first, ...ways, onOrdinaryCores);
      }
      const { dim, block, isWhole } = columns;
      if (sharedAlong !== dim || !isWhole) {
        // Each block would compute squares of many products; a kernel before computes them once. Not where that computes gates again.
        const isBefore = masksBlocks(form) && !callsFunctions(form);
        const before = isBefore ? [{ ...withRoles, prepare: [split] }] : [];
        const cut = [...before, ...ways.slice(0, 2)].map((way) => byColumns(block, null, way));
        return distinct(withRoles, ...cut, ...ways, onOrdinaryCores);
      }
      // Gradients fold along the columns: each block has its share.
      const cut = ways.map((way) => byColumns(block, sharedAlong, way));
      // Cut twice, into kernels and into columns, is slower than whole, but not where triangles are inverted.
      const all = isChained ? [...cut, ...ways] : [cut[0]!, ...ways, ...cut.slice(1)];
      return distinct(withRoles, ...all, onOrdinaryCores);
    },
  };
}

/** Unless told otherwise, for Hopper. */
export const cudaTarget: Target = cudaTargetFor("sm_90");

/** The target for products in 16 bits, with so much shared memory for a block. */
function tensorTarget(blockBytes: number): Target {
  const sharedBytes = blockBytes - arrivalBytes;
  const fits = (kernel: Kernel) => sharedBytesIn(kernel) <= sharedBytes;
  const recompute = recomputeTiles(registersOfTiles, tileRegisters);
  const placed = remembered((kernel: Kernel): Kernel => {
    const report = new Report();
    const program = place.run({ name: "", kernels: [kernel] }, report);
    return recompute.run(program, report).kernels[0]!;
  });
  const early = foldEarly((kernel) => registersOfTiles(placed(kernel)));
  const withFactors = (kernel: Kernel): Kernel =>
    placed(early.run({ name: "", kernels: [kernel] }, new Report()).kernels[0]!);
  /** Of a kernel whose factors lie in shared memory; too much where that has no room for them. */
  const heldBy = (kernel: Kernel): Pressure => {
    const whole = withFactors(kernel);
    const [bytes, { most, sum }] = [sharedBytesIn(whole), pressureOf(whole, fragmentRegisters)];
    return { most: most + (bytes <= sharedBytes ? 0 : 1000 + bytes / 1024), sum };
  };
  const isSmall = (kernel: Kernel): boolean => {
    const whole = withFactors(kernel);
    const bytes = sharedBytesIn(whole) + arrivalBytes + systemBytes;
    return (
      isOnTensorCores(whole) &&
      registersOfTiles(whole) <= smallTiles &&
      blocksOfWarpgroups * bytes <= blockBytes + systemBytes
    );
  };
  // Sixteen barriers are there, one for all and one for each role among them.
  const memory = { limitBytes: sharedBytes, bytesOf: sharedBytesOf };
  const divide = divideRoles({
    ...memory,
    sharings,
    registersOf: (rows, cols, threads) => fragmentRegisters(rows, cols, threads / 32),
    signals: 13,
    foldsRows: (rows, cols, threads) => warpsOf(rows, cols, threads / 32).across === 1,
  });
  const pipeline = pipelineCopies(memory);
  return {
    ...onOrdinaryCores,
    limits: {
      ...limits,
      sharedBytes,
      tileRegisters,
      columnBlocks: [256, 128, 64, 32],
      narrowFactors: true,
      pressureOf: heldBy,
    },
    legalize: [
      scaleAfter,
      oneWarpgroup(isSmall),
      early,
      place,
      recompute,
      divide,
      dropRepeats(fitsRegisters),
      multiplyInRegisters({ ...memory, partsOf, fits: fitsRegisters }),
      spreadFolds({ ...memory, partsOf }),
      gatherProducts(memory),
      pipeline,
      stageWaits(sharedBytesOf),
      insertBarriers,
    ],
    fits,
  };
}

/** What kernels on tensor cores go through. */
export const tensorPasses = tensorTarget(architectures.sm_90 * 1024).legalize;

function sharedBytesIn({ storages }: Kernel): number {
  return storages
    .filter(({ memory }) => memory === "shared")
    .reduce((sum, storage) => sum + sharedBytesOf(storage), 0);
}

/** Have the threads of every role the registers for their tiles? Without roles recompute-tiles has seen to it. */
function fitsRegisters(kernel: Kernel): boolean {
  const { roles, body } = kernel;
  const sharing = sharings.find((one) => one.every(({ threads }, n) => threads === roles?.[n]));
  return (
    sharing !== undefined &&
    sharing.every(({ threads, registers }, role) => {
      const held = (rows: number, cols: number) => fragmentRegisters(rows, cols, threads / 32);
      return registerPressure({ ...kernel, body: ofRole(body, role) }, held) <= registers;
    })
  );
}

/** Warps that share a row or a column of a tile. */
function partsOf(rows: number, cols: number, axis: Axis, threads: number): number {
  const { down, across } = warpsOf(rows, cols, threads / 32);
  return axis === "col" ? across : down;
}

/** Where a chunk has more than one token, and tensors are stored no finer. */
function suitsTensorCores(form: Program): boolean {
  const isNarrow = form.ops.some((op) => op.kind === "input" && op.dtype !== "f32");
  const loops = form.ops.filter((op) => op.kind === "chunks");
  return isNarrow && multiplies(form) && loops.every(({ longest }) => longest !== 1);
}

/** Do loops, if any, go token by token, or segment by segment? */
function goesByOne({ ops }: Program): boolean {
  return ops.every((op) => op.kind !== "chunks" || op.longest === 1);
}

function distinct(...targets: readonly Target[]): readonly Target[] {
  return [...new Set(targets)];
}

/** What the registers of a role hold of a state. */
const largestState = 128 * 128;

interface ColumnBlocks {
  readonly dim: Dim;
  readonly block: number;
  /** Are all blocks full? */
  readonly isWhole: boolean;
}

/** Blocks of columns that a role has registers for, of a state that is larger than that; null: there is none. */
function columnsOfLargeState({ ops, dims }: Program): ColumnBlocks | null {
  const sizeOf = (dim: Dim) => Number(typeof dim === "number" ? dim : dims.get(dim));
  for (const op of ops.filter((one) => one.kind === "chunks")) {
    for (const { type } of op.region.params) {
      const [rows, columns] = type.shape;
      if (rows === undefined || columns === undefined) continue;
      const [height, width] = [sizeOf(rows), sizeOf(columns)];
      if (height * width <= largestState) continue;
      const block = [128, 64, 32].find((one) => one < width && height * one <= largestState) ?? 32;
      return { dim: columns, block, isWhole: width % block === 0 };
    }
  }
  return null;
}

/** Is nothing of the form's loops but their last states wanted? */
function givesStatesAlone({ ops }: Program): boolean {
  return ops.every((op) => op.kind !== "chunks" || op.yields.length === 0);
}

function inverts({ ops }: Program): boolean {
  return [...allOps(ops)].some(({ kind }) => kind === "solve" || kind === "invert");
}

/** Are squares of a chunk put together from blocks, each with decays of channels of its own? */
function masksBlocks({ ops }: Program): boolean {
  return [...allOps(ops)].some(({ kind }) => kind === "block-mask");
}

/** Are tiles of tokens, gates for instance, made by more than exponentials, quotients and what takes an instruction or two? */
function callsFunctions({ ops }: Program): boolean {
  const plain = new Set<MapFn>([...cheapFns, "exp", "div", "recip"]);
  return [...allOps(ops)].some(
    (op) => op.kind === "map" && op.type.shape.length === 2 && !plain.has(op.fn),
  );
}

function multiplies({ ops }: Program): boolean {
  return [...allOps(ops)].some(({ kind }) => kind === "matmul");
}
