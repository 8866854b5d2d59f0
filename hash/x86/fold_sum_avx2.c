/*
 * fold_sum_avx2.c - a row of the results of centroids with AVX2
 *
 * The sums of a tile of values stay in registers while all terms are added.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "hash/variants.h"
#include "hash/x86/rows_avx2.h"

#define VECTORS 4

/* VECTORS vectors of values from `at` (bytes) on. */
XP_INLINE void sum_tile(const struct xp_fold_term *terms, size_t n, float scale, const char *x, const xp_dtype t, const size_t size,
                        size_t at, char *row)
{
    const __m256 s = _mm256_set1_ps(scale);
    __m256 sum[VECTORS];

    XP_UNROLL
    for (int v = 0; v < VECTORS; v++)
        sum[v] = x ? _mm256_mul_ps(s, xp_load256(x + at + v * 8 * size, t)) : _mm256_setzero_ps();
    for (size_t j = 0; j < n; j++) {
        const char *result = (const char *)terms[j].result + at, *centroid = (const char *)terms[j].centroid + at;
        const __m256 w = _mm256_set1_ps(terms[j].weight), a = _mm256_set1_ps(terms[j].alpha);
        const int compensated = terms[j].alpha != 0.0f;

        XP_UNROLL
        for (int v = 0; v < VECTORS; v++) {
            __m256 value = xp_load256(result + v * 8 * size, t);

            if (compensated)
                value = _mm256_sub_ps(value, _mm256_mul_ps(a, xp_load256(centroid + v * 8 * size, t)));
            sum[v] = _mm256_add_ps(sum[v], _mm256_mul_ps(w, value));
        }
    }
    XP_UNROLL
    for (int v = 0; v < VECTORS; v += 2)
        xp_store16_256(row + at + v * 8 * size, t, sum[v], sum[v + 1]);
}

XP_INLINE size_t sum_tiles(const struct xp_fold_term *terms, size_t n, float scale, const void *x, const xp_dtype t, const size_t size,
                           size_t dim, void *row)
{
    size_t i = 0;

    for (; i + VECTORS * 8 <= dim; i += VECTORS * 8)
        sum_tile(terms, n, scale, x, t, size, i * size, row);
    return i;
}

void xp_fold_sum_avx2(const struct xp_fold_term *terms, size_t n, float scale, const void *x, xp_dtype t, size_t dim, void *row)
{
    size_t i = t == XP_BF16  ? sum_tiles(terms, n, scale, x, XP_BF16, 2, dim, row)
               : t == XP_F16 ? sum_tiles(terms, n, scale, x, XP_F16, 2, dim, row)
                             : sum_tiles(terms, n, scale, x, XP_F32, 4, dim, row);

    for (; i < dim; i++) {
        float sum = x ? scale * xp_load_f32(x, t, i) : 0.0f;

        for (size_t j = 0; j < n; j++) {
            float value = xp_load_f32(terms[j].result, t, i);

            if (terms[j].alpha != 0.0f)
                value -= terms[j].alpha * xp_load_f32(terms[j].centroid, t, i);
            sum += terms[j].weight * value;
        }
        xp_store_f32(row, t, i, sum);
    }
}
