import { readFileSync } from "node:fs";
import { defineConfig } from "vitest/config";

/** Helper files as text, as the bundle has them. */
const textFiles = {
  name: "text-files",
  enforce: "pre" as const,
  load: (id: string) =>
    /\.(ll|wgsl|cuh|py)$/.test(id)
      ? `export default ${JSON.stringify(readFileSync(id, "utf8"))};`
      : null,
};

export default defineConfig({
  plugins: [textFiles],
  test: {
    include: ["test/**/*.test.ts"],
    // LLVM takes a minute or more for the largest rule, and two such tests may run at once.
    testTimeout: 600_000,
    hookTimeout: 600_000,
    pool: "forks",
    maxWorkers: 2,
  },
});
