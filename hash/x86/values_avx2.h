/*
 * values_avx2.h - rotated codes to the values of a row, all but the rounding to its type
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_VALUES_AVX2_H
#define XP_VALUES_AVX2_H

#include "hash/x86/rows_avx2.h"

/* 16 values: those of even and of odd index. */
struct xp_split256 {
    __m256 even, odd;
};

/* The middle of the codes, 64 (levels - 1) in value 0: half of it in each word of the last butterfly. */
XP_INLINE __m256i xp_middle256(int levels)
{
    return _mm256_castsi128_si256(_mm_cvtsi32_si128(32 * (levels - 1) * 0x10001));
}

/* 16 f32 at p. */
XP_INLINE struct xp_split256 xp_split256(const float *p)
{
    const __m256 a = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 8), 1);
    const __m256 b = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + 4)), _mm_loadu_ps(p + 12), 1);

    return (struct xp_split256){_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd)};
}

/* 8 integers to f32: sign, times step, plus base. The product is exact, so the fused form gives the same. The lowest bit of signs is set:
 * no shifted ones are 0. */
XP_INLINE __m256 xp_value256(__m256i h, __m256i signs, __m256i place, __m256 step, const int has_base, __m256 base)
{
    const __m256 x = _mm256_cvtepi32_ps(_mm256_sign_epi32(h, _mm256_sllv_epi32(signs, place)));

    return has_base ? _mm256_fmadd_ps(x, step, base) : _mm256_mul_ps(x, step);
}

/* Words of which neighbours are the last butterfly's; signs: their 16 bits. */
XP_INLINE struct xp_split256 xp_values256(__m256i w, uint32_t signs, __m256 step, const float *base, const int has_base)
{
    const __m256i even_place = _mm256_setr_epi32(30, 28, 26, 24, 22, 20, 18, 16), odd_place = _mm256_setr_epi32(29, 27, 25, 23, 21, 19, 17, 15);
    const __m256i plus = _mm256_set1_epi32(0x00010001), minus = _mm256_set1_epi32((int)0xffff0001), s = _mm256_set1_epi32((int)(signs << 1 | 1));
    struct xp_split256 v = {_mm256_setzero_ps(), _mm256_setzero_ps()};

    if (has_base)
        v = xp_split256(base);
    v.even = xp_value256(_mm256_madd_epi16(w, plus), s, even_place, step, has_base, v.even);
    v.odd = xp_value256(_mm256_madd_epi16(w, minus), s, odd_place, step, has_base, v.odd);
    return v;
}

#endif
