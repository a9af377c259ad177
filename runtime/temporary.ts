/** Files and folders that must not outlast the work on them. */
import { rmSync } from "node:fs";
import { lstat, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A folder that cannot be used as it is; the message says what to do. */
export class FolderError extends Error {}

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Removes the paths when `use` has ended, and before a signal ends the process. They may also be gone by then. A worker
 * thread hears of no signal, and nobody of SIGKILL: what these leave is for `removeStale`.
 */
export async function whileTemporary<T>(
  paths: readonly string[],
  use: () => Promise<T>,
): Promise<T> {
  const remove = () => {
    for (const path of paths) {
      try {
        rmSync(path, { recursive: true, force: true, maxRetries: 3 });
      } catch {
        // Nothing else can be done about it, and why `use` failed matters more.
      }
    }
  };
  const end = (signal: NodeJS.Signals) => {
    remove();
    release();
    // Without a listener the signal does what it would have done.
    if (process.listenerCount(signal) === 0) process.kill(process.pid, signal);
  };
  const release = () => {
    for (const signal of signals) process.off(signal, end);
    process.off("exit", remove);
  };
  for (const signal of signals) process.on(signal, end);
  process.on("exit", remove);
  try {
    return await use();
  } finally {
    release();
    remove();
  }
}

const workPrefix = "laspc-work-";

/** Gives `use` a new folder that only this user can enter. Throws FolderError where there can be none. */
export async function inWorkFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  await removeStale(tmpdir(), (name) => name.startsWith(workPrefix));
  const folder = await mkdtemp(join(tmpdir(), workPrefix)).catch(({ code }) => {
    throw new FolderError(`no folder can be made in ${tmpdir()} (${code}): name another in TMPDIR`);
  });
  return whileTemporary([folder], () => use(folder));
}

/** Nobody works on one file for so long. */
const staleMs = 3_600_000;

/** Removes what a process that was killed left in a folder, of this user's entries of such names. */
export async function removeStale(
  folder: string,
  isTemporary: (name: string) => boolean,
): Promise<void> {
  const names = await readdir(folder).catch(() => []);
  for (const path of names.filter(isTemporary).map((name) => join(folder, name))) {
    const stats = await lstat(path).catch(() => null);
    if (stats === null || stats.uid !== (process.getuid?.() ?? stats.uid)) continue;
    if (Date.now() - stats.mtimeMs < staleMs) continue;
    await rm(path, { recursive: true, force: true }).catch(() => {});
  }
}
