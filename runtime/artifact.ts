/** Opens an artifact that `laspc compile` wrote, for a device to load. */
import { readFileSync, realpathSync } from "node:fs";
import { join, sep } from "node:path";
import type { ArtifactFiles } from "./device.ts";
import { parseManifest } from "./validate.ts";

/**
 * Reads and validates the folder's manifest. Files are read when a device asks for them, and only from
 * inside the folder: neither a path nor a link leads out. Throws an Error that says what is wrong.
 */
export function openArtifact(folder: string): ArtifactFiles {
  const root = realpathSync(folder);
  const manifest = parseManifest(readFileSync(join(root, "manifest.json"), "utf8"));
  return {
    manifest,
    read: (path) => {
      const place = realpathSync(join(root, path));
      if (!place.startsWith(root + sep)) throw new Error(`${path} lies outside the artifact`);
      return readFileSync(place);
    },
  };
}
