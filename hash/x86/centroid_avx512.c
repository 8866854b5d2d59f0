/*
 * centroid_avx512.c - mean rows of clusters with AVX-512
 *
 * 256 columns at a time are summed in registers over the rows, so a row is read once and nothing else is.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/rows_avx512.h"

#define RUN 4096 /* rows summed before the sum joins the total (centroid.c) */
#define REGS 16
#define COLUMNS (16 * REGS)

/* Adds values [first, first + n) of the rows order[0 .. count) to zero, in that order. */
XP_INLINE void sum_run(const struct xp_rows *in, const uint32_t *order, size_t count, size_t first, const size_t n, const xp_dtype t,
                       const size_t size, __m512 *sum)
{
    for (int k = 0; k < REGS; k++)
        sum[k] = _mm512_setzero_ps();
    for (size_t q = 0; q < count; q++) {
        const char *p = (const char *)xp_row(in, order[q]) + first * size;
        if (q + 4 < count)
            for (size_t line = 0; line < n * size; line += 64)
                _mm_prefetch((const char *)xp_row(in, order[q + 4]) + first * size + line, _MM_HINT_T0);
        XP_UNROLL
        for (size_t k = 0; k < REGS; k++)
            if (k * 16 < n)
                sum[k] = _mm512_add_ps(sum[k], xp_load512(p + k * 16 * size, t, n - k * 16));
    }
}

XP_INLINE void mean_columns(const struct xp_rows *in, const uint32_t *order, size_t count, size_t first, const size_t n,
                            const xp_dtype t, const size_t size, float *out)
{
    __m512 total[REGS], sum[REGS];

    for (int k = 0; k < REGS; k++)
        total[k] = _mm512_setzero_ps();
    for (size_t r = 0; r < count; r += RUN) {
        sum_run(in, order + r, count - r < RUN ? count - r : RUN, first, n, t, size, sum);
        for (int k = 0; k < REGS; k++)
            total[k] = _mm512_add_ps(total[k], sum[k]);
    }
    const __m512 divisor = _mm512_set1_ps(count ? (float)count : 1.0f);
    for (size_t k = 0; k * 16 < n; k++)
        xp_store_f32_512(out + k * 16, _mm512_div_ps(total[k], divisor), n - k * 16);
}

XP_INLINE void centroids(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *out, const xp_dtype t,
                         const size_t size)
{
    for (size_t k = 0; k < K; k++) {
        const size_t count = start[k + 1] - start[k];
        size_t first = 0;
        for (; first + COLUMNS <= in->dim; first += COLUMNS)
            mean_columns(in, order + start[k], count, first, COLUMNS, t, size, out + k * in->dim + first);
        if (first < in->dim)
            mean_columns(in, order + start[k], count, first, in->dim - first, t, size, out + k * in->dim + first);
    }
}

void xp_centroid_avx512(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *out)
{
    switch (in->dtype) {
    case XP_BF16: centroids(in, order, start, K, out, XP_BF16, 2); break;
    case XP_F16: centroids(in, order, start, K, out, XP_F16, 2); break;
    default: centroids(in, order, start, K, out, XP_F32, 4); break;
    }
}
