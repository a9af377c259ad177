/** Sources of the tests as one file that Node runs. */
import { join } from "node:path";
import { build } from "esbuild";

const root = join(import.meta.dirname, "..");

/** Bundles `entry` of this repository; gives the path of the file `name` in the cache. `more`: options of esbuild. */
export async function bundle(entry, name, more = {}) {
  const outfile = join(root, "node_modules/.cache/laspc", name);
  await build({
    entryPoints: [join(root, entry)],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    logLevel: "warning",
    external: ["koffi", "llvm-bindings", "webgpu", "prettier"],
    loader: { ".ll": "text", ".wgsl": "text", ".cuh": "text", ".py": "text" },
    ...more,
  });
  return outfile;
}
