/**
 * libnccl through koffi: where it is found, and its calls. Every call that fails throws an Error with the call's name
 * and the library's own words.
 */
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import {
  Calls,
  type Koffi,
  type Library,
  type NativeFunction,
  type Out,
  firstThatLoads,
  libraryFolders,
  loadKoffi,
  nameOf,
} from "./native.ts";

/** Results of NCCL's calls (ncclResult_t). */
const success = 0;
const inProgress = 7;
/** The first version with communicators that do not block: 2.14. */
const oldestVersion = 21400;
export const uniqueIdBytes = 128;
/** ncclInt8: messages are bytes. */
const byteType = 0;

/**
 * Finds and loads NCCL: `path`, or LASPC_NCCL (the library or its folder), or by its name where the loader looks, or in
 * CUDA's and Python's folders. Throws an Error that names what is missing.
 */
export async function openNccl(path = process.env["LASPC_NCCL"]): Promise<Nccl> {
  const who = "the nccl transport";
  const koffi = await loadKoffi(who);
  const what = path
    ? `NCCL, for which LASPC_NCCL or an option names ${path}`
    : "libnccl.so.2, from NVIDIA's packages or `pip install nvidia-nccl-cu13`, or named by LASPC_NCCL";
  const names = path ? [isFolder(path) ? join(path, "libnccl.so.2") : path] : places();
  const nccl = new Nccl(koffi, firstThatLoads(koffi, names, who, what));
  if (nccl.version() < oldestVersion) {
    throw new Error(`${who} needs NCCL 2.14 or newer, not version ${nccl.version()}`);
  }
  return nccl;
}

function isFolder(path: string): boolean {
  return existsSync(path) && statSync(path).isDirectory();
}

function places(): string[] {
  const name = "libnccl.so.2";
  const files = libraryFolders().map((folder) => join(folder, name));
  return [name, ...files.filter((file) => existsSync(file))];
}

/** A group's member: a handle of the library. */
export type Communicator = bigint;

/** One message of a group of calls. */
export interface Transfer {
  readonly kind: "send" | "recv";
  readonly peer: number;
  readonly address: bigint;
  readonly sizeBytes: number;
}

export class Nccl {
  private readonly calls: Calls;
  private readonly start: NativeFunction;

  constructor(koffi: Koffi, library: Library) {
    this.calls = new Calls(library, "nccl");
    // The one call that takes a structure by its value.
    const id = koffi.struct({ internal: koffi.array("uint8_t", uniqueIdBytes, "Typed") });
    const parameters = ["_Out_ uint64_t *", "int", id, "int", "void *"];
    this.start = library.func("ncclCommInitRankConfig", "int", parameters);
  }

  /** 22809 for 2.28.9 */
  version(): number {
    const out: Out = [null];
    this.call("ncclGetVersion(_Out_ int *version)", out);
    return Number(out[0]);
  }

  /** What the ranks of a communicator find each other by; made on one of them. */
  newId(): Uint8Array {
    const id = new Uint8Array(new ArrayBuffer(uniqueIdBytes));
    this.call("ncclGetUniqueId(void *id)", id);
    return id;
  }

  /** Begins to join a communicator, on the GPU that is current; `isSettled` tells when that is done. */
  join(ranks: number, id: Uint8Array, rank: number): Communicator {
    const out: Out = [null];
    const internal = new Uint8Array(new ArrayBuffer(uniqueIdBytes));
    internal.set(id);
    const result = this.start(out, ranks, { internal }, rank, configuration());
    this.check("ncclCommInitRankConfig(", result);
    return BigInt(out[0] as number | bigint);
  }

  /** Queues messages on a stream, all at once; they are queued when `isSettled` says so. */
  queue(comm: Communicator, transfers: readonly Transfer[], stream: bigint): void {
    this.call("ncclGroupStart()");
    try {
      for (const { kind, peer, address, sizeBytes } of transfers) {
        const name = kind === "send" ? "ncclSend" : "ncclRecv";
        const parameters =
          "(uint64_t buffer, size_t count, int type, int peer, uint64_t comm, uint64_t stream)";
        this.call(`${name}${parameters}`, address, sizeBytes, byteType, peer, comm, stream);
      }
    } finally {
      this.call("ncclGroupEnd()");
    }
  }

  /** Is nothing of the communicator still being set up? Throws what went wrong with it. */
  isSettled(comm: Communicator): boolean {
    const out: Out = [null];
    this.call("ncclCommGetAsyncError(uint64_t comm, _Out_ int *error)", comm, out);
    this.check("ncclCommGetAsyncError(", out[0]);
    return out[0] !== inProgress;
  }

  /** Begins to end a communicator whose messages have all arrived. */
  finish(comm: Communicator): void {
    this.call("ncclCommFinalize(uint64_t comm)", comm);
  }

  /** Gives a communicator back that `finish` has ended. */
  destroy(comm: Communicator): Promise<void> {
    return this.aside("ncclCommDestroy(uint64_t comm)", comm);
  }

  /** Ends a communicator and what of it is queued, whatever its peers do. */
  abort(comm: Communicator): Promise<void> {
    return this.aside("ncclCommAbort(uint64_t comm)", comm);
  }

  /** On a thread of its own: it may wait for the GPU, or for other ranks of this process. */
  private aside(prototype: string, comm: Communicator): Promise<void> {
    const run = this.calls.get(prototype);
    return new Promise((resolve, reject) => {
      run.async(comm, (error: Error | null, result: unknown) => {
        try {
          if (error) throw error;
          this.check(prototype, result);
          resolve();
        } catch (problem) {
          reject(problem as Error);
        }
      });
    });
  }

  private call(prototype: string, ...args: unknown[]): void {
    this.check(prototype, this.calls.get(prototype)(...args));
  }

  private check(prototype: string, result: unknown): void {
    if (result === success || result === inProgress) return;
    throw new Error(`nccl: ${nameOf(prototype)} failed: ${this.words(result)}`);
  }

  private words(result: unknown): string {
    const text = this.calls.text("ncclGetErrorString(int result)")(result) as string | null;
    return text === null ? `error ${String(result)}` : text;
  }
}

/** ncclConfig_t of version 2.17, which later libraries read as well: nothing blocks, all else as usual. */
function configuration(): Uint8Array {
  const sizeBytes = 48;
  const [magic, version, unset] = [0xcafebeef, 21700, -(2 ** 31)];
  const bytes = new Uint8Array(new ArrayBuffer(sizeBytes));
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(sizeBytes), true);
  view.setUint32(8, magic, true);
  view.setUint32(12, version, true);
  const isBlocking = 16;
  view.setInt32(isBlocking, 0, true);
  // cgaClusterSize, minCTAs, maxCTAs; a null netName at 32; splitShare.
  for (const at of [20, 24, 28, 40]) view.setInt32(at, unset, true);
  return bytes;
}
