/** Checks what is read from disk before anything trusts it: a manifest that lies is an error, not a crash. */
import { type Manifest, schemaVersion, streams } from "./plan.ts";

type Json = unknown;
type Check = (value: Json, at: string) => void;

class Invalid extends Error {}

const fail = (at: string, wanted: string): never => {
  throw new Invalid(`${at} is not ${wanted}`);
};
const text: Check = (value, at) => {
  if (typeof value !== "string") fail(at, "a text");
};
const flag: Check = (value, at) => {
  if (typeof value !== "boolean") fail(at, "true or false");
};
const count: Check = (value, at) => {
  if (!Number.isSafeInteger(value) || (value as number) < 0) fail(at, "a whole number");
};
const anyNumber: Check = (value, at) => {
  // JSON has no infinity: an open end is null.
  if (value !== null && typeof value !== "number") fail(at, "a number");
};
const oneOf =
  (...choices: readonly string[]): Check =>
  (value, at) => {
    if (!choices.includes(value as string)) fail(at, `one of ${choices.join(", ")}`);
  };
const list =
  (item: Check): Check =>
  (value, at) => {
    if (!Array.isArray(value)) return fail(at, "a list");
    value.forEach((one, i) => item(one, `${at}[${i}]`));
  };
const orNull =
  (check: Check): Check =>
  (value, at) => {
    if (value !== null) check(value, at);
  };
const optional =
  (check: Check): Check =>
  (value, at) => {
    if (value !== undefined) check(value, at);
  };
const record =
  (fields: Readonly<Record<string, Check>>): Check =>
  (value, at) => {
    if (typeof value !== "object" || value === null) return fail(at, "an object");
    for (const [name, check] of Object.entries(fields)) {
      check((value as Record<string, Json>)[name], `${at}.${name}`);
    }
  };
/** A path inside the artifact: no way up, no way out. */
const path: Check = (value, at) => {
  const parts = typeof value === "string" ? value.split("/") : [];
  const safe = parts.length > 0 && parts.every((part) => /^[\w][\w.-]*$/.test(part));
  if (!safe) fail(at, "a path inside the artifact");
};
/** A name that may become part of a file's name or of a kernel. */
const name: Check = (value, at) => {
  if (typeof value !== "string" || !/^[A-Za-z_]\w*$/.test(value)) fail(at, "a name");
};

const tensor = record({
  name,
  per: oneOf("token", "head", "shared", "state", "chunk"),
  dtype: oneOf("f32", "f16", "bf16"),
  dims: list(count),
  dimNames: list(text),
  range: orNull(record({ low: anyNumber, high: anyNumber, lowOpen: flag, highOpen: flag })),
  chunk: optional(count),
  headsOf: optional(name),
  intra: optional(count),
});
const factor: Check = (value, at) => (typeof value === "string" ? text : count)(value, at);
const kernel = record({
  entry: name,
  file: path,
  buffers: list(record({ name, access: oneOf("read", "write"), parts: optional(list(name)) })),
  maps: optional(list(record({ buffer: name, rows: count }))),
  scalars: list(name),
  grid: list(record({ of: list(factor), by: count })),
  packedChunk: optional(count),
  threads: count,
  sharedBytes: count,
});
/** An object whose values, under whatever names, are alike. */
const byName =
  (check: Check): Check =>
  (value, at) => {
    record({})(value, at);
    for (const [key, one] of Object.entries(value as object)) check(one, `${at}.${key}`);
  };
const code = record({
  target: oneOf("reference", "cpu", "wgsl", "cuda"),
  files: list(path),
  forms: list(
    record({
      form: name,
      kernels: list(kernel),
      workspaces: list(tensor),
      shares: optional(byName(count)),
    }),
  ),
});
const layout: Check = (value, at) =>
  (typeof value === "string" ? oneOf("tokens", "heads", "whole") : count)(value, at);
const part = optional(record({ index: count, of: count }));
const step: Check = (value, at) => {
  const base = { id: count, after: list(count), stream: oneOf(...streams) };
  const kinds = [
    "alloc",
    "launch",
    "send",
    "recv",
    "allgather",
    "allreduce",
    "reshard",
    "free",
  ] as const;
  record({ kind: oneOf(...kinds), ...base })(value, at);
  const { kind } = value as { kind: string };
  const buffer = { buffer: name };
  const own: Record<string, Record<string, Check>> = {
    alloc: { ...buffer, spec: tensor, zero: flag, layout: optional(layout) },
    launch: { form: name, args: record({}), part, layout: optional(layout) },
    send: { ...buffer, to: count, tag: count, part },
    recv: { ...buffer, from: count, tag: count, part },
    allgather: { ...buffer, into: list(name), group: list(count), tag: count },
    allreduce: { ...buffer, group: list(count), tag: count },
    reshard: {
      buffer: orNull(name),
      into: orNull(name),
      spec: tensor,
      from: layout,
      to: layout,
      tag: count,
    },
    free: buffer,
  };
  record(own[kind]!)(value, at);
};
const names: Check = (value, at) => {
  record({})(value, at);
  Object.entries(value as object).forEach(([key, one]) => [key, one].forEach((x) => name(x, at)));
};
const segmentLaunches = byName(
  list(
    record({
      form: name,
      over: oneOf("segments", "sequences"),
      args: names,
      part: optional(oneOf("intra")),
      again: optional(flag),
    }),
  ),
);
const manifest = record({
  schema: (value, at) => {
    if (value !== schemaVersion) fail(at, `version ${schemaVersion}`);
  },
  name,
  source: text,
  dims: record({}),
  inputs: list(tensor),
  outputs: list(tensor),
  states: list(
    record({
      name,
      dims: list(count),
      causal: flag,
      reverse: flag,
      dense: flag,
      logDecay: orNull(name),
      level: count,
    }),
  ),
  forms: list(record({ name, inputs: list(tensor), outputs: list(tensor) })),
  positional: flag,
  segments: optional(segmentLaunches),
  targets: list(code),
  plans: list(
    record({
      name: text,
      schedule: text,
      mesh: record({ seq: count, data: count }),
      ranks: list(record({ rank: count, steps: list(step) })),
    }),
  ),
});

/** A manifest from its JSON text. Throws an Error that names the first field that is wrong. */
export function parseManifest(json: string): Manifest {
  let value: Json;
  try {
    value = JSON.parse(json);
  } catch {
    throw new Error("manifest.json is not JSON");
  }
  try {
    manifest(value, "manifest");
  } catch (error) {
    if (error instanceof Invalid) throw new Error(`manifest.json: ${error.message}`);
    throw error;
  }
  return withInfinities(value as Manifest);
}

/** A manifest as JSON text; open ends of ranges are null. */
export function printManifest(value: Manifest): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

function withInfinities(value: Manifest): Manifest {
  const spec = <T extends Manifest["inputs"][number]>(one: T): T => {
    if (one.range === null) return one;
    const { low, high } = one.range as { low: number | null; high: number | null };
    return { ...one, range: { ...one.range, low: low ?? -Infinity, high: high ?? Infinity } };
  };
  return {
    ...value,
    inputs: value.inputs.map(spec),
    outputs: value.outputs.map(spec),
    forms: value.forms.map((form) => ({
      ...form,
      inputs: form.inputs.map(spec),
      outputs: form.outputs.map(spec),
    })),
  };
}
