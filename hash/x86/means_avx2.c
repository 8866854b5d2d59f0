/*
 * means_avx2.c - mean rows of clusters, as rows, with AVX2
 *
 * A row may be in many clusters, and those of a cluster lie anywhere. So a few columns are done for all clusters before the next few: those of
 * all rows, as f32, fit the second cache.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/rows_avx2.h"

#include <string.h>

#define RUN 4096 /* rows summed before the sum joins the total (centroid.c) */
#define VECTORS (XP_TILE / 8)
#define AHEAD 8 /* rows */

XP_INLINE void load_tile(const struct xp_rows *in, const xp_dtype t, const size_t size, size_t first, float *work)
{
    const size_t bytes = in->dim * size;
    const char *row = (const char *)in->data + first * size;

    for (size_t r = 0; r < in->rows; r++, row += bytes) {
        _mm_prefetch(row + AHEAD * bytes, _MM_HINT_T0);
        XP_UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            _mm256_store_ps(work + r * XP_TILE + v * 8, xp_load256(row + v * 8 * size, t));
    }
}

/* The mean of the rows order[0 .. count), count > 1. */
XP_INLINE void mean_tile(const uint32_t *order, size_t count, const xp_dtype t, const size_t size, const float *work, char *out)
{
    const __m256 n = _mm256_set1_ps((float)count);
    __m256 total[VECTORS];

    XP_UNROLL
    for (size_t v = 0; v < VECTORS; v++)
        total[v] = _mm256_setzero_ps();
    for (size_t r = 0; r < count; r += RUN) {
        __m256 sum[VECTORS];

        XP_UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            sum[v] = _mm256_setzero_ps();
        for (size_t q = r; q < count && q < r + RUN; q++)
            XP_UNROLL
            for (size_t v = 0; v < VECTORS; v++)
                sum[v] = _mm256_add_ps(sum[v], _mm256_load_ps(work + (size_t)order[q] * XP_TILE + v * 8));
        XP_UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            total[v] = _mm256_add_ps(total[v], sum[v]);
    }
    XP_UNROLL
    for (size_t v = 0; v < VECTORS; v += 2)
        xp_store16_256(out + v * 8 * size, t, _mm256_div_ps(total[v], n), _mm256_div_ps(total[v + 1], n));
}

XP_INLINE size_t mean_tiles(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, const xp_dtype t, const size_t size,
                            float *work, char *out)
{
    size_t first = 0;

    for (; first + XP_TILE <= in->dim; first += XP_TILE) {
        load_tile(in, t, size, first, work);
        for (size_t k = 0; k < K; k++) {
            const size_t count = start[k + 1] - start[k];
            char *to = out + (k * in->dim + first) * size;

            if (count == 1)
                memcpy(to, (const char *)in->data + (order[start[k]] * in->dim + first) * size, XP_TILE * size);
            else if (count == 0)
                memset(to, 0, XP_TILE * size);
            else
                mean_tile(order + start[k], count, t, size, work, to);
        }
    }
    return first;
}

void xp_means_avx2(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *work, void *out)
{
    const size_t done = in->dtype == XP_BF16  ? mean_tiles(in, order, start, K, XP_BF16, 2, work, out)
                        : in->dtype == XP_F16 ? mean_tiles(in, order, start, K, XP_F16, 2, work, out)
                                              : mean_tiles(in, order, start, K, XP_F32, 4, work, out);

    if (done < in->dim)
        xp_means_columns(in, order, start, K, done, out);
}
