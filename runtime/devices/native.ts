/** Shared libraries through koffi: where NVIDIA's are found, and functions of them by their prototypes. */
import { readdirSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { missingPeer } from "./peers.ts";

/** koffi, as far as it is used here. */
export interface Koffi {
  load(path: string): Library;
  address(value: unknown): bigint;
  struct(members: Readonly<Record<string, unknown>>): unknown;
  array(type: string, length: number, hint: "Typed"): unknown;
}
export interface Library {
  func(prototype: string): NativeFunction;
  func(name: string, result: string, parameters: readonly unknown[]): NativeFunction;
}
export type NativeFunction = ((...args: unknown[]) => unknown) & {
  async: (...args: unknown[]) => void;
};

/** A parameter that a call writes: `out[0]` holds the value afterwards. */
export type Out = [unknown];

/** Throws an Error that says who needs it. */
export async function loadKoffi(who: string): Promise<Koffi> {
  try {
    // @ts-ignore: an optional peer, not there for everybody.
    return (await import("koffi")).default as Koffi;
  } catch (error) {
    throw missingPeer(who, "koffi", error);
  }
}

/** The first library of these names that is there. Throws an Error that says who needs `what`. */
export function firstThatLoads(
  koffi: Koffi,
  names: readonly string[],
  who: string,
  what: string,
): Library {
  for (const name of names) {
    try {
      return koffi.load(name);
    } catch {
      // The next place may have it.
    }
  }
  throw new Error(`${who} needs ${what}; it was not found`);
}

/** Folders of libraries in CUDA's own places, then in Python's (pip puts them into site-packages/nvidia). */
export function libraryFolders(): string[] {
  const homes = [process.env["CUDA_HOME"], process.env["CUDA_PATH"], "/usr/local/cuda"];
  return [
    ...homes.flatMap((home) => (home ? [join(home, "lib64"), join(home, "lib")] : [])),
    ...prefixes().flatMap((prefix) => [join(prefix, "lib"), ...pipFolders(prefix)]),
  ];
}

/** Roots of Python installations: virtual environments, conda, and those on the path. */
function prefixes(): string[] {
  const onPath = (process.env["PATH"] ?? "").split(delimiter).map((folder) => dirname(folder));
  const named = [process.env["VIRTUAL_ENV"], process.env["CONDA_PREFIX"]];
  const all = [...named, ...onPath, join(homedir(), ".local")];
  return [...new Set(all)].filter((prefix) => prefix !== undefined && prefix !== "") as string[];
}

/** prefix/lib/python3.x/site-packages/nvidia/<package>/lib */
function pipFolders(prefix: string): string[] {
  const lib = join(prefix, "lib");
  const pythons = entries(lib).filter((name) => name.startsWith("python3"));
  return pythons
    .flatMap((python) => ["site-packages", "dist-packages"].map((kind) => join(lib, python, kind)))
    .map((folder) => join(folder, "nvidia"))
    .flatMap((nvidia) => entries(nvidia).map((name) => join(nvidia, name, "lib")));
}

function entries(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** Functions by prototype, looked up when first called. */
export class Calls {
  private readonly known = new Map<string, NativeFunction>();
  private readonly library: Library;
  private readonly who: string;

  constructor(library: Library, who: string) {
    this.library = library;
    this.who = who;
  }

  /** A function that returns an int. */
  get(prototype: string): NativeFunction {
    return this.returning("int", prototype);
  }

  /** A function that returns a text. */
  text(prototype: string): NativeFunction {
    return this.returning("const char *", prototype);
  }

  private returning(result: string, prototype: string): NativeFunction {
    let found = this.known.get(prototype);
    if (!found) {
      try {
        found = this.library.func(`${result} ${prototype}`);
      } catch {
        throw new Error(`${this.who}: the library has no ${nameOf(prototype)}; it is too old`);
      }
      this.known.set(prototype, found);
    }
    return found;
  }
}

/** "cuInit" of "cuInit(unsigned int flags)" */
export function nameOf(prototype: string): string {
  return prototype.slice(0, prototype.indexOf("("));
}
