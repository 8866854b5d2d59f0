/*
 * row_sum_avx2.c - a row that is a sum of weighted rows with AVX2
 *
 * Both sums of a tile of values stay in registers while all terms are added.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "hash/variants.h"
#include "hash/x86/rows_avx2.h"

#define VECTORS 4

/* VECTORS vectors of values from `at` (bytes) on. */
XP_INLINE void sum_tile(const struct xp_sum_term *terms, size_t n, const xp_dtype t, const size_t size, size_t at, char *row)
{
    __m256 sum[VECTORS], part[VECTORS];

    XP_UNROLL
    for (int v = 0; v < VECTORS; v++)
        sum[v] = part[v] = _mm256_setzero_ps();
    for (size_t j = 0; j < n; j++) {
        const char *from = (const char *)terms[j].row + at;
        const __m256 w = _mm256_set1_ps(terms[j].weight);

        XP_UNROLL
        for (int v = 0; v < VECTORS; v++)
            part[v] = _mm256_add_ps(part[v], _mm256_mul_ps(w, xp_load256(from + v * 8 * size, t)));
        if (!terms[j].ends_part)
            continue;
        XP_UNROLL
        for (int v = 0; v < VECTORS; v++) {
            sum[v] = _mm256_add_ps(sum[v], part[v]);
            part[v] = _mm256_setzero_ps();
        }
    }
    XP_UNROLL
    for (int v = 0; v < VECTORS; v += 2)
        xp_store16_256(row + at + v * 8 * size, t, sum[v], sum[v + 1]);
}

XP_INLINE size_t sum_tiles(const struct xp_sum_term *terms, size_t n, const xp_dtype t, const size_t size, size_t dim, void *row)
{
    size_t i = 0;

    for (; i + VECTORS * 8 <= dim; i += VECTORS * 8)
        sum_tile(terms, n, t, size, i * size, row);
    return i;
}

void xp_row_sum_avx2(const struct xp_sum_term *terms, size_t n, xp_dtype t, size_t dim, void *row)
{
    size_t i = t == XP_BF16  ? sum_tiles(terms, n, XP_BF16, 2, dim, row)
               : t == XP_F16 ? sum_tiles(terms, n, XP_F16, 2, dim, row)
                             : sum_tiles(terms, n, XP_F32, 4, dim, row);

    for (; i < dim; i++) {
        float sum = 0, part = 0;

        for (size_t j = 0; j < n; j++) {
            part += terms[j].weight * xp_load_f32(terms[j].row, t, i);
            if (!terms[j].ends_part)
                continue;
            sum += part;
            part = 0;
        }
        xp_store_f32(row, t, i, sum);
    }
}
