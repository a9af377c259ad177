/** AST to tensor programs: names, shapes, dtypes. The last place a user's mistake is reported. */
import type { Diagnostic, Outcome } from "../support/diagnostic.ts";
import { diagnose } from "../support/catalogue.ts";
import type { Source, Span } from "../support/span.ts";
import type { AttentionAst, DefAst, FileAst, Ident, ParamAst, TypeAst } from "../syntax/ast.ts";
import { TensorBuilder } from "../tensor/build.ts";
import {
  type Dim,
  type Dtype,
  type Output,
  type Per,
  type Program,
  allOps,
  tokenDim,
} from "../tensor/ir.ts";
import { mostMistakes } from "../syntax/limits.ts";
import { misreadAxes } from "./axes.ts";
import { BodyChecker, type FileText, type Scope, showShape } from "./body.ts";
import { builtins } from "./functions.ts";
import { reservedDim, reservedState, reservedTensor } from "./reserved.ts";

export interface CheckOptions {
  /** Sizes of dims; those not given stay open. */
  readonly dims: Readonly<Record<string, number>>;
  /** How [T, ...] matrices and outputs without a stated dtype are stored; all else is f32. */
  readonly dtype: Dtype;
}

export interface CheckedAttention {
  readonly name: string;
  readonly program: Program;
  readonly span: Span;
}

export interface CheckedFile {
  readonly attentions: readonly CheckedAttention[];
}

/** What compiles in seconds, and within a stack: passes recurse along values that depend on one another. */
const mostOperations = 400;

/** What a result without a name is called. */
const unnamedResult = "o";

export type Report = (diagnostic: Diagnostic) => void;

/** Every attention that checks; `value` holds the good ones even when others have mistakes. */
export function checkFile(
  file: FileAst,
  source: Source,
  options: CheckOptions,
): Outcome<CheckedFile> {
  const diagnostics: Diagnostic[] = [];
  const report: Report = (diagnostic) => {
    const alike = diagnostics.filter(({ severity }) => severity === diagnostic.severity);
    if (alike.length < mostMistakes) diagnostics.push(diagnostic);
  };
  const defs = new Map<string, DefAst>();
  const seen = new Map<string, Span>();
  for (const item of file.items) {
    const first = seen.get(item.name.name);
    if (first) {
      report(
        diagnose("duplicate-name", { name: item.name.name }, [
          { span: item.name.span, text: "defined again here" },
          { span: first, text: "first defined here" },
        ]),
      );
    }
    seen.set(item.name.name, item.name.span);
    if (Object.hasOwn(builtins, item.name.name)) {
      report(
        diagnose("reserved-name", { name: item.name.name, what: `a ${item.kind}` }, [
          { span: item.name.span, text: "a built-in function has this name" },
        ]),
      );
    }
    if (item.kind === "def") defs.set(item.name.name, item);
  }
  const text: FileText = { text: source.text, broken: new Set(file.broken) };
  const attentions = file.items.flatMap((item) => {
    if (item.kind !== "attention") return [];
    const checker = new AttentionChecker(item, defs, options, report, text);
    const program = checker.run();
    return program !== null && checker.mistakes === 0
      ? [{ name: item.name.name, program, span: item.name.span }]
      : [];
  });
  return { value: { attentions }, diagnostics };
}

function isError(diagnostic: Diagnostic): boolean {
  return diagnostic.severity === "error";
}

class AttentionChecker {
  private readonly dims = new Map<string, number | "runtime" | null>([[tokenDim, "runtime"]]);
  private readonly build: TensorBuilder;
  private readonly ast: AttentionAst;
  private readonly defs: ReadonlyMap<string, DefAst>;
  private readonly options: CheckOptions;
  private readonly report: Report;
  private readonly text: FileText;
  mistakes = 0;

  constructor(
    ast: AttentionAst,
    defs: ReadonlyMap<string, DefAst>,
    options: CheckOptions,
    report: Report,
    text: FileText,
  ) {
    this.ast = ast;
    this.text = text;
    this.defs = defs;
    this.options = options;
    this.report = (diagnostic) => {
      if (isError(diagnostic)) this.mistakes++;
      report(diagnostic);
    };
    this.build = new TensorBuilder(ast.name.name, this.dims);
  }

  run(): Program | null {
    const { ast, report } = this;
    const misread = misreadAxes(ast);
    if (misread !== null) {
      report(misread);
      return null;
    }
    const scope: Scope = new Map();
    for (const param of ast.params) this.declare(param, scope);
    const results = this.results();
    const { build, defs, dims, text } = this;
    const shapeOf = (type: TypeAst) => this.shape(type);
    const body = new BodyChecker(build, defs, dims, report, shapeOf, text);
    const values = body.attention(ast, scope);
    this.checkTensorNames(scope, body.states);
    // After a mistake a name may only seem unused.
    for (const [name, entry] of this.mistakes > 0 ? [] : scope) {
      if (entry.used) continue;
      const code = entry.kind === "param" ? "unused-parameter" : "unused-value";
      report(diagnose(code, { name }, [{ span: entry.span, text: "" }]));
    }
    if (values === null) return null;
    if (values.length !== results.length) {
      const count = (n: number) => `${n} value${n === 1 ? "" : "s"}`;
      report(
        diagnose(
          "return-count",
          {
            name: ast.name.name,
            declared: count(results.length),
            returned: count(values.length),
          },
          [
            { span: values[0]?.span ?? ast.name.span, text: `${count(values.length)} here` },
            { span: ast.result.span, text: `${count(results.length)} declared` },
          ],
        ),
      );
      return null;
    }
    const outputs: Output[] = [];
    values.forEach(({ id, span }, i) => {
      const { label, shape, dtype, typeSpan } = results[i]!;
      if (id === null) return;
      const found = this.build.shapeOf(id);
      if (found.join() !== shape.join()) {
        const types = { declared: showShape(shape), found: showShape(found) };
        report(
          diagnose("return-shape", types, [
            { span, text: `has type ${types.found}` },
            { span: typeSpan, text: `declared ${types.declared}` },
          ]),
        );
      }
      outputs.push({ label, value: id, dtype, per: "token" });
    });
    if (outputs.length !== results.length) return null;
    const program = this.build.finish(outputs);
    const count = [...allOps(program.ops)].length;
    if (count <= mostOperations) return program;
    const why = `${ast.name.name} becomes ${count} operations, and ${mostOperations} are the most`;
    report(diagnose("unsupported-length", { why }, [{ span: ast.name.span, text: "" }]));
    return null;
  }

  private declare(param: ParamAst, scope: Scope): void {
    const { report } = this;
    const { name, span } = param.name;
    const complain = (code: "duplicate-name" | "reserved-name", params: Record<string, string>) =>
      report(diagnose(code, params, [{ span, text: "" }]));
    if (scope.has(name)) complain("duplicate-name", { name });
    if (name === tokenDim || Object.hasOwn(builtins, name) || this.defs.has(name)) {
      complain("reserved-name", { name, what: "a parameter" });
    }
    const shape = this.shape(param.type);
    const isToken = shape[0] === tokenDim;
    if (isToken && param.per !== null) {
      const per = param.per === "head" ? "per head" : "shared";
      report(diagnose("needless-per", { name, per }, [{ span: param.span, text: "" }]));
    }
    if (!isToken && param.per === null) {
      const type = showShape(shape);
      report(
        diagnose("missing-per", { name, type }, [{ span: param.span, text: `${type}, no T` }]),
      );
    }
    const per: Per = isToken ? "token" : (param.per ?? "head");
    const stored = isToken && shape.length === 2 ? this.options.dtype : "f32";
    const id = this.build.add(
      {
        kind: "input",
        label: name,
        per,
        dtype: param.type.dtype ?? stored,
        range: param.range && {
          low: param.range.low,
          high: param.range.high,
          lowOpen: param.range.lowOpen,
          highOpen: param.range.highOpen,
        },
      },
      { name, span: param.span },
      { shape },
    );
    scope.set(name, { kind: "param", id, span, used: false });
  }

  private results() {
    const seen = new Set<string>();
    return this.ast.result.items.map(({ name, type }) => {
      const shape = this.shape(type);
      if (shape[0] !== tokenDim) {
        this.report(
          diagnose("result-not-per-token", {}, [{ span: type.span, text: showShape(shape) }]),
        );
      }
      const label = name?.name ?? unnamedResult;
      const param = this.ast.params.find((one) => one.name.name === label);
      if (param && name) {
        this.report(
          diagnose("duplicate-name", { name: label }, [
            { span: name.span, text: "a result" },
            { span: param.name.span, text: "a parameter" },
          ]),
        );
      }
      if (seen.has(label)) {
        const span = name?.span ?? type.span;
        this.report(diagnose("duplicate-name", { name: label }, [{ span, text: "" }]));
      }
      seen.add(label);
      return { label, shape, dtype: type.dtype ?? this.options.dtype, typeSpan: type.span };
    });
  }

  /**
   * A manifest has one space of names for tensors, the compiler's own among them. Only when all of the
   * text is read is it known which those are.
   */
  private checkTensorNames(scope: Scope, states: ReadonlyMap<string, Span>): void {
    const { params, result } = this.ast;
    const named = [
      ...params.map(({ name }) => ({ ...name, what: "a parameter" })),
      ...result.items.flatMap(({ name }) => (name ? [{ ...name, what: "a result" }] : [])),
    ];
    const others = new Set([...scope.keys(), ...named.map(({ name }) => name), ...states.keys()]);
    const isDim = (name: string) => name !== tokenDim && this.dims.has(name);
    for (const { name, what, span } of named) {
      if (!isDim(name)) this.refuse(name, what, span, reservedTensor(name, others));
    }
    this.refuseDims(named.filter(({ name }) => isDim(name)));
    const isUnnamed = result.items.some(({ name }) => name === null);
    const clash = isUnnamed ? params.find(({ name }) => name.name === unnamedResult) : undefined;
    if (clash) {
      const why = "a result without a name is called so; write -> (y: [T, V])";
      this.refuse(unnamedResult, "a parameter", clash.name.span, why);
    }
    const files = new Map<string, string>();
    for (const [name, span] of states) {
      const twin = files.get(name.toLowerCase());
      const why = `files of \`${twin}\` have names that differ in case only`;
      this.refuse(name, "a state", span, reservedState(name) ?? (twin === undefined ? null : why));
      files.set(name.toLowerCase(), name);
    }
  }

  /** `K: [T, K]`, told once: whoever writes K and V in capitals means both. */
  private refuseDims(named: readonly (Ident & { readonly what: string })[]): void {
    const [first, ...others] = named;
    if (!first) return;
    const { name, what, span } = first;
    const labels = [
      { span, text: "a dim has this name" },
      ...others.map((other) => ({ span: other.span, text: "and so has this" })),
    ];
    const params = { name, what: `${what}: a dim has this name` };
    const small = named.map((one) => `\`${one.name.toLowerCase()}\``).join(", ");
    this.report(diagnose("reserved-name", params, labels, `values have small letters: ${small}`));
  }

  private refuse(name: string, what: string, span: Span, why: string | null): void {
    if (why === null) return;
    const params = { name, what: `${what}: ${why}` };
    this.report(diagnose("reserved-name", params, [{ span, text: "" }]));
  }

  /** The dims of a type, each made known to the program. */
  private shape(type: TypeAst): Dim[] {
    const dims = type.dims ?? [];
    if (dims.length > 2)
      this.report(diagnose("too-many-axes", {}, [{ span: type.span, text: "" }]));
    dims.forEach(({ value, span }, axis) => {
      if (value === tokenDim && axis > 0) {
        const isMask = dims[0]?.value === tokenDim;
        const help = isMask ? "a mask is written in the body: `causal()`, `causal_decay(g)`" : null;
        this.report(diagnose("token-axis-first", {}, [{ span, text: "" }], help));
      }
      if (typeof value !== "string" || this.dims.has(value)) return;
      this.refuse(value, "a dim", span, reservedDim(value));
      this.dims.set(
        value,
        Object.hasOwn(this.options.dims, value) ? this.options.dims[value]! : null,
      );
    });
    return dims.slice(0, 2).map((dim) => dim.value);
  }
}
