/** Hostile texts through the compiler: each is told what is wrong at a place, or compiles to valid files, within seconds. */
import { cudaTarget } from "../../codegen/cuda/target.ts";
import { wgslTarget } from "../../codegen/wgsl/target.ts";
import { torchFiles } from "../../compiler/cli/torch.ts";
import { type CompileOptions, check, compile, limitationsOf } from "../../compiler/index.ts";
import { type Diagnostic, hasErrors } from "../../compiler/support/diagnostic.ts";
import type { Source } from "../../compiler/support/span.ts";
import { renderDiagnostic } from "../../compiler/syntax/render.ts";
import { cudaProblem, nvccThere, openValidator, pythonProblems } from "./emitted.ts";
import { hostileText } from "./hostile.ts";

export interface TextFuzz {
  readonly first: number;
  readonly count: number;
  /** Of those that check, every so manyth is compiled with its gradients, and its files are validated. */
  readonly compileEvery: number;
  /** Compiled texts whose CUDA nvcc reads, where it is there. */
  readonly cuda: number;
  readonly progress?: (seed: number) => void;
}

export interface TextFuzzed {
  readonly problems: string[];
  readonly refused: number;
  readonly compiled: number;
  readonly shaders: number;
  readonly pythonFiles: number;
  readonly cudaTexts: number;
  readonly slowestMs: number;
  readonly mostBytes: number;
}

const longestMs = 10_000;
/** Of the kernels those that have every statement of the text; the others are parts of them. */
const isMain = /_(?:forward|backward)(?:_\d+)?\.cu$/;

export async function fuzzTexts(fuzz: TextFuzz): Promise<TextFuzzed> {
  const problems: string[] = [];
  const [python, cuda] = [new Map<string, string>(), new Map<string, string>()];
  const valid = await openValidator();
  let [refused, checked, compiled, shaders, cudaTexts] = [0, 0, 0, 0, 0];
  let [slowestMs, mostBytes] = [0, 0];
  for (let seed = fuzz.first; seed < fuzz.first + fuzz.count; seed++) {
    fuzz.progress?.(seed);
    const source = hostileText(seed);
    const started = performance.now();
    // Of the compiler; validators take as long as they take.
    let tookMs = 0;
    try {
      const mistakes = mistakesOf(source);
      tookMs = performance.now() - started;
      if (hasErrors(mistakes)) refused++;
      else if (checked++ % fuzz.compileEvery === 0) {
        const files = filesOf(source, problems);
        tookMs = performance.now() - started;
        for (const [path, text, entry] of files) {
          if (entry !== null) {
            const problem = await valid(text, entry);
            if (problem !== null) problems.push(`seed ${seed} ${path}: ${problem}`);
            shaders++;
          }
          if (path.endsWith(".py")) python.set(`seed ${seed} ${path}`, text);
          if (isMain.test(path) && cudaTexts < fuzz.cuda) cuda.set(`seed ${seed} ${path}`, text);
        }
        compiled++;
        if (cudaTexts < fuzz.cuda) cudaTexts++;
      }
    } catch (error) {
      problems.push(`seed ${seed}: ${(error as Error).stack?.slice(0, 600)}`);
    }
    if (tookMs > longestMs) problems.push(`seed ${seed} took ${tookMs.toFixed(0)} ms`);
    slowestMs = Math.max(slowestMs, tookMs);
    mostBytes = Math.max(mostBytes, process.memoryUsage().rss);
  }
  problems.push(...pythonProblems(python));
  const cudaSays = nvccThere && cuda.size > 0 ? cudaProblem(cuda) : null;
  if (cudaSays !== null) problems.push(cudaSays.slice(0, 3000));
  const counts = { refused, compiled, shaders, pythonFiles: python.size, cudaTexts };
  return { problems, ...counts, slowestMs, mostBytes };
}

/** What `laspc check` says of it; throws where a mistake has no place or cannot be shown. */
function mistakesOf(source: Source): readonly Diagnostic[] {
  const { value, diagnostics } = check(source, { dims: {}, dtype: "f32" });
  const limitations = hasErrors(diagnostics) ? [] : (value ?? []).flatMap(limitationsOf);
  const all = [...diagnostics, ...limitations];
  for (const one of all) {
    const { span } = one.labels[0]!;
    const isPlace = span.start >= 0 && span.end > 0 && span.start < Math.max(1, source.text.length);
    if (!isPlace) throw new Error(`${one.code} has no place: ${JSON.stringify(span)}`);
    renderDiagnostic(source, one, { color: false });
  }
  return all;
}

/** Every emitted file: its path, its text, and a shader's entry. */
function filesOf(source: Source, problems: string[]): [string, string, string | null][] {
  const checked = check(source, { dims: {}, dtype: "f32" }).value ?? [];
  return checked.slice(0, 2).flatMap(({ name, program }) => {
    const open = [...program.dims].filter(([, size]) => size === null);
    const options: CompileOptions = {
      dims: Object.fromEntries(open.map(([dim], i) => [dim, [6, 4, 5][i % 3]!])),
      dtype: "f32",
      entry: name,
      targets: [wgslTarget, cudaTarget],
      backward: true,
      fixedShared: true,
    };
    const { value, diagnostics } = compile(source, options);
    if (value === null) {
      const strange = diagnostics.find(({ code }) => !code.startsWith("unsupported-"));
      if (strange?.severity === "error") problems.push(`${source.name}: ${strange.code} late`);
      return [];
    }
    const shaders = value.manifest.targets.find(({ target }) => target === "wgsl")!.forms;
    const entries = new Map(
      shaders.flatMap(({ kernels }) => kernels.map(({ file, entry }) => [file, entry])),
    );
    const all = [...value.files, ...torchFiles(source, value, "made")];
    return all.map(([path, text]): [string, string, string | null] => [
      path,
      text,
      entries.get(path) ?? null,
    ]);
  });
}
