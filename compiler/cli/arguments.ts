/** Command-line arguments: what each command takes, and clear errors for what it does not. */
import { parseArgs } from "node:util";
import { mostOfHead, mostRanks } from "../api/options.ts";
import type { Architecture } from "../../codegen/cuda/target.ts";
import type { Model } from "../schedule/sweep.ts";
import type { Mesh } from "../../runtime/plan.ts";
import type { SlowLink } from "../../runtime/transports/slow.ts";
import type { SegmentTokens } from "../../runtime/segments.ts";
import type { Dtype } from "../tensor/ir.ts";

/** The command is wrong: exit 2. */
export class UsageError extends Error {}
/** The program or the data is wrong, and already said so or says so here: exit 1. */
export class UserError extends Error {}

/** Every option of every command; `takes` names those a command accepts. */
const optionTypes = {
  arch: "string",
  json: "boolean",
  dim: "string",
  dtype: "string",
  entry: "string",
  target: "string",
  emit: "string",
  out: "string",
  device: "string",
  devices: "string",
  mesh: "string",
  schedule: "string",
  transport: "string",
  timeout: "string",
  link: "string",
  "connect-timeout": "string",
  bind: "string",
  timeline: "string",
  warmup: "string",
  input: "string",
  output: "string",
  seed: "string",
  threads: "string",
  verify: "boolean",
  backward: "boolean",
  overlap: "boolean",
  deterministic: "boolean",
  steps: "string",
  "cache-states": "string",
  "cu-seqlens": "string",
  level: "string",
  after: "string",
  form: "string",
  svg: "string",
  segment: "string",
  simulate: "string",
  "device-speed": "string",
  sweep: "string",
  model: "string",
  compile: "boolean",
  passes: "string",
  check: "boolean",
  repeat: "string",
  reference: "boolean",
  "check-inputs": "boolean",
} as const satisfies Record<string, "boolean" | "string">;
export type OptionName = keyof typeof optionTypes;
const isRepeatable = (name: string) => name === "dim" || name === "input";

/** Kernels count tokens, heads and sequences in 32 bits. */
const mostOfCall = 2 ** 31 - 1;

export class Arguments {
  readonly positionals: readonly string[];
  private readonly values: Readonly<
    Record<string, string | boolean | readonly string[] | undefined>
  >;

  constructor(argv: readonly string[], takes: readonly OptionName[], command: string) {
    const options = Object.fromEntries(
      takes.map((name) => [name, { type: optionTypes[name], multiple: isRepeatable(name) }]),
    );
    try {
      const parsed = parseArgs({ args: [...argv], options, allowPositionals: true, tokens: true });
      const given = parsed.tokens.flatMap((token) => (token.kind === "option" ? [token.name] : []));
      const twice = given.find((name, i) => !isRepeatable(name) && given.indexOf(name) !== i);
      if (twice !== undefined) throw new Error(`Option '--${twice}' is given twice`);
      this.positionals = parsed.positionals;
      this.values = parsed.values as typeof this.values;
    } catch (error) {
      const known = takes.map((name) => `--${name}`).join(" ");
      const why = (error as Error).message.split(". ")[0];
      throw new UsageError(`${why}\n${command} takes: ${known || "no options"}`);
    }
  }

  flag(name: OptionName): boolean {
    return this.values[name] === true;
  }

  text(name: OptionName): string | null {
    const value = this.values[name];
    return typeof value === "string" ? value : null;
  }

  list(name: OptionName): readonly string[] {
    const value = this.values[name];
    return Array.isArray(value) ? value : [];
  }

  /** A whole number >= `low`; `otherwise` when the option is not there. */
  integer(name: OptionName, otherwise: number, low = 0): number {
    const text = this.text(name);
    if (text === null) return otherwise;
    const value = wholeNumber(text);
    if (value === null || value < low) {
      throw new UsageError(`--${name} takes a whole number of at least ${low}, not \`${text}\``);
    }
    if (name === "devices") checkRanks(value);
    return value;
  }

  /** `--link latency=20ms,bandwidth=1GB/s`: what every message takes besides; null: nothing. */
  link(name: "link" | "simulate" = "link"): SlowLink | null {
    const text = this.text(name);
    if (text === null) return null;
    const link = { latencyMs: 0, bandwidth: Infinity };
    for (const part of text.split(",")) {
      const latency = /^latency=(\d+(?:\.\d+)?)ms$/.exec(part);
      const bandwidth = /^bandwidth=(\d+(?:\.\d+)?)([kMG])B\/s$/.exec(part);
      if (latency) link.latencyMs = Number(latency[1]);
      else if (bandwidth && Number(bandwidth[1]) > 0) {
        link.bandwidth = Number(bandwidth[1]) * { k: 1e3, M: 1e6, G: 1e9 }[bandwidth[2]!]!;
      } else {
        throw new UsageError(`--${name} takes latency=20ms,bandwidth=1GB/s, not \`${text}\``);
      }
    }
    return link;
  }

  /** A time above zero, in seconds. */
  seconds(name: OptionName, otherwise: number): number {
    const text = this.text(name);
    if (text === null) return otherwise;
    const value = Number(text);
    if (!(value > 0 && value <= 86_400)) {
      throw new UsageError(`--${name} takes seconds, such as 60 or 0.5, not \`${text}\``);
    }
    return value;
  }

  choice<const C extends string>(name: OptionName, choices: readonly C[], otherwise: C): C {
    const text = this.text(name);
    if (text === null) return otherwise;
    const found = choices.find((choice) => choice === text);
    if (found === undefined) {
      throw new UsageError(`--${name} is one of ${choices.join(", ")}, not \`${text}\``);
    }
    return found;
  }

  dtype(): Dtype {
    return this.choice("dtype", ["f32", "f16", "bf16"], "f32");
  }

  /** `--arch sm_80`: the least of the GPUs that CUDA kernels are for. */
  architecture(): Architecture {
    return this.choice("arch", ["sm_80", "sm_86", "sm_89", "sm_90"], "sm_90");
  }

  /** `--cache-states none|every=256`: tokens between kept states, or null. */
  cacheStates(): number | null {
    const text = this.text("cache-states");
    if (text === null || text === "none") return null;
    const every = wholeNumber(/^every=(.*)$/.exec(text)?.[1] ?? "");
    if (every === null || every < 64 || every % 64 !== 0) {
      throw new UsageError(
        `--cache-states is none or every=N, N a multiple of 64 tokens, not \`${text}\``,
      );
    }
    return every;
  }

  /** `--segment auto|never|1024`: tokens of the segments that a device cuts sequences into. */
  segment(): SegmentTokens {
    const text = this.text("segment") ?? "auto";
    if (text === "auto" || text === "never") return text;
    const tokens = wholeNumber(text);
    if (tokens === null || tokens < 1) {
      throw new UsageError(`--segment is auto, never or a number of tokens, not \`${text}\``);
    }
    return tokens;
  }

  /** `--devices 4`, or `--mesh seq=4,data=2`: ranks along the sequence, times groups that share out the batch. */
  mesh(otherwise: number): Mesh {
    const text = this.text("mesh");
    if (text === null) return { seq: this.integer("devices", otherwise, 1), data: 1 };
    const mesh: Record<string, number> = { seq: 1, data: 1 };
    const axes = new Set<string>();
    for (const part of text.split(",")) {
      const [, axis, size] = /^(seq|data)=(\d+)$/.exec(part) ?? [];
      if (axis === undefined || Number(size) < 1 || axes.has(axis)) {
        throw new UsageError(`--mesh takes seq=N,data=N, not \`${text}\``);
      }
      axes.add(axis);
      mesh[axis] = Number(size);
    }
    const ranks = mesh["seq"]! * mesh["data"]!;
    checkRanks(ranks);
    if (this.text("devices") !== null && this.integer("devices", ranks, 1) !== ranks) {
      throw new UsageError(
        `--mesh ${text} is ${ranks} devices, not --devices ${this.text("devices")}`,
      );
    }
    return { seq: mesh["seq"]!, data: mesh["data"]! };
  }

  /** `--sweep T=2K..4096K,devices=16..128`: one size, or each that doubling reaches; null for an axis not named. */
  sweep(): { tokens: readonly number[] | null; devices: readonly number[] | null } {
    const axes: Record<string, readonly number[]> = {};
    for (const part of this.text("sweep")?.split(",") ?? []) {
      const [, axis, low, high] = /^(T|devices)=(\d+[KM]?)(?:\.\.(\d+[KM]?))?$/.exec(part) ?? [];
      const [from, to] = [sizeOf(low), sizeOf(high ?? low)];
      if (axis === undefined || from < 1 || to < from || Object.hasOwn(axes, axis)) {
        throw new UsageError(`--sweep takes T=2K..4096K,devices=16..128, not \`${part}\``);
      }
      if (axis === "devices") checkRanks(to);
      else if (to > mostOfCall) throw new UsageError(`--sweep T goes to ${mostOfCall} at most`);
      const doublings = Math.floor(Math.log2(to / from));
      axes[axis] = Array.from({ length: doublings + 1 }, (_, i) => from * 2 ** i);
    }
    return { tokens: axes["T"] ?? null, devices: axes["devices"] ?? null };
  }

  /** `--model parameters=1e9,layers=16,hidden=2048,vocabulary=64000`: what is around the attention; null: nothing. */
  model(): Model | null {
    const text = this.text("model");
    if (text === null) return null;
    const model = { parameters: NaN, layers: NaN, hidden: NaN, vocabulary: NaN };
    for (const part of text.split(",")) {
      const [name = "", size = ""] = part.split("=");
      if (!Object.hasOwn(model, name)) model.parameters = NaN;
      else model[name as keyof Model] = Number(size);
    }
    if (!Object.values(model).every((size) => size > 0 && Number.isFinite(size))) {
      throw new UsageError(
        `--model takes parameters=1e9,layers=16,hidden=2048,vocabulary=64000, not \`${text}\``,
      );
    }
    return model;
  }

  /** `--dim B=1,H=8 --dim K=64` as sizes by name. */
  dims(): Record<string, number> {
    const dims = new Map<string, number>();
    for (const part of this.list("dim").flatMap((text) => text.split(","))) {
      const [name, text, ...rest] = part.split("=");
      const size = wholeNumber(text ?? "");
      if (!name || size === null || rest.length > 0) {
        throw new UsageError(`--dim takes NAME=SIZE, such as --dim T=4096,K=64, not \`${part}\``);
      }
      const low = name === "T" ? 0 : 1;
      if (size < low) throw new UsageError(`--dim ${name} must be at least ${low}`);
      const most = /^(?:[TBH]|H_\w+)$/.test(name) ? mostOfCall : mostOfHead;
      if (size > most) throw new UsageError(`--dim ${name} is at most ${most}, not ${size}`);
      if (dims.has(name)) throw new UsageError(`--dim ${name} is given twice`);
      dims.set(name, size);
    }
    return Object.fromEntries(dims);
  }

  /** The one file the command works on. */
  file(command: string): string {
    const [file, ...rest] = this.positionals;
    if (file === undefined || rest.length > 0) {
      throw new UsageError(`${command} takes one FILE.lasp`);
    }
    return file;
  }
}

function checkRanks(ranks: number): void {
  if (ranks > mostRanks)
    throw new UsageError(`${ranks} devices are asked for; ${mostRanks} are the most`);
}

/** `2K` is 2048; NaN for what is not a size. */
function sizeOf(text = ""): number {
  const [, digits = "", unit = ""] = /^(\d+)([KM]?)$/.exec(text) ?? [];
  const size = wholeNumber(digits) ?? NaN;
  return size * ({ K: 1024, M: 1024 ** 2 }[unit] ?? 1);
}

function wholeNumber(text: string): number | null {
  const value = Number(text);
  return /^\d+$/.test(text) && Number.isSafeInteger(value) ? value : null;
}
