; Vectors of 16 floats: what every cpu kernel is made of.
; They are wider than most machines' registers; llc cuts them to what the machine has. Memory need not
; be aligned. Everything here is inlined into the kernels that call it.

declare <16 x float> @llvm.fmuladd.v16f32(<16 x float>, <16 x float>, <16 x float>)
declare float @llvm.vector.reduce.fadd.v16f32(float, <16 x float>)
declare float @llvm.vector.reduce.fmax.v16f32(<16 x float>)
declare <16 x float> @llvm.masked.load.v16f32.p0v16f32(<16 x float>*, i32, <16 x i1>, <16 x float>)
declare void @llvm.masked.store.v16f32.p0v16f32(<16 x float>, <16 x float>*, i32, <16 x i1>)

; x in every lane.
define linkonce_odr hidden <16 x float> @laspc_splat(float %x) alwaysinline {
  %one = insertelement <16 x float> undef, float %x, i32 0
  %all = shufflevector <16 x float> %one, <16 x float> undef, <16 x i32> zeroinitializer
  ret <16 x float> %all
}

define linkonce_odr hidden <16 x i32> @laspc_splat_int(i32 %x) alwaysinline {
  %one = insertelement <16 x i32> undef, i32 %x, i32 0
  %all = shufflevector <16 x i32> %one, <16 x i32> undef, <16 x i32> zeroinitializer
  ret <16 x i32> %all
}

; Lane 0.
define linkonce_odr hidden float @laspc_scalar(<16 x float> %x) alwaysinline {
  %first = extractelement <16 x float> %x, i32 0
  ret float %first
}

; 0, 1, ..., 15.
define linkonce_odr hidden <16 x float> @laspc_lanes() alwaysinline {
  ret <16 x float> <float 0.0, float 1.0, float 2.0, float 3.0, float 4.0, float 5.0, float 6.0, float 7.0, float 8.0, float 9.0, float 10.0, float 11.0, float 12.0, float 13.0, float 14.0, float 15.0>
}

; True in lanes below n; n may be negative or beyond 16.
define linkonce_odr hidden <16 x i1> @laspc_below(i64 %n) alwaysinline {
  %small = icmp slt i64 %n, 16
  %high = select i1 %small, i64 %n, i64 16
  %negative = icmp slt i64 %high, 0
  %count = select i1 %negative, i64 0, i64 %high
  %int = trunc i64 %count to i32
  %all = call <16 x i32> @laspc_splat_int(i32 %int)
  %mask = icmp ult <16 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 8, i32 9, i32 10, i32 11, i32 12, i32 13, i32 14, i32 15>, %all
  ret <16 x i1> %mask
}

; 1 in lanes below n, else 0.
define linkonce_odr hidden <16 x float> @laspc_inside(i64 %n) alwaysinline {
  %below = call <16 x i1> @laspc_below(i64 %n)
  %flags = uitofp <16 x i1> %below to <16 x float>
  ret <16 x float> %flags
}

; x y + z, in one rounding where the machine can.
define linkonce_odr hidden <16 x float> @laspc_muladd(<16 x float> %x, <16 x float> %y, <16 x float> %z) alwaysinline {
  %sum = call <16 x float> @llvm.fmuladd.v16f32(<16 x float> %x, <16 x float> %y, <16 x float> %z)
  ret <16 x float> %sum
}

; The sum of all lanes, pairwise.
define linkonce_odr hidden float @laspc_sum(<16 x float> %x) alwaysinline {
  %sum = call reassoc float @llvm.vector.reduce.fadd.v16f32(float -0.0, <16 x float> %x)
  ret float %sum
}

; The largest lane; NaN where there is one.
define linkonce_odr hidden float @laspc_largest(<16 x float> %x) alwaysinline {
  %largest = call float @llvm.vector.reduce.fmax.v16f32(<16 x float> %x)
  %nan = fcmp uno <16 x float> %x, %x
  %bits = bitcast <16 x i1> %nan to i16
  %any = icmp ne i16 %bits, 0
  %result = select i1 %any, float 0x7FF8000000000000, float %largest
  ret float %result
}

define linkonce_odr hidden <16 x float> @laspc_load(float* %at) alwaysinline {
  %from = bitcast float* %at to <16 x float>*
  %x = load <16 x float>, <16 x float>* %from, align 4
  ret <16 x float> %x
}

define linkonce_odr hidden void @laspc_store(<16 x float> %x, float* %at) alwaysinline {
  %to = bitcast float* %at to <16 x float>*
  store <16 x float> %x, <16 x float>* %to, align 4
  ret void
}

; The first n numbers, then zeros. Touches no memory beyond them.
define linkonce_odr hidden <16 x float> @laspc_load_first(float* %at, i64 %n) alwaysinline {
  %from = bitcast float* %at to <16 x float>*
  %mask = call <16 x i1> @laspc_below(i64 %n)
  %x = call <16 x float> @llvm.masked.load.v16f32.p0v16f32(<16 x float>* %from, i32 4, <16 x i1> %mask, <16 x float> zeroinitializer)
  ret <16 x float> %x
}

; Stores the first n lanes.
define linkonce_odr hidden void @laspc_store_first(<16 x float> %x, float* %at, i64 %n) alwaysinline {
  %to = bitcast float* %at to <16 x float>*
  %mask = call <16 x i1> @laspc_below(i64 %n)
  call void @llvm.masked.store.v16f32.p0v16f32(<16 x float> %x, <16 x float>* %to, i32 4, <16 x i1> %mask)
  ret void
}

; dst[4 x 4] = the transpose of src[4 x 4], rows ds and ss floats apart.
define linkonce_odr hidden void @laspc_transpose(float* %dst, i64 %ds, float* %src, i64 %ss) alwaysinline {
  %ss2 = shl i64 %ss, 1
  %ss3 = add i64 %ss2, %ss
  %ds2 = shl i64 %ds, 1
  %ds3 = add i64 %ds2, %ds
  %s1 = getelementptr float, float* %src, i64 %ss
  %s2 = getelementptr float, float* %src, i64 %ss2
  %s3 = getelementptr float, float* %src, i64 %ss3
  %v0 = bitcast float* %src to <4 x float>*
  %v1 = bitcast float* %s1 to <4 x float>*
  %v2 = bitcast float* %s2 to <4 x float>*
  %v3 = bitcast float* %s3 to <4 x float>*
  %a = load <4 x float>, <4 x float>* %v0, align 4
  %b = load <4 x float>, <4 x float>* %v1, align 4
  %c = load <4 x float>, <4 x float>* %v2, align 4
  %d = load <4 x float>, <4 x float>* %v3, align 4
  %ab01 = shufflevector <4 x float> %a, <4 x float> %b, <4 x i32> <i32 0, i32 4, i32 1, i32 5>
  %ab23 = shufflevector <4 x float> %a, <4 x float> %b, <4 x i32> <i32 2, i32 6, i32 3, i32 7>
  %cd01 = shufflevector <4 x float> %c, <4 x float> %d, <4 x i32> <i32 0, i32 4, i32 1, i32 5>
  %cd23 = shufflevector <4 x float> %c, <4 x float> %d, <4 x i32> <i32 2, i32 6, i32 3, i32 7>
  %t0 = shufflevector <4 x float> %ab01, <4 x float> %cd01, <4 x i32> <i32 0, i32 1, i32 4, i32 5>
  %t1 = shufflevector <4 x float> %ab01, <4 x float> %cd01, <4 x i32> <i32 2, i32 3, i32 6, i32 7>
  %t2 = shufflevector <4 x float> %ab23, <4 x float> %cd23, <4 x i32> <i32 0, i32 1, i32 4, i32 5>
  %t3 = shufflevector <4 x float> %ab23, <4 x float> %cd23, <4 x i32> <i32 2, i32 3, i32 6, i32 7>
  %d1 = getelementptr float, float* %dst, i64 %ds
  %d2 = getelementptr float, float* %dst, i64 %ds2
  %d3 = getelementptr float, float* %dst, i64 %ds3
  %w0 = bitcast float* %dst to <4 x float>*
  %w1 = bitcast float* %d1 to <4 x float>*
  %w2 = bitcast float* %d2 to <4 x float>*
  %w3 = bitcast float* %d3 to <4 x float>*
  store <4 x float> %t0, <4 x float>* %w0, align 4
  store <4 x float> %t1, <4 x float>* %w1, align 4
  store <4 x float> %t2, <4 x float>* %w2, align 4
  store <4 x float> %t3, <4 x float>* %w3, align 4
  ret void
}
