// Alters valid files and gives them to what reads them: node scripts/fuzz-files.mjs [COUNT] [SEED]
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "esbuild";

const root = join(import.meta.dirname, "..");
const outfile = join(root, "node_modules/.cache/laspc/fuzz-files/main.js");
await build({
  entryPoints: [join(root, "test/fuzz-files/main.ts")],
  outfile,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  logLevel: "warning",
  external: ["koffi", "llvm-bindings", "webgpu", "prettier"],
  loader: { ".ll": "text", ".wgsl": "text", ".cuh": "text", ".py": "text" },
});
await import(pathToFileURL(outfile).href);
