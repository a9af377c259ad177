/** Checks what is read from disk before anything trusts it: a manifest that lies is an error, not a crash. */
import { type Manifest, schemaVersion, streams } from "./plan.ts";
import { manifestProblem } from "./possible.ts";

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
const yes: Check = (value, at) => {
  if (value !== true) fail(at, "true");
};
const count: Check = (value, at) => {
  if (!Number.isSafeInteger(value) || (value as number) < 0) fail(at, "a whole number");
};
/** Sizes and counts of what is there; also bounded, so that products of a few stay exact. */
const size: Check = (value, at) => {
  if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > 0x7fffffff) {
    fail(at, "a size from 1 to 2147483647");
  }
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
const isObject = (value: Json): value is Record<string, Json> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
/** These fields and no others: one under a wrong name would else be left out of account. */
const record =
  (fields: Readonly<Record<string, Check>>): Check =>
  (value, at) => {
    if (!isObject(value)) return fail(at, "an object");
    for (const [name, check] of Object.entries(fields)) {
      check(Object.hasOwn(value, name) ? value[name] : undefined, `${at}.${name}`);
    }
    const other = Object.keys(value).find((key) => !Object.hasOwn(fields, key));
    if (other !== undefined) fail(`${at}.${other}`, "a field");
  };
/** An object whose values, under whatever names, are alike. */
const byName =
  (check: Check): Check =>
  (value, at) => {
    if (!isObject(value)) return fail(at, "an object");
    for (const [key, one] of Object.entries(value)) {
      name(key, at);
      check(one, `${at}.${key}`);
    }
  };
/** A path inside the artifact: no way up, no way out. */
const path: Check = (value, at) => {
  const parts = typeof value === "string" ? value.split("/") : [];
  const safe = parts.length > 0 && parts.every((part) => /^[\w][\w.-]*$/.test(part));
  if (!safe) fail(at, "a path inside the artifact");
};
const sha256: Check = (value, at) => {
  if (typeof value !== "string" || !/^[0-9a-f]{64}$/.test(value)) fail(at, "a SHA-256 digest");
};
const byPath =
  (check: Check): Check =>
  (value, at) => {
    if (!isObject(value)) return fail(at, "an object");
    for (const [key, one] of Object.entries(value)) {
      path(key, at);
      check(one, `${at}[${JSON.stringify(key)}]`);
    }
  };
/** A name that may become part of a file's name or of a kernel. */
const name: Check = (value, at) => {
  if (typeof value !== "string" || !/^[A-Za-z_]\w*$/.test(value)) fail(at, "a name");
};

const tensor = record({
  name,
  per: oneOf("token", "head", "shared", "state", "chunk"),
  dtype: oneOf("f32", "f16", "bf16"),
  dims: list(size),
  dimNames: list(text),
  range: orNull(record({ low: anyNumber, high: anyNumber, lowOpen: flag, highOpen: flag })),
  chunk: optional(size),
  headsOf: optional(name),
  intra: optional(size),
});
const factor: Check = (value, at) => (typeof value === "string" ? name : size)(value, at);
const kernel = record({
  entry: name,
  file: path,
  buffers: list(record({ name, access: oneOf("read", "write"), parts: optional(list(name)) })),
  maps: optional(list(record({ buffer: name, rows: size }))),
  scalars: list(name),
  grid: list(record({ of: list(factor), by: size })),
  packedChunk: optional(size),
  threads: size,
  sharedBytes: count,
  dynamicShared: optional(flag),
});
const code = record({
  target: oneOf("reference", "cpu", "wgsl", "cuda"),
  files: list(path),
  forms: list(
    record({
      form: name,
      kernels: list(kernel),
      workspaces: list(tensor),
      shares: optional(byName(size)),
    }),
  ),
});
const layout: Check = (value, at) =>
  (typeof value === "string" ? oneOf("tokens", "heads", "whole") : count)(value, at);
const part = optional(record({ index: count, of: size }));
const buffer = name;
const tag = count;
const stepFields: Readonly<Record<string, Readonly<Record<string, Check>>>> = {
  alloc: { buffer, spec: tensor, zero: flag, layout: optional(layout) },
  launch: { form: name, args: byName(name), part, layout: optional(layout) },
  send: { buffer, to: count, tag, part },
  recv: { buffer, from: count, tag, part },
  allgather: { buffer, into: list(name), group: list(count), tag },
  allreduce: { buffer, group: list(count), tag },
  reshard: {
    buffer: orNull(name),
    into: orNull(name),
    spec: tensor,
    from: layout,
    to: layout,
    tag,
  },
  free: { buffer },
};
const stepChecks: Readonly<Record<string, Check>> = Object.fromEntries(
  Object.entries(stepFields).map(([kind, own]) => {
    const base = { kind: text, id: count, after: list(count), stream: oneOf(...streams) };
    return [kind, record({ ...base, ...own })];
  }),
);
const step: Check = (value, at) => {
  if (!isObject(value)) return fail(at, "an object");
  oneOf(...Object.keys(stepChecks))(value["kind"], `${at}.kind`);
  stepChecks[value["kind"] as string]!(value, at);
};
const segmentLaunches = byName(
  list(
    record({
      form: name,
      over: oneOf("segments", "sequences"),
      args: byName(name),
      part: optional(oneOf("intra")),
      again: optional(yes),
    }),
  ),
);
const version: Check = (value, at) => {
  if (value !== schemaVersion) fail(at, `version ${schemaVersion}`);
};
const manifest = record({
  schema: version,
  digest: optional(sha256),
  digests: optional(byPath(sha256)),
  name,
  source: text,
  dims: byName(size),
  inputs: list(tensor),
  outputs: list(tensor),
  states: list(
    record({
      name,
      dims: list(size),
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
      mesh: record({ seq: size, data: size }),
      ranks: list(record({ rank: count, steps: list(step) })),
    }),
  ),
});

/** A manifest from its JSON text. Throws an Error that names the first field that is wrong or impossible. */
export function parseManifest(json: string): Manifest {
  let value: Json;
  try {
    value = JSON.parse(json);
  } catch {
    throw new Error("manifest.json is not JSON");
  }
  try {
    // What is of another version may have any fields.
    if (isObject(value)) version(value["schema"], "manifest.schema");
    manifest(value, "manifest");
  } catch (error) {
    if (error instanceof Invalid) throw new Error(`manifest.json: ${error.message}`);
    throw error;
  }
  const read = withInfinities(value as Manifest);
  const problem = manifestProblem(read);
  if (problem !== null) throw new Error(`manifest.json: ${problem}`);
  return read;
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
