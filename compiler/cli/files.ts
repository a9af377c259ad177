/** Reading and writing, so that commands do not: sources, and outputs that are whole or not there. */
import { randomUUID } from "node:crypto";
import { mkdir, readdir, rename, rmdir, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Dtype } from "../tensor/ir.ts";
import type { Target } from "../tile/target.ts";
import type { Source } from "../support/span.ts";
import { type Diagnostic, hasErrors } from "../support/diagnostic.ts";
import { type Compiled, check, compile } from "../index.ts";
import { renderDiagnostic } from "../syntax/render.ts";
import { whileTemporary } from "../../runtime/temporary.ts";
import { type Arguments, UsageError, UserError } from "./arguments.ts";
import { readText } from "./reading.ts";

export async function readSource(path: string): Promise<Source> {
  return { name: path, text: await readText(path) };
}

/** Writes next to the target and renames, so that nobody sees half a file. */
export async function writeWhole(path: string, content: string | Uint8Array): Promise<void> {
  await writeTogether(new Map([[path, content]]));
}

/**
 * Files that belong together: none takes its place before all are written, and if one cannot be, none does, and what
 * was made for them goes, at a signal too. **Errors:** the path that cannot be written, and why.
 */
export async function writeTogether(
  files: ReadonlyMap<string, string | Uint8Array>,
): Promise<void> {
  const suffix = `.${randomUUID()}.part`;
  const staged = [...files.keys()].map((path) => `${path}${suffix}`);
  const folders: string[] = [];
  let current = "";
  try {
    await whileTemporary(staged, async () => {
      for (const [path, content] of files) {
        current = path;
        const made = await mkdir(dirname(path), { recursive: true });
        if (made !== undefined) folders.push(made);
        await checkReplaceable(path);
        await writeFile(`${path}${suffix}`, content);
      }
      for (const path of files.keys()) {
        current = path;
        await rename(`${path}${suffix}`, path);
      }
    });
  } catch (error) {
    for (const folder of folders.reverse()) await removeEmpty(folder);
    if (error instanceof UserError) throw error;
    throw new UserError(
      `cannot write ${current}: ${(error as NodeJS.ErrnoException).code ?? error}`,
    );
  }
}

/** A rename onto a folder would fail only when others have taken their places, and one onto a device would replace it. */
async function checkReplaceable(path: string): Promise<void> {
  const stats = await stat(path).catch(() => null);
  if (stats?.isDirectory()) throw new UserError(`cannot write ${path}: it is a folder`);
  if (stats && !stats.isFile())
    throw new UserError(`cannot write ${path}: it is not a regular file`);
}

/** Removes a folder and those in it, unless there is a file somewhere. */
async function removeEmpty(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
    if (entry.isDirectory()) await removeEmpty(join(folder, entry.name));
  }
  await rmdir(folder).catch(() => {});
}

export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

export function useColor(stream: NodeJS.WriteStream): boolean {
  return stream.isTTY === true && !process.env["NO_COLOR"];
}

export function sayDiagnostics(source: Source, diagnostics: readonly Diagnostic[]): void {
  for (const diagnostic of diagnostics) {
    say(renderDiagnostic(source, diagnostic, { color: useColor(process.stderr) }));
  }
}

/** Compiles the command's file with its options; mistakes are shown and end the command. */
export async function compileFile(
  source: Source,
  args: Arguments,
  targets: readonly Target[],
  extra: {
    dims?: Readonly<Record<string, number>>;
    dtype?: Dtype;
    /** Also the gradients. */
    backward?: boolean;
    /** Also those without what all tokens share. */
    fixedShared?: boolean;
    overlap?: boolean;
    cacheStates?: number | null;
  } = {},
): Promise<Compiled> {
  const dims = dimsOf(source, args);
  const outcome = compile(source, {
    dims: { ...extra.dims, ...dims },
    dtype: extra.dtype ?? args.dtype(),
    entry: args.text("entry"),
    targets,
    backward: extra.backward ?? false,
    fixedShared: extra.fixedShared ?? false,
    overlap: extra.overlap ?? false,
    cacheStates: extra.cacheStates ?? null,
  });
  sayDiagnostics(source, outcome.diagnostics);
  if (outcome.value === null || hasErrors(outcome.diagnostics)) {
    const count = outcome.diagnostics.filter((d) => d.severity === "error").length;
    throw new UserError(`${source.name}: ${count} error${count === 1 ? "" : "s"}`);
  }
  return outcome.value;
}

/**
 * The sizes that `--dim` gives to dims of the text. Those of the call (T, B, H, and H_NAME of an input) may stand
 * beside them. **Errors:** a UsageError for a dim that the file does not have.
 */
export function dimsOf(source: Source, args: Arguments): Record<string, number> {
  const given = args.dims();
  const entry = args.text("entry");
  const attentions = (check(source, { dims: {}, dtype: "f32" }).value ?? []).filter(
    ({ name }) => entry === null || name === entry,
  );
  const own = new Set(attentions.flatMap(({ program }) => [...program.dims.keys()]));
  const heads = attentions.flatMap(({ program }) =>
    program.ops.flatMap((op) => (op.kind === "input" ? [`H_${op.label}`] : [])),
  );
  const known = new Set(["T", "B", "H", ...own, ...heads]);
  const strange = Object.keys(given).find((name) => !known.has(name));
  // Of a text with mistakes no more is known than what it reports.
  if (strange !== undefined && attentions.length > 0) {
    const names = [...known].filter((name) => !name.startsWith("H_")).join(", ");
    throw new UsageError(`--dim ${strange}: ${source.name} has no such dim; it has ${names}`);
  }
  return Object.fromEntries(
    Object.entries(given).filter(([name]) => name !== "T" && own.has(name)),
  );
}

/** The artifact's files as a device reads them. */
export function artifactOf({ manifest, files }: Compiled) {
  const encoder = new TextEncoder();
  return {
    manifest,
    read: (path: string): Uint8Array => {
      const text = files.get(path);
      if (text === undefined) throw new Error(`the artifact has no file ${path}`);
      return encoder.encode(text);
    },
  };
}

/** The median of some numbers. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}
