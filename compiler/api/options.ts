/** Options as JavaScript may give them: each is what its type says, or a TypeError names it. */
import type { CheckedAttention } from "../check/check.ts";
import type { CheckOptions, CompileOptions, ExplainOptions } from "./types.ts";

/** Columns of heads; no target has room for what is larger. */
export const mostOfHead = 65536;
/** Ranks of a plan at most: it has steps for each of them, of an all-gather for each pair, all of which are verified. */
export const mostRanks = 256;

const dtypes = ["f32", "f16", "bf16"] as const;
const architectures = ["sm_80", "sm_86", "sm_89", "sm_90"] as const;
const common = ["name", "dims", "dtype"] as const;
const own = {
  check: [...common],
  compile: [...common, "entry", "targets", "architecture", "devices", "backward", "cacheStates"],
  explain: [...common, "entry", "tokens", "cacheStates"],
  format: ["name"],
} as const;

type Call = keyof typeof own;
type Known = CheckOptions & CompileOptions & ExplainOptions;

/** Throws a TypeError on an option that is not known, or not what it must be. */
export function checkOptions(call: Call, text: unknown, options: object): void {
  if (typeof text !== "string") throw new TypeError(`${call}: the first argument is a text`);
  const known: readonly string[] = own[call];
  const strange = Object.keys(options).find((name) => !known.includes(name));
  if (strange !== undefined) {
    throw new TypeError(`${call} has no option ${strange}; it has ${known.join(", ")}`);
  }
  const given = options as Known;
  const must = (name: keyof Known, isGood: (value: never) => boolean, what: string) => {
    const value = given[name];
    if (value !== undefined && !isGood(value as never)) {
      throw new TypeError(`${call}: ${name} is ${what}, not ${shown(value)}`);
    }
  };
  must("name", isText, "a text");
  must("entry", isText, "a text");
  must("dtype", (value) => dtypes.includes(value), `one of ${dtypes.join(", ")}`);
  must("architecture", (v) => architectures.includes(v), `one of ${architectures.join(", ")}`);
  must("devices", (n) => isWhole(n, 1) && n <= mostRanks, `a whole number from 1 to ${mostRanks}`);
  must("tokens", (value) => isWhole(value, 0), "a whole number from 0 on");
  must("backward", (value) => typeof value === "boolean", "true or false");
  must("targets", isTargets, "a list of cuda, wgsl and what laspc/cpu gives, none twice");
  must("cacheStates", isCacheStates, "null or a multiple of 64 tokens");
  must("dims", (value) => typeof value === "object" && value !== null, "an object of sizes");
  for (const [name, size] of Object.entries(given.dims ?? {})) {
    if (isWhole(size, 1) && size <= mostOfHead) continue;
    const what = `a whole number from 1 to ${mostOfHead}`;
    throw new TypeError(`${call}: dims.${name} is ${what}, not ${shown(size)}`);
  }
}

/** Throws a TypeError on a size of a dim that no attention of the text has. */
export function checkDims(
  call: Call,
  attentions: readonly CheckedAttention[],
  given: Readonly<Record<string, number>>,
): void {
  const has = new Set(attentions.flatMap(({ program }) => [...program.dims.keys()]));
  has.delete("T");
  const strange = Object.keys(given).find((name) => !has.has(name));
  if (strange !== undefined) {
    throw new TypeError(`${call}: the text has no dim ${strange}; it has ${[...has].join(", ")}`);
  }
}

function isText(value: unknown): boolean {
  return typeof value === "string";
}

function isWhole(value: number, low: number): boolean {
  return Number.isSafeInteger(value) && value >= low;
}

function isCacheStates(value: number | null): boolean {
  return value === null || (isWhole(value, 64) && value % 64 === 0);
}

function isTargets(value: unknown): boolean {
  if (!Array.isArray(value)) return false;
  const names = value.map((target) => (typeof target === "string" ? target : loadedName(target)));
  const isKnown = names.every((name) => name === "cuda" || name === "wgsl" || name === "cpu");
  return isKnown && !value.includes("cpu") && new Set(names).size === names.length;
}

function loadedName(target: unknown): unknown {
  const isLoaded = typeof target === "object" && target !== null && "emit" in target;
  return isLoaded ? (target as { name?: unknown }).name : null;
}

function shown(value: unknown): string {
  return typeof value === "object" || typeof value === "string"
    ? (JSON.stringify(value) ?? String(value))
    : String(value);
}
