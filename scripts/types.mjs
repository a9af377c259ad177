// Types of the packages' entries: one .d.ts for each, with what they share beside it.
import { rollup } from "rollup";
import { dts } from "rollup-plugin-dts";

export async function writeTypes() {
  await Promise.all([
    write("dist", {
      index: "compiler/api/index.ts",
      cpu: "compiler/api/cpu.ts",
      "prettier-plugin": "compiler/syntax/prettier-plugin.ts",
    }),
    write("runtime/dist", {
      index: "runtime/index.ts",
      node: "runtime/node.ts",
      web: "runtime/web.ts",
    }),
  ]);
}

async function write(dir, input) {
  const bundle = await rollup({ input, plugins: [dts()], external: (id) => /^[a-z@]/.test(id) });
  await bundle.write({ dir, format: "es", chunkFileNames: "types-[hash].d.ts" });
  await bundle.close();
}
