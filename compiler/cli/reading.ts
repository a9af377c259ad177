/** Files that commands read, however large or strange: a device, a pipe or a folder is no file of numbers. */
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { UserError } from "./arguments.ts";

/** A regular file whose size is known before memory is taken. */
export interface InputFile {
  readonly sizeBytes: number;
  /** Its first bytes, or all where it has fewer. */
  readonly head: (count: number) => Promise<Uint8Array>;
}

/** Gives `use` the file. **Errors:** the path, and why it cannot be read. */
export async function withInputFile<T>(
  path: string,
  use: (file: InputFile) => Promise<T>,
): Promise<T> {
  return reading(path, async () => {
    // A FIFO that nobody writes to would stop the process.
    const handle = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    try {
      const stats = await handle.stat();
      if (stats.isDirectory()) throw new UserError(`cannot read ${path}: it is a folder`);
      if (!stats.isFile()) throw new UserError(`cannot read ${path}: it is not a regular file`);
      const sizeBytes = stats.size;
      return await use({
        sizeBytes,
        head: (count) => firstBytes(path, handle, Math.min(count, sizeBytes)),
      });
    } finally {
      await handle.close();
    }
  });
}

/** Far more than anybody writes by hand. */
const longestText = 16 * 2 ** 20;

/** A text from a file or a pipe, of at most 16 MiB. **Errors:** the path, and why it cannot be read. */
export async function readText(path: string): Promise<string> {
  return reading(path, async () => {
    const handle = await open(path);
    try {
      const parts: Buffer[] = [];
      let sizeBytes = 0;
      for await (const part of handle.createReadStream({ autoClose: false })) {
        parts.push(part as Buffer);
        sizeBytes += (part as Buffer).length;
        if (sizeBytes > longestText) throw new UserError(`${path} is larger than 16 MiB`);
      }
      return Buffer.concat(parts).toString("utf8");
    } finally {
      await handle.close();
    }
  });
}

/** One read takes at most so many bytes from the system. */
const readBytes = 2 ** 30;

async function firstBytes(path: string, handle: FileHandle, count: number): Promise<Uint8Array> {
  const bytes = newBytes(path, count);
  for (let at = 0; at < count;) {
    const { bytesRead } = await handle.read(bytes, at, Math.min(readBytes, count - at), at);
    if (bytesRead === 0) throw new UserError(`cannot read ${path}: it became shorter`);
    at += bytesRead;
  }
  return bytes;
}

function newBytes(path: string, count: number): Uint8Array {
  try {
    return new Uint8Array(count);
  } catch {
    throw new UserError(`cannot read ${path}: there is no memory for its ${count} bytes`);
  }
}

async function reading<T>(path: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof UserError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw new UserError(
      `cannot read ${path}: ${code === "EISDIR" ? "it is a folder" : (code ?? error)}`,
    );
  }
}
