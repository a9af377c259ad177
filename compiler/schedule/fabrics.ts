/** Fabrics and devices as data: what `laspc plan --simulate` and the cost model know of machines. */
import type { Transition } from "./flops.ts";

/** A message of n bytes takes latency + n / bandwidth. One direction; the other runs beside it. */
export interface Link {
  readonly latencyS: number;
  readonly bytesPerS: number;
}

export interface Fabric {
  /** Devices of one node, which reach each other by `within`; the others by `between`. */
  readonly perNode: number;
  readonly within: Link;
  readonly between: Link;
  readonly source: string;
}

const nvlink4: Link = { latencyS: 6e-6, bytesPerS: 450e9 };
const nvlink3: Link = { latencyS: 6e-6, bytesPerS: 300e9 };

/** Bandwidths are published peaks; latencies are what a small message between two GPUs takes with NCCL. */
export const fabrics = {
  nvlink: {
    perNode: Infinity,
    within: nvlink4,
    between: nvlink4,
    source: "NVLink 4 through switches, 900 GB/s both ways (H100, H200 data sheets)",
  },
  infiniband: {
    perNode: 8,
    within: nvlink4,
    between: { latencyS: 15e-6, bytesPerS: 50e9 },
    source: "8 GPUs on NVLink 4, then one 400 Gb/s port for each GPU (DGX H100, H200)",
  },
  "dgx-a100": {
    perNode: 8,
    within: nvlink3,
    between: { latencyS: 15e-6, bytesPerS: 25e9 },
    source: "8 GPUs on NVLink 3, 600 GB/s both ways, then one 200 Gb/s port for each (DGX A100)",
  },
  ethernet: {
    perNode: 1,
    within: { latencyS: 30e-6, bytesPerS: 12.5e9 },
    between: { latencyS: 30e-6, bytesPerS: 12.5e9 },
    source: "one device for each host, 100 Gb/s, TCP",
  },
  loopback: {
    perNode: Infinity,
    within: { latencyS: 50e-6, bytesPerS: 2e9 },
    between: { latencyS: 50e-6, bytesPerS: 2e9 },
    source: "ranks of one host over its own sockets",
  },
} as const satisfies Readonly<Record<string, Fabric>>;
export type FabricName = keyof typeof fabrics;
export const fabricNames = Object.keys(fabrics) as readonly FabricName[];

export function linkBetween(fabric: Fabric, from: number, to: number): Link {
  const node = (rank: number) => Math.floor(rank / fabric.perNode);
  return node(from) === node(to) ? fabric.within : fabric.between;
}

/** The slowest link among the first `ranks` devices. */
export function slowestLink(fabric: Fabric, ranks: number): Link {
  return ranks > fabric.perNode ? fabric.between : fabric.within;
}

/** How fast a device runs launches: launchS + the longer of bytes / bytesPerS and flops / flopsPerS, which go on at once. */
export interface DeviceSpeed {
  readonly name: string;
  readonly bytesPerS: number;
  readonly flopsPerS: Readonly<Record<Transition, { forward: number; backward: number }>>;
  /** Of large products of matrices in 16 bits: a model's layers around its attention. */
  readonly matmulFlopsPerS: number;
  readonly launchS: number;
  /** Heads of sequences that run side by side; with fewer, sequences are cut into segments. */
  readonly processors: number;
  /** What a form costs by segments, in its own work: summaries and the exchange are computed besides. */
  readonly segmented: Readonly<Record<Transition, { forward: number; backward: number }>>;
  readonly memoryBytes: number;
  readonly source: string;
}

/**
 * From bench/h200.json: lightning, GLA and DeltaNet in bf16 at B = 8, T = 8192, H = 16, K = V = 128, 1.05 M tokens and
 * heads: 0.259, 0.730, 0.589 ms forwards and 0.945, 3.22, 2.50 ms with the backward, at 4.23 TB/s of copying, with 128 heads on 132
 * processors. Flops, 103, 94 and 180 G forwards and 258, 241 and 451 G backwards, over these times less a launch, whether they or the bytes took them.
 * One sequence of 65536 tokens in segments: the ratio of its times, less three launches, to those. A launch: T = 8192 by segments, where
 * three of them are the rest of its 0.075 ms. Large products: 8192 x 8192 x 8192 in bf16 with cuBLAS, 770 to 798 TFLOP/s.
 */
const h200: DeviceSpeed = {
  name: "h200",
  bytesPerS: 4.23e12,
  flopsPerS: {
    scalar: { forward: 412e12, backward: 381e12 },
    diagonal: { forward: 130e12, backward: 97e12 },
    dense: { forward: 310e12, backward: 238e12 },
  },
  matmulFlopsPerS: 780e12,
  launchS: 9e-6,
  processors: 128,
  segmented: {
    scalar: { forward: 1.51, backward: 1.19 },
    diagonal: { forward: 1.35, backward: 1.1 },
    dense: { forward: 1.96, backward: 1.29 },
  },
  memoryBytes: 141e9,
  source: "measured: bench/h200.json",
};

/** The same share of the peaks of another GPU. */
function scaled(name: string, bytes: number, flops: number, rest: Partial<DeviceSpeed>) {
  const of = ({ forward, backward }: { forward: number; backward: number }) => ({
    forward: forward * flops,
    backward: backward * flops,
  });
  const { scalar, diagonal, dense } = h200.flopsPerS;
  const flopsPerS = { scalar: of(scalar), diagonal: of(diagonal), dense: of(dense) };
  const matmulFlopsPerS = h200.matmulFlopsPerS * flops;
  return { ...h200, name, bytesPerS: h200.bytesPerS * bytes, flopsPerS, matmulFlopsPerS, ...rest };
}

export const deviceSpeeds: Readonly<Record<string, DeviceSpeed>> = {
  h200,
  a100: scaled("a100", 2.039 / 4.8, 312 / 989, {
    processors: 108,
    memoryBytes: 80e9,
    source: "H200's share of the peaks: 2.04 TB/s and 312 TFLOP/s (A100 80 GB SXM data sheet)",
  }),
};
