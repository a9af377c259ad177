; Pointwise functions on 16 floats at a time, without branches; within 2 ulp where not said otherwise.
;
; exp and log after Cephes (expf, logf; www.netlib.org/cephes): range reduction by a constant in two parts,
; the first with so few bits that its multiples are exact, then a polynomial. What is built from them keeps
; its relative accuracy near zero. NaN goes through; comments behind constants give their values.

declare <16 x float> @llvm.sqrt.v16f32(<16 x float>)
declare <16 x float> @llvm.fabs.v16f32(<16 x float>)
declare <16 x float> @llvm.floor.v16f32(<16 x float>)
declare <16 x float> @llvm.copysign.v16f32(<16 x float>, <16 x float>)
declare <16 x float> @llvm.pow.v16f32(<16 x float>, <16 x float>)
declare <16 x double> @llvm.fmuladd.v16f64(<16 x double>, <16 x double>, <16 x double>)
declare <16 x float> @laspc_muladd(<16 x float>, <16 x float>, <16 x float>)
declare <16 x float> @laspc_splat(float)
declare <16 x i32> @laspc_splat_int(i32)

; One step of Horner's rule: p x + c.
define linkonce_odr hidden <16 x float> @laspc_step(<16 x float> %p, <16 x float> %x, float %c) alwaysinline {
  %all = call <16 x float> @laspc_splat(float %c)
  %next = call <16 x float> @laspc_muladd(<16 x float> %p, <16 x float> %x, <16 x float> %all)
  ret <16 x float> %next
}

; The smaller; NaN when either is.
define linkonce_odr hidden <16 x float> @laspc_least(<16 x float> %x, <16 x float> %y) alwaysinline {
  %first = fcmp ult <16 x float> %x, %y
  %least = select <16 x i1> %first, <16 x float> %x, <16 x float> %y
  %nan = fcmp uno <16 x float> %y, %y
  %result = select <16 x i1> %nan, <16 x float> %y, <16 x float> %least
  ret <16 x float> %result
}

; The larger; NaN when either is.
define linkonce_odr hidden <16 x float> @laspc_greatest(<16 x float> %x, <16 x float> %y) alwaysinline {
  %first = fcmp ugt <16 x float> %x, %y
  %greatest = select <16 x i1> %first, <16 x float> %x, <16 x float> %y
  %nan = fcmp uno <16 x float> %y, %y
  %result = select <16 x i1> %nan, <16 x float> %y, <16 x float> %greatest
  ret <16 x float> %result
}

; |x|.
define linkonce_odr hidden <16 x float> @laspc_abs(<16 x float> %x) alwaysinline {
  %y = call <16 x float> @llvm.fabs.v16f32(<16 x float> %x)
  ret <16 x float> %y
}

; The largest integer not above x.
define linkonce_odr hidden <16 x float> @laspc_floor(<16 x float> %x) alwaysinline {
  %y = call <16 x float> @llvm.floor.v16f32(<16 x float> %x)
  ret <16 x float> %y
}

; Correctly rounded.
define linkonce_odr hidden <16 x float> @laspc_sqrt(<16 x float> %x) alwaysinline {
  %y = call <16 x float> @llvm.sqrt.v16f32(<16 x float> %x)
  ret <16 x float> %y
}

; 1 / sqrt(x).
define linkonce_odr hidden <16 x float> @laspc_rsqrt(<16 x float> %x) alwaysinline {
  %one = call <16 x float> @laspc_splat(float 0x3FF0000000000000)  ; 1.0
  %root = call <16 x float> @llvm.sqrt.v16f32(<16 x float> %x)
  %y = fdiv <16 x float> %one, %root
  ret <16 x float> %y
}

; x^y, by the C library: it hardly ever runs once for each element.
define linkonce_odr hidden <16 x float> @laspc_pow(<16 x float> %x, <16 x float> %y) alwaysinline {
  %z = call <16 x float> @llvm.pow.v16f32(<16 x float> %x, <16 x float> %y)
  ret <16 x float> %z
}

; 2^n for whole n in [-126, 127].
define linkonce_odr hidden <16 x float> @laspc_power_of_two(<16 x float> %n) alwaysinline {
  %magic = call <16 x float> @laspc_splat(float 0x4168000000000000)  ; 1.5 * 2^23, which leaves n in the low bits
  %shifted = fadd <16 x float> %n, %magic
  %bits = bitcast <16 x float> %shifted to <16 x i32>
  %twenty_three = call <16 x i32> @laspc_splat_int(i32 23)
  %bias = call <16 x i32> @laspc_splat_int(i32 127)
  %biased = add <16 x i32> %bits, %bias
  %exponent = shl <16 x i32> %biased, %twenty_three
  %y = bitcast <16 x i32> %exponent to <16 x float>
  ret <16 x float> %y
}

; The whole number nearest to x log2(e), |x| < 2^21.
define linkonce_odr hidden <16 x float> @laspc_whole(<16 x float> %x) alwaysinline {
  %magic = call <16 x float> @laspc_splat(float 0x4168000000000000)  ; 12582912.0
  %log2e = call <16 x float> @laspc_splat(float 0x3FF7154760000000)  ; 1.4426950408889634
  %shifted = call <16 x float> @laspc_muladd(<16 x float> %x, <16 x float> %log2e, <16 x float> %magic)
  %n = fsub <16 x float> %shifted, %magic
  ret <16 x float> %n
}

; x - n log(2).
define linkonce_odr hidden <16 x float> @laspc_remainder(<16 x float> %x, <16 x float> %n) alwaysinline {
  %high = call <16 x float> @laspc_splat(float 0xBFE6300000000000)  ; -0.693359375
  %low = call <16 x float> @laspc_splat(float 0x3F2BD01060000000)  ; 0.00021219444
  %most = call <16 x float> @laspc_muladd(<16 x float> %n, <16 x float> %high, <16 x float> %x)
  %r = call <16 x float> @laspc_muladd(<16 x float> %n, <16 x float> %low, <16 x float> %most)
  ret <16 x float> %r
}

; exp(r) - 1 for |r| <= log(2) / 2.
define linkonce_odr hidden <16 x float> @laspc_exp_minus_one_small(<16 x float> %r) alwaysinline {
  %p0 = call <16 x float> @laspc_splat(float 0x3F2A0D2CE0000000)  ; 0.000198756915
  %p1 = call <16 x float> @laspc_step(<16 x float> %p0, <16 x float> %r, float 0x3F56E879C0000000)  ; 0.0013981999507
  %p2 = call <16 x float> @laspc_step(<16 x float> %p1, <16 x float> %r, float 0x3F81112100000000)  ; 0.0083334519073
  %p3 = call <16 x float> @laspc_step(<16 x float> %p2, <16 x float> %r, float 0x3FA5553820000000)  ; 0.041665795894
  %p4 = call <16 x float> @laspc_step(<16 x float> %p3, <16 x float> %r, float 0x3FC5555540000000)  ; 0.16666665459
  %p = call <16 x float> @laspc_step(<16 x float> %p4, <16 x float> %r, float 0x3FE0000000000000)  ; 0.50000001201
  %square = fmul <16 x float> %r, %r
  %y = call <16 x float> @laspc_muladd(<16 x float> %p, <16 x float> %square, <16 x float> %r)
  ret <16 x float> %y
}

; exp(x): 0 below -104, infinite above 89.
define linkonce_odr hidden <16 x float> @laspc_exp(<16 x float> %x) alwaysinline {
  %low = call <16 x float> @laspc_splat(float 0xC05A000000000000)  ; -104.0
  %high = call <16 x float> @laspc_splat(float 0x4056400000000000)  ; 89.0
  %under = fcmp olt <16 x float> %x, %low
  %raised = select <16 x i1> %under, <16 x float> %low, <16 x float> %x
  %over = fcmp ogt <16 x float> %raised, %high
  %bounded = select <16 x i1> %over, <16 x float> %high, <16 x float> %raised
  %n = call <16 x float> @laspc_whole(<16 x float> %bounded)
  %r = call <16 x float> @laspc_remainder(<16 x float> %bounded, <16 x float> %n)
  %series = call <16 x float> @laspc_exp_minus_one_small(<16 x float> %r)
  %one = call <16 x float> @laspc_splat(float 0x3FF0000000000000)  ; 1.0
  %y = fadd <16 x float> %series, %one
  ; 2^n in two factors, since n reaches beyond the exponents of float32.
  %magic = call <16 x float> @laspc_splat(float 0x4168000000000000)  ; 12582912.0
  %half = call <16 x float> @laspc_splat(float 0x3FE0000000000000)  ; 0.5
  %n_shifted = call <16 x float> @laspc_muladd(<16 x float> %n, <16 x float> %half, <16 x float> %magic)
  %n1 = fsub <16 x float> %n_shifted, %magic
  %n2 = fsub <16 x float> %n, %n1
  %s1 = call <16 x float> @laspc_power_of_two(<16 x float> %n1)
  %s2 = call <16 x float> @laspc_power_of_two(<16 x float> %n2)
  %y1 = fmul <16 x float> %y, %s1
  %y2 = fmul <16 x float> %y1, %s2
  ret <16 x float> %y2
}

; exp(x) - 1 for x <= 0, accurate near zero.
define linkonce_odr hidden <16 x float> @laspc_expm1(<16 x float> %x) alwaysinline {
  %low = call <16 x float> @laspc_splat(float 0xC039000000000000)  ; -25.0
  %under = fcmp olt <16 x float> %x, %low
  %bounded = select <16 x i1> %under, <16 x float> %low, <16 x float> %x
  %n = call <16 x float> @laspc_whole(<16 x float> %bounded)
  %r = call <16 x float> @laspc_remainder(<16 x float> %bounded, <16 x float> %n)
  %series = call <16 x float> @laspc_exp_minus_one_small(<16 x float> %r)
  %scale = call <16 x float> @laspc_power_of_two(<16 x float> %n)
  %one = call <16 x float> @laspc_splat(float 0x3FF0000000000000)  ; 1.0
  %rest = fsub <16 x float> %scale, %one
  %y = call <16 x float> @laspc_muladd(<16 x float> %series, <16 x float> %scale, <16 x float> %rest)
  ret <16 x float> %y
}

; log(x): -infinite at 0, NaN below.
define linkonce_odr hidden <16 x float> @laspc_log(<16 x float> %x) alwaysinline {
  ; Subnormals are scaled up first. The mantissa m lies in [sqrt(1/2), sqrt(2)).
  %smallest = call <16 x float> @laspc_splat(float 0x3810000000000000)  ; 1.1754943508222875e-38
  %tiny = fcmp olt <16 x float> %x, %smallest
  %up = call <16 x float> @laspc_splat(float 0x4160000000000000)  ; 8388608.0
  %raised = fmul <16 x float> %x, %up
  %normal = select <16 x i1> %tiny, <16 x float> %raised, <16 x float> %x
  %bits = bitcast <16 x float> %normal to <16 x i32>
  %root = call <16 x i32> @laspc_splat_int(i32 1060439283)
  %above_root = sub <16 x i32> %bits, %root
  %twenty_three = call <16 x i32> @laspc_splat_int(i32 23)
  %e_int = ashr <16 x i32> %above_root, %twenty_three
  %e_bits = shl <16 x i32> %e_int, %twenty_three
  %m_bits = sub <16 x i32> %bits, %e_bits
  %m = bitcast <16 x i32> %m_bits to <16 x float>
  %e_normal = sitofp <16 x i32> %e_int to <16 x float>
  %down = call <16 x float> @laspc_splat(float 0xC037000000000000)  ; -23.0
  %e_tiny = fadd <16 x float> %e_normal, %down
  %e = select <16 x i1> %tiny, <16 x float> %e_tiny, <16 x float> %e_normal
  %one = call <16 x float> @laspc_splat(float 0x3FF0000000000000)  ; 1.0
  %r = fsub <16 x float> %m, %one
  %p0 = call <16 x float> @laspc_splat(float 0x3FB2043760000000)  ; 0.070376836292
  %p1 = call <16 x float> @laspc_step(<16 x float> %p0, <16 x float> %r, float 0xBFBD7A3700000000)  ; -0.1151461031
  %p2 = call <16 x float> @laspc_step(<16 x float> %p1, <16 x float> %r, float 0x3FBDE4A340000000)  ; 0.1167699874
  %p3 = call <16 x float> @laspc_step(<16 x float> %p2, <16 x float> %r, float 0xBFBFCBA9E0000000)  ; -0.12420140846
  %p4 = call <16 x float> @laspc_step(<16 x float> %p3, <16 x float> %r, float 0x3FC23D37E0000000)  ; 0.14249322787
  %p5 = call <16 x float> @laspc_step(<16 x float> %p4, <16 x float> %r, float 0xBFC555CA00000000)  ; -0.16668057665
  %p6 = call <16 x float> @laspc_step(<16 x float> %p5, <16 x float> %r, float 0x3FC999D580000000)  ; 0.20000714765
  %p7 = call <16 x float> @laspc_step(<16 x float> %p6, <16 x float> %r, float 0xBFCFFFFF80000000)  ; -0.24999993993
  %p = call <16 x float> @laspc_step(<16 x float> %p7, <16 x float> %r, float 0x3FD5555540000000)  ; 0.33333331174
  %square = fmul <16 x float> %r, %r
  %cube = fmul <16 x float> %r, %square
  %minus_half = call <16 x float> @laspc_splat(float 0xBFE0000000000000)  ; -0.5
  %cubic = fmul <16 x float> %p, %cube
  %ln2_low = call <16 x float> @laspc_splat(float 0xBF2BD01060000000)  ; -0.00021219444
  %low = call <16 x float> @laspc_muladd(<16 x float> %e, <16 x float> %ln2_low, <16 x float> %cubic)
  %tail = call <16 x float> @laspc_muladd(<16 x float> %square, <16 x float> %minus_half, <16 x float> %low)
  %sum = fadd <16 x float> %r, %tail
  %ln2_high = call <16 x float> @laspc_splat(float 0x3FE6300000000000)  ; 0.693359375
  %finite = call <16 x float> @laspc_muladd(<16 x float> %e, <16 x float> %ln2_high, <16 x float> %sum)
  %infinity = call <16 x float> @laspc_splat(float 0x7FF0000000000000)  ; inf
  %is_infinite = fcmp oeq <16 x float> %x, %infinity
  %topped = select <16 x i1> %is_infinite, <16 x float> %x, <16 x float> %finite
  %zero = call <16 x float> @laspc_splat(float 0x0000000000000000)  ; 0.0
  %bottom = call <16 x float> @laspc_splat(float 0xFFF0000000000000)  ; -inf
  %is_zero = fcmp oeq <16 x float> %x, %zero
  %grounded = select <16 x i1> %is_zero, <16 x float> %bottom, <16 x float> %topped
  %nan = call <16 x float> @laspc_splat(float 0x7FF8000000000000)  ; nan
  %is_valid = fcmp oge <16 x float> %x, %zero
  %y = select <16 x i1> %is_valid, <16 x float> %grounded, <16 x float> %nan
  ret <16 x float> %y
}

; log(1 + x) for x in [0, 1]: what the rounding of 1 + x lost is added back.
define linkonce_odr hidden <16 x float> @laspc_log1p(<16 x float> %x) alwaysinline {
  %one = call <16 x float> @laspc_splat(float 0x3FF0000000000000)  ; 1.0
  %u = fadd <16 x float> %one, %x
  %gained = fsub <16 x float> %u, %one
  %lost = fsub <16 x float> %x, %gained
  %correction = fdiv <16 x float> %lost, %u
  %log = call <16 x float> @laspc_log(<16 x float> %u)
  %y = fadd <16 x float> %log, %correction
  ret <16 x float> %y
}

; 1 / (1 + exp(-x)).
define linkonce_odr hidden <16 x float> @laspc_sigmoid(<16 x float> %x) alwaysinline {
  %one = call <16 x float> @laspc_splat(float 0x3FF0000000000000)  ; 1.0
  %minus = fneg <16 x float> %x
  %e = call <16 x float> @laspc_exp(<16 x float> %minus)
  %d = fadd <16 x float> %one, %e
  %y = fdiv <16 x float> %one, %d
  ret <16 x float> %y
}

; x / (1 + exp(-x)).
define linkonce_odr hidden <16 x float> @laspc_silu(<16 x float> %x) alwaysinline {
  %one = call <16 x float> @laspc_splat(float 0x3FF0000000000000)  ; 1.0
  %minus = fneg <16 x float> %x
  %e = call <16 x float> @laspc_exp(<16 x float> %minus)
  %d = fadd <16 x float> %one, %e
  %y = fdiv <16 x float> %x, %d
  ret <16 x float> %y
}

; max(x, 0).
define linkonce_odr hidden <16 x float> @laspc_relu(<16 x float> %x) alwaysinline {
  %positive = fcmp ugt <16 x float> %x, zeroinitializer
  %y = select <16 x i1> %positive, <16 x float> %x, <16 x float> zeroinitializer
  ret <16 x float> %y
}

; log(1 + exp(x)).
define linkonce_odr hidden <16 x float> @laspc_softplus(<16 x float> %x) alwaysinline {
  %size = call <16 x float> @llvm.fabs.v16f32(<16 x float> %x)
  %minus = fneg <16 x float> %size
  %e = call <16 x float> @laspc_exp(<16 x float> %minus)
  %log = call <16 x float> @laspc_log1p(<16 x float> %e)
  %positive = call <16 x float> @laspc_relu(<16 x float> %x)
  %y = fadd <16 x float> %positive, %log
  ret <16 x float> %y
}

; x above 0, else exp(x) - 1.
define linkonce_odr hidden <16 x float> @laspc_elu(<16 x float> %x) alwaysinline {
  %positive = fcmp ogt <16 x float> %x, zeroinitializer
  %e = call <16 x float> @laspc_expm1(<16 x float> %x)
  %y = select <16 x i1> %positive, <16 x float> %x, <16 x float> %e
  ret <16 x float> %y
}

; Near zero an odd polynomial (Cephes, tanhf), else 1 - 2 / (exp(2 |x|) + 1) with the sign of x.
define linkonce_odr hidden <16 x float> @laspc_tanh(<16 x float> %x) alwaysinline {
  %square = fmul <16 x float> %x, %x
  %p0 = call <16 x float> @laspc_splat(float 0xBF775E1D40000000)  ; -0.00570498872745
  %p1 = call <16 x float> @laspc_step(<16 x float> %p0, <16 x float> %square, float 0x3F952269C0000000)  ; 0.0206390887954
  %p2 = call <16 x float> @laspc_step(<16 x float> %p1, <16 x float> %square, float 0xBFAB83C5A0000000)  ; -0.0537397155531
  %p3 = call <16 x float> @laspc_step(<16 x float> %p2, <16 x float> %square, float 0x3FC1107260000000)  ; 0.133314422036
  %p = call <16 x float> @laspc_step(<16 x float> %p3, <16 x float> %square, float 0xBFD5555320000000)  ; -0.333332819422
  %cube = fmul <16 x float> %square, %x
  %small = call <16 x float> @laspc_muladd(<16 x float> %p, <16 x float> %cube, <16 x float> %x)
  %size = call <16 x float> @llvm.fabs.v16f32(<16 x float> %x)
  %twice = fadd <16 x float> %size, %size
  %e = call <16 x float> @laspc_exp(<16 x float> %twice)
  %one = call <16 x float> @laspc_splat(float 0x3FF0000000000000)  ; 1.0
  %two = call <16 x float> @laspc_splat(float 0x4000000000000000)  ; 2.0
  %d = fadd <16 x float> %e, %one
  %q = fdiv <16 x float> %two, %d
  %large = fsub <16 x float> %one, %q
  %signed = call <16 x float> @llvm.copysign.v16f32(<16 x float> %large, <16 x float> %x)
  %limit = call <16 x float> @laspc_splat(float 0x3FE4000000000000)  ; 0.625
  %is_small = fcmp olt <16 x float> %size, %limit
  %y = select <16 x i1> %is_small, <16 x float> %small, <16 x float> %signed
  ret <16 x float> %y
}

; x Phi(x), Phi the normal distribution: erfc(z) = t exp(P(s) - z^2) with z = |x| / sqrt(2),
; t = 1 / (1 + z / 2) and s = 2.39215686 t - 1.39215686 in [-1, 1]; P interpolates in Chebyshev nodes.
; Relative accuracy 1e-6 for x above -5; below, what matters has long vanished.
define linkonce_odr hidden <16 x float> @laspc_gelu(<16 x float> %x) alwaysinline {
  %size = call <16 x float> @llvm.fabs.v16f32(<16 x float> %x)
  %farthest = call <16 x float> @laspc_splat(float 0x402CCCCCC0000000)  ; 14.4
  %beyond = fcmp ogt <16 x float> %size, %farthest
  %bounded_x = select <16 x i1> %beyond, <16 x float> %farthest, <16 x float> %size
  %root_half = call <16 x float> @laspc_splat(float 0x3FE6A09E60000000)  ; 0.7071067811865476
  %z = fmul <16 x float> %bounded_x, %root_half
  %one = call <16 x float> @laspc_splat(float 0x3FF0000000000000)  ; 1.0
  %half = call <16 x float> @laspc_splat(float 0x3FE0000000000000)  ; 0.5
  %d = call <16 x float> @laspc_muladd(<16 x float> %z, <16 x float> %half, <16 x float> %one)
  %t = fdiv <16 x float> %one, %d
  %scale = call <16 x float> @laspc_splat(float 0x4003232320000000)  ; 2.392156862745098
  %shift = call <16 x float> @laspc_splat(float 0xBFF6464640000000)  ; -1.392156862745098
  %s = call <16 x float> @laspc_muladd(<16 x float> %t, <16 x float> %scale, <16 x float> %shift)
  %p0 = call <16 x float> @laspc_splat(float 0xBED55F9F20000000)  ; -5.0958447570792484e-06
  %p1 = call <16 x float> @laspc_step(<16 x float> %p0, <16 x float> %s, float 0xBEF877C700000000)  ; -2.3334389846922933e-05
  %p2 = call <16 x float> @laspc_step(<16 x float> %p1, <16 x float> %s, float 0x3F12A628A0000000)  ; 7.114050577087028e-05
  %p3 = call <16 x float> @laspc_step(<16 x float> %p2, <16 x float> %s, float 0x3F212BFD60000000)  ; 0.00013101069775586893
  %p4 = call <16 x float> @laspc_step(<16 x float> %p3, <16 x float> %s, float 0xBF427A47C0000000)  ; -0.0005638933394063628
  %p5 = call <16 x float> @laspc_step(<16 x float> %p4, <16 x float> %s, float 0xBF31970880000000)  ; -0.0002684016960004243
  %p6 = call <16 x float> @laspc_step(<16 x float> %p5, <16 x float> %s, float 0x3F6EF73840000000)  ; 0.003779993041858401
  %p7 = call <16 x float> @laspc_step(<16 x float> %p6, <16 x float> %s, float 0xBF525E42E0000000)  ; -0.0011211064725027066
  %p8 = call <16 x float> @laspc_step(<16 x float> %p7, <16 x float> %s, float 0xBF9E763FE0000000)  ; -0.02974796059564438
  %p9 = call <16 x float> @laspc_step(<16 x float> %p8, <16 x float> %s, float 0x3F90870F60000000)  ; 0.01614021269262142
  %p10 = call <16 x float> @laspc_step(<16 x float> %p9, <16 x float> %s, float 0x3FE24E6AE0000000)  ; 0.5720724760391274
  %p = call <16 x float> @laspc_step(<16 x float> %p10, <16 x float> %s, float 0xBFE1EF5460000000)  ; -0.5604650430534174
  ; z^2 from x itself, whose square carries less rounding than that of z.
  %minus_half = call <16 x float> @laspc_splat(float 0xBFE0000000000000)  ; -0.5
  %half_x = fmul <16 x float> %bounded_x, %minus_half
  %exponent = call <16 x float> @laspc_muladd(<16 x float> %half_x, <16 x float> %bounded_x, <16 x float> %p)
  %e = call <16 x float> @laspc_exp(<16 x float> %exponent)
  %te = fmul <16 x float> %t, %e
  %tail = fmul <16 x float> %te, %half
  %rest = fsub <16 x float> %one, %tail
  %positive = fcmp ogt <16 x float> %x, zeroinitializer
  %phi = select <16 x i1> %positive, <16 x float> %rest, <16 x float> %tail
  %y = fmul <16 x float> %x, %phi
  ret <16 x float> %y
}

; sin(x + quarter pi / 2), in float64 up to the polynomial, so that large angles keep their place on the circle:
; x = n pi/2 + r, |r| <= pi/4, pi/2 in two parts (fdlibm). Absolute error 2e-7; NaN for |x| >= 2^30.
define linkonce_odr hidden <16 x float> @laspc_turned_sin(<16 x float> %x, i32 %quarter) alwaysinline {
  %wide = fpext <16 x float> %x to <16 x double>
  %two_over_pi_one = insertelement <16 x double> undef, double 0x3FE45F306DC9C883, i32 0  ; 2 / pi
  %two_over_pi = shufflevector <16 x double> %two_over_pi_one, <16 x double> undef, <16 x i32> zeroinitializer
  %magic_one = insertelement <16 x double> undef, double 0x4338000000000000, i32 0  ; 1.5 * 2^52
  %magic = shufflevector <16 x double> %magic_one, <16 x double> undef, <16 x i32> zeroinitializer
  %high_one = insertelement <16 x double> undef, double 0xBFF921FB54400000, i32 0  ; -pi / 2
  %high = shufflevector <16 x double> %high_one, <16 x double> undef, <16 x i32> zeroinitializer
  %low_one = insertelement <16 x double> undef, double 0xBDD0B4611A626331, i32 0  ; what it lacks
  %low = shufflevector <16 x double> %low_one, <16 x double> undef, <16 x i32> zeroinitializer
  %shifted = call <16 x double> @llvm.fmuladd.v16f64(<16 x double> %wide, <16 x double> %two_over_pi, <16 x double> %magic)
  %n = fsub <16 x double> %shifted, %magic
  %most = call <16 x double> @llvm.fmuladd.v16f64(<16 x double> %n, <16 x double> %high, <16 x double> %wide)
  %rest = call <16 x double> @llvm.fmuladd.v16f64(<16 x double> %n, <16 x double> %low, <16 x double> %most)
  %r = fptrunc <16 x double> %rest to <16 x float>
  %bits = bitcast <16 x double> %shifted to <16 x i64>
  %n_int = trunc <16 x i64> %bits to <16 x i32>
  %turn = call <16 x i32> @laspc_splat_int(i32 %quarter)
  %q = add <16 x i32> %n_int, %turn
  %one_int = call <16 x i32> @laspc_splat_int(i32 1)
  %two_int = call <16 x i32> @laspc_splat_int(i32 2)
  %thirty = call <16 x i32> @laspc_splat_int(i32 30)
  %square = fmul <16 x float> %r, %r
  %sp0 = call <16 x float> @laspc_splat(float 0xBF29943F20000000)  ; -0.00019515295891
  %sp1 = call <16 x float> @laspc_step(<16 x float> %sp0, <16 x float> %square, float 0x3F811073C0000000)  ; 0.0083321608736
  %sp = call <16 x float> @laspc_step(<16 x float> %sp1, <16 x float> %square, float 0xBFC5555460000000)  ; -0.16666654611
  %cube = fmul <16 x float> %square, %r
  %sine = call <16 x float> @laspc_muladd(<16 x float> %sp, <16 x float> %cube, <16 x float> %r)
  %cp0 = call <16 x float> @laspc_splat(float 0x3EF99EB9C0000000)  ; 2.443315711809948e-05
  %cp1 = call <16 x float> @laspc_step(<16 x float> %cp0, <16 x float> %square, float 0xBF56C0C340000000)  ; -0.001388731625493765
  %cp2 = call <16 x float> @laspc_step(<16 x float> %cp1, <16 x float> %square, float 0x3FA55554A0000000)  ; 0.04166664568298827
  %cp = call <16 x float> @laspc_step(<16 x float> %cp2, <16 x float> %square, float 0xBFE0000000000000)  ; -0.5
  %one = call <16 x float> @laspc_splat(float 0x3FF0000000000000)  ; 1.0
  %cosine = call <16 x float> @laspc_muladd(<16 x float> %cp, <16 x float> %square, <16 x float> %one)
  %odd_bit = and <16 x i32> %q, %one_int
  %odd = icmp ne <16 x i32> %odd_bit, zeroinitializer
  %size = select <16 x i1> %odd, <16 x float> %cosine, <16 x float> %sine
  %sign_bit = and <16 x i32> %q, %two_int
  %sign = shl <16 x i32> %sign_bit, %thirty
  %size_bits = bitcast <16 x float> %size to <16 x i32>
  %signed = xor <16 x i32> %size_bits, %sign
  %y = bitcast <16 x i32> %signed to <16 x float>
  %distance = call <16 x float> @llvm.fabs.v16f32(<16 x float> %x)
  %limit = call <16 x float> @laspc_splat(float 0x41D0000000000000)  ; 1073741824.0
  %is_near = fcmp olt <16 x float> %distance, %limit
  %nan = call <16 x float> @laspc_splat(float 0x7FF8000000000000)  ; nan
  %result = select <16 x i1> %is_near, <16 x float> %y, <16 x float> %nan
  ret <16 x float> %result
}

; sin(x).
define linkonce_odr hidden <16 x float> @laspc_sin(<16 x float> %x) alwaysinline {
  %y = call <16 x float> @laspc_turned_sin(<16 x float> %x, i32 0)
  ret <16 x float> %y
}

; cos(x).
define linkonce_odr hidden <16 x float> @laspc_cos(<16 x float> %x) alwaysinline {
  %y = call <16 x float> @laspc_turned_sin(<16 x float> %x, i32 1)
  ret <16 x float> %y
}
