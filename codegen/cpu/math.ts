/**
 * Pointwise functions as LLVM IR, float32, without branches, so that loops over them vectorise.
 *
 * exp and log are polynomials after range reduction, within 2 ulp (Cephes' expf and logf, public
 * domain: www.netlib.org/cephes); what is built from them keeps its relative accuracy near zero.
 * Functions that hardly appear per element (sin, cos, tanh, pow, erf) call the C library.
 */
import type llvm from "llvm-bindings";
import type { MapFn } from "../../compiler/tensor/ir.ts";

type Value = llvm.Value;

export class Maths {
  private readonly functions = new Map<string, llvm.Function>();
  private readonly b: llvm.IRBuilder;
  private readonly module: llvm.Module;
  private readonly lib: typeof llvm;

  constructor(lib: typeof llvm, module: llvm.Module, builder: llvm.IRBuilder) {
    this.lib = lib;
    this.module = module;
    this.b = builder;
  }

  number(value: number): Value {
    const { lib, b } = this;
    const type = b.getFloatTy();
    if (Number.isNaN(value)) return lib.ConstantFP.getNaN(type);
    if (!Number.isFinite(value)) {
      const infinite = b.CreateFDiv(this.number(1), this.number(0));
      return value > 0 ? infinite : b.CreateFNeg(infinite);
    }
    return lib.ConstantFP.get(type, Math.fround(value));
  }

  /** 1.0 or 0.0 from an i1. */
  flag(condition: Value): Value {
    return this.b.CreateSelect(condition, this.number(1), this.number(0));
  }

  apply(fn: MapFn, args: readonly Value[]): Value {
    const { b } = this;
    const [x, y, z] = args as [Value, Value, Value];
    const one = this.number(1);
    switch (fn) {
      case "neg":
        return b.CreateFNeg(x);
      case "exp":
        return this.exp(x);
      case "log":
        return this.log(x);
      case "sqrt":
        return this.call("llvm.sqrt.f32", x);
      case "rsqrt":
        return b.CreateFDiv(one, this.call("llvm.sqrt.f32", x));
      case "abs":
        return this.call("llvm.fabs.f32", x);
      case "floor":
        return this.call("llvm.floor.f32", x);
      case "sin":
        return this.call("sinf", x);
      case "cos":
        return this.call("cosf", x);
      case "tanh":
        return this.call("tanhf", x);
      case "pow":
        return this.call("powf", x, y);
      case "sigmoid":
        return b.CreateFDiv(one, b.CreateFAdd(one, this.exp(b.CreateFNeg(x))));
      case "silu":
        return b.CreateFDiv(x, b.CreateFAdd(one, this.exp(b.CreateFNeg(x))));
      case "softplus": {
        const tail = this.log1p(this.exp(b.CreateFNeg(this.call("llvm.fabs.f32", x))));
        return b.CreateFAdd(this.apply("relu", [x]), tail);
      }
      case "relu":
        return b.CreateSelect(b.CreateFCmpUGT(x, this.number(0)), x, this.number(0));
      case "elu":
        return b.CreateSelect(b.CreateFCmpOGT(x, this.number(0)), x, this.expm1(x));
      case "gelu": {
        const erf = this.call("erff", b.CreateFMul(x, this.number(Math.SQRT1_2)));
        return b.CreateFMul(b.CreateFMul(x, this.number(0.5)), b.CreateFAdd(one, erf));
      }
      case "square":
        return b.CreateFMul(x, x);
      case "recip":
        return b.CreateFDiv(one, x);
      case "add":
        return b.CreateFAdd(x, y);
      case "sub":
        return b.CreateFSub(x, y);
      case "mul":
        return b.CreateFMul(x, y);
      case "div":
        return b.CreateFDiv(x, y);
      case "max":
        return b.CreateSelect(b.CreateFCmpUGT(x, y), x, y);
      case "min":
        return b.CreateSelect(b.CreateFCmpULT(x, y), x, y);
      case "lt":
        return this.flag(b.CreateFCmpOLT(x, y));
      case "le":
        return this.flag(b.CreateFCmpOLE(x, y));
      case "gt":
        return this.flag(b.CreateFCmpOGT(x, y));
      case "ge":
        return this.flag(b.CreateFCmpOGE(x, y));
      case "eq":
        return this.flag(b.CreateFCmpOEQ(x, y));
      case "select":
        return b.CreateSelect(b.CreateFCmpUNE(x, this.number(0)), y, z);
    }
  }

  private call(name: string, ...args: Value[]): Value {
    const { lib, b } = this;
    const known = this.functions.get(name);
    const float = b.getFloatTy();
    const type = lib.FunctionType.get(
      float,
      args.map(() => float),
      false,
    );
    const callee =
      known ??
      lib.Function.Create(type, lib.Function.LinkageTypes.ExternalLinkage, name, this.module);
    this.functions.set(name, callee);
    return b.CreateCall(callee, args);
  }

  private fma(x: Value, y: Value, z: Value): Value {
    return this.call("llvm.fma.f32", x, y, z);
  }

  /** Horner: ((c0 x + c1) x + c2) ... */
  private polynomial(x: Value, coefficients: readonly number[]): Value {
    const [first, ...rest] = coefficients.map((c) => this.number(c));
    return rest.reduce((sum, c) => this.fma(sum, x, c), first!);
  }

  private exp(x: Value): Value {
    const { b } = this;
    const int = b.getInt32Ty();
    // Beyond these float32 is 0 or infinite; NaN goes through both.
    const low = b.CreateSelect(b.CreateFCmpULT(x, this.number(-103)), this.number(-103), x);
    const clamped = b.CreateSelect(b.CreateFCmpUGT(low, this.number(89)), this.number(89), low);
    const n = this.call(
      "llvm.floor.f32",
      this.fma(clamped, this.number(Math.LOG2E), this.number(0.5)),
    );
    const high = this.fma(n, this.number(-0.693359375), clamped);
    const r = this.fma(n, this.number(2.1219444e-4), high);
    const p = this.polynomial(
      r,
      [
        1.98756915e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
        5.0000001201e-1,
      ],
    );
    const series = b.CreateFAdd(this.fma(p, b.CreateFMul(r, r), r), this.number(1));
    // 2^n in two factors, so that neither leaves float32 before the product does.
    const whole = b.CreateFPToSI(n, int);
    const half = b.CreateAShr(whole, b.getInt32(1));
    const power = (k: Value) =>
      b.CreateBitCast(b.CreateShl(b.CreateAdd(k, b.getInt32(127)), b.getInt32(23)), b.getFloatTy());
    const scaled = b.CreateFMul(b.CreateFMul(series, power(half)), power(b.CreateSub(whole, half)));
    return b.CreateSelect(b.CreateFCmpUNE(x, x), x, scaled);
  }

  private log(x: Value): Value {
    const { b } = this;
    const int = b.getInt32Ty();
    // Subnormals are scaled up first.
    const tiny = b.CreateFCmpOLT(x, this.number(2 ** -126));
    const normal = b.CreateSelect(tiny, b.CreateFMul(x, this.number(2 ** 23)), x);
    const bits = b.CreateBitCast(normal, int);
    const exponent = b.CreateSub(b.CreateLShr(bits, b.getInt32(23)), b.getInt32(126));
    const mantissaBits = b.CreateOr(
      b.CreateAnd(bits, b.getInt32(0x7fffff)),
      b.getInt32(0x3f000000),
    );
    const mantissa = b.CreateBitCast(mantissaBits, b.getFloatTy());
    const small = b.CreateFCmpOLT(mantissa, this.number(Math.SQRT1_2));
    const e0 = b.CreateFSub(
      b.CreateSIToFP(exponent, b.getFloatTy()),
      b.CreateSelect(tiny, this.number(23), this.number(0)),
    );
    const e = b.CreateSelect(small, b.CreateFSub(e0, this.number(1)), e0);
    const m = b.CreateFSub(
      b.CreateSelect(small, b.CreateFAdd(mantissa, mantissa), mantissa),
      this.number(1),
    );
    const z = b.CreateFMul(m, m);
    const p = this.polynomial(
      m,
      [
        7.0376836292e-2, -1.151461031e-1, 1.167699874e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
      ],
    );
    const tail = this.fma(
      e,
      this.number(-2.1219444e-4),
      this.fma(z, this.number(-0.5), b.CreateFMul(b.CreateFMul(m, z), p)),
    );
    const finite = this.fma(e, this.number(0.693359375), b.CreateFAdd(m, tail));
    const infinity = this.number(Infinity);
    const topped = b.CreateSelect(b.CreateFCmpOEQ(x, infinity), x, finite);
    const zero = b.CreateSelect(b.CreateFCmpOEQ(x, this.number(0)), b.CreateFNeg(infinity), topped);
    const valid = b.CreateFCmpOGE(x, this.number(0));
    return b.CreateSelect(valid, zero, this.number(NaN));
  }

  /** log(1 + y) for y in [0, 1], exact for tiny y: the rounding of 1 + y is divided out. */
  private log1p(y: Value): Value {
    const { b } = this;
    const u = b.CreateFAdd(this.number(1), y);
    const gained = b.CreateFSub(u, this.number(1));
    const ratio = b.CreateFDiv(b.CreateFMul(this.log(u), y), gained);
    return b.CreateSelect(b.CreateFCmpOEQ(gained, this.number(0)), y, ratio);
  }

  /** exp(x) - 1 for x <= 0, by the same trick. */
  private expm1(x: Value): Value {
    const { b } = this;
    const u = this.exp(x);
    const less = b.CreateFSub(u, this.number(1));
    const ratio = b.CreateFDiv(b.CreateFMul(less, x), this.log(u));
    const safe = b.CreateSelect(b.CreateFCmpOLT(x, this.number(-20)), less, ratio);
    return b.CreateSelect(b.CreateFCmpOEQ(less, this.number(0)), x, safe);
  }
}
