/** Compiled kernels are kept by content, in this process and in a folder of the user's own. */
import { chmodSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from "node:fs";
import { writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

let home: string;
let compiled: string[];

/** "Compiles" a text to its bytes, and remembers that it did. */
const compiler = {
  version: () => "13.0",
  compile: async (source: string) => {
    compiled.push(source);
    return new TextEncoder().encode(`code of ${source}`);
  },
};

/** As a process that has just started. */
async function image(source: string, capability = 90): Promise<string> {
  vi.resetModules();
  const { imageOf } = await import("../../../runtime/devices/cuda-images.ts");
  return new TextDecoder().decode(await imageOf(source, "kernel", capability, compiler));
}

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "laspc-cache-"));
  vi.stubEnv("XDG_CACHE_HOME", home);
  compiled = [];
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(home, { recursive: true, force: true });
});

test("the next process finds what one compiled", async () => {
  expect(await image("a")).toBe("code of a");
  expect(await image("a")).toBe("code of a");
  expect(compiled).toEqual(["a"]);
});

test("one process compiles once, however many devices ask at a time", async () => {
  const { imageOf } = await import("../../../runtime/devices/cuda-images.ts");
  await Promise.all([1, 2, 3].map(() => imageOf("one", "kernel", 90, compiler)));
  expect(compiled).toEqual(["one"]);
});

test("another text or another GPU is another image", async () => {
  expect(await image("a")).toBe("code of a");
  expect(await image("b")).toBe("code of b");
  await image("a", 80);
  expect(compiled).toEqual(["a", "b", "a"]);
});

test("a damaged file is not loaded, and replaced", async () => {
  await image("a");
  const [name] = readdirSync(join(home, "laspc"));
  const path = join(home, "laspc", name!);
  const whole = readFileSync(path);
  for (const damaged of [whole.subarray(0, 10), Buffer.alloc(0), Buffer.alloc(whole.length)]) {
    writeFileSync(path, damaged);
    expect(await image("a")).toBe("code of a");
    expect(readFileSync(path).equals(whole)).toBe(true);
  }
  expect(compiled).toHaveLength(4);
});

test("nobody else can enter the folder", async () => {
  await image("a");
  const folder = join(home, "laspc");
  chmodSync(folder, 0o777);
  await image("a");
  expect(statSync(folder).mode & 0o777).toBe(0o700);
});

test("without a folder to write to, kernels still compile", async () => {
  vi.stubEnv("XDG_CACHE_HOME", "/dev/null");
  expect(await image("a")).toBe("code of a");
});
