/**
 * What was compiled, kept by name for the next process, in the folder `laspc` of the user's cache. A file ends with the
 * digest of its name and of the rest: one that is cut short, altered or called otherwise is made anew. A folder that
 * others can write to is refused, since they could write a digest too.
 */
import { createHash, randomUUID } from "node:crypto";
import { type Stats, constants } from "node:fs";
import { mkdir, open, rename, rm, stat, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { FolderError, inWorkFolder, removeStale } from "./temporary.ts";

/** The content kept under a name, or else made now. Throws FolderError, and what `make` throws. */
export async function kept(name: string, make: () => Promise<Uint8Array>): Promise<Uint8Array> {
  const folder = await cacheFolder();
  const found = folder === null ? null : await readKept(folder, name);
  if (found !== null) return found;
  const content = await make();
  if (folder !== null) await keep(folder, name, content);
  return content;
}

/**
 * The same as a file, for what is loaded by its path, which stays until `load` has returned. `make` is given a folder to
 * work in. Throws FolderError, and what `make` and `load` throw.
 */
export async function withKept<T>(
  name: string,
  make: (work: string) => Promise<Uint8Array>,
  load: (path: string) => T,
): Promise<T> {
  const folder = await cacheFolder();
  if (folder !== null && (await readKept(folder, name)) !== null) return load(join(folder, name));
  return inWorkFolder(async (work) => {
    const content = await make(work);
    if (folder !== null && (await keep(folder, name, content))) return load(join(folder, name));
    const own = join(work, name);
    await writeFile(own, content, { mode: 0o700 }).catch(({ code }) => {
      throw new FolderError(`cannot write to ${work} (${code}): name another folder in TMPDIR`);
    });
    return load(own);
  });
}

/** The content of a file that is whole and this user's; null: there is none. */
async function readKept(folder: string, name: string): Promise<Uint8Array | null> {
  // A FIFO of that name must not stop the process.
  const flags = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0);
  const file = await open(join(folder, name), flags).catch(() => null);
  if (file === null) return null;
  try {
    const stats = await file.stat();
    if (!stats.isFile() || !isOwn(stats)) return null;
    const bytes = await file.readFile();
    const content = bytes.subarray(0, -digestBytes);
    const isWhole = digestOf(name, content).equals(bytes.subarray(-digestBytes));
    return isWhole ? new Uint8Array(content) : null;
  } catch {
    return null;
  } finally {
    await file.close();
  }
}

/** Whether the content is kept now; where it cannot be written it is made anew the next time. */
async function keep(folder: string, name: string, content: Uint8Array): Promise<boolean> {
  await removeStale(folder, (other) => other.endsWith(".part"));
  const path = join(folder, name);
  // Renamed into place whole, so that another process never loads half a file.
  const staged = `${path}.${randomUUID()}.part`;
  try {
    await writeFile(staged, Buffer.concat([content, digestOf(name, content)]), { mode: 0o700 });
    await rename(staged, path);
    return true;
  } catch {
    await rm(staged, { force: true }).catch(() => {});
    return false;
  }
}

const digestBytes = 32;

function digestOf(name: string, content: Uint8Array): Buffer {
  return createHash("sha256").update(`${name}\0`).update(content).digest();
}

/** null where there is none and none can be made. Throws FolderError on one that others can write to. */
async function cacheFolder(): Promise<string | null> {
  const base = process.env["XDG_CACHE_HOME"] || ownCache();
  if (base === null) return null;
  const folder = join(base, "laspc");
  await mkdir(folder, { recursive: true, mode: 0o700 }).catch(() => {});
  const stats = await stat(folder).catch(() => null);
  if (!stats?.isDirectory()) return null;
  if (!isOwn(stats)) {
    throw new FolderError(
      `others can write to the cache folder ${folder}: remove it, or name another in XDG_CACHE_HOME`,
    );
  }
  return folder;
}

/** null for a user without a home. */
function ownCache(): string | null {
  try {
    return join(homedir(), ".cache");
  } catch {
    return null;
  }
}

/** Can nobody else write to it? Root could anyway. */
function isOwn({ uid, mode }: Stats): boolean {
  const own = process.getuid?.();
  return own === undefined || ((uid === own || uid === 0) && (mode & 0o022) === 0);
}
