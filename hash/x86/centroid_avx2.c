/*
 * centroid_avx2.c - mean rows of clusters with AVX2
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/rows_avx2.h"

#include <string.h>

#define RUN 4096    /* rows summed before the sum joins the total (centroid.c) */
#define COLUMNS 512 /* values of the rows summed at a time */
#define AHEAD 4     /* rows */

/* sum += n values (a multiple of 8) at p. */
XP_INLINE void add_values(const char *p, const xp_dtype t, const size_t size, size_t n, float *sum)
{
    for (size_t i = 0; i < n; i += 8)
        _mm256_store_ps(sum + i, _mm256_add_ps(_mm256_load_ps(sum + i), xp_load256(p + i * size, t)));
}

static void prefetch(const char *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch(p + i, _MM_HINT_T0);
}

/* Values [first, first + n) of the mean of the rows order[0 .. count). */
XP_INLINE void mean_columns(const struct xp_rows *in, const uint32_t *order, size_t count, size_t first, size_t n, const xp_dtype t,
                            const size_t size, float *out)
{
    _Alignas(32) float total[COLUMNS] = {0}, sum[COLUMNS];

    for (size_t r = 0; r < count; r += RUN) {
        memset(sum, 0, n * sizeof(*sum));
        for (size_t q = r; q < count && q < r + RUN; q++) {
            if (q + AHEAD < count)
                prefetch((const char *)xp_row(in, order[q + AHEAD]) + first * size, n * size);
            add_values((const char *)xp_row(in, order[q]) + first * size, t, size, n, sum);
        }
        for (size_t i = 0; i < n; i++)
            total[i] += sum[i];
    }
    for (size_t i = 0; i < n; i++)
        out[i] = count ? total[i] / (float)count : 0.0f;
}

XP_INLINE void centroids(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *out, const xp_dtype t,
                         const size_t size)
{
    const size_t whole = in->dim / 8 * 8;

    for (size_t k = 0; k < K; k++)
        for (size_t first = 0; first < whole; first += COLUMNS) {
            const size_t n = whole - first < COLUMNS ? whole - first : COLUMNS;
            mean_columns(in, order + start[k], start[k + 1] - start[k], first, n, t, size, out + k * in->dim + first);
        }
}

/* The last dim % 8 columns. */
static void last_columns(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *out)
{
    const size_t first = in->dim / 8 * 8, size = in->dtype == XP_F32 ? 4 : 2;

    for (size_t k = 0; k < K; k++) {
        const size_t count = start[k + 1] - start[k];
        float total[8] = {0}, sum[8], value[8];
        for (size_t r = 0; r < count; r += RUN) {
            memset(sum, 0, sizeof(sum));
            for (size_t q = r; q < count && q < r + RUN; q++) {
                xp_residual_c((const char *)xp_row(in, order[start[k] + q]) + first * size, in->dtype, NULL, in->dim - first, value);
                for (size_t i = 0; i < in->dim - first; i++)
                    sum[i] += value[i];
            }
            for (size_t i = 0; i < in->dim - first; i++)
                total[i] += sum[i];
        }
        for (size_t i = 0; i < in->dim - first; i++)
            out[k * in->dim + first + i] = count ? total[i] / (float)count : 0.0f;
    }
}

void xp_centroid_avx2(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *out)
{
    switch (in->dtype) {
    case XP_BF16: centroids(in, order, start, K, out, XP_BF16, 2); break;
    case XP_F16: centroids(in, order, start, K, out, XP_F16, 2); break;
    default: centroids(in, order, start, K, out, XP_F32, 4); break;
    }
    if (in->dim % 8)
        last_columns(in, order, start, K, out);
}
