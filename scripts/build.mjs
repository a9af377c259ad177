// Bundles the command line and the runtime, so that starting either reads one file.
import { rmSync } from "node:fs";
import { build } from "esbuild";

const common = {
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  logLevel: "warning",
};
// Native and optional packages stay outside: they are looked for when a device asks for them.
const optional = ["koffi", "llvm-bindings", "webgpu"];

// Chunks carry a hash in their names: older ones would be published too.
rmSync("dist", { recursive: true, force: true });

await Promise.all([
  build({
    ...common,
    entryPoints: {
      laspc: "compiler/cli/laspc.ts",
      "rank-worker": "compiler/cli/rank-worker.ts",
      "reference-worker": "compiler/cli/reference-worker.ts",
      "prettier-plugin": "compiler/syntax/prettier-plugin.ts",
    },
    outdir: "dist",
    splitting: true,
    external: [...optional, "prettier"],
    loader: { ".ll": "text", ".wgsl": "text", ".cuh": "text", ".py": "text" },
  }),
  build({
    ...common,
    entryPoints: ["runtime/index.ts"],
    outfile: "runtime/dist/index.js",
    external: optional,
  }),
]);
