/*
 * vector_avx2.c - inner products and sums of f32 vectors, with AVX2
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"

#include <immintrin.h>

float xp_vector_dot_avx2(const float *a, const float *b, size_t groups)
{
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();

    for (size_t i = 0; i < 16 * groups; i += 16) {
        low = _mm256_add_ps(low, _mm256_mul_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
        high = _mm256_add_ps(high, _mm256_mul_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8)));
    }
    /* The partials, in the order of the contract. */
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

void xp_vector_add_avx2(float *a, const float *b, float factor, size_t groups)
{
    const __m256 f = _mm256_set1_ps(factor);

    for (size_t i = 0; i < 16 * groups; i += 8)
        _mm256_storeu_ps(a + i, _mm256_add_ps(_mm256_loadu_ps(a + i), _mm256_mul_ps(f, _mm256_loadu_ps(b + i))));
}
