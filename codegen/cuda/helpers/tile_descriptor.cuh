// A place in a 16-bit tile as `wgmma` wants it (PTX ISA 8.7, 9.7.15.5.1): its address, how far the next 64
// columns lie where those are more than one panel, 1024 bytes to the next eight rows, swizzled by 128 bytes.
__device__ __forceinline__ unsigned long long tile_descriptor(const unsigned char* place, int next_panel) {
  const unsigned long long address = (shared_address(place) & 0x3ffff) >> 4;
  return address | (unsigned long long)(next_panel >> 4) << 16 | 64ull << 32 | 1ull << 62;
}
