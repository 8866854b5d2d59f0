/*
 * vector_avx2.c - inner products with several f32 vectors, and sums of them, with AVX2
 *
 * Four vectors at a time: their sums do not wait for each other, and the one they have in common is loaded once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>

#define SIDE 4

/* The partials, in the order of the contract. */
static float fold_lanes(__m256 low, __m256 high)
{
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

XP_INLINE void dots(const float *a, const float *b, size_t stride, const int count, size_t groups, float *out)
{
    __m256 low[SIDE], high[SIDE];

    XP_UNROLL
    for (int j = 0; j < count; j++)
        low[j] = high[j] = _mm256_setzero_ps();
    for (size_t i = 0; i < 16 * groups; i += 16) {
        const __m256 x = _mm256_loadu_ps(a + i), y = _mm256_loadu_ps(a + i + 8);

        XP_UNROLL
        for (int j = 0; j < count; j++) {
            low[j] = _mm256_add_ps(low[j], _mm256_mul_ps(x, _mm256_loadu_ps(b + (size_t)j * stride + i)));
            high[j] = _mm256_add_ps(high[j], _mm256_mul_ps(y, _mm256_loadu_ps(b + (size_t)j * stride + i + 8)));
        }
    }
    XP_UNROLL
    for (int j = 0; j < count; j++)
        out[j] = fold_lanes(low[j], high[j]);
}

void xp_vector_dots_avx2(const float *a, const float *b, size_t stride, size_t count, size_t groups, float *out)
{
    size_t j = 0;

    for (; j + SIDE <= count; j += SIDE)
        dots(a, b + j * stride, stride, SIDE, groups, out + j);
    for (; j < count; j++)
        dots(a, b + j * stride, stride, 1, groups, out + j);
}

XP_INLINE void adds(float *a, const float *const *b, const float *factor, const int count, size_t groups)
{
    for (size_t i = 0; i < 16 * groups; i += 8) {
        __m256 x = _mm256_loadu_ps(a + i);

        XP_UNROLL
        for (int j = 0; j < count; j++)
            x = _mm256_add_ps(x, _mm256_mul_ps(_mm256_set1_ps(factor[j]), _mm256_loadu_ps(b[j] + i)));
        _mm256_storeu_ps(a + i, x);
    }
}

void xp_vector_adds_avx2(float *a, const float *b, size_t stride, const float *factor, size_t count, size_t groups)
{
    const float *vector[SIDE];
    float by[SIDE];
    int n = 0;

    for (size_t j = 0; j < count; j++) {
        vector[n] = b + j * stride;
        by[n] = factor[j];
        n += factor[j] != 0;
        if (n == SIDE) {
            adds(a, vector, by, SIDE, groups);
            n = 0;
        }
    }
    for (int j = 0; j < n; j++)
        adds(a, vector + j, by + j, 1, groups);
}
