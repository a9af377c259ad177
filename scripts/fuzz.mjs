// Bundles the fuzzer of rules and runs it: npm run fuzz -- --help
import { existsSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "esbuild";

const root = join(import.meta.dirname, "..");
const outfile = join(root, "node_modules/.cache/laspc/fuzz/main.js");
await build({
  entryPoints: [join(root, "test/fuzz/main.ts")],
  outfile,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  logLevel: "warning",
  external: ["koffi", "llvm-bindings", "webgpu", "prettier"],
  loader: { ".ll": "text", ".wgsl": "text", ".cuh": "text", ".py": "text" },
});
const driver = join(root, "node_modules/.cache/laspc/swiftshader/vk_swiftshader_icd.json");
if (existsSync(driver)) process.env["VK_ICD_FILENAMES"] ??= driver;
await import(pathToFileURL(outfile).href);
