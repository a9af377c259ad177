/** Artifacts in folders: what `laspc compile` writes, and a device loads. */
import { createHash } from "node:crypto";
import { readFileSync, realpathSync, statSync } from "node:fs";
import { join, sep } from "node:path";
import type { ArtifactFiles } from "./device.ts";
import type { Manifest } from "./plan.ts";
import { parseManifest, printManifest } from "./validate.ts";

/** The text of manifest.json of an artifact that has these other files, by path. */
export function sealManifest(manifest: Manifest, files: ReadonlyMap<string, string>): string {
  const digests = Object.fromEntries([...files].map(([path, text]) => [path, sha256(text)]));
  const { schema, ...rest } = manifest;
  const whole: Manifest = { schema, digests, ...rest };
  // As it is printed and read, where infinities are null.
  const digest = digestOf(JSON.parse(printManifest(whole)));
  return printManifest({ schema, digest, digests, ...rest });
}

/**
 * Reads and validates the folder's manifest and the digests of all files that it names. Files are read again when a
 * device asks for them, and only from inside the folder: neither a path nor a link leads out. Throws an Error that says
 * what was altered, or what is impossible.
 */
export function openArtifact(folder: string): ArtifactFiles {
  const root = realpathSync(folder);
  // What is no UTF-8 becomes a character of which no digest was taken.
  const text = new TextDecoder().decode(readInside(root, "manifest.json"));
  const manifest = parseManifest(text);
  if (manifest.digest !== digestOf(JSON.parse(text))) {
    throw new Error("manifest.json was altered: its digest is another");
  }
  const digests = new Map(Object.entries(manifest.digests ?? {}));
  const read = (path: string): Uint8Array => {
    const digest = digests.get(path);
    if (digest === undefined) throw new Error(`the artifact has no file ${path}`);
    const bytes = readInside(root, path);
    if (sha256(bytes) !== digest) throw new Error(`${path} was altered: its digest is another`);
    return bytes;
  };
  const kernels = manifest.targets.flatMap(({ forms }) => forms.flatMap((form) => form.kernels));
  const named = [...kernels.map(({ file }) => file), ...manifest.targets.flatMap((t) => t.files)];
  for (const path of new Set([...digests.keys(), ...named])) read(path);
  return { manifest, read };
}

function readInside(root: string, path: string): Uint8Array {
  const place = realpathSync(join(root, path));
  if (!place.startsWith(root + sep)) throw new Error(`${path} lies outside the artifact`);
  if (!statSync(place).isFile()) throw new Error(`${path} is not a regular file`);
  return readFileSync(place);
}

/** Of a manifest as JSON gives it. */
function digestOf(manifest: Record<string, unknown>): string {
  const rest = Object.entries(manifest).filter(([field]) => field !== "digest");
  return sha256(JSON.stringify(Object.fromEntries(rest)));
}

function sha256(content: string | Uint8Array): string {
  return createHash("sha256").update(content).digest("hex");
}
