; Floats stored in 16 bits, as integers: conversions to float32 and back, to nearest even.
; Written with integer operations, so that machines without half-precision instructions run them too.

declare <16 x i16> @llvm.masked.load.v16i16.p0v16i16(<16 x i16>*, i32, <16 x i1>, <16 x i16>)
declare void @llvm.masked.store.v16i16.p0v16i16(<16 x i16>, <16 x i16>*, i32, <16 x i1>)
declare <16 x i1> @laspc_below(i64)
declare <16 x float> @laspc_splat(float)
declare <16 x i32> @laspc_splat_int(i32)

define linkonce_odr hidden <16 x float> @laspc_from_bf16(<16 x i16> %h) alwaysinline {
  %wide = zext <16 x i16> %h to <16 x i32>
  %sixteen = call <16 x i32> @laspc_splat_int(i32 16)
  %bits = shl <16 x i32> %wide, %sixteen
  %x = bitcast <16 x i32> %bits to <16 x float>
  ret <16 x float> %x
}

; Adding 0x7fff, and one more if the kept part is odd, carries exactly where rounding goes up.
define linkonce_odr hidden <16 x i16> @laspc_to_bf16(<16 x float> %x) alwaysinline {
  %bits = bitcast <16 x float> %x to <16 x i32>
  %sixteen = call <16 x i32> @laspc_splat_int(i32 16)
  %one = call <16 x i32> @laspc_splat_int(i32 1)
  %almost = call <16 x i32> @laspc_splat_int(i32 32767)
  %quiet = call <16 x i32> @laspc_splat_int(i32 4194304)
  %kept = lshr <16 x i32> %bits, %sixteen
  %odd = and <16 x i32> %kept, %one
  %bias = add <16 x i32> %odd, %almost
  %rounded = add <16 x i32> %bits, %bias
  %quieted = or <16 x i32> %bits, %quiet
  %nan = fcmp uno <16 x float> %x, %x
  %chosen = select <16 x i1> %nan, <16 x i32> %quieted, <16 x i32> %rounded
  %top = lshr <16 x i32> %chosen, %sixteen
  %h = trunc <16 x i32> %top to <16 x i16>
  ret <16 x i16> %h
}

; The exponent's bias differs by 112: shifted into place, a number is 2^112 too small, subnormals too.
define linkonce_odr hidden <16 x float> @laspc_from_f16(<16 x i16> %h) alwaysinline {
  %wide = zext <16 x i16> %h to <16 x i32>
  %magnitude_mask = call <16 x i32> @laspc_splat_int(i32 32767)
  %sign_mask = call <16 x i32> @laspc_splat_int(i32 32768)
  %thirteen = call <16 x i32> @laspc_splat_int(i32 13)
  %sixteen = call <16 x i32> @laspc_splat_int(i32 16)
  %magnitude = and <16 x i32> %wide, %magnitude_mask
  %shifted = shl <16 x i32> %magnitude, %thirteen
  %small = bitcast <16 x i32> %shifted to <16 x float>
  %power = call <16 x float> @laspc_splat(float 0x46F0000000000000)
  %scaled = fmul <16 x float> %small, %power
  %bits = bitcast <16 x float> %scaled to <16 x i32>
  ; Infinities and NaN: exponent 31 becomes 255.
  %largest = call <16 x i32> @laspc_splat_int(i32 31744)
  %special = icmp uge <16 x i32> %magnitude, %largest
  %ones = call <16 x i32> @laspc_splat_int(i32 2139095040)
  %topped = or <16 x i32> %bits, %ones
  %chosen = select <16 x i1> %special, <16 x i32> %topped, <16 x i32> %bits
  %sign = and <16 x i32> %wide, %sign_mask
  %sign_high = shl <16 x i32> %sign, %sixteen
  %signed = or <16 x i32> %chosen, %sign_high
  %x = bitcast <16 x i32> %signed to <16 x float>
  ret <16 x float> %x
}

; Normal results round by the same carry as bf16; subnormal ones by adding 0.5, whose last bit is 2^-24,
; the smallest step of f16.
define linkonce_odr hidden <16 x i16> @laspc_to_f16(<16 x float> %x) alwaysinline {
  %bits = bitcast <16 x float> %x to <16 x i32>
  %magnitude_mask = call <16 x i32> @laspc_splat_int(i32 2147483647)
  %one = call <16 x i32> @laspc_splat_int(i32 1)
  %thirteen = call <16 x i32> @laspc_splat_int(i32 13)
  %sixteen = call <16 x i32> @laspc_splat_int(i32 16)
  %magnitude = and <16 x i32> %bits, %magnitude_mask
  %sign = xor <16 x i32> %bits, %magnitude
  ; Normal: the bias less by 112, and 0xfff to round at bit 13: 4095 - (112 << 23).
  %shifted = lshr <16 x i32> %magnitude, %thirteen
  %odd = and <16 x i32> %shifted, %one
  %rebias = call <16 x i32> @laspc_splat_int(i32 -939520001)
  %based = add <16 x i32> %magnitude, %rebias
  %rounded = add <16 x i32> %based, %odd
  %normal = lshr <16 x i32> %rounded, %thirteen
  ; Subnormal, below 2^-14.
  %absolute = bitcast <16 x i32> %magnitude to <16 x float>
  %half = call <16 x float> @laspc_splat(float 5.0e-01)
  %half_bits = call <16 x i32> @laspc_splat_int(i32 1056964608)
  %aligned = fadd <16 x float> %absolute, %half
  %aligned_bits = bitcast <16 x float> %aligned to <16 x i32>
  %subnormal = sub <16 x i32> %aligned_bits, %half_bits
  %smallest = call <16 x i32> @laspc_splat_int(i32 947912704)
  %is_small = icmp ult <16 x i32> %magnitude, %smallest
  %finite = select <16 x i1> %is_small, <16 x i32> %subnormal, <16 x i32> %normal
  ; From 2^16 on: infinite, or NaN.
  %beyond = call <16 x i32> @laspc_splat_int(i32 1199570944)
  %is_large = icmp uge <16 x i32> %magnitude, %beyond
  %infinity = call <16 x i32> @laspc_splat_int(i32 31744)
  %not_a_number = call <16 x i32> @laspc_splat_int(i32 32256)
  %nan = fcmp uno <16 x float> %x, %x
  %special = select <16 x i1> %nan, <16 x i32> %not_a_number, <16 x i32> %infinity
  %chosen = select <16 x i1> %is_large, <16 x i32> %special, <16 x i32> %finite
  %sign_low = lshr <16 x i32> %sign, %sixteen
  %signed = or <16 x i32> %chosen, %sign_low
  %h = trunc <16 x i32> %signed to <16 x i16>
  ret <16 x i16> %h
}

define linkonce_odr hidden <16 x float> @laspc_load_f16(i16* %at) alwaysinline {
  %from = bitcast i16* %at to <16 x i16>*
  %h = load <16 x i16>, <16 x i16>* %from, align 2
  %x = call <16 x float> @laspc_from_f16(<16 x i16> %h)
  ret <16 x float> %x
}

define linkonce_odr hidden <16 x float> @laspc_load_first_f16(i16* %at, i64 %n) alwaysinline {
  %from = bitcast i16* %at to <16 x i16>*
  %mask = call <16 x i1> @laspc_below(i64 %n)
  %h = call <16 x i16> @llvm.masked.load.v16i16.p0v16i16(<16 x i16>* %from, i32 2, <16 x i1> %mask, <16 x i16> zeroinitializer)
  %x = call <16 x float> @laspc_from_f16(<16 x i16> %h)
  ret <16 x float> %x
}

define linkonce_odr hidden void @laspc_store_f16(<16 x float> %x, i16* %at) alwaysinline {
  %to = bitcast i16* %at to <16 x i16>*
  %h = call <16 x i16> @laspc_to_f16(<16 x float> %x)
  store <16 x i16> %h, <16 x i16>* %to, align 2
  ret void
}

define linkonce_odr hidden void @laspc_store_first_f16(<16 x float> %x, i16* %at, i64 %n) alwaysinline {
  %to = bitcast i16* %at to <16 x i16>*
  %mask = call <16 x i1> @laspc_below(i64 %n)
  %h = call <16 x i16> @laspc_to_f16(<16 x float> %x)
  call void @llvm.masked.store.v16i16.p0v16i16(<16 x i16> %h, <16 x i16>* %to, i32 2, <16 x i1> %mask)
  ret void
}

define linkonce_odr hidden <16 x float> @laspc_load_bf16(i16* %at) alwaysinline {
  %from = bitcast i16* %at to <16 x i16>*
  %h = load <16 x i16>, <16 x i16>* %from, align 2
  %x = call <16 x float> @laspc_from_bf16(<16 x i16> %h)
  ret <16 x float> %x
}

define linkonce_odr hidden <16 x float> @laspc_load_first_bf16(i16* %at, i64 %n) alwaysinline {
  %from = bitcast i16* %at to <16 x i16>*
  %mask = call <16 x i1> @laspc_below(i64 %n)
  %h = call <16 x i16> @llvm.masked.load.v16i16.p0v16i16(<16 x i16>* %from, i32 2, <16 x i1> %mask, <16 x i16> zeroinitializer)
  %x = call <16 x float> @laspc_from_bf16(<16 x i16> %h)
  ret <16 x float> %x
}

define linkonce_odr hidden void @laspc_store_bf16(<16 x float> %x, i16* %at) alwaysinline {
  %to = bitcast i16* %at to <16 x i16>*
  %h = call <16 x i16> @laspc_to_bf16(<16 x float> %x)
  store <16 x i16> %h, <16 x i16>* %to, align 2
  ret void
}

define linkonce_odr hidden void @laspc_store_first_bf16(<16 x float> %x, i16* %at, i64 %n) alwaysinline {
  %to = bitcast i16* %at to <16 x i16>*
  %mask = call <16 x i1> @laspc_below(i64 %n)
  %h = call <16 x i16> @laspc_to_bf16(<16 x float> %x)
  call void @llvm.masked.store.v16i16.p0v16i16(<16 x i16> %h, <16 x i16>* %to, i32 2, <16 x i1> %mask)
  ret void
}
