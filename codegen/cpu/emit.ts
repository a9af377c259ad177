/**
 * Tile kernel to LLVM IR, built with IRBuilder.
 *
 *   void entry(i8** buffers, i64* scalars, float* scratch, i64 begin, i64 end)
 *
 * runs the grid points [begin, end), numbered with the last axis fastest: ((b H + h) n1 + i1) n2 + i2.
 * The caller cuts the grid over threads, each with a scratch memory of its own that holds all storages
 * of a point. Every statement is loops over vectors of 16 floats; helpers/*.ll are linked in and inlined.
 */
import type { Kernel, Loop, Stmt } from "../../compiler/tile/ir.ts";
import type { EmitContext, EmittedKernel } from "../../compiler/tile/target.ts";
import { CompilerBug, assertNever } from "../../compiler/support/never.ts";
import { lineComment } from "../../compiler/support/text.ts";
import { load, store } from "./buffers.ts";
import type { Llvm } from "./builder.ts";
import { KernelContext, type Layout } from "./context.ts";
import { emitCumSum, emitReduce, emitRotateHalf, emitSolve } from "./folds.ts";
import { functionOf } from "./functions.ts";
import { emitMap } from "./map.ts";
import { emitCopy, emitMma } from "./products.ts";

/** The kernel's module as text, without the helpers it calls. */
export function emitCpu(
  llvm: Llvm,
  kernel: Kernel,
  { source, passes }: EmitContext,
): EmittedKernel {
  const context = new KernelContext(llvm, kernel);
  const writer = new StatementWriter(context);
  context.forEachPoint(() => writer.statements(kernel.body));
  const body = writer.withNotes(withoutModuleHead(context.b.print()));
  const head = [
    lineComment(";", `${kernel.name}, from ${source}, for the CPU`),
    `; passes: ${passes.join(", ")}`,
    ...storageLines(kernel, context.layout),
  ];
  return {
    file: `${kernel.name}.ll`,
    entry: kernel.name,
    text: `${head.join("\n")}\n\n${body}`,
    scalars: context.scalars,
    sharedBytes: context.layout.sizeBytes,
    bundles: [],
  };
}

/** "; scratch + 4096: k: f32[64, 64], 16384 B" */
function storageLines(kernel: Kernel, layout: Layout): string[] {
  return kernel.storages.flatMap(({ id, name, shape }) => {
    const offset = layout.offsets.get(id);
    if (offset === undefined) return [];
    const sizeBytes = shape.reduce((product, size) => product * size, 4);
    return [`; scratch + ${offset}: ${name}: f32[${shape.join(", ")}], ${sizeBytes} B`];
  });
}

/** LLVM's own first lines name the module once more. */
function withoutModuleHead(text: string): string {
  return text.replace(/^; ModuleID = .*\n/, "").replace(/^source_filename = .*\n+/, "");
}

class StatementWriter {
  private readonly context: KernelContext;
  /** What is said above a block, by the block's name. */
  private readonly notes = new Map<string, string>();
  private lastNote: string | null = null;

  constructor(context: KernelContext) {
    this.context = context;
  }

  statements(stmts: readonly Stmt[]): void {
    for (const stmt of stmts) {
      this.note(stmt);
      const own = functionOf(this.context.kernel, stmt);
      if (own === null) this.statement(stmt);
      else this.context.callFunction(own, () => this.statement(stmt));
    }
  }

  /** IRBuilder writes no comments: a line of source starts a block, and is put above it afterwards. */
  private note({ note }: Stmt): void {
    if (note === null || note === this.lastNote) return;
    this.lastNote = note;
    const name = `part${this.notes.size + 1}`;
    this.notes.set(name, note);
    this.context.b.startBlock(name);
  }

  withNotes(text: string): string {
    return text.replace(/^(part\d+):/gm, (label, name: string) => {
      const note = this.notes.get(name);
      return note === undefined ? label : `${lineComment(";", note)}\n${label}`;
    });
  }

  private statement(stmt: Stmt): void {
    const { context } = this;
    switch (stmt.kind) {
      case "load":
      case "copy-async":
        return load(context, stmt.dst, stmt.view);
      case "store":
        return store(context, stmt.src, stmt.view);
      case "copy":
        return emitCopy(context, stmt);
      case "map":
        return emitMap(context, stmt);
      case "mma":
        return emitMma(context, stmt);
      case "reduce":
        return emitReduce(context, stmt);
      case "cumsum":
        return emitCumSum(context, stmt);
      case "solve":
        return emitSolve(context, stmt);
      case "rotate-half":
        return emitRotateHalf(context, stmt);
      case "loop":
        return this.loop(stmt);
      case "wait":
      case "barrier":
      case "signal":
      case "await":
        // One thread runs a grid point: copies are done when they are started.
        return;
      case "invert":
      case "mma-parts":
      case "fold":
      case "join":
        throw new CompilerBug(`cpu: a target of ${stmt.kind} has tensor cores`);
      default:
        return assertNever(stmt);
    }
  }

  private loop(stmt: Loop): void {
    const { context } = this;
    const { b } = context;
    const whole = stmt.extent === "T" ? context.tokens : stmt.extent;
    const first = stmt.within === null ? 0 : context.variable(stmt.within.base);
    const extent =
      stmt.within === null ? whole : b.minimum(whole, b.add(first, stmt.within.length));
    b.loop(first, extent, stmt.step, stmt.variable, (i) => {
      let at = i;
      if (stmt.reverse) {
        const last = b.multiply(b.divide(b.subtract(extent, 1), stmt.step), stmt.step);
        at = b.subtract(b.add(last, first), i);
      }
      context.setVariable(stmt.variable, at);
      this.statements(stmt.body);
    });
  }
}
