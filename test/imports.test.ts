/** Imports run one way: every edge between rooms is drawn here, and no other exists. */
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { expect, test } from "vitest";

const root = join(import.meta.dirname, "..");

/** Who may import whom; all may use `support` and their own room. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  support: [],
  syntax: ["tensor"],
  tensor: [],
  check: ["syntax", "tensor"],
  tile: ["tensor"],
  schedule: ["tile", "plan"],
  codegen: ["tile", "tensor"],
  "codegen/reference": ["tensor", "runtime", "plan"],
  "codegen/torch": ["tensor", "plan"],
  compiler: ["syntax", "check", "tensor", "tile", "schedule", "plan"],
  runtime: [],
  api: ["compiler", "syntax", "check", "tensor", "tile", "schedule", "codegen", "runtime", "plan"],
  cli: [
    "api",
    "compiler",
    "syntax",
    "check",
    "tensor",
    "tile",
    "schedule",
    "codegen",
    "codegen/reference",
    "codegen/torch",
    "runtime",
    "plan",
  ],
};

function roomOf(path: string): string {
  const parts = relative(root, path).split("/");
  if (parts[0] === "runtime") {
    // What plans are, what they mean of sizes, and when they are wrong.
    return ["plan.ts", "layout.ts", "messages.ts", "records.ts", "verify-plan.ts"].includes(
      parts[1]!,
    )
      ? "plan"
      : "runtime";
  }
  if (parts[0] === "codegen") {
    const room = `codegen/${parts[1]}`;
    return Object.hasOwn(allowed, room) ? room : "codegen";
  }
  return parts.length > 2 ? parts[1]! : "compiler";
}

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true })
    .map((name) => join(root, folder, String(name)))
    .filter(
      (path) => path.endsWith(".ts") && !path.includes("node_modules") && !path.includes("/dist/"),
    );
}

function edges(path: string): { from: string; to: string; text: string }[] {
  const text = readFileSync(path, "utf8");
  const specifiers = [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map(
    (match) => match[1]!,
  );
  return specifiers.map((specifier) => {
    const target = resolve(dirname(path), specifier);
    const text = `${relative(root, path)} imports ${relative(root, target)}`;
    return { from: roomOf(path), to: roomOf(target), text };
  });
}

function isAllowed(from: string, to: string): boolean {
  // The runtime is a package of its own; its plan format is part of it.
  if (from === "plan") return to === "plan";
  if (from === "runtime") return to === "runtime" || to === "plan";
  return from === to || to === "support" || (allowed[from]?.includes(to) ?? false);
}

test("every import follows the map of rooms", () => {
  const all = ["compiler", "codegen", "runtime"].flatMap(sources).flatMap(edges);
  expect(all.length).toBeGreaterThan(200);
  const wrong = all.filter(({ from, to }) => !isAllowed(from, to)).map(({ text }) => text);
  expect(wrong).toEqual([]);
});

test("the map refuses an edge against the flow", () => {
  expect(isAllowed("tensor", "check")).toBe(false);
  expect(isAllowed("runtime", "tensor")).toBe(false);
  expect(isAllowed("tile", "codegen")).toBe(false);
});

test("chevrotain stays in the syntax room, llvm-bindings in the cpu target", () => {
  for (const path of ["compiler", "codegen", "runtime"].flatMap(sources)) {
    const text = readFileSync(path, "utf8");
    if (/from "chevrotain"/.test(text)) expect(roomOf(path)).toBe("syntax");
    if (/from "llvm-bindings"/.test(text)) expect(relative(root, path)).toMatch(/^codegen\/cpu/);
  }
});
