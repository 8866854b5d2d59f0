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

XP_INLINE __m512i xp_even_index512(void)
{
    return _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}

XP_INLINE __m512i xp_odd_index512(void)
{
    return _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

XP_INLINE struct xp_pair512 xp_split512(__m512 a, __m512 b)
{
    return (struct xp_pair512){_mm512_permutex2var_ps(a, xp_even_index512(), b), _mm512_permutex2var_ps(a, xp_odd_index512(), b)};
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

XP_INLINE __mmask32 xp_first32(size_t n)
{
    return (__mmask32)_bzhi_u32(0xffffffffu, n < 32 ? (unsigned)n : 32);
}

/* 32 values at p, of which the first n exist (n >= 32: all). */
XP_INLINE struct xp_pair512 xp_load_pair512(const void *p, const xp_dtype t, size_t n)
{
    if (t == XP_F32) {
        const __m512 a = n >= 32 ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(xp_first16(n), p);
        const __m512 b = n >= 32 ? _mm512_loadu_ps((const float *)p + 16)
                                 : _mm512_maskz_loadu_ps(xp_first16(n > 16 ? n - 16 : 0), (const float *)p + 16);
        return xp_split512(a, b);
    }
    const __m512i w = n >= 32 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(xp_first32(n), p);
    if (t == XP_BF16)
        return (struct xp_pair512){_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)),
                                   _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)))};
    /* Even halves, then odd halves, as 16 consecutive ones. */
    return (struct xp_pair512){_mm512_cvtph_ps(_mm512_cvtepi32_epi16(w)), _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(w, 16)))};
}

/* 16 consecutive values at p, of which the first n exist. */
XP_INLINE __m512 xp_load512(const void *p, const xp_dtype t, size_t n)
{
    const __mmask16 m = xp_first16(n);

    if (t == XP_F32)
        return _mm512_maskz_loadu_ps(m, p);
    const __m256i w = _mm256_maskz_loadu_epi16(m, p);
    return t == XP_BF16 ? _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(w), 16)) : _mm512_cvtph_ps(w);
}

/* bf16 of x in the upper half of each lane, garbage below it; x is no NaN. */
XP_INLINE __m512i xp_round_bf16_512(__m512 x)
{
    const __m512i u = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
    const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(u, 16), one);

    return _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), lsb);
}

/* The same for any x: a NaN stays one. */
XP_INLINE __m512i xp_round_bf16_any512(__m512 x)
{
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);

    return _mm512_mask_or_epi32(xp_round_bf16_512(x), nan, _mm512_castps_si512(x), _mm512_set1_epi32(0x400000));
}

/* Stores 16 consecutive values, of which the first n exist, at p. */
XP_INLINE void xp_store512(void *p, const xp_dtype t, __m512 x, size_t n)
{
    const __mmask16 m = xp_first16(n);

    if (t == XP_F32)
        _mm512_mask_storeu_ps(p, m, x);
    else if (t == XP_F16)
        _mm256_mask_storeu_epi16(p, m, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    else
        _mm256_mask_storeu_epi16(p, m, _mm512_cvtepi32_epi16(_mm512_srli_epi32(xp_round_bf16_any512(x), 16)));
}

#endif
