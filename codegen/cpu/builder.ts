/**
 * What the emitter writes LLVM IR through: IRBuilder with index arithmetic that folds constants, loops,
 * and calls of the helpers.
 *
 * A vector is 16 floats; its operations are IRBuilder's own or calls of helpers/*.ll, which are linked in
 * and inlined when the artifact is compiled.
 */
import type llvm from "llvm-bindings";
import { CompilerBug } from "../../compiler/support/never.ts";
import { type HelperName, helperTypes, type TypeName } from "./helpers.ts";

export type Value = llvm.Value;

/** An index or a size: a number where it is known now. */
export type Int = Value | number;

/** Floats in a vector. */
export const lanes = 16;

/** llvm-bindings, with what it cannot make itself: the type of a vector. */
export interface Llvm {
  readonly lib: typeof llvm;
  readonly context: llvm.LLVMContext;
  readonly vector: llvm.Type;
}

export class Builder {
  readonly types: Readonly<Record<TypeName, llvm.Type>>;
  readonly module: llvm.Module;
  private readonly lib: typeof llvm;
  private readonly context: llvm.LLVMContext;
  private readonly b: llvm.IRBuilder;
  private readonly helpers = new Map<string, llvm.Function>();
  /** Functions that statements call, by name. */
  private readonly own = new Map<string, llvm.Function>();
  private fn: llvm.Function | null = null;
  /** What is written now goes before this instruction; null: to the end of the block. */
  private before: llvm.Instruction | null = null;

  constructor({ lib, context, vector }: Llvm, name: string) {
    this.lib = lib;
    this.context = context;
    this.module = new lib.Module(name, context);
    this.b = new lib.IRBuilder(context);
    const { b } = this;
    const pointer = (type: llvm.Type) => lib.PointerType.getUnqual(type);
    this.types = {
      void: b.getVoidTy(),
      bool: b.getInt1Ty(),
      int: b.getInt64Ty(),
      float: b.getFloatTy(),
      vector,
      floats: pointer(b.getFloatTy()),
      halves: pointer(b.getInt16Ty()),
      ints: pointer(b.getInt64Ty()),
      buffers: pointer(b.getInt8PtrTy()),
    };
  }

  /** Opens the function that everything after is written into; gives its arguments. */
  openFunction(name: string, params: readonly (readonly [string, TypeName])[]): Value[] {
    const { lib, types } = this;
    const paramTypes = params.map(([, type]) => types[type]);
    const type = lib.FunctionType.get(types.void, paramTypes, false);
    this.fn = lib.Function.Create(
      type,
      lib.Function.LinkageTypes.ExternalLinkage,
      name,
      this.module,
    );
    this.b.SetInsertPoint(this.block("entry"));
    return params.map(([argument], i) => {
      const value = this.fn!.getArg(i);
      value.setName(argument);
      return value;
    });
  }

  closeFunction(): void {
    this.b.CreateRetVoid();
  }

  /**
   * Calls a function of the module on arrays of floats of which no two share an element. Its body is
   * written at the first call of the name.
   */
  callOwn(
    name: string,
    args: readonly (readonly [string, Value])[],
    body: (params: readonly Value[]) => void,
  ): void {
    const { b } = this;
    if (!this.own.has(name)) {
      const caller = { fn: this.fn, block: b.GetInsertBlock()! };
      const params = args.map(([param]) => [param, "floats"] as const);
      body(this.openFunction(name, params));
      this.closeFunction();
      this.own.set(name, this.fn!);
      this.fn = caller.fn;
      b.SetInsertPoint(caller.block);
    }
    const values = args.map(([, value]) => value);
    b.CreateCall(this.own.get(name)!, values);
  }

  /** A new block that what follows is written into. */
  startBlock(name: string): void {
    const block = this.block(name);
    this.b.CreateBr(block);
    this.b.SetInsertPoint(block);
  }

  /** Ends the current block; gives a way to write at its end later on. */
  leaveOpen(next: string): <T>(write: () => T) => T {
    const { b } = this;
    const block = this.block(next);
    const end = b.CreateBr(block);
    b.SetInsertPoint(block);
    return (write) => {
      const [outer, now] = [this.before, b.GetInsertBlock()!];
      this.before = end;
      b.SetInsertPoint(end);
      const result = write();
      this.before = outer;
      if (outer === null) b.SetInsertPoint(now);
      else b.SetInsertPoint(outer);
      return result;
    };
  }

  private block(name: string): llvm.BasicBlock {
    return this.lib.BasicBlock.Create(this.context, name, this.fn!);
  }

  /** A block that is named before it is its turn; `continueIn` puts it behind what is written by then. */
  private laterBlock(name: string): llvm.BasicBlock {
    return this.lib.BasicBlock.Create(this.context, name);
  }

  private continueIn(block: llvm.BasicBlock): void {
    this.fn!.addBasicBlock(block);
    this.b.SetInsertPoint(block);
  }

  // --- index arithmetic ---------------------------------------------------------------------

  value(x: Int): Value {
    return typeof x === "number" ? this.b.getInt64(x) : x;
  }

  add(x: Int, y: Int): Int {
    if (x === 0) return y;
    if (y === 0) return x;
    if (typeof x === "number" && typeof y === "number") return x + y;
    return this.b.CreateAdd(this.value(x), this.value(y));
  }

  subtract(x: Int, y: Int): Int {
    if (y === 0) return x;
    if (typeof x === "number" && typeof y === "number") return x - y;
    return this.b.CreateSub(this.value(x), this.value(y));
  }

  multiply(x: Int, y: Int, name = ""): Int {
    if (x === 0 || y === 0) return 0;
    if (x === 1) return y;
    if (y === 1) return x;
    if (typeof x === "number" && typeof y === "number") return x * y;
    return this.b.CreateMul(this.value(x), this.value(y), name);
  }

  /** Both at least 0, y above 0. */
  divide(x: Int, y: Int, name = ""): Int {
    if (y === 1) return x;
    if (typeof x === "number" && typeof y === "number") return Math.floor(x / y);
    return this.b.CreateSDiv(this.value(x), this.value(y), name);
  }

  modulo(x: Int, y: Int, name = ""): Int {
    if (typeof x === "number" && typeof y === "number") return x % y;
    return this.b.CreateSRem(this.value(x), this.value(y), name);
  }

  isBelow(x: Int, y: Int): Value {
    return this.b.CreateICmpSLT(this.value(x), this.value(y));
  }

  minimum(x: Int, y: Int): Int {
    if (typeof x === "number" && typeof y === "number") return Math.min(x, y);
    const [a, b] = [this.value(x), this.value(y)];
    return this.b.CreateSelect(this.b.CreateICmpSLT(a, b), a, b);
  }

  /** x, but not below `low` nor above `high`. */
  clamp(x: Int, low: Int, high: Int): Int {
    if (typeof x === "number" && typeof low === "number" && typeof high === "number") {
      return Math.max(low, Math.min(x, high));
    }
    const { b } = this;
    const [given, bottom, top] = [this.value(x), this.value(low), this.value(high)];
    const raised = b.CreateSelect(b.CreateICmpSLT(given, bottom), bottom, given);
    return b.CreateSelect(b.CreateICmpSGT(raised, top), top, raised);
  }

  // --- control ------------------------------------------------------------------------------

  /** for (i = from; i < to; i += step) body(i). */
  loop(from: Int, to: Int, step: number, name: string, body: (i: Int) => void): void {
    this.fold(from, to, step, name, [], (i) => {
      body(i);
      return [];
    });
  }

  /**
   * A loop that carries values; gives what the last turn left. At least one turn is made when it
   * carries anything.
   */
  fold(
    from: Int,
    to: Int,
    step: number,
    name: string,
    first: readonly Value[],
    body: (i: Int, carried: readonly Value[]) => readonly Value[],
  ): readonly Value[] {
    const { b } = this;
    const isKnown = typeof from === "number" && typeof to === "number";
    if (isKnown && from >= to) return first;
    if (isKnown && from + step >= to) return body(from, first);
    const before = b.GetInsertBlock()!;
    const inside = this.block(name);
    const after = this.laterBlock(`after_${name}`);
    const less = (x: Value) => b.CreateICmpSLT(x, this.value(to));
    if (isKnown || first.length > 0) b.CreateBr(inside);
    else b.CreateCondBr(less(this.value(from)), inside, after);
    b.SetInsertPoint(inside);
    const i = b.CreatePHI(this.types.int, 2, name);
    i.addIncoming(this.value(from), before);
    const carried = first.map((value) => {
      const phi = b.CreatePHI(value.getType(), 2);
      phi.addIncoming(value, before);
      return phi;
    });
    const results = body(i, carried);
    const next = b.CreateAdd(i, b.getInt64(step));
    const end = b.GetInsertBlock()!;
    i.addIncoming(next, end);
    carried.forEach((phi, n) => phi.addIncoming(results[n]!, end));
    b.CreateCondBr(less(next), inside, after);
    this.continueIn(after);
    return results;
  }

  choose(condition: Value, name: string, then: () => void, otherwise: () => void): void {
    const { b } = this;
    const [yes, no, after] = [name, `not_${name}`, `after_${name}`].map((label) =>
      this.laterBlock(label),
    ) as [llvm.BasicBlock, llvm.BasicBlock, llvm.BasicBlock];
    b.CreateCondBr(condition, yes, no);
    for (const [block, body] of [
      [yes, then],
      [no, otherwise],
    ] as const) {
      this.continueIn(block);
      body();
      b.CreateBr(after);
    }
    this.continueIn(after);
  }

  // --- memory -------------------------------------------------------------------------------

  /** Element `index` after a pointer to elements of `type`. */
  at(type: "float" | "half", pointer: Value, index: Int, name = ""): Value {
    if (index === 0) return pointer;
    const { b } = this;
    const element = type === "float" ? b.getFloatTy() : b.getInt16Ty();
    return b.CreateGEP(element, pointer, this.value(index), name);
  }

  /** Entry `index` of the array of run-time integers. */
  loadInt(array: Value, index: number, name: string): Value {
    const { b } = this;
    return b.CreateLoad(
      b.getInt64Ty(),
      b.CreateGEP(b.getInt64Ty(), array, b.getInt64(index)),
      name,
    );
  }

  /** Entry `index` of the array of buffers. */
  /** Entry `index` of an array of addresses, as one of bytes. */
  loadBytes(array: Value, index: number, name: string): Value {
    const { b } = this;
    const bytes = b.getInt8PtrTy();
    return b.CreateLoad(bytes, b.CreateGEP(bytes, array, b.getInt64(index)), name);
  }

  /** A 32-bit integer, widened, from an array of them. */
  loadNarrowInt(bytes: Value, index: Int): Value {
    const { b } = this;
    const narrow = b.getInt32Ty();
    const words = b.CreateBitCast(bytes, this.lib.PointerType.get(narrow, 0));
    const at = b.CreateGEP(narrow, words, this.value(index));
    return b.CreateSExt(b.CreateLoad(narrow, at), b.getInt64Ty());
  }

  loadPointer(array: Value, index: number, type: "float" | "half", name: string): Value {
    const { b } = this;
    const bytes = b.getInt8PtrTy();
    const raw = b.CreateLoad(bytes, b.CreateGEP(bytes, array, b.getInt64(index)));
    return b.CreateBitCast(raw, this.types[type === "float" ? "floats" : "halves"], name);
  }

  loadFloat(pointer: Value): Value {
    return this.b.CreateLoad(this.types.float, pointer);
  }

  storeFloat(value: Value, pointer: Value): void {
    this.b.CreateStore(value, pointer);
  }

  /** A scalar's place on the stack, which the optimiser turns into a register. */
  variable(name: string): Value {
    return this.b.CreateAlloca(this.types.float, null, name);
  }

  // --- floats and vectors -------------------------------------------------------------------

  float(x: number): Value {
    // Beyond float32 it is infinite, as on every target.
    return this.lib.ConstantFP.get(this.types.float, Math.fround(x));
  }

  /** `x` in every lane. */
  splat(x: Value | number): Value {
    return this.call("laspc_splat", typeof x === "number" ? this.float(x) : x);
  }

  toFloat(x: Int): Value {
    return this.b.CreateSIToFP(this.value(x), this.types.float);
  }

  /** 1 where x < y, else 0, as a scalar. */
  isLess(x: Int, y: Int): Value {
    const less = this.b.CreateICmpSLT(this.value(x), this.value(y));
    return this.b.CreateSelect(less, this.float(1), this.float(0));
  }

  zero(): Value {
    return this.lib.Constant.getNullValue(this.types.vector);
  }

  /** The instructions of the level below, for floats and vectors alike. */
  get instructions(): llvm.IRBuilder {
    return this.b;
  }

  call(name: HelperName, ...args: readonly Int[]): Value {
    return this.b.CreateCall(
      this.helper(name),
      args.map((arg) => this.value(arg)),
    );
  }

  private helper(name: HelperName): llvm.Function {
    const known = this.helpers.get(name);
    if (known) return known;
    const { lib, types } = this;
    const [result, ...params] = helperTypes[name];
    const type = lib.FunctionType.get(
      types[result],
      params.map((param) => types[param]),
      false,
    );
    const { ExternalLinkage } = lib.Function.LinkageTypes;
    const fn = lib.Function.Create(type, ExternalLinkage, name, this.module);
    this.helpers.set(name, fn);
    return fn;
  }

  /** The module as text. Throws when LLVM finds it malformed: a bug of the emitter. */
  print(): string {
    const text = this.module.print();
    if (this.lib.verifyModule(this.module)) throw new CompilerBug("invalid LLVM IR", text);
    return withAttributes(text);
  }
}

/** What llvm-bindings cannot say of own functions: one of a name is kept, and stays a function. */
function withAttributes(text: string): string {
  return text.replace(/^define void @(".*")\((.*)\) {$/gm, (_, name: string, params: string) => {
    const apart = params.replaceAll("float* %", "float* noalias %");
    return `define linkonce_odr hidden void @${name}(${apart}) noinline {`;
  });
}
