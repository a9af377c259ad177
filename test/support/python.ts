/** Python with PyTorch and pytest, where this machine has it; a skip says why. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import type { Found } from "./devices.ts";

const root = join(import.meta.dirname, "../..");
const installed = join(root, "node_modules/.cache/laspc/python/bin/python");

/** LASPC_PYTHON, what `scripts/setup.sh --torch` installs, or the one on the path. */
const candidates = [process.env["LASPC_PYTHON"], installed, "python3"];

function works(python: string): boolean {
  return spawnSync(python, ["-c", "import torch, pytest"]).status === 0;
}

const found = candidates.find((python) => python !== undefined && works(python));

export const python: Found & { readonly path: string } = {
  available: found !== undefined,
  why: found
    ? ""
    : " (skipped: no Python with torch and pytest; scripts/setup.sh --torch installs them)",
  path: found ?? "",
};

export interface PythonRun {
  readonly status: number | null;
  readonly output: string;
}

export function runPython(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const { status, stdout, stderr } = spawnSync(python.path, args, {
    encoding: "utf8",
    // One thread: the tensors are small, and tests run side by side.
    env: { ...process.env, OMP_NUM_THREADS: "1", PYTHONDONTWRITEBYTECODE: "1", ...env },
  });
  return { status, output: `${stdout}${stderr}` } satisfies PythonRun;
}
