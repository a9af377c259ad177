/**
 * Machine code of kernels. What was compiled for a GPU's kind is kept by content: in this process for
 * every device, and in a folder only this user can enter for the next one.
 */
import { createHash, randomUUID } from "node:crypto";
import { chmod, mkdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import type { Nvrtc } from "./cuda-library.ts";

/** Changes whenever the way kernels are compiled does. */
const recipe = "3";

const images = new Map<string, Promise<Uint8Array>>();

/** The code of one file for a compute capability (90 is sm_90). Throws with the compiler's words. */
export function imageOf(
  source: string,
  name: string,
  capability: number,
  nvrtc: Pick<Nvrtc, "version" | "compile">,
): Promise<Uint8Array> {
  const facts = [recipe, String(capability), nvrtc.version(), source].join("\0");
  const key = createHash("sha256").update(facts).digest("hex").slice(0, 32);
  let image = images.get(key);
  if (!image) {
    image = keptOrMade(`${key}.cubin`, () => nvrtc.compile(source, name, capability));
    images.set(key, image);
    image.catch(() => images.delete(key));
  }
  return image;
}

async function keptOrMade(file: string, make: () => Promise<Uint8Array>): Promise<Uint8Array> {
  // Without a folder to trust, everything is compiled again.
  const folder = await cacheFolder().catch(() => null);
  if (folder === null) return make();
  const path = join(folder, file);
  const kept = await readFile(path).catch(() => null);
  if (kept !== null && isWhole(kept)) return new Uint8Array(kept.subarray(0, -digestBytes));
  const image = await make();
  // Renamed into place whole, so that another process never loads half a file.
  const staged = `${path}.${randomUUID()}`;
  await writeFile(staged, Buffer.concat([image, digest(image)]), { mode: 0o600 })
    .then(() => rename(staged, path))
    .catch(() => {});
  return image;
}

const digestBytes = 32;

function digest(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes).digest();
}

/** Does the file end with the digest of the rest? A disk that ran full leaves one that does not. */
function isWhole(file: Buffer): boolean {
  return digest(file.subarray(0, -digestBytes)).equals(file.subarray(-digestBytes));
}

/** Throws when the folder cannot be had, or is another user's. */
async function cacheFolder(): Promise<string> {
  const base = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  const folder = join(base, "laspc");
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const { uid } = await stat(folder);
  if (process.getuid && uid !== process.getuid()) throw new Error(`${folder} is another user's`);
  await chmod(folder, 0o700);
  return folder;
}
