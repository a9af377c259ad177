/** The packages as a stranger gets them: packed, and installed into an empty folder. Needs `npm run build`. */
import { spawnSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";

export const root = join(import.meta.dirname, "../..");

export interface Installed {
  readonly folder: string;
  readonly tarballs: readonly string[];
  readonly seconds: number;
  readonly megabytes: number;
  /** Every package there, as node_modules names it. */
  readonly packages: readonly string[];
  /** A shell's line in the folder, with the packages' commands. */
  readonly shell: (line: string) => { status: number | null; stdout: string; stderr: string };
  readonly remove: () => void;
}

/** Without a registry: nothing but the two packages may be needed. Throws with what npm says. */
export function installPacked(): Installed {
  const place = mkdtempSync(join(tmpdir(), "laspc-packed-"));
  const folder = join(place, "user");
  mkdirSync(folder);
  for (const own of [[], ["-w", "runtime"]]) {
    // Scripts would build again, under the feet of other tests.
    npm(root, "pack", ...own, "--ignore-scripts", "--pack-destination", place);
  }
  const tarballs = readdirSync(place)
    .filter((name) => name.endsWith(".tgz"))
    .map((name) => join(place, name));
  writeFileSync(join(folder, "package.json"), '{ "private": true, "type": "module" }\n');
  const started = performance.now();
  npm(folder, "install", "--offline", "--cache", join(place, "cache"), ...tarballs);
  const seconds = (performance.now() - started) / 1000;
  const modules = join(folder, "node_modules");
  const bytes = readdirSync(modules, { recursive: true })
    .map((name) => statSync(join(modules, String(name))))
    .reduce((sum, stats) => sum + stats.blocks * 512, 0);
  return {
    folder,
    tarballs,
    seconds,
    megabytes: bytes / 1e6,
    packages: packagesIn(modules),
    shell: (line) => shell(folder, line),
    remove: () => rmSync(place, { recursive: true, force: true }),
  };
}

/** The repository's own copy of a package, as if it had been installed there too. */
export function linkPackage({ folder }: Installed, name: string): void {
  const path = join(folder, "node_modules", name);
  mkdirSync(dirname(path), { recursive: true });
  symlinkSync(join(root, "node_modules", name), path);
}

function npm(cwd: string, ...args: string[]): void {
  const quiet = ["--no-audit", "--no-fund", "--no-update-notifier"];
  const { status, stdout, stderr } = spawnSync("npm", [...args, ...quiet], {
    cwd,
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`npm ${args[0]}: ${stdout}${stderr}`);
}

function packagesIn(modules: string): string[] {
  const names = readdirSync(modules).filter((name) => !name.startsWith("."));
  return names
    .flatMap((name) =>
      name.startsWith("@")
        ? readdirSync(join(modules, name)).map((own) => `${name}/${own}`)
        : [name],
    )
    .sort();
}

function shell(folder: string, line: string) {
  const path = `${join(folder, "node_modules/.bin")}:${process.env["PATH"]}`;
  const env = { ...process.env, PATH: path, NO_COLOR: "1" };
  const { status, stdout, stderr } = spawnSync("sh", ["-c", line], {
    cwd: folder,
    env,
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}
