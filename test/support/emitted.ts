/** Emitted text, given to those who read it: Python's parser, Dawn's validator, nvcc. */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { has } from "./devices.ts";

/** Texts by what they are called in a failure. */
export type Texts = ReadonlyMap<string, string>;

const parsePython = `
import ast, json, sys
for name, text in json.load(open(sys.argv[1])).items():
    try:
        ast.parse(text)
    except (SyntaxError, ValueError) as error:
        print(f"{name}: {error}")
`;

/** What Python's parser says against files, all read by one process. */
export function pythonProblems(files: Texts): string[] {
  return inFolder((folder) => {
    const path = join(folder, "files.json");
    writeFileSync(path, JSON.stringify(Object.fromEntries(files)));
    const options = { encoding: "utf8", maxBuffer: 1 << 28 } as const;
    return execFileSync("python3", ["-c", parsePython, path], options)
      .split("\n")
      .filter((line) => line !== "");
  });
}

/** Dawn's validator, on no device, under the default limits. */
export async function openValidator(): Promise<
  (code: string, entry: string) => Promise<string | null>
> {
  const dawn = (await import("webgpu")) as unknown as { create: (flags: string[]) => GPU };
  const gpu = dawn.create(["backend=null"]);
  const device = await (await gpu.requestAdapter())!.requestDevice();
  return async (code, entryPoint) => {
    // Named, so that it lives as long as its device does.
    void gpu;
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    const mistake = messages.find((message) => message.type === "error");
    device.createComputePipeline({ layout: "auto", compute: { module, entryPoint } });
    const error = await device.popErrorScope();
    return mistake ? `${mistake.lineNum}: ${mistake.message}` : (error?.message ?? null);
  };
}

export const nvccThere = has("nvcc");

/** What nvcc says against sources, or null: read and checked, no further. One file with a namespace for each, since they share helpers. */
export function cudaProblem(sources: Texts): string | null {
  return inFolder((folder) => {
    const file = join(folder, "all.cu");
    // A C name is the same in every namespace, so that two kernels of one name would clash.
    const parts = [...sources.values()].map(
      (text, i) => `namespace file_${i} {\n${text.replaceAll('extern "C"', "")}\n}\n`,
    );
    writeFileSync(file, parts.join("\n"));
    const options = ["-arch=compute_90a", "--ptx", "-o", join(folder, "all.ptx"), file];
    const { status, stderr } = spawnSync("nvcc", options, { encoding: "utf8" });
    return status === 0 ? null : stderr;
  });
}

/** A folder that is there as long as `use` runs. */
export function inFolder<T>(use: (folder: string) => T): T {
  const folder = mkdtempSync(join(tmpdir(), "laspc-emitted-"));
  try {
    return use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
