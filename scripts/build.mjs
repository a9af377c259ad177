// Bundles the command line, the compiler as a library and the runtime, each with its types. What a bundle takes from
// other packages is in it, with their licenses: installing laspc installs nothing else.
import { readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { build } from "esbuild";
import { writeTypes } from "./types.mjs";

const common = {
  bundle: true,
  format: "esm",
  target: "node20",
  splitting: true,
  metafile: true,
  logLevel: "warning",
};
// Native and optional packages stay outside: they are looked for when a device asks for them.
const optional = ["koffi", "llvm-bindings", "webgpu"];

// Chunks carry a hash in their names: older ones would be published too.
for (const folder of ["dist", "runtime/dist"]) rmSync(folder, { recursive: true, force: true });

const [compiler, runtime] = await Promise.all([
  build({
    ...common,
    platform: "node",
    entryPoints: {
      index: "compiler/api/index.ts",
      cpu: "compiler/api/cpu.ts",
      laspc: "compiler/cli/laspc.ts",
      "rank-worker": "compiler/cli/rank-worker.ts",
      "reference-worker": "compiler/cli/reference-worker.ts",
      "prettier-plugin": "compiler/syntax/prettier-plugin.ts",
    },
    outdir: "dist",
    external: optional,
    loader: { ".ll": "text", ".wgsl": "text", ".cuh": "text", ".py": "text" },
  }),
  build({
    ...common,
    // Nothing of Node is looked for behind an entry that is not Node's: what one imports is left as it is.
    platform: "node",
    entryPoints: { index: "runtime/index.ts", node: "runtime/node.ts", web: "runtime/web.ts" },
    outdir: "runtime/dist",
    external: optional,
  }),
  writeTypes(),
]);

writeLicenses(compiler.metafile, "dist");
writeLicenses(runtime.metafile, "runtime/dist");

/** The licenses of the packages that a bundle holds parts of, each text once. */
function writeLicenses({ inputs }, folder) {
  const paths = Object.keys(inputs).map((path) =>
    /^.*node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(path),
  );
  const named = new Map();
  for (const path of new Set(paths.flatMap((match) => match ?? []))) {
    const { name, version } = JSON.parse(readFileSync(`${path}/package.json`, "utf8"));
    const file = readdirSync(path).find((entry) => /^licen[cs]e/i.test(entry));
    if (file === undefined) throw new Error(`${name} has no license file`);
    const text = readFileSync(`${path}/${file}`, "utf8").trim();
    named.set(text, [...(named.get(text) ?? []), `${name} ${version}`]);
  }
  const parts = [...named].map(([text, names]) => `${names.sort().join(", ")}\n\n${text}\n`);
  writeFileSync(`${folder}/THIRD-PARTY-LICENSES.txt`, parts.join("\n----\n\n"));
}
