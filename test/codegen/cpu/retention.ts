/** Retention's kernels written by hand: what from-tensor would make, and what they mean. */
import type { Kernel } from "../../../compiler/tile/ir.ts";
import { KernelText, call, loop, number, param } from "./run-kernel.ts";

export const [K, V] = [60, 40];

/** Rows and columns padded to 16; chunks of 32 tokens. */
export function retentionKernel(): Kernel {
  const [C, KP, VP] = [32, 64, 48];
  const text = new KernelText({
    q: [C, KP],
    k: [C, KP],
    v: [C, VP],
    scores: [C, C],
    o: [C, VP],
    S: [KP, VP],
    gamma: [],
    log: [],
    left: [],
  });
  const at = (axis: "row" | "col") =>
    ({ kind: "index", axis, start: { base: null, offset: 0 }, global: false }) as const;
  const inside = {
    kind: "inside",
    axis: "row",
    start: { base: "t", offset: 0 },
    limit: "T",
  } as const;
  const log = text.read("log", "scalar");
  const decay = call("exp", call("mul", log, call("sub", at("row"), at("col"))));
  const mask = call("select", call("ge", at("row"), at("col")), decay, number(0));
  const counted = call("select", inside, number(1), number(0));
  const toEnd = call(
    "exp",
    call("mul", log, call("sub", call("sub", text.read("left", "scalar"), number(1)), at("row"))),
  );
  const fromStart = call("exp", call("mul", log, call("add", at("row"), number(1))));
  const window = (name: string) => text.window(name);
  const body = [
    text.load("S", 0, "initial_S"),
    text.load("gamma"),
    text.map("log", call("log", text.read("gamma", "scalar")), "retention.lasp:9  log(gamma)"),
    loop("t", "T", C, [
      text.load("q", "t"),
      text.load("k", "t"),
      text.load("v", "t"),
      text.map("scores", number(0), "retention.lasp:11  scores = q @ k.T"),
      text.mma(window("scores"), window("q"), window("k"), "rhs"),
      text.map(
        "scores",
        call("mul", text.read("scores", "tile"), mask),
        "retention.lasp:11  scores = q @ k.T",
      ),
      text.map("o", number(0), "retention.lasp:12  scores @ v"),
      text.mma(window("o"), window("scores"), window("v")),
      text.map("q", call("mul", text.read("q", "tile"), fromStart)),
      text.mma(window("o"), window("q"), window("S")),
      text.store("o", "t"),
      // Tokens of this chunk: 32, or what is left of T.
      text.map(
        "left",
        call(
          "min",
          number(C),
          call(
            "sub",
            { kind: "runtime", scalar: "T_total" },
            { kind: "index", axis: "row", start: { base: "t", offset: 0 }, global: false },
          ),
        ),
      ),
      text.map("k", call("mul", text.read("k", "tile"), call("mul", counted, toEnd))),
      text.map(
        "S",
        call(
          "mul",
          text.read("S", "tile"),
          call("exp", call("mul", log, text.read("left", "scalar"))),
        ),
      ),
      text.mma(window("S"), window("k"), window("v"), "lhs"),
    ]),
    text.store("S", 0, "final_S"),
  ];
  const params = [
    param("q", "read", "token", ["T", K]),
    param("k", "read", "token", ["T", K]),
    param("v", "read", "token", ["T", V]),
    param("gamma", "read", "head", []),
    param("initial_S", "read", "state", [K, V]),
    param("o", "write", "token", ["T", V]),
    param("final_S", "write", "state", [K, V]),
  ];
  return { name: "retention", params, grid: [], threads: 1, storages: text.storages, body };
}

export interface RetentionSizes {
  readonly B: number;
  readonly T: number;
  /** Heads of q, o and the states; k, v and gamma have `groups`. */
  readonly H: number;
  readonly groups: number;
}

export type RetentionInputs = Readonly<
  Record<"q" | "k" | "v" | "gamma" | "initial_S", Float64Array>
>;

export function retentionInputs({ B, T, H, groups }: RetentionSizes): RetentionInputs {
  const draw = (n: number, seed: number) =>
    Float64Array.from({ length: n }, (_, i) => Math.fround(Math.sin((i + 1) * 78.233 * seed)));
  return {
    q: draw(B * T * H * K, 1),
    k: draw(B * T * groups * K, 2),
    v: draw(B * T * groups * V, 3),
    gamma: Float64Array.from({ length: groups }, (_, h) => Math.fround(1 - 2 ** -(h + 2))),
    initial_S: draw(B * H * K * V, 4),
  };
}

/** o_t = q_t S_t, S_t = gamma S_{t-1} + k_t v_t^T, token by token in float64. */
export function retentionLoops(inputs: RetentionInputs, { B, T, H, groups }: RetentionSizes) {
  const { q, k, v, gamma, initial_S } = inputs;
  const o = new Float64Array(B * T * H * V);
  const final_S = Float64Array.from(initial_S);
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const g = Math.floor((h * groups) / H);
      const S = final_S.subarray((b * H + h) * K * V, (b * H + h + 1) * K * V);
      for (let t = 0; t < T; t++) {
        const [qt, kt, vt] = [
          q.subarray(((b * T + t) * H + h) * K),
          k.subarray(((b * T + t) * groups + g) * K),
          v.subarray(((b * T + t) * groups + g) * V),
        ];
        const ot = o.subarray(((b * T + t) * H + h) * V);
        for (let i = 0; i < K; i++) {
          for (let j = 0; j < V; j++) {
            S[i * V + j] = gamma[g]! * S[i * V + j]! + kt[i]! * vt[j]!;
            ot[j]! += qt[i]! * S[i * V + j]!;
          }
        }
      }
    }
  }
  return { o, final_S };
}
