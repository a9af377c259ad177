/** The compiler as a library: results are data, options are checked, and nothing is read or written. */
import { describe, expect, test } from "vitest";
import { check, compile, explain, explainCode, format, render } from "../../compiler/api/index.ts";
import { openFiles } from "../../runtime/seal.ts";
import { exampleSource } from "../support/examples.ts";

const { text } = exampleSource("retention");
const wrong = text.replace("q @ k.T", "q @ k");
const dims = { K: 16, V: 16 };

describe("check", () => {
  test("tells how an attention is called", () => {
    const { value } = check(text, { dims: { K: 16 }, dtype: "bf16" });
    const token = { dtype: "bf16", per: "token" };
    expect(value).toEqual([
      {
        name: "retention",
        dims: { K: 16, V: null },
        inputs: [
          { ...token, name: "q", dims: ["K"] },
          { ...token, name: "k", dims: ["K"] },
          { ...token, name: "v", dims: ["V"] },
          { name: "gamma", dtype: "f32", per: "head", dims: [] },
        ],
        outputs: [{ ...token, name: "o", dims: ["V"] }],
      },
    ]);
  });

  test("tells mistakes at their places, which render shows as the command line does", () => {
    const { ok, value, diagnostics } = check(wrong, { name: "mine.lasp" });
    expect({ ok, value }).toEqual({ ok: false, value: null });
    const [{ code, labels }] = diagnostics as [(typeof diagnostics)[0]];
    expect(code).toBe("product-mismatch");
    const { from, to } = labels[0]!;
    expect(wrong.slice(from.offset, to.offset)).toBe("q");
    expect(wrong.split("\n")[from.line - 1]!.slice(from.column - 1)).toMatch(/^q @ k\)/);
    const shown = render(wrong, diagnostics, { name: "mine.lasp" });
    expect(shown).toContain(`--> mine.lasp:${from.line}:${from.column}`);
    expect(shown).not.toContain("\x1b");
    expect(render(wrong, diagnostics, { color: true })).toContain("\x1b[31m");
    expect(explainCode(code)).toContain(code);
    expect(explainCode("no-such-code")).toBeNull();
  });

  test("tells what cannot be compiled, too", () => {
    const cubic =
      "attention a(q: [T, K], k: [T, K], v: [T, V]) -> [T, V] {\n  return exp(q @ k.T) @ v\n}\n";
    expect(check(cubic).diagnostics.map(({ code }) => code)).toEqual([
      expect.stringMatching(/^unsupported-/),
    ]);
  });
});

describe("compile", () => {
  test.each(["retention", "gla", "linear-attention-bidirectional"])(
    "%s: an artifact that the runtime opens",
    (name) => {
      const result = compile(exampleSource(name).text, { dims: ownDims(name), devices: 2 });
      expect(result.diagnostics.filter(({ severity }) => severity === "error")).toEqual([]);
      const { manifest, files } = result.value!;
      expect(manifest.targets.map(({ target }) => target)).toEqual(["reference", "cuda", "wgsl"]);
      const opened = openFiles(files);
      expect(opened.manifest).toEqual(manifest);
      expect(opened.manifest.plans).toHaveLength(2);
      const altered = new Map(files).set("README.md", "");
      expect(() => openFiles(altered)).toThrow("README.md was altered");
      altered.delete("README.md");
      expect(() => openFiles(altered)).toThrow("the artifact has no file README.md");
    },
  );

  test("tells sizes that are missing, as mistakes", () => {
    const { ok, diagnostics } = compile(text, { dims: { K: 16 } });
    expect(ok).toBe(false);
    expect(diagnostics.map(({ message }) => message)).toEqual(["the size of V is not given"]);
    expect(explain(text, { dims: { K: 16 } }).diagnostics).toEqual(diagnostics);
  });

  test("takes what its options say", () => {
    const { manifest } = compile(text, { dims, targets: ["wgsl"], backward: false }).value!;
    expect(manifest.targets.map(({ target }) => target)).toEqual(["reference", "wgsl"]);
    expect(manifest.forms.map(({ name }) => name)).not.toContain("backward");
  });
});

test.each([
  [{ sizes: {} }, "compile has no option sizes"],
  [{ dims: { Q: 4 } }, "the text has no dim Q; it has K, V"],
  [{ dims: { T: 4 } }, "the text has no dim T"],
  [{ dims: { K: 1.5 } }, "dims.K is a whole number"],
  [{ dims: null }, "dims is an object"],
  [{ dtype: "f64" }, 'dtype is one of f32, f16, bf16, not "f64"'],
  [{ dims, targets: ["cpu"] }, "targets is a list of"],
  [{ dims, targets: [{ name: "cpu" }] }, "targets is a list of"],
  [{ dims, targets: ["wgsl", "wgsl"] }, "none twice"],
  [{ dims, devices: 0 }, "devices is a whole number from 1"],
  [{ dims, cacheStates: 65 }, "cacheStates is null or a multiple of 64"],
  [{ dims, entry: 3 }, "entry is a text"],
])("compile(text, %j) is a TypeError", (options, message) => {
  const call = () => compile(text, options as never);
  expect(call).toThrow(TypeError);
  expect(call).toThrow(message);
});

test("format gives the layout of `laspc fmt`, and leaves a text with mistakes", async () => {
  const { value } = await format(text.replaceAll(" @ ", "   @ "));
  expect(value).toBe(text);
  const torn = await format("attention a(");
  expect(torn.ok).toBe(false);
  expect(torn.diagnostics.length).toBeGreaterThan(0);
});

test("explain is a text", () => {
  const { value } = explain(text, { dims, tokens: 4, cacheStates: 128 });
  expect(value).toContain("every=512");
  expect(value).toContain("retention, from input.lasp");
});

/** Every dim of an example that has no size, at 16. */
function ownDims(name: string): Record<string, number> {
  const open = check(exampleSource(name).text).value!.flatMap(({ dims }) => Object.entries(dims));
  return Object.fromEntries(open.flatMap(([dim, size]) => (size === null ? [[dim, 16]] : [])));
}
