/*
 * row.cuh - values of typed rows in registers: 16 bytes at a time where rows lie on 16-byte boundaries, else one by one
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_ROW_CUH
#define XP_CUDA_ROW_CUH

#include "cuda/port.cuh"

/* What the values of a row are, as template arguments. */
struct xp_row_bf16 {
    typedef uint16_t word;
    static __device__ __forceinline__ float load(word w) { return __uint_as_float((unsigned)w << 16); }
    static __device__ __forceinline__ word store(float f) { return xp_dev_f32_to_bf16(f); }
};
struct xp_row_f16 {
    typedef uint16_t word;
    static __device__ __forceinline__ float load(word w) { return xp_dev_f16_to_f32(w); }
    static __device__ __forceinline__ word store(float f) { return xp_dev_f32_to_f16(f); }
};
struct xp_row_f32 {
    typedef uint32_t word;
    static __device__ __forceinline__ float load(word w) { return __uint_as_float(w); }
    static __device__ __forceinline__ word store(float f) { return __float_as_uint(f); }
};

/* Values of type T in 16 bytes. */
template <class T> constexpr unsigned xp_per_load = 16 / sizeof(typename T::word);

/* Value k of 16 loaded bytes. */
template <class T> static __device__ __forceinline__ float xp_value_of(const uint4 &raw, unsigned k)
{
    const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};

    if (sizeof(typename T::word) == 4)
        return T::load((typename T::word)words[k]);
    return T::load((typename T::word)(words[k / 2] >> (k % 2 * 16)));
}

/* The rows of a launch, as kernels get them. */
struct xp_dev_rows {
    const unsigned char *data;
    const uint32_t *index;
    size_t rows, dim, row_bytes;
};

static inline xp_dev_rows xp_rows_for_device(const struct xp_rows *in)
{
    return {static_cast<const unsigned char *>(in->data), in->index, in->rows, in->dim, in->dim * xp_dtype_size(in->dtype)};
}

/* May all rows be read 16 bytes at a time? */
static inline bool xp_rows_are_wide(const struct xp_rows *in)
{
    return (uintptr_t)in->data % 16 == 0 && in->dim * xp_dtype_size(in->dtype) % 16 == 0;
}

/* Calls f with the tag of a type; returns what f does, or cudaErrorInvalidValue. */
template <class F> static int xp_for_type(xp_dtype t, F &&f)
{
    switch (t) {
    case XP_BF16: return f(xp_row_bf16());
    case XP_F16: return f(xp_row_f16());
    case XP_F32: return f(xp_row_f32());
    default: return 1;
    }
}

#endif
