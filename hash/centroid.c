/*
 * centroid.c - mean rows of clusters (C variant)
 *
 * Sums are cut into runs of 4096 rows so that their rounding error stays far below a bf16 step, and divided (not multiplied
 * by a reciprocal) so that the mean of equal rows is that row.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "hash/variants.h"

#define RUN 4096    /* rows summed before the sum joins the total */
#define COLUMNS 256 /* values of the rows summed at a time: the two sums stay in the first cache */

static void add_values(const void *row, xp_dtype t, size_t first, size_t n, float *sum)
{
    for (size_t i = 0; i < n; i++)
        sum[i] += xp_load_f32(row, t, first + i);
}

/* Mean of values [first, first + n) of the rows listed in order[0 .. count). */
static void mean_columns(const struct xp_rows *in, const uint32_t *order, size_t count, size_t first, size_t n, float *out)
{
    float total[COLUMNS] = {0}, sum[COLUMNS];

    for (size_t r = 0; r < count; r += RUN) {
        memset(sum, 0, sizeof(sum));
        for (size_t q = r; q < count && q < r + RUN; q++)
            add_values(xp_row(in, order[q]), in->dtype, first, n, sum);
        for (size_t i = 0; i < n; i++)
            total[i] += sum[i];
    }
    for (size_t i = 0; i < n; i++)
        out[i] = count ? total[i] / (float)count : 0.0f;
}

void xp_centroid_c(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *out)
{
    for (size_t k = 0; k < K; k++)
        for (size_t first = 0; first < in->dim; first += COLUMNS) {
            const size_t n = in->dim - first < COLUMNS ? in->dim - first : COLUMNS;
            mean_columns(in, order + start[k], start[k + 1] - start[k], first, n, out + k * in->dim + first);
        }
}
