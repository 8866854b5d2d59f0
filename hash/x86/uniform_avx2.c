/*
 * uniform_avx2.c - the uniform quantiser with one step per row, with AVX2
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/rans.h"
#include "hash/variants.h"
#include "hash/x86/rows_avx2.h"

#include <string.h>

/* Adds the partials of a 16-lane sum in the order of the contract. */
static float fold_lanes(__m256 low, __m256 high)
{
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

XP_INLINE __m256 magnitude(__m256 x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

float xp_uniform_spread_avx2(const float *x, size_t groups, const float *weight)
{
    __m256 acc[2] = { _mm256_setzero_ps(), _mm256_setzero_ps() };

    for (size_t g = 0; g < groups; g++)
        for (int h = 0; h < 2; h++) {
            const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + 16 * g + 8 * h), _mm256_set1_ps(weight[g]));
            acc[h] = _mm256_add_ps(acc[h], _mm256_mul_ps(v, v));
        }
    return fold_lanes(acc[0], acc[1]);
}

/* trunc(min(a + bias, largest)) as an integer. */
XP_INLINE __m256i cell(__m256 a, float bias)
{
    const __m256 v = _mm256_add_ps(a, _mm256_set1_ps(bias));

    return _mm256_cvttps_epi32(_mm256_min_ps(v, _mm256_set1_ps((float)XP_RANS_MAX_Q)));
}

/* Eight values in steps. */
XP_INLINE __m256 scaled(const float *x, size_t i, float inverse, const float *dither)
{
    const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(inverse));

    return dither ? _mm256_add_ps(v, _mm256_loadu_ps(dither + i)) : v;
}

XP_INLINE float error(const float *x, size_t groups, float inverse, const float *bias, const float *dither)
{
    __m256 acc[2] = { _mm256_setzero_ps(), _mm256_setzero_ps() };

    for (size_t g = 0; g < groups; g++)
        for (int h = 0; h < 2; h++) {
            const __m256 a = magnitude(scaled(x, 16 * g + 8 * h, inverse, dither));
            const __m256 e = _mm256_sub_ps(a, _mm256_cvtepi32_ps(cell(a, bias[g])));
            acc[h] = _mm256_add_ps(acc[h], _mm256_mul_ps(e, e));
        }
    return fold_lanes(acc[0], acc[1]);
}

float xp_uniform_error_avx2(const float *x, size_t groups, float inverse, const float *bias, const float *dither)
{
    return dither ? error(x, groups, inverse, bias, dither) : error(x, groups, inverse, bias, NULL);
}

XP_INLINE void quantise(const float *x, size_t groups, float inverse, const float *bias, const float *dither, int16_t *q)
{
    for (size_t g = 0; g < groups; g++) {
        __m256i k[2];

        for (int h = 0; h < 2; h++) {
            const __m256 v = scaled(x, 16 * g + 8 * h, inverse, dither);
            const __m256i minus = _mm256_castps_si256(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_LT_OQ));

            k[h] = cell(magnitude(v), bias[g]);
            k[h] = _mm256_sub_epi32(_mm256_xor_si256(k[h], minus), minus);
        }
        _mm256_storeu_si256((__m256i *)(void *)(q + 16 * g), _mm256_permute4x64_epi64(_mm256_packs_epi32(k[0], k[1]), 0xd8));
    }
}

void xp_uniform_quantise_avx2(const float *x, size_t groups, float inverse, const float *bias, const float *dither, int16_t *q)
{
    if (dither)
        quantise(x, groups, inverse, bias, dither, q);
    else
        quantise(x, groups, inverse, bias, NULL, q);
}

XP_INLINE void restore16(const int16_t *q, const float *base, float step, const float *dither, const xp_dtype t, void *row)
{
    __m256 v[2];

    for (int h = 0; h < 2; h++) {
        v[h] = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(q + 8 * h))));
        if (dither)
            v[h] = _mm256_sub_ps(v[h], _mm256_loadu_ps(dither + 8 * h));
        v[h] = _mm256_add_ps(_mm256_mul_ps(v[h], _mm256_set1_ps(step)), _mm256_loadu_ps(base + 8 * h));
    }
    xp_store16_256(row, t, v[0], v[1]);
}

XP_INLINE void restore(const int16_t *q, const float *base, size_t n, float step, const float *dither, const xp_dtype t, const size_t size,
                       char *row)
{
    char last[64];
    size_t i = 0;

    for (; i + 16 <= n; i += 16)
        restore16(q + i, base + i, step, dither ? dither + i : NULL, t, row + i * size);
    if (i < n) {
        restore16(q + i, base + i, step, dither ? dither + i : NULL, t, last);
        memcpy(row + i * size, last, (n - i) * size);
    }
}

XP_INLINE void restore_type(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row)
{
    switch (t) {
    case XP_BF16: restore(q, base, n, step, dither, XP_BF16, 2, row); break;
    case XP_F16: restore(q, base, n, step, dither, XP_F16, 2, row); break;
    default: restore(q, base, n, step, dither, XP_F32, 4, row); break;
    }
}

void xp_uniform_restore_avx2(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row)
{
    if (dither)
        restore_type(q, base, n, step, dither, t, row);
    else
        restore_type(q, base, n, step, NULL, t, row);
}
