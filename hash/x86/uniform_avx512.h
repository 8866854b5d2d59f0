/*
 * uniform_avx512.h - what the uniform quantisers with AVX-512 share
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_UNIFORM_AVX512_H
#define XP_UNIFORM_AVX512_H

#include "hash/rans.h"
#include "hash/variants.h"
#include "hash/x86/rows_avx512.h"

/* Adds the partials of a 16-lane sum in the order of the contract. */
XP_INLINE float xp_fold_lanes512(__m512 acc)
{
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(acc), _mm512_extractf32x8_ps(acc, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* A group's values in steps. */
XP_INLINE __m512 xp_scaled512(const float *x, size_t g, float inverse, const float *dither)
{
    const __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + 16 * g), _mm512_set1_ps(inverse));

    return dither ? _mm512_add_ps(v, _mm512_loadu_ps(dither + 16 * g)) : v;
}

/*
 * a + b by the units that multiply (Zen 4): those that add also round, compare, convert and shift, and set the pace. The product with 1 is
 * exact, so that the sum is the same.
 */
XP_INLINE __m512 xp_add_by_fma512(__m512 a, __m512 b, __m512 one)
{
    return _mm512_fmadd_ps(a, one, b);
}

/* For the above; not a constant, or it would become an addition. */
XP_INLINE __m512 xp_one512(void)
{
    __m512 one = _mm512_set1_ps(1);

    XP_KEEP(one);
    return one;
}

/* What is cut off to make the integers of values v: v with its magnitude larger by bias, and at most the largest integer's. */
XP_INLINE __m512 xp_biased512(__m512 v, float bias)
{
    const __m512i minus = _mm512_set1_epi32(INT32_MIN);
    const __m512i away = _mm512_ternarylogic_epi32(_mm512_castps_si512(v), _mm512_castps_si512(_mm512_set1_ps(bias)), minus, 0xec);

    return _mm512_range_ps(_mm512_add_ps(v, _mm512_castsi512_ps(away)), _mm512_set1_ps((float)XP_RANS_MAX_Q), 2);
}

XP_INLINE __m512 xp_cut_off512(__m512 v)
{
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
}

/* What integers, as floats, stand for before they are rounded to the row's type. */
XP_INLINE __m512 xp_decoded512(__m512 k, const float *base, float step, const float *dither, size_t i)
{
    const __m512 v = dither ? _mm512_sub_ps(k, _mm512_loadu_ps(dither + i)) : k;

    return _mm512_add_ps(_mm512_mul_ps(v, _mm512_set1_ps(step)), _mm512_loadu_ps(base + i));
}

/* Sixteen values from i on. */
XP_INLINE __m512 xp_value16_512(const int16_t *q, const float *base, float step, const float *dither, size_t i)
{
    const __m512i k = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(q + i)));

    return xp_decoded512(_mm512_cvtepi32_ps(k), base, step, dither, i);
}

#endif
