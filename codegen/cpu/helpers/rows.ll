; What the cpu kernels call: products and folds on rows of 16 floats.
; Vectors are wider than most machines' registers; llc cuts them to what the machine has.
; Every row length here is a multiple of 16; dst, lhs and rhs are distinct.

declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
declare float @llvm.vector.reduce.fadd.v16f32(float, <16 x float>)
declare float @llvm.vector.reduce.fmax.v16f32(<16 x float>)

; dst[4 x 32] += lhs[4 x K] rhs[K x 32]; lhs[i, k] lies at lhs + i * li + k * lk.
define internal void @laspc_block_4x32(float* noalias %dst, i64 %ds, float* noalias %lhs, i64 %li, i64 %lk, float* noalias %rhs, i64 %rs, i64 %K) alwaysinline {
entry:
  %di0 = mul i64 %ds, 0
  %d0 = getelementptr float, float* %dst, i64 %di0
  %l0 = mul i64 %li, 0
  %q0_0 = getelementptr float, float* %d0, i64 0
  %p0_0 = bitcast float* %q0_0 to <16 x float>*
  %a0_0 = load <16 x float>, <16 x float>* %p0_0, align 64
  %q0_1 = getelementptr float, float* %d0, i64 16
  %p0_1 = bitcast float* %q0_1 to <16 x float>*
  %a0_1 = load <16 x float>, <16 x float>* %p0_1, align 64
  %di1 = mul i64 %ds, 1
  %d1 = getelementptr float, float* %dst, i64 %di1
  %l1 = mul i64 %li, 1
  %q1_0 = getelementptr float, float* %d1, i64 0
  %p1_0 = bitcast float* %q1_0 to <16 x float>*
  %a1_0 = load <16 x float>, <16 x float>* %p1_0, align 64
  %q1_1 = getelementptr float, float* %d1, i64 16
  %p1_1 = bitcast float* %q1_1 to <16 x float>*
  %a1_1 = load <16 x float>, <16 x float>* %p1_1, align 64
  %di2 = mul i64 %ds, 2
  %d2 = getelementptr float, float* %dst, i64 %di2
  %l2 = mul i64 %li, 2
  %q2_0 = getelementptr float, float* %d2, i64 0
  %p2_0 = bitcast float* %q2_0 to <16 x float>*
  %a2_0 = load <16 x float>, <16 x float>* %p2_0, align 64
  %q2_1 = getelementptr float, float* %d2, i64 16
  %p2_1 = bitcast float* %q2_1 to <16 x float>*
  %a2_1 = load <16 x float>, <16 x float>* %p2_1, align 64
  %di3 = mul i64 %ds, 3
  %d3 = getelementptr float, float* %dst, i64 %di3
  %l3 = mul i64 %li, 3
  %q3_0 = getelementptr float, float* %d3, i64 0
  %p3_0 = bitcast float* %q3_0 to <16 x float>*
  %a3_0 = load <16 x float>, <16 x float>* %p3_0, align 64
  %q3_1 = getelementptr float, float* %d3, i64 16
  %p3_1 = bitcast float* %q3_1 to <16 x float>*
  %a3_1 = load <16 x float>, <16 x float>* %p3_1, align 64
  br label %body
body:
  %k = phi i64 [ 0, %entry ], [ %k1, %body ]
  %c0_0 = phi <16 x float> [ %a0_0, %entry ], [ %n0_0, %body ]
  %c0_1 = phi <16 x float> [ %a0_1, %entry ], [ %n0_1, %body ]
  %c1_0 = phi <16 x float> [ %a1_0, %entry ], [ %n1_0, %body ]
  %c1_1 = phi <16 x float> [ %a1_1, %entry ], [ %n1_1, %body ]
  %c2_0 = phi <16 x float> [ %a2_0, %entry ], [ %n2_0, %body ]
  %c2_1 = phi <16 x float> [ %a2_1, %entry ], [ %n2_1, %body ]
  %c3_0 = phi <16 x float> [ %a3_0, %entry ], [ %n3_0, %body ]
  %c3_1 = phi <16 x float> [ %a3_1, %entry ], [ %n3_1, %body ]
  %ro = mul i64 %k, %rs
  %r = getelementptr float, float* %rhs, i64 %ro
  %rq0 = getelementptr float, float* %r, i64 0
  %rp0 = bitcast float* %rq0 to <16 x float>*
  %b0 = load <16 x float>, <16 x float>* %rp0, align 64
  %rq1 = getelementptr float, float* %r, i64 16
  %rp1 = bitcast float* %rq1 to <16 x float>*
  %b1 = load <16 x float>, <16 x float>* %rp1, align 64
  %lo = mul i64 %k, %lk
  %o0 = add i64 %lo, %l0
  %s0 = getelementptr float, float* %lhs, i64 %o0
  %x0 = load float, float* %s0, align 4
  %y0 = insertelement <16 x float> undef, float %x0, i32 0
  %z0 = shufflevector <16 x float> %y0, <16 x float> undef, <16 x i32> zeroinitializer
  %n0_0 = call <16 x float> @llvm.fma.v16f32(<16 x float> %z0, <16 x float> %b0, <16 x float> %c0_0)
  %n0_1 = call <16 x float> @llvm.fma.v16f32(<16 x float> %z0, <16 x float> %b1, <16 x float> %c0_1)
  %o1 = add i64 %lo, %l1
  %s1 = getelementptr float, float* %lhs, i64 %o1
  %x1 = load float, float* %s1, align 4
  %y1 = insertelement <16 x float> undef, float %x1, i32 0
  %z1 = shufflevector <16 x float> %y1, <16 x float> undef, <16 x i32> zeroinitializer
  %n1_0 = call <16 x float> @llvm.fma.v16f32(<16 x float> %z1, <16 x float> %b0, <16 x float> %c1_0)
  %n1_1 = call <16 x float> @llvm.fma.v16f32(<16 x float> %z1, <16 x float> %b1, <16 x float> %c1_1)
  %o2 = add i64 %lo, %l2
  %s2 = getelementptr float, float* %lhs, i64 %o2
  %x2 = load float, float* %s2, align 4
  %y2 = insertelement <16 x float> undef, float %x2, i32 0
  %z2 = shufflevector <16 x float> %y2, <16 x float> undef, <16 x i32> zeroinitializer
  %n2_0 = call <16 x float> @llvm.fma.v16f32(<16 x float> %z2, <16 x float> %b0, <16 x float> %c2_0)
  %n2_1 = call <16 x float> @llvm.fma.v16f32(<16 x float> %z2, <16 x float> %b1, <16 x float> %c2_1)
  %o3 = add i64 %lo, %l3
  %s3 = getelementptr float, float* %lhs, i64 %o3
  %x3 = load float, float* %s3, align 4
  %y3 = insertelement <16 x float> undef, float %x3, i32 0
  %z3 = shufflevector <16 x float> %y3, <16 x float> undef, <16 x i32> zeroinitializer
  %n3_0 = call <16 x float> @llvm.fma.v16f32(<16 x float> %z3, <16 x float> %b0, <16 x float> %c3_0)
  %n3_1 = call <16 x float> @llvm.fma.v16f32(<16 x float> %z3, <16 x float> %b1, <16 x float> %c3_1)
  %k1 = add nuw nsw i64 %k, 1
  %more = icmp slt i64 %k1, %K
  br i1 %more, label %body, label %done
done:
  store <16 x float> %n0_0, <16 x float>* %p0_0, align 64
  store <16 x float> %n0_1, <16 x float>* %p0_1, align 64
  store <16 x float> %n1_0, <16 x float>* %p1_0, align 64
  store <16 x float> %n1_1, <16 x float>* %p1_1, align 64
  store <16 x float> %n2_0, <16 x float>* %p2_0, align 64
  store <16 x float> %n2_1, <16 x float>* %p2_1, align 64
  store <16 x float> %n3_0, <16 x float>* %p3_0, align 64
  store <16 x float> %n3_1, <16 x float>* %p3_1, align 64
  ret void
}

; dst[4 x 16] += lhs[4 x K] rhs[K x 16]; lhs[i, k] lies at lhs + i * li + k * lk.
define internal void @laspc_block_4x16(float* noalias %dst, i64 %ds, float* noalias %lhs, i64 %li, i64 %lk, float* noalias %rhs, i64 %rs, i64 %K) alwaysinline {
entry:
  %di0 = mul i64 %ds, 0
  %d0 = getelementptr float, float* %dst, i64 %di0
  %l0 = mul i64 %li, 0
  %q0_0 = getelementptr float, float* %d0, i64 0
  %p0_0 = bitcast float* %q0_0 to <16 x float>*
  %a0_0 = load <16 x float>, <16 x float>* %p0_0, align 64
  %di1 = mul i64 %ds, 1
  %d1 = getelementptr float, float* %dst, i64 %di1
  %l1 = mul i64 %li, 1
  %q1_0 = getelementptr float, float* %d1, i64 0
  %p1_0 = bitcast float* %q1_0 to <16 x float>*
  %a1_0 = load <16 x float>, <16 x float>* %p1_0, align 64
  %di2 = mul i64 %ds, 2
  %d2 = getelementptr float, float* %dst, i64 %di2
  %l2 = mul i64 %li, 2
  %q2_0 = getelementptr float, float* %d2, i64 0
  %p2_0 = bitcast float* %q2_0 to <16 x float>*
  %a2_0 = load <16 x float>, <16 x float>* %p2_0, align 64
  %di3 = mul i64 %ds, 3
  %d3 = getelementptr float, float* %dst, i64 %di3
  %l3 = mul i64 %li, 3
  %q3_0 = getelementptr float, float* %d3, i64 0
  %p3_0 = bitcast float* %q3_0 to <16 x float>*
  %a3_0 = load <16 x float>, <16 x float>* %p3_0, align 64
  br label %body
body:
  %k = phi i64 [ 0, %entry ], [ %k1, %body ]
  %c0_0 = phi <16 x float> [ %a0_0, %entry ], [ %n0_0, %body ]
  %c1_0 = phi <16 x float> [ %a1_0, %entry ], [ %n1_0, %body ]
  %c2_0 = phi <16 x float> [ %a2_0, %entry ], [ %n2_0, %body ]
  %c3_0 = phi <16 x float> [ %a3_0, %entry ], [ %n3_0, %body ]
  %ro = mul i64 %k, %rs
  %r = getelementptr float, float* %rhs, i64 %ro
  %rq0 = getelementptr float, float* %r, i64 0
  %rp0 = bitcast float* %rq0 to <16 x float>*
  %b0 = load <16 x float>, <16 x float>* %rp0, align 64
  %lo = mul i64 %k, %lk
  %o0 = add i64 %lo, %l0
  %s0 = getelementptr float, float* %lhs, i64 %o0
  %x0 = load float, float* %s0, align 4
  %y0 = insertelement <16 x float> undef, float %x0, i32 0
  %z0 = shufflevector <16 x float> %y0, <16 x float> undef, <16 x i32> zeroinitializer
  %n0_0 = call <16 x float> @llvm.fma.v16f32(<16 x float> %z0, <16 x float> %b0, <16 x float> %c0_0)
  %o1 = add i64 %lo, %l1
  %s1 = getelementptr float, float* %lhs, i64 %o1
  %x1 = load float, float* %s1, align 4
  %y1 = insertelement <16 x float> undef, float %x1, i32 0
  %z1 = shufflevector <16 x float> %y1, <16 x float> undef, <16 x i32> zeroinitializer
  %n1_0 = call <16 x float> @llvm.fma.v16f32(<16 x float> %z1, <16 x float> %b0, <16 x float> %c1_0)
  %o2 = add i64 %lo, %l2
  %s2 = getelementptr float, float* %lhs, i64 %o2
  %x2 = load float, float* %s2, align 4
  %y2 = insertelement <16 x float> undef, float %x2, i32 0
  %z2 = shufflevector <16 x float> %y2, <16 x float> undef, <16 x i32> zeroinitializer
  %n2_0 = call <16 x float> @llvm.fma.v16f32(<16 x float> %z2, <16 x float> %b0, <16 x float> %c2_0)
  %o3 = add i64 %lo, %l3
  %s3 = getelementptr float, float* %lhs, i64 %o3
  %x3 = load float, float* %s3, align 4
  %y3 = insertelement <16 x float> undef, float %x3, i32 0
  %z3 = shufflevector <16 x float> %y3, <16 x float> undef, <16 x i32> zeroinitializer
  %n3_0 = call <16 x float> @llvm.fma.v16f32(<16 x float> %z3, <16 x float> %b0, <16 x float> %c3_0)
  %k1 = add nuw nsw i64 %k, 1
  %more = icmp slt i64 %k1, %K
  br i1 %more, label %body, label %done
done:
  store <16 x float> %n0_0, <16 x float>* %p0_0, align 64
  store <16 x float> %n1_0, <16 x float>* %p1_0, align 64
  store <16 x float> %n2_0, <16 x float>* %p2_0, align 64
  store <16 x float> %n3_0, <16 x float>* %p3_0, align 64
  ret void
}

; dst[M x N] += lhs[M x K] rhs[K x N]; M a multiple of 4, N of 16, K at least 1.
define weak_odr hidden void @laspc_mma(float* noalias %dst, i64 %ds, float* noalias %lhs, i64 %li, i64 %lk, float* noalias %rhs, i64 %rs, i64 %M, i64 %N, i64 %K) noinline {
entry:
  br label %cols
cols:
  %j = phi i64 [ 0, %entry ], [ %j1, %next ]
  %left = sub i64 %N, %j
  %wide = icmp sge i64 %left, 32
  %dj = getelementptr float, float* %dst, i64 %j
  %rj = getelementptr float, float* %rhs, i64 %j
  br i1 %wide, label %rows32, label %rows16
rows32:
  %i = phi i64 [ 0, %cols ], [ %i1, %rows32 ]
  %doff = mul i64 %i, %ds
  %loff = mul i64 %i, %li
  %d = getelementptr float, float* %dj, i64 %doff
  %l = getelementptr float, float* %lhs, i64 %loff
  call void @laspc_block_4x32(float* %d, i64 %ds, float* %l, i64 %li, i64 %lk, float* %rj, i64 %rs, i64 %K)
  %i1 = add nuw nsw i64 %i, 4
  %morei = icmp slt i64 %i1, %M
  br i1 %morei, label %rows32, label %next
rows16:
  %h = phi i64 [ 0, %cols ], [ %h1, %rows16 ]
  %hdoff = mul i64 %h, %ds
  %hloff = mul i64 %h, %li
  %hd = getelementptr float, float* %dj, i64 %hdoff
  %hl = getelementptr float, float* %lhs, i64 %hloff
  call void @laspc_block_4x16(float* %hd, i64 %ds, float* %hl, i64 %li, i64 %lk, float* %rj, i64 %rs, i64 %K)
  %h1 = add nuw nsw i64 %h, 4
  %moreh = icmp slt i64 %h1, %M
  br i1 %moreh, label %rows16, label %next
next:
  %step = select i1 %wide, i64 32, i64 16
  %j1 = add nuw nsw i64 %j, %step
  %morej = icmp slt i64 %j1, %N
  br i1 %morej, label %cols, label %done
done:
  ret void
}

; The sum of n floats.
define weak_odr hidden float @laspc_row_sum(float* %p, i64 %n16) {
entry:
  br label %body
body:
  %i = phi i64 [ 0, %entry ], [ %i1, %body ]
  %a = phi <16 x float> [ zeroinitializer, %entry ], [ %n, %body ]
  %q = getelementptr float, float* %p, i64 %i
  %v = bitcast float* %q to <16 x float>*
  %x = load <16 x float>, <16 x float>* %v, align 64
  %n = fadd <16 x float> %a, %x
  %i1 = add nuw nsw i64 %i, 16
  %more = icmp slt i64 %i1, %n16
  br i1 %more, label %body, label %done
done:
  %r = call reassoc float @llvm.vector.reduce.fadd.v16f32(float -0.0, <16 x float> %n)
  ret float %r
}

; The max of n floats.
define weak_odr hidden float @laspc_row_max(float* %p, i64 %n16) {
entry:
  br label %body
body:
  %i = phi i64 [ 0, %entry ], [ %i1, %body ]
  %a = phi <16 x float> [ <float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000, float 0xFFF0000000000000>, %entry ], [ %n, %body ]
  %q = getelementptr float, float* %p, i64 %i
  %v = bitcast float* %q to <16 x float>*
  %x = load <16 x float>, <16 x float>* %v, align 64
  %c = fcmp ogt <16 x float> %x, %a
  %n = select <16 x i1> %c, <16 x float> %x, <16 x float> %a
  %i1 = add nuw nsw i64 %i, 16
  %more = icmp slt i64 %i1, %n16
  br i1 %more, label %body, label %done
done:
  %r = call float @llvm.vector.reduce.fmax.v16f32(<16 x float> %n)
  ret float %r
}
; n stored numbers to floats and back. Not inlined, so that dst and src are known to be distinct.
define weak_odr hidden void @laspc_load_f32(float* noalias %dst, float* noalias %src, i64 %n) noinline {
entry:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %body, label %done
body:
  %i = phi i64 [ 0, %entry ], [ %i1, %body ]
  %p = getelementptr inbounds float, float* %src, i64 %i
  %x = load float, float* %p, align 4
  %q = getelementptr inbounds float, float* %dst, i64 %i
  store float %x, float* %q, align 4
  %i1 = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %i1, %n
  br i1 %more, label %body, label %done
done:
  ret void
}

define weak_odr hidden void @laspc_load_f16(float* noalias %dst, half* noalias %src, i64 %n) noinline {
entry:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %body, label %done
body:
  %i = phi i64 [ 0, %entry ], [ %i1, %body ]
  %p = getelementptr inbounds half, half* %src, i64 %i
  %h = load half, half* %p, align 2
  %x = fpext half %h to float
  %q = getelementptr inbounds float, float* %dst, i64 %i
  store float %x, float* %q, align 4
  %i1 = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %i1, %n
  br i1 %more, label %body, label %done
done:
  ret void
}

define weak_odr hidden void @laspc_load_bf16(float* noalias %dst, i16* noalias %src, i64 %n) noinline {
entry:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %body, label %done
body:
  %i = phi i64 [ 0, %entry ], [ %i1, %body ]
  %p = getelementptr inbounds i16, i16* %src, i64 %i
  %h = load i16, i16* %p, align 2
  %w = zext i16 %h to i32
  %s = shl i32 %w, 16
  %x = bitcast i32 %s to float
  %q = getelementptr inbounds float, float* %dst, i64 %i
  store float %x, float* %q, align 4
  %i1 = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %i1, %n
  br i1 %more, label %body, label %done
done:
  ret void
}

define weak_odr hidden void @laspc_store_f32(float* noalias %dst, float* noalias %src, i64 %n) noinline {
  call void @laspc_load_f32(float* %dst, float* %src, i64 %n)
  ret void
}

define weak_odr hidden void @laspc_store_f16(half* noalias %dst, float* noalias %src, i64 %n) noinline {
entry:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %body, label %done
body:
  %i = phi i64 [ 0, %entry ], [ %i1, %body ]
  %p = getelementptr inbounds float, float* %src, i64 %i
  %x = load float, float* %p, align 4
  %h = fptrunc float %x to half
  %q = getelementptr inbounds half, half* %dst, i64 %i
  store half %h, half* %q, align 2
  %i1 = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %i1, %n
  br i1 %more, label %body, label %done
done:
  ret void
}

; bf16 to nearest even; NaN stays NaN.
define weak_odr hidden void @laspc_store_bf16(i16* noalias %dst, float* noalias %src, i64 %n) noinline {
entry:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %body, label %done
body:
  %i = phi i64 [ 0, %entry ], [ %i1, %body ]
  %p = getelementptr inbounds float, float* %src, i64 %i
  %x = load float, float* %p, align 4
  %bits = bitcast float %x to i32
  %high = lshr i32 %bits, 16
  %odd = and i32 %high, 1
  %bias = add i32 %odd, 32767
  %rounded = add i32 %bits, %bias
  %quiet = or i32 %bits, 4194304
  %nan = fcmp uno float %x, 0.0
  %kept = select i1 %nan, i32 %quiet, i32 %rounded
  %top = lshr i32 %kept, 16
  %h = trunc i32 %top to i16
  %q = getelementptr inbounds i16, i16* %dst, i64 %i
  store i16 %h, i16* %q, align 2
  %i1 = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %i1, %n
  br i1 %more, label %body, label %done
done:
  ret void
}
