/**
 * Tile kernel to LLVM IR, built with IRBuilder.
 *
 *   void entry(i8** buffers, i64* scalars, float* scratch, i64 begin, i64 end)
 *
 * runs the grid points [begin, end); the caller cuts the grid over threads, each with a scratch of its
 * own. All storages of a point lie in the scratch, one behind the other, 64-byte aligned, so that the
 * optimiser sees at once that they are distinct. Inner loops run along rows and vectorise.
 */
import type llvm from "llvm-bindings";
import type {
  Expr,
  Index,
  Kernel,
  Mma,
  Param,
  ReduceStmt,
  Stmt,
  Storage,
  StorageId,
  View,
  Window,
} from "../../compiler/tile/ir.ts";
import type { EmitContext, EmittedKernel } from "../../compiler/tile/target.ts";
import { Maths } from "./math.ts";

type Value = llvm.Value;

/** The kernel's module as text, without the helpers it calls. */
export function emitCpu(lib: typeof llvm, kernel: Kernel, context: EmitContext): EmittedKernel {
  const emitter = new CpuEmitter(lib, kernel);
  const body = emitter.emit();
  const head =
    `; ${kernel.name}, from ${context.source}, for the CPU\n` +
    `; passes: ${context.passes.join(", ")}\n` +
    kernel.storages
      .map((storage, i) => {
        const place = emitter.offsets[i]!;
        const size = storage.shape.reduce((product, n) => product * n, 4);
        return `; scratch[${place}]  ${storage.name}: f32[${storage.shape.join(", ")}], ${size} B\n`;
      })
      .join("");
  return {
    file: `${kernel.name}.ll`,
    entry: kernel.name,
    text: `${head}\n${body}`,
    scalars: emitter.scalars,
    sharedBytes: emitter.scratchBytes,
    bundles: [],
  };
}

class CpuEmitter {
  readonly offsets: number[] = [];
  readonly scratchBytes: number;
  readonly scalars: readonly string[];
  private readonly b: llvm.IRBuilder;
  private readonly context: llvm.LLVMContext;
  private readonly module: llvm.Module;
  private readonly fn: llvm.Function;
  private readonly maths: Maths;
  private readonly runtime = new Map<string, Value>();
  private readonly bases = new Map<string, Value>();
  private readonly variables = new Map<string, Value>();
  private readonly helpers = new Map<string, llvm.Function>();
  private scratch!: Value;
  private head!: { batch: Value; head: Value };
  private readonly lib: typeof llvm;
  private readonly kernel: Kernel;

  constructor(lib: typeof llvm, kernel: Kernel) {
    this.lib = lib;
    this.kernel = kernel;
    this.context = new lib.LLVMContext();
    this.module = new lib.Module(kernel.name, this.context);
    this.b = new lib.IRBuilder(this.context);
    this.maths = new Maths(lib, this.module, this.b);
    let floats = 0;
    for (const storage of kernel.storages) {
      this.offsets.push(floats);
      floats += Math.ceil(storage.shape.reduce((product, n) => product * n, 1) / 16) * 16;
    }
    this.scratchBytes = floats * 4;
    const heads = kernel.params.filter(({ heads }) => heads !== "H").map(({ heads }) => heads);
    this.scalars = ["B", "T", "H", "T_total", "token_offset", ...new Set(heads)];
    const { Type } = lib;
    const pointer = lib.PointerType.getUnqual(Type.getInt8PtrTy(this.context));
    const int = this.b.getInt64Ty();
    const floatPointer = Type.getFloatPtrTy(this.context);
    const type = lib.FunctionType.get(
      this.b.getVoidTy(),
      [pointer, Type.getInt64PtrTy(this.context), floatPointer, int, int],
      false,
    );
    const { ExternalLinkage } = lib.Function.LinkageTypes;
    this.fn = lib.Function.Create(type, ExternalLinkage, kernel.name, this.module);
  }

  emit(): string {
    const { b, lib, kernel } = this;
    b.SetInsertPoint(lib.BasicBlock.Create(this.context, "entry", this.fn));
    const [buffers, scalars, scratch, begin, end] = [0, 1, 2, 3, 4].map((i) => this.fn.getArg(i));
    this.scratch = scratch!;
    this.scalars.forEach((name, i) => {
      const at = b.CreateInBoundsGEP(b.getInt64Ty(), scalars!, this.int(i));
      this.runtime.set(name, b.CreateLoad(b.getInt64Ty(), at, name));
    });
    const pointers = kernel.params.map((param, i) => {
      const type = b.getInt8PtrTy();
      const at = b.CreateInBoundsGEP(type, buffers!, this.int(i));
      const raw = b.CreateLoad(type, at);
      return b.CreateBitCast(raw, lib.PointerType.getUnqual(this.elementType(param)), param.name);
    });
    this.loop(begin!, end!, 1, "point", (point) => {
      let rest = point;
      for (const axis of [...kernel.grid].reverse()) {
        const extent = axis.extent === "T" ? this.scalar("T") : this.int(axis.extent);
        const rounded = b.CreateAdd(extent, this.int(axis.step - 1));
        const steps = b.CreateSDiv(rounded, this.int(axis.step));
        const at = b.CreateSRem(rest, steps);
        this.variables.set(axis.name, b.CreateMul(at, this.int(axis.step), axis.name));
        rest = b.CreateSDiv(rest, steps);
      }
      const heads = this.scalar("H");
      this.head = { batch: b.CreateSDiv(rest, heads, "b"), head: b.CreateSRem(rest, heads, "h") };
      kernel.params.forEach((param, i) =>
        this.bases.set(param.name, this.base(param, pointers[i]!)),
      );
      this.body(kernel.body);
    });
    b.CreateRetVoid();
    if (lib.verifyModule(this.module)) throw new Error(`invalid LLVM IR:\n${this.module.print()}`);
    return this.module.print();
  }

  // --- small things -------------------------------------------------------------------------

  private int(value: number): Value {
    return this.b.getInt64(value);
  }

  private scalar(name: string): Value {
    return this.runtime.get(name)!;
  }

  private storage(id: StorageId): Storage {
    return this.kernel.storages[id]!;
  }

  private stride(id: StorageId): number {
    return this.storage(id).shape[1] ?? 1;
  }

  /** The address of element `at` of a storage. */
  private place(id: StorageId, at: Value): Value {
    const { b } = this;
    const offset = b.CreateAdd(at, this.int(this.offsets[id]!));
    return b.CreateInBoundsGEP(b.getFloatTy(), this.scratch, offset);
  }

  private element(id: StorageId, row: Value, col: Value): Value {
    const { b } = this;
    return this.place(id, b.CreateAdd(b.CreateMul(row, this.int(this.stride(id))), col));
  }

  private index({ base, offset }: Index): Value {
    const constant = this.int(offset);
    return base === null ? constant : this.b.CreateAdd(this.variables.get(base)!, constant);
  }

  /** for (i = from; i < to; i += step) body(i); nothing when from >= to. */
  private loop(from: Value, to: Value, step: number, name: string, body: (i: Value) => void): void {
    const { b, lib } = this;
    const before = b.GetInsertBlock()!;
    const block = (label: string) => lib.BasicBlock.Create(this.context, label, this.fn);
    const [inside, after] = [block(name), block(`after_${name}`)];
    b.CreateCondBr(b.CreateICmpSLT(from, to), inside, after);
    b.SetInsertPoint(inside);
    const i = b.CreatePHI(b.getInt64Ty(), 2, name);
    i.addIncoming(from, before);
    body(i);
    const next = b.CreateAdd(i, this.int(step));
    i.addIncoming(next, b.GetInsertBlock()!);
    b.CreateCondBr(b.CreateICmpSLT(next, to), inside, after);
    b.SetInsertPoint(after);
  }

  private count(size: number, name: string, body: (i: Value) => void): void {
    this.loop(this.int(0), this.int(size), 1, name, body);
  }

  private clampedRows(limit: Value, start: Value, size: number): Value {
    const { b } = this;
    const left = b.CreateSub(limit, start);
    const some = b.CreateSelect(b.CreateICmpSGT(left, this.int(0)), left, this.int(0));
    return b.CreateSelect(b.CreateICmpSLT(some, this.int(size)), some, this.int(size));
  }

  // --- buffers ------------------------------------------------------------------------------

  private elementType({ dtype }: Param): llvm.Type {
    const { b } = this;
    return dtype === "f32" ? b.getFloatTy() : dtype === "f16" ? b.getHalfTy() : b.getInt16Ty();
  }

  private colsOf(param: Param): number {
    return (param.shape[1] as number | undefined) ?? 1;
  }

  /** Where this grid point's part of a buffer begins. */
  private base(param: Param, pointer: Value): Value {
    const { b } = this;
    const { batch, head } = this.head;
    const fixed = param.shape.reduce<number>((p, n) => p * (n === "T" ? 1 : n), 1);
    const heads = this.scalar(param.heads);
    const own = b.CreateSDiv(head, b.CreateSDiv(this.scalar("H"), heads));
    let offset: Value;
    switch (param.per) {
      case "token": {
        const row = b.CreateMul(b.CreateMul(batch, this.scalar("T")), heads);
        offset = b.CreateMul(b.CreateAdd(row, own), this.int(this.colsOf(param)));
        break;
      }
      case "state":
        offset = b.CreateMul(
          b.CreateAdd(b.CreateMul(batch, this.scalar("H")), head),
          this.int(fixed),
        );
        break;
      case "head":
        offset = b.CreateMul(own, this.int(fixed));
        break;
      case "shared":
        offset = this.int(0);
        break;
    }
    return b.CreateInBoundsGEP(this.elementType(param), pointer, offset);
  }

  /** How far apart rows of a buffer lie, in elements. */
  private rowStride(param: Param): Value {
    const cols = this.int(this.colsOf(param));
    return param.per === "token" ? this.b.CreateMul(this.scalar(param.heads), cols) : cols;
  }

  private param(name: string): Param {
    return this.kernel.params.find((param) => param.name === name)!;
  }

  private bufferElement(view: View, row: Value, col: Value): Value {
    const { b } = this;
    const param = this.param(view.param);
    const at = b.CreateAdd(b.CreateMul(row, this.rowStride(param)), col);
    return b.CreateInBoundsGEP(this.elementType(param), this.bases.get(view.param)!, at);
  }

  /** The row helper that converts between a buffer's dtype and floats. */
  private rowCopy(
    param: Param,
    direction: "load" | "store",
    dst: Value,
    src: Value,
    n: Value,
  ): void {
    const { b, lib } = this;
    const stored = lib.PointerType.getUnqual(this.elementType(param));
    const floats = lib.Type.getFloatPtrTy(this.context);
    const types = direction === "load" ? [floats, stored] : [stored, floats];
    const name = `laspc_${direction}_${param.dtype}`;
    const fn = this.helper(name, [...types, b.getInt64Ty()], b.getVoidTy());
    b.CreateCall(fn, [dst, src, n]);
  }

  // --- statements ---------------------------------------------------------------------------

  private body(stmts: readonly Stmt[]): void {
    for (const stmt of stmts) this.statement(stmt);
  }

  private statement(stmt: Stmt): void {
    switch (stmt.kind) {
      case "load":
      case "copy-async":
        return this.load(stmt.dst, stmt.view);
      case "store":
        return this.store(stmt.src, stmt.view);
      case "copy":
        return this.copy(stmt.dst, stmt.src, stmt.transpose);
      case "map":
        return this.map(stmt.dst, stmt.expr);
      case "mma":
        return this.mma(stmt);
      case "reduce":
        return this.reduce(stmt);
      case "cumsum":
        return this.cumsum(stmt.dst, stmt.src, stmt.reverse);
      case "rotate-half":
        return this.rotateHalf(stmt.dst, stmt.src, stmt.width);
      case "loop":
        return this.chunkLoop(stmt);
      case "wait":
      case "barrier":
        // One thread runs a grid point: copies are done when they are started.
        return;
    }
  }

  private chunkLoop(stmt: Stmt & { kind: "loop" }): void {
    const { b } = this;
    const extent = stmt.extent === "T" ? this.scalar("T") : this.int(stmt.extent);
    this.loop(this.int(0), extent, stmt.step, stmt.variable, (i) => {
      let at = i;
      if (stmt.reverse) {
        const last = b.CreateSDiv(b.CreateSub(extent, this.int(1)), this.int(stmt.step));
        at = b.CreateSub(b.CreateMul(last, this.int(stmt.step)), i);
      }
      this.variables.set(stmt.variable, at);
      this.body(stmt.body);
    });
  }

  /** How many rows and columns of a view lie inside its buffer; columns are known now or per block. */
  private bounds(view: View, id: StorageId): { rows: Value; cols: Value } {
    const param = this.param(view.param);
    const shape = this.storage(id).shape;
    const limit = param.shape[0] === "T" ? this.scalar("T") : this.int(param.shape[0] ?? 1);
    const [cols, width] = [this.colsOf(param), shape[1] ?? 1];
    return {
      rows: this.clampedRows(limit, this.index(view.row), shape[0] ?? 1),
      cols:
        view.col.base === null
          ? this.int(Math.max(0, Math.min(cols - view.col.offset, width)))
          : this.clampedRows(this.int(cols), this.index(view.col), width),
    };
  }

  private load(dst: StorageId, view: View): void {
    const { b } = this;
    const param = this.param(view.param);
    const { shape } = this.storage(dst);
    const [size, width] = [shape[0] ?? 1, shape[1] ?? 1];
    const { rows, cols } = this.bounds(view, dst);
    const [row0, col0] = [this.index(view.row), this.index(view.col)];
    const zero = this.maths.number(0);
    this.loop(this.int(0), rows, 1, "row", (row) => {
      const from = this.bufferElement(view, b.CreateAdd(row0, row), col0);
      this.rowCopy(param, "load", this.element(dst, row, this.int(0)), from, cols);
      this.loop(cols, this.int(width), 1, "pad", (col) => {
        b.CreateStore(zero, this.element(dst, row, col));
      });
    });
    this.loop(rows, this.int(size), 1, "pad_row", (row) => {
      this.count(width, "pad", (col) => void b.CreateStore(zero, this.element(dst, row, col)));
    });
  }

  private store(src: StorageId, view: View): void {
    const { b } = this;
    const param = this.param(view.param);
    const { rows, cols } = this.bounds(view, src);
    const [row0, col0] = [this.index(view.row), this.index(view.col)];
    this.loop(this.int(0), rows, 1, "row", (row) => {
      const to = this.bufferElement(view, b.CreateAdd(row0, row), col0);
      this.rowCopy(param, "store", to, this.element(src, row, this.int(0)), cols);
    });
  }

  private windowElement(window: Window, row: Value, col: Value): Value {
    const { b } = this;
    const at = (start: Index, i: Value) => b.CreateAdd(this.index(start), i);
    return this.element(window.storage, at(window.row, row), at(window.col, col));
  }

  private copy(dst: Window, src: Window, transpose: boolean): void {
    const { b } = this;
    this.count(dst.rows, "row", (row) => {
      this.count(dst.cols, "col", (col) => {
        const from = transpose
          ? this.windowElement(src, col, row)
          : this.windowElement(src, row, col);
        b.CreateStore(b.CreateLoad(b.getFloatTy(), from), this.windowElement(dst, row, col));
      });
    });
  }

  private map(dst: StorageId, expr: Expr): void {
    const { b } = this;
    const [rows, cols] = [this.storage(dst).shape[0] ?? 1, this.storage(dst).shape[1] ?? 1];
    const isVector = this.storage(dst).shape.length === 1;
    this.count(rows, "row", (row) => {
      this.count(cols, "col", (col) => {
        const value = this.expr(expr, row, col);
        b.CreateStore(value, isVector ? this.place(dst, row) : this.element(dst, row, col));
      });
    });
  }

  private expr(expr: Expr, row: Value, col: Value): Value {
    const { b, maths } = this;
    switch (expr.kind) {
      case "const":
        return maths.number(expr.value);
      case "read": {
        const { storage } = expr;
        const at =
          expr.at === "tile"
            ? this.element(storage, row, col)
            : this.place(
                storage,
                expr.at === "scalar" ? this.int(0) : expr.at === "row" ? row : col,
              );
        return b.CreateLoad(b.getFloatTy(), at);
      }
      case "index": {
        const own = b.CreateAdd(this.index(expr.start), expr.axis === "row" ? row : col);
        const place = expr.global ? b.CreateAdd(own, this.scalar("token_offset")) : own;
        return b.CreateSIToFP(b.CreateTrunc(place, b.getInt32Ty()), b.getFloatTy());
      }
      case "inside": {
        const own = b.CreateAdd(this.index(expr.start), expr.axis === "row" ? row : col);
        const limit = expr.limit === "T" ? this.scalar("T") : this.int(expr.limit);
        return maths.flag(b.CreateICmpSLT(own, limit));
      }
      case "runtime":
        return b.CreateSIToFP(this.scalar(expr.scalar), b.getFloatTy());
      case "call":
        return maths.apply(
          expr.fn,
          expr.args.map((arg) => this.expr(arg, row, col)),
        );
    }
  }

  private helper(name: string, args: readonly llvm.Type[], result: llvm.Type): llvm.Function {
    const { lib } = this;
    const known = this.helpers.get(name);
    if (known) return known;
    const type = lib.FunctionType.get(result, [...args], false);
    const { ExternalLinkage } = lib.Function.LinkageTypes;
    const fn = lib.Function.Create(type, ExternalLinkage, name, this.module);
    this.helpers.set(name, fn);
    return fn;
  }

  /** See helpers/rows.ll: rows of dst and rhs are contiguous, lhs has any strides. */
  private mma(stmt: Mma): void {
    const { b, lib } = this;
    const pointer = lib.Type.getFloatPtrTy(this.context);
    const int = b.getInt64Ty();
    const types = [pointer, int, pointer, int, int, pointer, int, int, int, int];
    const fn = this.helper("laspc_mma", types, b.getVoidTy());
    const at = (window: Window) => this.windowElement(window, this.int(0), this.int(0));
    const stride = this.int(this.stride(stmt.lhs.storage));
    const [li, lk] = stmt.transposeLhs ? [this.int(1), stride] : [stride, this.int(1)];
    const depth = stmt.transposeLhs ? stmt.lhs.rows : stmt.lhs.cols;
    b.CreateCall(fn, [
      at(stmt.dst),
      this.int(this.stride(stmt.dst.storage)),
      at(stmt.lhs),
      li,
      lk,
      at(stmt.rhs),
      this.int(this.stride(stmt.rhs.storage)),
      this.int(stmt.dst.rows),
      this.int(stmt.dst.cols),
      this.int(depth),
    ]);
  }

  private reduce(stmt: ReduceStmt): void {
    const { b, lib } = this;
    const { shape } = this.storage(stmt.src);
    const float = b.getFloatTy();
    const alongRows = shape.length === 1 || stmt.axis === "col";
    if (alongRows) {
      const pointer = lib.Type.getFloatPtrTy(this.context);
      const fn = this.helper(`laspc_row_${stmt.fn}`, [pointer, b.getInt64Ty()], float);
      const [rows, width] = shape.length === 1 ? [1, shape[0]!] : [shape[0]!, shape[1]!];
      this.count(rows, "row", (row) => {
        const start = this.place(stmt.src, b.CreateMul(row, this.int(width)));
        b.CreateStore(b.CreateCall(fn, [start, this.int(width)]), this.place(stmt.dst, row));
      });
      return;
    }
    const [rows, cols] = shape as [number, number];
    const start = this.maths.number(stmt.fn === "sum" ? 0 : -Infinity);
    this.count(cols, "col", (col) => void b.CreateStore(start, this.place(stmt.dst, col)));
    this.count(rows, "row", (row) => {
      this.count(cols, "col", (col) => {
        const to = this.place(stmt.dst, col);
        const args = [
          b.CreateLoad(float, to),
          b.CreateLoad(float, this.element(stmt.src, row, col)),
        ];
        b.CreateStore(this.maths.apply(stmt.fn === "sum" ? "add" : "max", args), to);
      });
    });
  }

  private cumsum(dst: StorageId, src: StorageId, reverse: boolean): void {
    const { b } = this;
    const { shape } = this.storage(src);
    const [rows, cols] = [shape[0]!, shape[1] ?? 1];
    const float = b.getFloatTy();
    const at = (row: Value, col: Value) => b.CreateAdd(b.CreateMul(row, this.int(cols)), col);
    const last = this.int(rows - 1);
    this.count(cols, "col", (col) => {
      const first = at(reverse ? last : this.int(0), col);
      b.CreateStore(b.CreateLoad(float, this.place(src, first)), this.place(dst, first));
    });
    this.loop(this.int(1), this.int(rows), 1, "row", (step) => {
      const row = reverse ? b.CreateSub(last, step) : step;
      const previous = reverse ? b.CreateAdd(row, this.int(1)) : b.CreateSub(row, this.int(1));
      this.count(cols, "col", (col) => {
        const before = b.CreateLoad(float, this.place(dst, at(previous, col)));
        const own = b.CreateLoad(float, this.place(src, at(row, col)));
        b.CreateStore(b.CreateFAdd(before, own), this.place(dst, at(row, col)));
      });
    });
  }

  private rotateHalf(dst: StorageId, src: StorageId, width: number): void {
    const { b } = this;
    const [rows, cols] = this.storage(dst).shape as [number, number];
    const half = this.int(width / 2);
    const float = b.getFloatTy();
    this.count(rows, "row", (row) => {
      this.loop(this.int(0), half, 1, "col", (col) => {
        const upper = b.CreateAdd(col, half);
        const [low, high] = [this.element(src, row, col), this.element(src, row, upper)];
        const [a, c] = [b.CreateLoad(float, low), b.CreateLoad(float, high)];
        b.CreateStore(b.CreateFNeg(c), this.element(dst, row, col));
        b.CreateStore(a, this.element(dst, row, upper));
      });
      this.loop(this.int(width), this.int(cols), 1, "pad", (col) => {
        b.CreateStore(this.maths.number(0), this.element(dst, row, col));
      });
    });
  }
}
