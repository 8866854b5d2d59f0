/*
 * sketch_mean_avx512.c - mean of sketches with AVX-512
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>

#define FEW 8192 /* as in sketch_mean.c */
#define VECTORS 4
#define LANES 16

/* VECTORS vectors of the mean. The product is that of sketch_mean.c. */
XP_INLINE void mean_values(const int16_t *sketch, unsigned s, const uint32_t *order, size_t count, const int vectors, int16_t *out)
{
    const double n = (double)count;
    const __m512d half = _mm512_set1_pd(n * (32768 + 0.5) + 0.25), inverse = _mm512_set1_pd(1 / n);
    __m512i sum[VECTORS];

    XP_UNROLL
    for (int v = 0; v < vectors; v++)
        sum[v] = _mm512_setzero_si512();
    for (size_t i = 0; i < count; i++) {
        const int16_t *row = sketch + (size_t)order[i] * s;
        XP_UNROLL
        for (int v = 0; v < vectors; v++)
            sum[v] = _mm512_add_epi32(sum[v], _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(row + v * LANES))));
    }
    XP_UNROLL
    for (int v = 0; v < vectors; v++) {
        const __m512d low = _mm512_cvtepi32_pd(_mm512_castsi512_si256(sum[v])), high = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(sum[v], 1));
        const __m256i a = _mm512_cvttpd_epi32(_mm512_mul_pd(_mm512_add_pd(low, half), inverse));
        const __m256i b = _mm512_cvttpd_epi32(_mm512_mul_pd(_mm512_add_pd(high, half), inverse));
        const __m512i whole = _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);

        _mm256_storeu_si256((__m256i *)(out + v * LANES), _mm512_cvtepi32_epi16(_mm512_sub_epi32(whole, _mm512_set1_epi32(32768))));
    }
}

void xp_sketch_mean_avx512(const int16_t *sketch, unsigned s, const uint32_t *order, size_t n, int16_t *out)
{
    unsigned i = 0;

    if (n > FEW) {
        xp_sketch_mean_c(sketch, s, order, n, out);
        return;
    }
    for (; i + VECTORS * LANES <= s; i += VECTORS * LANES)
        mean_values(sketch + i, s, order, n, VECTORS, out + i);
    for (; i < s; i += 2 * LANES)
        mean_values(sketch + i, s, order, n, 2, out + i);
}
