/**
 * Nothing of a text or of its file's name leaves the comment or string that it is put into, in any file that
 * is emitted: each hostile piece carries a word, and outside of comments and strings no file has that word.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { createCpuTarget } from "../codegen/cpu/target.ts";
import { cudaTarget } from "../codegen/cuda/target.ts";
import { wgslTarget } from "../codegen/wgsl/target.ts";
import { artifactFiles } from "../compiler/api/artifact-files.ts";
import { torchFiles } from "../compiler/cli/torch.ts";
import { compile } from "../compiler/index.ts";
import { renderDiagnostic } from "../compiler/syntax/render.ts";
import { defaults } from "./support/examples.ts";
import { inFolder } from "./support/emitted.ts";
import { writeFileSync } from "node:fs";

const breaks = {
  "carriage return": "\r//",
  "vertical tab": "\v",
  "form feed": "\f",
  "next line": "\u0085",
  "line separator": "\u2028",
  "paragraph separator": "\u2029",
  "end of a comment": "*/",
  backslash: "\\",
  "backslash and space": "\\ ",
  trigraph: "??/",
  quotes: '"""',
  quote: '"',
  "escaped quotes": '\\"""',
  "single quotes": "'''",
  "back-quotes": "\n// ```\n//",
  newline: "\n//",
  nul: "\0",
  escape: "\u001b[2J",
  "turned text": "\u202e",
  "half of a pair": "\ud800",
  tag: "</text>",
} as const;

const word = "INJECTED";
const cpu = await createCpuTarget();
const targets = [wgslTarget, cudaTarget, ...("missing" in cpu ? [] : [cpu])];

function emitted(text: string, name: string): Map<string, string> {
  const source = { name, text };
  const outcome = compile(source, { ...defaults, dims: { K: 16, V: 16 }, targets, backward: true });
  const compiled = outcome.value!;
  expect(outcome.diagnostics).toEqual([]);
  const torch = [...torchFiles(source, compiled, "made")];
  return new Map([
    ...artifactFiles(compiled, 2),
    ...torch.map(([path, file]) => [`made/${path}`, file] as const),
  ]);
}

/** A rule whose every line carries a hostile comment. */
function rule(piece: string): string {
  const note = `  // note ${piece}${word}${piece}`;
  return `// head ${piece}${word}()${piece}
attention rule(q: [T, K], k: [T, K], v: [T, V]) -> [T, V] {${note}
  scores = (q @ k.T) * causal()${note}
  return silu(scores @ v)${note}
}
`;
}

/** Lines as the most generous language cuts them, after C has joined those that end with a backslash. */
function codeOf(path: string, text: string): string {
  const mark = path.endsWith(".ll") ? ";" : "//";
  const joined = text.replace(/(?:\\|\?\?\/)[ \t]*\r?\n/g, "");
  const lines = joined.split(/[\n\v\f\r\u0085\u2028\u2029]/);
  return lines.map((line) => line.split(mark)[0]!).join("\n");
}

const pythonCode = `
import io, json, sys, tokenize
for name, text in json.load(open(sys.argv[1])).items():
    compile(text, name, "exec")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.STRING) and "${word}" in token.string:
            print(name, token)
`;

function leaks(files: ReadonlyMap<string, string>): string[] {
  const python = [...files].filter(([path]) => path.endsWith(".py"));
  const code = [...files].filter(([path]) => /\.(?:cu|wgsl|ll)$/.test(path));
  const texts = [...files].filter(([path]) => /\.(?:json|md|toml)$/.test(path));
  for (const [path, text] of texts) if (path.endsWith(".json")) JSON.parse(text);
  return [
    ...code.flatMap(([path, text]) => (codeOf(path, text).includes(word) ? [path] : [])),
    // Markdown shows all of it as code.
    ...texts.flatMap(([path, text]) => {
      const shown = text.replace(/^(`{3,})\n[^]*?\n\1$/gm, "").replace(/(`+)[^\n]*?\1(?!`)/g, "");
      return path.endsWith(".md") && shown.includes(word) ? [path] : [];
    }),
    ...inFolder((folder) => {
      const path = join(folder, "files.json");
      writeFileSync(path, JSON.stringify(Object.fromEntries(python)));
      const { stdout, stderr } = spawnSync("python3", ["-c", pythonCode, path], {
        encoding: "utf8",
      });
      return `${stdout}${stderr}`.split("\n").filter((line) => line !== "");
    }),
  ];
}

describe.each(Object.entries(breaks))("%s", (_, piece) => {
  test("in comments stays there", () => {
    const files = emitted(rule(piece), "rule.lasp");
    expect([...files.values()].some((text) => text.includes(word))).toBe(true);
    expect(leaks(files)).toEqual([]);
  });

  test("in a file's name stays there", () => {
    const name = `a${piece}${word}()${piece}\n${word}()${piece}.lasp`.replaceAll("/", "");
    expect(leaks(emitted(rule(""), name))).toEqual([]);
  });
});

test("a message moves no cursor and counts lines as the lexer does", () => {
  const text =
    "// one\r// two\u001b[2J\u2028\nattention a(q: [T, K]) -> [T, K] {\r  return zzz \u001b[2J\n}";
  const source = { name: "a\u001b[2J.lasp", text };
  const { diagnostics } = compile(source, defaults);
  const shown = diagnostics
    .map((one) => renderDiagnostic(source, one, { color: false }))
    .join("\n");
  expect(shown).toContain(":4:14");
  // oxlint-disable-next-line no-control-regex
  expect(shown).not.toMatch(/[^\n\P{Cc}]/u);
});
