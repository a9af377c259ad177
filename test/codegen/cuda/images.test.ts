/** Compiled kernels are kept by content, in this process and in a folder of the user's own. */
import { mkdtempSync, rmSync } from "node:fs";
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

test("without a folder to write to, kernels still compile", async () => {
  vi.stubEnv("XDG_CACHE_HOME", "/dev/null");
  expect(await image("a")).toBe("code of a");
});
