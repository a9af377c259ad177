/** Artifacts as files by path, wherever these lie: their digests, and what was altered since they were taken. */
import { sha256 as sha256Of } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
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
 * Validates the manifest and the digests of all files that it names. A file is read again when a device asks for it.
 * Throws an Error that says what is missing, was altered, or is impossible.
 */
export function openSealed(readFile: (path: string) => Uint8Array): ArtifactFiles {
  // What is no UTF-8 becomes a character of which no digest was taken.
  const text = new TextDecoder().decode(readFile("manifest.json"));
  const manifest = parseManifest(text);
  if (manifest.digest !== digestOf(JSON.parse(text))) {
    throw new Error("manifest.json was altered: its digest is another");
  }
  const digests = new Map(Object.entries(manifest.digests ?? {}));
  const read = (path: string): Uint8Array => {
    const digest = digests.get(path);
    if (digest === undefined) throw new Error(`the artifact has no file ${path}`);
    const bytes = readFile(path);
    if (sha256(bytes) !== digest) throw new Error(`${path} was altered: its digest is another`);
    return bytes;
  };
  const kernels = manifest.targets.flatMap(({ forms }) => forms.flatMap((form) => form.kernels));
  const named = [...kernels.map(({ file }) => file), ...manifest.targets.flatMap((t) => t.files)];
  for (const path of new Set([...digests.keys(), ...named])) read(path);
  return { manifest, read };
}

/** An artifact whose files are in memory, by path. Throws what `openSealed` throws. */
export function openFiles(files: ReadonlyMap<string, string | Uint8Array>): ArtifactFiles {
  const encoder = new TextEncoder();
  return openSealed((path) => {
    const content = files.get(path);
    if (content === undefined) throw new Error(`the artifact has no file ${path}`);
    return typeof content === "string" ? encoder.encode(content) : content;
  });
}

/** Of a manifest as JSON gives it. */
function digestOf(manifest: Record<string, unknown>): string {
  const rest = Object.entries(manifest).filter(([field]) => field !== "digest");
  return sha256(JSON.stringify(Object.fromEntries(rest)));
}

function sha256(content: string | Uint8Array): string {
  return bytesToHex(sha256Of(typeof content === "string" ? encoded(content) : content));
}

function encoded(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
