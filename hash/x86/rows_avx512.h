/*
 * rows_avx512.h - typed rows in registers
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_ROWS_AVX512_H
#define XP_ROWS_AVX512_H

#include "crosspress/crosspress.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>

/* 32 values as two vectors of 16 f32: those of even and those of odd index. */
struct xp_pair512 {
    __m512 even, odd;
};

struct xp_split_index512 {
    __m512i even, odd;
};

XP_INLINE struct xp_split_index512 xp_split_index512(void)
{
    struct xp_split_index512 k = {_mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                                  _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)};

    XP_KEEP(k.even);
    XP_KEEP(k.odd);
    return k;
}

/* Two vectors of consecutive values to even and odd ones. */
XP_INLINE struct xp_pair512 xp_split512(__m512 a, __m512 b, const struct xp_split_index512 *k)
{
    return (struct xp_pair512){_mm512_permutex2var_ps(a, k->even, b), _mm512_permutex2var_ps(a, k->odd, b)};
}

/* Two vectors of 16 consecutive values from even and odd ones. */
XP_INLINE void xp_join512(struct xp_pair512 p, __m512 *a, __m512 *b)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);

    *a = _mm512_permutex2var_ps(p.even, low, p.odd);
    *b = _mm512_permutex2var_ps(p.even, high, p.odd);
}

/* The first n of 16 values from p, rest 0. */
XP_INLINE __mmask16 xp_first16(size_t n)
{
    return (__mmask16)_bzhi_u32(0xffff, n < 16 ? (unsigned)n : 16);
}

/* Masked loads and stores are slow: n >= 16 must be a constant where speed counts. */

/* 16 f32 at p, of which the first n exist. */
XP_INLINE __m512 xp_load_f32_512(const float *p, size_t n)
{
    return n >= 16 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(xp_first16(n), p);
}

XP_INLINE void xp_store_f32_512(float *p, __m512 x, size_t n)
{
    if (n >= 16)
        _mm512_storeu_ps(p, x);
    else
        _mm512_mask_storeu_ps(p, xp_first16(n), x);
}

/* 16 consecutive values of a row at p, of which the first n exist. */
XP_INLINE __m512 xp_load512(const void *p, const xp_dtype t, size_t n)
{
    if (t == XP_F32)
        return xp_load_f32_512(p, n);
    const __m256i w = n >= 16 ? _mm256_loadu_si256(p) : _mm256_maskz_loadu_epi16(xp_first16(n), p);
    return t == XP_BF16 ? _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(w), 16)) : _mm512_cvtph_ps(w);
}

struct xp_bf16_constants512 {
    __m512i one, half; /* 1 and 0x7fff */
};

XP_INLINE struct xp_bf16_constants512 xp_bf16_constants512(void)
{
    struct xp_bf16_constants512 k = {_mm512_set1_epi32(1), _mm512_set1_epi32(0x7fff)};

    XP_KEEP(k.one);
    XP_KEEP(k.half);
    return k;
}

/* bf16 of x in the upper half of each lane, garbage below it; x is no NaN. */
XP_INLINE __m512i xp_round_bf16_512(__m512 x, const struct xp_bf16_constants512 *k)
{
    const __m512i u = _mm512_castps_si512(x), lsb = _mm512_and_si512(_mm512_srli_epi32(u, 16), k->one);

    return _mm512_add_epi32(_mm512_add_epi32(u, k->half), lsb);
}

/* The same for any x: a NaN stays one. */
XP_INLINE __m512i xp_round_bf16_any512(__m512 x)
{
    const struct xp_bf16_constants512 k = {_mm512_set1_epi32(1), _mm512_set1_epi32(0x7fff)};
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);

    return _mm512_mask_or_epi32(xp_round_bf16_512(x, &k), nan, _mm512_castps_si512(x), _mm512_set1_epi32(0x400000));
}

/* Stores 16 consecutive values, of which the first n exist, at p. */
XP_INLINE void xp_store512(void *p, const xp_dtype t, __m512 x, size_t n)
{
    if (t == XP_F32) {
        xp_store_f32_512(p, x, n);
        return;
    }
    const __m256i w = t == XP_F16 ? _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
                                  : _mm512_cvtepi32_epi16(_mm512_srli_epi32(xp_round_bf16_any512(x), 16));
    if (n >= 16)
        _mm256_storeu_si256(p, w);
    else
        _mm256_mask_storeu_epi16(p, xp_first16(n), w);
}

/* bf16 pairs, in lanes of 32 bits. */
XP_INLINE __m512 xp_even_bf16_512(__m512i w)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}

XP_INLINE __m512 xp_odd_bf16_512(__m512i w)
{
    return _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)));
}

/* 32 consecutive values, in pairs where that is less work: only xp_store_pair512 knows the order. */
XP_INLINE struct xp_pair512 xp_load_pair512(const void *p, const xp_dtype t)
{
    if (t == XP_BF16) {
        const __m512i w = _mm512_loadu_si512(p);
        return (struct xp_pair512){xp_even_bf16_512(w), xp_odd_bf16_512(w)};
    }
    return (struct xp_pair512){xp_load512(p, t, 16), xp_load512((const char *)p + (t == XP_F32 ? 64 : 32), t, 16)};
}

XP_INLINE void xp_store_pair512(void *p, const xp_dtype t, struct xp_pair512 x)
{
    if (t == XP_BF16) {
        const __m512i even = _mm512_srli_epi32(xp_round_bf16_any512(x.even), 16);
        _mm512_storeu_si512(p, _mm512_mask_blend_epi16(0xaaaaaaaa, even, xp_round_bf16_any512(x.odd)));
        return;
    }
    xp_store512(p, t, x.even, 16);
    xp_store512((char *)p + (t == XP_F32 ? 64 : 32), t, x.odd, 16);
}

XP_INLINE __m512 xp_add_square512(__m512 sum, __m512 x)
{
    return _mm512_add_ps(sum, _mm512_mul_ps(x, x));
}

/* Partials 0 2 4 ... and 1 3 5 ... of a row sum, which is what pairs add up to without a shuffle. */
XP_INLINE float xp_fold_pairs512(__m512 even, __m512 odd)
{
    const __m256 e8 = _mm256_add_ps(_mm512_castps512_ps256(even), _mm512_extractf32x8_ps(even, 1));
    const __m256 o8 = _mm256_add_ps(_mm512_castps512_ps256(odd), _mm512_extractf32x8_ps(odd, 1));
    const __m128 e4 = _mm_add_ps(_mm256_castps256_ps128(e8), _mm256_extractf128_ps(e8, 1));
    const __m128 o4 = _mm_add_ps(_mm256_castps256_ps128(o8), _mm256_extractf128_ps(o8, 1));
    const __m128 two = _mm_add_ps(_mm_unpacklo_ps(e4, o4), _mm_unpackhi_ps(e4, o4)); /* e0+e2 o0+o2 e1+e3 o1+o3 */
    const __m128 one = _mm_add_ps(two, _mm_movehl_ps(two, two));

    return _mm_cvtss_f32(_mm_add_ss(one, _mm_movehdup_ps(one)));
}

#endif
