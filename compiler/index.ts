/** The front door: source text to diagnostics, programs and artifacts. Touches no file and no process. */
import type { Manifest } from "../runtime/plan.ts";
import type { Dtype } from "./tensor/ir.ts";
import { type Files, manifestOf, referenceCode, targetCode } from "./artifact.ts";
import { type CheckedAttention, checkFile } from "./check/check.ts";
import {
  toBackwardLoops,
  toFixedLoops,
  toForms,
  toGradient,
  toGradientSummary,
  toKernels,
  toLoops,
  toScans,
  toStep,
  withoutShared,
} from "./pipeline.ts";
import { type Diagnostic, type Outcome, hasErrors } from "./support/diagnostic.ts";
import { type Note, type Observer, Report } from "./support/pass.ts";
import { type Source, lineAt, lineStarts, positionOf } from "./support/span.ts";
import { onOneLine } from "./support/text.ts";
import { verifyTensor } from "./tensor/verify.ts";
import { parseSource } from "./syntax/parse.ts";
import { columnsApart } from "./tensor/columns-apart.ts";
import { IntraNames } from "./tensor/intra.ts";
import { byLevel, formAt } from "./tensor/levels.ts";
import type { Op, Program } from "./tensor/ir.ts";
import { overlapForms } from "./tensor/overlap.ts";
import { canSegment, segmentForms } from "./tensor/passes/segment.ts";
import type { Form, Sharded } from "./tensor/passes/shard.ts";
import type { TileProgram } from "./tile/ir.ts";
import type { Target } from "./tile/target.ts";

export interface CompileOptions {
  /** Sizes of dims other than T: K, V, feature sizes. */
  readonly dims: Readonly<Record<string, number>>;
  /** How inputs without a stated dtype, and outputs, are stored. */
  readonly dtype: Dtype;
  /** Which attention of the file; null: the only one. */
  readonly entry: string | null;
  readonly targets: readonly Target[];
  /** Also the form `backward`, the gradients of all inputs. */
  readonly backward?: boolean;
  /** Also the form `backward_fixed`, without gradients of inputs that all tokens share. */
  readonly fixedShared?: boolean;
  /** The forward keeps the states before each piece of so many tokens for the gradient; null: none. */
  readonly cacheStates?: number | null;
  /** Also the forms `local` and `join`, the forward in two parts. */
  readonly overlap?: boolean;
  /** Told every program on its way; for `dump` and goldens. */
  readonly watch?: Watch;
}

export interface Watch {
  readonly tensor?: (form: string | null) => Observer<Program>;
  readonly tile?: (form: string, target: string) => Observer<TileProgram>;
}

export interface Compiled {
  readonly program: Program;
  /** The program as scans; what is classified and sharded. */
  readonly scans: Program;
  readonly sharded: Sharded;
  readonly manifest: Manifest;
  readonly files: Files;
  readonly notes: readonly Note[];
}

/** All attentions of a file, checked. Dims may be open. */
export function check(
  source: Source,
  options: Pick<CompileOptions, "dims" | "dtype">,
): Outcome<readonly CheckedAttention[]> {
  const parsed = parseSource(source);
  if (parsed.value === null) return { value: null, diagnostics: parsed.diagnostics };
  const checked = checkFile(parsed.value, source, options);
  const diagnostics = [...parsed.diagnostics, ...checked.diagnostics];
  return { value: checked.value?.attentions ?? null, diagnostics };
}

/** What no target can compute of a checked attention, whatever its sizes: transitions that are not linear, and the like. */
export function limitationsOf({ program }: CheckedAttention): Diagnostic[] {
  const report = new Report();
  toScans(program, report);
  return firstOfEach(report.limitations);
}

/** One attention as an artifact for the given targets; the reference target is always in it. */
export function compile(source: Source, options: CompileOptions): Outcome<Compiled> {
  const checked = check(source, options);
  const failed = (more: readonly Diagnostic[]): Outcome<Compiled> => ({
    value: null,
    diagnostics: [...checked.diagnostics, ...more],
  });
  if (checked.value === null || hasErrors(checked.diagnostics)) return failed([]);
  const picked = pick(checked.value, options);
  if ("code" in picked) return failed([picked]);
  const open = openDims(picked);
  if (open.length > 0) return failed(open);
  const report = new Report();
  const { program } = picked;
  const scans = toScans(program, report, options.watch?.tensor?.(null));
  if (report.limitations.length > 0) return failed(firstOfEach(report.limitations));
  const sharded = withSegments(
    withOverlap(
      withGradients(toForms(scans, options.cacheStates ?? null), options),
      scans,
      options,
    ),
    scans,
    options,
  );
  const loops: Form[] = [];
  for (const form of sharded.forms) {
    const watch = options.watch?.tensor?.(form.name);
    watch?.("shard", form.program, true);
    const forward = loops.find(({ name }) => name === "forward")?.program;
    const gradient = loops.find(({ name }) => name === "backward")?.program;
    const own =
      form.name === "backward"
        ? toBackwardLoops(forward!, report, watch)
        : form.level !== undefined
          ? toGradientSummary(gradient!, sharded, form.level)
          : form.name === "backward_fixed"
            ? toFixedLoops(gradient!, report)
            : (form.name === "step" ? toStep : toLoops)(form.program, report, watch);
    loops.push({ ...form, program: own });
  }
  if (report.limitations.length > 0) return failed(firstOfEach(report.limitations));
  const apart = columnsApart(loops.find(({ name }) => name === "forward")!.program);
  const files: Files = new Map();
  const targets = [referenceCode(program, sharded, files)];
  const noteOf = notesOf(source);
  for (const target of options.targets) {
    const wanted = loops.filter(({ segments }) => target.segments || !segments);
    const intraNames = new IntraNames();
    const emitted = wanted.map((form) => {
      // No name of a shader's begins with two underscores.
      const name = `${program.name.replace(/^_+/, "")}_${form.name}`;
      const watch = options.watch?.tile?.(form.name, target.name);
      const lower = (tier: Target) => {
        const passes: string[] = ["right-product", "chunk", "fuse"];
        const lowered = toKernels(
          form.program,
          tier,
          { name, noteOf, intraNames },
          report,
          (pass, p, changed) => {
            if (changed) passes.push(pass);
            watch?.(pass, p, changed);
          },
        );
        return { tier, lowered, passes };
      };
      const isGradient = form.name.startsWith("backward") || form.name.startsWith("summary_bwd");
      const variants = target.variants?.(form.program, isGradient ? apart : null) ?? [target];
      let made: ReturnType<typeof lower> | null = null;
      for (const variant of variants) {
        made = lower(variant);
        if (made.lowered.program.kernels.every((kernel) => variant.fits?.(kernel) ?? true)) break;
      }
      const { tier, lowered, passes } = made!;
      // What does not fit is not legal, so it is not printed.
      const legal = report.limitations.length === 0 ? lowered.program.kernels : [];
      const kernels = legal.map((kernel) => ({
        kernel,
        emitted: tier.emit(kernel, { source: shownName(source.name), passes }),
      }));
      const { workspaces, shares } = lowered;
      return { form: form.name, kernels, workspaces, shares };
    });
    targets.push(targetCode(target, emitted, files));
  }
  if (report.limitations.length > 0) return failed(firstOfEach(report.limitations));
  const manifest = { ...manifestOf(program, sharded, shownName(source.name)), targets };
  const value = { program, scans, sharded, manifest, files, notes: report.notes };
  return { value, diagnostics: checked.diagnostics };
}

function withGradients(sharded: Sharded, { backward, fixedShared }: CompileOptions): Sharded {
  if (!backward) return sharded;
  const [forward] = sharded.forms as [Form];
  const program = toGradient(forward.program);
  const forms: Form[] = [...sharded.forms, { name: "backward", program }];
  const fixed = withoutShared(program);
  if (fixedShared && fixed !== program) forms.push({ name: "backward_fixed", program: fixed });
  for (const level of byLevel(sharded.states).keys()) {
    const summary = toGradientSummary(program, sharded, level);
    forms.push({ name: formAt("summary_bwd", level), program: summary, level });
  }
  return { ...sharded, forms };
}

function withOverlap(sharded: Sharded, scans: Program, { overlap }: CompileOptions): Sharded {
  if (!overlap) return sharded;
  const more = overlapForms(scans, sharded.states);
  for (const { program } of more) verifyTensor(program, "overlap");
  return { ...sharded, forms: [...sharded.forms, ...more] };
}

/** With what hands on states from segment to segment, where a target cuts sequences into those. */
function withSegments(sharded: Sharded, scans: Program, options: CompileOptions): Sharded {
  const { states, forms } = sharded;
  const isAsked = options.targets.some(({ segments }) => segments);
  // What is kept of states lies by sequences, not by segments.
  if (!isAsked || (options.cacheStates ?? null) !== null || !canSegment(scans, states)) {
    return sharded;
  }
  const more = segmentForms(scans, states, options.backward ?? false);
  for (const { program } of more) verifyTensor(program, "segment");
  return { states, forms: [...forms, ...more] };
}

/** The attention that `entry` names, or the only one. */
function pick(
  attentions: readonly CheckedAttention[],
  options: CompileOptions,
): CheckedAttention | Diagnostic {
  const names = attentions.map((attention) => attention.name);
  const found =
    options.entry === null
      ? attentions.length === 1
        ? attentions[0]
        : undefined
      : attentions.find((attention) => attention.name === options.entry);
  if (found) return found;
  const has = names.length === 0 ? "no attention" : names.join(", ");
  return {
    code: options.entry === null ? "no-entry" : "unknown-entry",
    severity: "error",
    message:
      options.entry === null
        ? `the file defines ${has}; it is not clear which one is meant`
        : `the file has no attention \`${options.entry}\`; it defines ${has}`,
    labels: attentions.map(({ span, name }) => ({ span, text: `\`${name}\`` })),
    help: names.length > 0 ? `name one: --entry ${names[0]}` : null,
  };
}

/** Dims whose size nobody gave. */
function openDims(attention: CheckedAttention): Diagnostic[] {
  const open = [...attention.program.dims].filter(([, size]) => size === null);
  return open.map(([name]) => ({
    code: "missing-dim",
    severity: "error",
    message: `the size of ${name} is not given`,
    labels: [{ span: attention.span, text: `\`${attention.name}\` needs it` }],
    help: `give it on the command line: --dim ${name}=64`,
  }));
}

/** Several forms, and several ops of a statement, meet the same limit: it is said once. */
function firstOfEach(limitations: readonly Diagnostic[]): Diagnostic[] {
  const seen = new Set<string>();
  return limitations.filter(({ code, message, labels: [at] }) => {
    // One statement breaks the rule once, however many ops it became; a size limit has no place.
    const key = `${code} ${at && at.span.end > 0 ? at.span.start : message}`;
    return !seen.has(key) && seen.add(key);
  });
}

/** A longer line of the text is cut in notes, which stand above every statement that it became. */
const longestNote = 160;

/** "retention.lasp:6  return (scores @ v) / sqrt(K)" for the line an op came from. */
export function notesOf(source: Source): (op: Op) => string | null {
  const name = shownName(source.name);
  const starts = lineStarts(source.text);
  return ({ span }) => {
    if (span.end === 0) return null;
    const { line } = positionOf(source.text, span.start, starts);
    const text = lineAt(source.text, span.start, starts);
    return `${name}:${line}  ${text.length > longestNote ? `${text.slice(0, longestNote)} ...` : text}`;
  };
}

/** The file's own name as other files may show it: on one line, whatever it holds. */
function shownName(path: string): string {
  return onOneLine(path.slice(Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1));
}
