/*
 * vector_avx512.c - inner products and sums of f32 vectors, with AVX-512
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"

#include <immintrin.h>

/* Adds the partials of a 16-lane sum in the order of the contract. */
static float fold_lanes(__m512 acc)
{
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(acc), _mm512_extractf32x8_ps(acc, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

float xp_vector_dot_avx512(const float *a, const float *b, size_t groups)
{
    __m512 acc = _mm512_setzero_ps();

    for (size_t g = 0; g < groups; g++)
        acc = _mm512_add_ps(acc, _mm512_mul_ps(_mm512_loadu_ps(a + 16 * g), _mm512_loadu_ps(b + 16 * g)));
    return fold_lanes(acc);
}

void xp_vector_add_avx512(float *a, const float *b, float factor, size_t groups)
{
    const __m512 f = _mm512_set1_ps(factor);

    for (size_t g = 0; g < groups; g++)
        _mm512_storeu_ps(a + 16 * g, _mm512_add_ps(_mm512_loadu_ps(a + 16 * g), _mm512_mul_ps(f, _mm512_loadu_ps(b + 16 * g))));
}
