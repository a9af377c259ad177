/** Which devices this machine has, found out once for each test process; a skip says why. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

export interface Found {
  readonly available: boolean;
  /** "" or " (skipped: reason)", for the test's title. */
  readonly why: string;
}

const root = join(import.meta.dirname, "../..");

export function findDevice(kind: "cpu" | "webgpu"): Found {
  const missing = kind === "cpu" ? missingForCpu() : missingForWebGpu();
  return { available: missing === null, why: missing === null ? "" : ` (skipped: ${missing})` };
}

function missingForCpu(): string | null {
  const bindings = join(root, "node_modules/llvm-bindings/build/Release/llvm-bindings.node");
  if (!existsSync(bindings)) return "llvm-bindings is not built";
  const tools = existsSync("/usr/lib/llvm-14/bin/llc") || has("llc-14") || has("llc");
  return tools ? null : "the LLVM 14 tools are not installed";
}

function missingForWebGpu(): string | null {
  const driver = join(root, "node_modules/.cache/laspc/swiftshader/vk_swiftshader_icd.json");
  if (!existsSync(driver)) return "SwiftShader is not unpacked; run scripts/setup.sh";
  const loader = spawnSync("ldconfig", ["-p"], { encoding: "utf8" }).stdout ?? "";
  if (!loader.includes("libvulkan.so.1")) return "libvulkan1 is not installed";
  process.env["VK_ICD_FILENAMES"] ??= driver;
  return null;
}

export function has(command: string): boolean {
  return spawnSync(command, ["--version"]).status === 0;
}
