/** The packages where they are installed: what they weigh, what their commands do, what bundlers and types find. */
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findDevice } from "../support/devices.ts";
import { type Installed, installPacked, linkPackage, root } from "./install.ts";

const page = readFileSync(join(root, "docs/javascript.md"), "utf8");
const blocks = (language: string) =>
  [...page.matchAll(new RegExp(`\`\`\`${language}\\n(.*?)\`\`\``, "gs"))].map((match) => match[1]!);
const [installing, commands] = blocks("sh") as [string, string];
const [compiling, running] = blocks("ts") as [string, string];

let user: Installed;
beforeAll(() => {
  user = installPacked();
});
afterAll(() => user?.remove());

test("installing takes seconds, little room, no registry and no other package", () => {
  expect(installing).toBe("npm install laspc @laspc/runtime\n");
  expect(user.packages).toEqual(["@laspc/runtime", "laspc"]);
  expect(user.seconds).toBeLessThan(20);
  expect(user.megabytes).toBeLessThan(4);
});

describe("packaging is right", () => {
  test.each([
    ["publint", ["run", "--strict"]],
    ["attw", ["--profile", "esm-only", "--no-emoji", "--format", "ascii"]],
  ])("says %s", (tool, options) => {
    expect(user.tarballs).toHaveLength(2);
    for (const tarball of user.tarballs) {
      const path = join(root, "node_modules/.bin", tool);
      const [run, ...rest] = options;
      const args = tool === "publint" ? [run!, tarball, ...rest] : [tarball, ...options];
      const { status, stdout } = spawnSync(path, args, { encoding: "utf8" });
      expect(status, stdout).toBe(0);
    }
  });

  test("both have the license, and those of what their bundles hold", () => {
    const license = readFileSync(join(root, "LICENSE"), "utf8");
    for (const name of user.packages) {
      const own = join(user.folder, "node_modules", name, "LICENSE");
      expect(readFileSync(own, "utf8")).toBe(license);
    }
    const text = readFileSync(
      join(user.folder, "node_modules/laspc/dist/THIRD-PARTY-LICENSES.txt"),
      "utf8",
    );
    for (const name of ["chevrotain", "lodash-es", "prettier", "tinyqueue", "@noble/hashes"]) {
      expect(text).toMatch(new RegExp(`^(.*, )?${name} \\d`, "m"));
    }
  });
});

test.each(["laspc", "laspc/prettier", "@laspc/runtime", "@laspc/runtime/web"])(
  "%s has no part of Node, and bundles for a browser",
  async (entry) => {
    const { metafile } = await build({
      stdin: { contents: `export * from "${entry}";`, resolveDir: user.folder },
      bundle: true,
      platform: "browser",
      format: "esm",
      write: false,
      metafile: true,
      logLevel: "silent",
    });
    expect(Object.values(metafile.outputs).flatMap(({ imports }) => imports)).toEqual([]);
  },
);

describe.each([
  ["nodenext", "nodenext"],
  ["esnext", "bundler"],
])("types, module %s, resolution %s", (module, moduleResolution) => {
  const own = { module, moduleResolution, target: "ES2022", strict: true, noEmit: true };
  /** The project's files, checked with the types of packages, too. */
  const checkTypes = (files: Record<string, string>, options: object) => {
    for (const [name, text] of Object.entries(files)) writeFileSync(join(user.folder, name), text);
    const compilerOptions = { ...own, skipLibCheck: false, ...options };
    const config = { compilerOptions, files: Object.keys(files) };
    writeFileSync(join(user.folder, "tsconfig.json"), JSON.stringify(config));
    return user.shell(
      `"${process.execPath}" "${join(root, "node_modules/typescript/bin/tsc")}" -p .`,
    );
  };

  test("a user of neither Node nor a DOM", () => {
    const text = readFileSync(join(import.meta.dirname, "user/user.ts"), "utf8");
    const { status, stdout } = checkTypes({ "user.ts": text }, { lib: ["ES2023"], types: [] });
    expect(status, stdout).toBe(0);
  });

  test("the programs of docs/javascript.md", () => {
    const node = { types: ["node"], typeRoots: [join(root, "node_modules/@types")] };
    const files = { "compiling.ts": compiling, "running.ts": running };
    const { status, stdout } = checkTypes(files, node);
    expect(status, stdout).toBe(0);
  });
});

test("the repository installs the peers that the packages have", () => {
  const manifest = (path: string) =>
    JSON.parse(readFileSync(join(root, path, "package.json"), "utf8"));
  const { peerDependencies: peers, peerDependenciesMeta: meta } = manifest(".");
  const { optionalDependencies: installed } = manifest("scripts/optional-peers");
  const own = manifest("runtime").peerDependencies;
  // Prettier is there for development, too.
  expect({ ...installed, prettier: peers.prettier }).toEqual(peers);
  expect(own).toEqual({ koffi: peers.koffi, webgpu: peers.webgpu });
  for (const name of Object.keys(peers)) expect(meta[name]).toEqual({ optional: true });
});

describe("what a device misses is named, with what brings it", () => {
  const dims = "--dim B=1,H=2,T=20,K=8,V=8";
  const file = "node_modules/laspc/dsl-examples/retention.lasp";
  test.each([
    [
      "koffi",
      `laspc run ${file} --device cuda ${dims}`,
      "the cuda device",
      "calls of native libraries",
    ],
    [
      "webgpu",
      `laspc run ${file} --device webgpu ${dims}`,
      "the webgpu device",
      "WebGPU outside of a browser",
    ],
    [
      "llvm-bindings",
      `laspc compile ${file} --target cpu ${dims}`,
      "no code for the cpu",
      "LLVM IR",
    ],
  ])("%s", (name, command, who, what) => {
    const { status, stderr } = user.shell(command);
    expect(status, stderr).toBe(1);
    for (const part of [who, `needs the package ${name}`, what]) expect(stderr).toContain(part);
    const version = new RegExp(`npm install ${name}@([\\d.]+)`).exec(stderr)![1]!;
    const { peerDependencies: peers } = JSON.parse(
      readFileSync(join(root, "package.json"), "utf8"),
    );
    expect(peers[name].replace("^", "")).toMatch(
      new RegExp(`^${version.replaceAll(".", "\\.")}(\\.|$)`),
    );
    expect(page).toContain(`npm install ${name}@${version}`);
  });
});

describe("docs/javascript.md", () => {
  test("its commands run", () => {
    for (const line of commands.trim().split("\n")) {
      // The command of the folder, without npm in between.
      const { status, stderr } = user.shell(line.replace(/^npx /, ""));
      expect(status, `${line}\n${stderr}`).toBe(0);
    }
    for (const path of [
      "retention/manifest.json",
      "retention/cuda",
      "retention/wgsl",
      "retention_pkg",
    ]) {
      expect(existsSync(join(user.folder, path)), path).toBe(true);
    }
  });

  test("its program compiles, tells mistakes, formats and explains", () => {
    writeFileSync(join(user.folder, "compiling.mjs"), compiling);
    const { status, stdout, stderr } = user.shell("node compiling.mjs");
    expect(status, stderr).toBe(0);
    expect(stdout).toMatch(/^manifest\.json \d+$/m);
    expect(stdout).toMatch(/^product-mismatch \d+$/m);
    expect(stdout).toContain("--> retention.lasp:");
    expect(stdout).toMatch(/^true$/m);
    expect(stdout).toContain("derivation");
  });

  const webgpu = findDevice("webgpu");
  test.skipIf(!webgpu.available)(`its program runs on a GPU${webgpu.why}`, () => {
    linkPackage(user, "webgpu");
    writeFileSync(join(user.folder, "running.mjs"), running);
    const { status, stdout, stderr } = user.shell("node running.mjs");
    expect(status, stderr).toBe(0);
    expect(stdout.replace(/\s+/g, " ")).toContain("[ 1, 300, 2, 64 ]");
  });
});

test("laspc/prettier formats as laspc fmt does", () => {
  linkPackage(user, "prettier");
  const text = readFileSync(join(root, "dsl-examples/retention.lasp"), "utf8");
  writeFileSync(join(user.folder, "untidy.lasp"), text.replaceAll(" @ ", "   @ "));
  const prettier = "node node_modules/prettier/bin/prettier.cjs";
  const { stdout, stderr } = user.shell(
    `${prettier} --plugin laspc/prettier --print-width 100 untidy.lasp`,
  );
  expect(stdout, stderr).toBe(text);
});

const cpu = findDevice("cpu");
test.skipIf(!cpu.available)(`with its peers the cpu runs, on two threads${cpu.why}`, () => {
  for (const name of ["koffi", "llvm-bindings"]) linkPackage(user, name);
  copyFileSync(join(root, "dsl-examples/retention.lasp"), join(user.folder, "own.lasp"));
  const dims = "--dim B=1,H=2,T=40,K=8,V=8";
  const run = user.shell(
    `laspc run own.lasp --device cpu --devices 2 --transport worker ${dims} --verify`,
  );
  expect(run.status, run.stderr).toBe(0);
  const all = user.shell("laspc compile own.lasp --dim K=8,V=8 --out all");
  expect(all.status, all.stderr).toBe(0);
  for (const target of ["cuda", "wgsl", "cpu"]) expect(all.stdout).toContain(`all/${target}/`);
  const code = `
    import { compile } from "laspc";
    import { createCpuTarget } from "laspc/cpu";
    import { readFileSync } from "node:fs";
    const text = readFileSync("own.lasp", "utf8");
    const { value } = compile(text, { dims: { K: 8, V: 8 }, targets: [await createCpuTarget()] });
    console.log(value.manifest.targets.map(({ target }) => target).join());`;
  writeFileSync(join(user.folder, "cpu.mjs"), code);
  expect(user.shell("node cpu.mjs").stdout).toBe("reference,cpu\n");
});
