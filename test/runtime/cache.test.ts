/** What is kept for the next process is taken only when it is whole and nobody else can have written it. */
import { spawn } from "node:child_process";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildSync } from "esbuild";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { kept, withKept } from "../../runtime/cache.ts";
import { FolderError } from "../../runtime/temporary.ts";

let root: string;
let cache: string;
let temporary: string;
let made: number;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "laspc-cache-"));
  [cache, temporary] = [join(root, "cache/laspc"), join(root, "tmp")];
  mkdirSync(temporary);
  vi.stubEnv("XDG_CACHE_HOME", join(root, "cache"));
  vi.stubEnv("TMPDIR", temporary);
  made = 0;
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(root, { recursive: true, force: true });
});

const content = Uint8Array.from({ length: 40 }, (_, i) => i);
async function make(): Promise<Uint8Array> {
  made++;
  return content;
}
const load = (path: string) => readFileSync(path).subarray(0, content.length);

test("what was made once is kept, in a folder that nobody else can enter", async () => {
  for (let i = 0; i < 2; i++) {
    expect(await kept("a", make)).toEqual(content);
    expect(await withKept("a", make, load)).toEqual(Buffer.from(content));
  }
  expect(made).toBe(1);
  expect(statSync(cache).mode & 0o777).toBe(0o700);
  expect(readdirSync(temporary)).toEqual([]);
});

test("a file with any bit changed, cut anywhere or longer is made anew", async () => {
  await kept("a", make);
  const path = join(cache, "a");
  const whole = readFileSync(path);
  const flipped = Array.from({ length: whole.length * 8 }, (_, bit) => {
    const bytes = Buffer.from(whole);
    bytes[bit >> 3]! ^= 1 << (bit & 7);
    return bytes;
  });
  const cut = Array.from(whole, (_, length) => whole.subarray(0, length));
  const altered = [...flipped, ...cut, Buffer.concat([whole, whole]), Buffer.alloc(whole.length)];
  for (const [i, bytes] of altered.entries()) {
    writeFileSync(path, bytes);
    expect(await (i % 2 === 0 ? kept("a", make) : withKept("a", make, load))).toEqual(
      i % 2 === 0 ? content : Buffer.from(content),
    );
    expect(made).toBe(i + 2);
    expect(readFileSync(path).equals(whole)).toBe(true);
  }
});

test("a file under another's name is not taken", async () => {
  await kept("a", make);
  renameSync(join(cache, "a"), join(cache, "b"));
  await kept("b", make);
  expect(made).toBe(2);
});

test("a file, and a folder, that others can write to", async () => {
  await kept("a", make);
  chmodSync(join(cache, "a"), 0o722);
  await kept("a", make);
  expect(made).toBe(2);
  chmodSync(cache, 0o770);
  for (const refused of [() => kept("a", make), () => withKept("a", make, load)]) {
    await expect(refused()).rejects.toThrow(FolderError);
    await expect(refused()).rejects.toThrow(/others can write to the cache folder .*: remove it/);
  }
});

test("without a folder to write to, a temporary one serves and goes", async () => {
  vi.stubEnv("XDG_CACHE_HOME", "/dev/null");
  const path = await withKept("a", make, (at) => {
    expect(load(at)).toEqual(Buffer.from(content));
    return at;
  });
  expect(path).toContain(temporary);
  expect(readdirSync(temporary)).toEqual([]);
  vi.stubEnv("TMPDIR", "/dev/null");
  await expect(withKept("a", make, load)).rejects.toThrow(/no folder can be made in \/dev\/null/);
});

test("what killed processes left long ago goes, what others work on stays", async () => {
  await kept("a", make);
  const left = [join(cache, "a.1.part"), join(temporary, "laspc-work-1")];
  const inUse = [join(cache, "a.2.part"), join(temporary, "laspc-work-2")];
  for (const path of [...left, ...inUse]) writeFileSync(path, "");
  for (const path of left) utimesSync(path, 1, 1);
  await withKept("b", make, load);
  expect(readdirSync(cache).sort()).toEqual(["a", "a.2.part", "b"]);
  expect(readdirSync(temporary)).toEqual(["laspc-work-2"]);
});

test.each(["SIGTERM", "SIGINT", "SIGHUP"] as const)("%s leaves no work behind", async (signal) => {
  const script = join(root, "work.mjs");
  const contents = `import { inWorkFolder } from "./runtime/temporary.ts";
    inWorkFolder(() => new Promise((done) => setTimeout(done, 20_000, console.log("at work"))));`;
  const stdin = { contents, resolveDir: join(import.meta.dirname, "../..") };
  buildSync({ stdin, bundle: true, platform: "node", format: "esm", outfile: script });
  const child = spawn(process.execPath, [script], { stdio: ["ignore", "pipe", "inherit"] });
  await new Promise((resolve) => ["data", "end"].forEach((on) => child.stdout.once(on, resolve)));
  expect(readdirSync(temporary)).toHaveLength(1);
  child.kill(signal);
  const ended = await new Promise((resolve) => child.once("exit", (_, by) => resolve(by)));
  expect(ended).toBe(signal);
  expect(readdirSync(temporary)).toEqual([]);
});
