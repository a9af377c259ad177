/** Artifacts in folders: what `laspc compile` writes, and a device loads. */
import { readFileSync, realpathSync, statSync } from "node:fs";
import { join, sep } from "node:path";
import type { ArtifactFiles } from "./device.ts";
import { openSealed } from "./seal.ts";

/**
 * Reads and validates the folder's manifest and the digests of all files that it names. Files are read again when a
 * device asks for them, and only from inside the folder: neither a path nor a link leads out. Throws an Error that says
 * what was altered, or what is impossible.
 */
export function openArtifact(folder: string): ArtifactFiles {
  const root = realpathSync(folder);
  return openSealed((path) => readInside(root, path));
}

function readInside(root: string, path: string): Uint8Array {
  const place = realpathSync(join(root, path));
  if (!place.startsWith(root + sep)) throw new Error(`${path} lies outside the artifact`);
  if (!statSync(place).isFile()) throw new Error(`${path} is not a regular file`);
  return readFileSync(place);
}
