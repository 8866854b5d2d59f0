/*
 * sketch_mean_avx2.c - mean of sketches with AVX2
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>

#define FEW 8192 /* as in sketch_mean.c */
#define VECTORS 8
#define LANES 8

/* The mean of 4 sums, 32768 above it. The product is that of sketch_mean.c. */
XP_INLINE __m128i mean4(__m128i sum, __m256d half, __m256d inverse)
{
    return _mm256_cvttpd_epi32(_mm256_mul_pd(_mm256_add_pd(_mm256_cvtepi32_pd(sum), half), inverse));
}

/* `vectors` vectors of the mean. */
XP_INLINE void mean_values(const int16_t *sketch, unsigned s, const uint32_t *order, size_t count, const int vectors, int16_t *out)
{
    const double n = (double)count;
    const __m256d half = _mm256_set1_pd(n * (32768 + 0.5) + 0.25), inverse = _mm256_set1_pd(1 / n);
    const __m128i offset = _mm_set1_epi32(32768);
    __m256i sum[VECTORS];

    XP_UNROLL
    for (int v = 0; v < vectors; v++)
        sum[v] = _mm256_setzero_si256();
    for (size_t i = 0; i < count; i++) {
        const int16_t *row = sketch + (size_t)order[i] * s;
        XP_UNROLL
        for (int v = 0; v < vectors; v++)
            sum[v] = _mm256_add_epi32(sum[v], _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(row + v * LANES))));
    }
    XP_UNROLL
    for (int v = 0; v < vectors; v++) {
        const __m128i low = _mm_sub_epi32(mean4(_mm256_castsi256_si128(sum[v]), half, inverse), offset);
        const __m128i high = _mm_sub_epi32(mean4(_mm256_extracti128_si256(sum[v], 1), half, inverse), offset);

        _mm_storeu_si128((__m128i *)(out + v * LANES), _mm_packs_epi32(low, high));
    }
}

void xp_sketch_mean_avx2(const int16_t *sketch, unsigned s, const uint32_t *order, size_t n, int16_t *out)
{
    unsigned i = 0;

    if (n > FEW) {
        xp_sketch_mean_c(sketch, s, order, n, out);
        return;
    }
    for (; i + VECTORS * LANES <= s; i += VECTORS * LANES)
        mean_values(sketch + i, s, order, n, VECTORS, out + i);
    for (; i < s; i += 4 * LANES)
        mean_values(sketch + i, s, order, n, 4, out + i);
}
