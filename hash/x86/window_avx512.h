/*
 * window_avx512.h - a window of kernel reorder in registers: 256 values of 16 bits are eight of them, and a shuffle looks up in two
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_WINDOW_AVX512_H
#define XP_WINDOW_AVX512_H

#include "hash/x86/unroll.h"

#include <immintrin.h>

#define XP_WINDOW_VECTORS 8

/* The first n of 32 values at p, rest 0. n is a constant where speed counts. */
XP_INLINE __m512i xp_load_first32(const void *p, size_t n)
{
    return n >= 32 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(_bzhi_u32(0xffffffffu, (unsigned)n), p);
}

/* Values of a vector that begins at value i of n. */
XP_INLINE size_t xp_left32(size_t n, size_t i)
{
    return n > i ? n - i : 0;
}

/* 32 values picked from the window in w; index: 32 of them. */
XP_INLINE __m512i xp_pick32(const __m512i *w, const uint8_t *index)
{
    const __m512i at = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)index));
    const __mmask32 odd = _mm512_test_epi16_mask(at, _mm512_set1_epi16(64)), high = _mm512_test_epi16_mask(at, _mm512_set1_epi16(128));
    const __m512i a = _mm512_permutex2var_epi16(w[0], at, w[1]), b = _mm512_permutex2var_epi16(w[2], at, w[3]);
    const __m512i c = _mm512_permutex2var_epi16(w[4], at, w[5]), d = _mm512_permutex2var_epi16(w[6], at, w[7]);

    return _mm512_mask_blend_epi16(high, _mm512_mask_blend_epi16(odd, a, b), _mm512_mask_blend_epi16(odd, c, d));
}

#endif
