/*
 * means.c - mean rows of clusters, as rows (C variant)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "hash/variants.h"

#define RUN 4096 /* rows summed before the sum joins the total (centroid.c) */

/* Value i of the mean of the rows order[0 .. count). */
static float mean_value(const struct xp_rows *in, const uint32_t *order, size_t count, size_t i)
{
    float total = 0;

    for (size_t r = 0; r < count; r += RUN) {
        float sum = 0;

        for (size_t q = r; q < count && q < r + RUN; q++)
            sum += xp_load_f32(xp_row(in, order[q]), in->dtype, i);
        total += sum;
    }
    return count ? total / (float)count : 0.0f;
}

void xp_means_columns(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, size_t first, void *out)
{
    const size_t bytes = xp_row_bytes(in), at = bytes / in->dim * first;

    for (size_t k = 0; k < K; k++) {
        char *row = (char *)out + k * bytes;
        const size_t count = start[k + 1] - start[k];

        if (count == 1)
            memcpy(row + at, (const char *)xp_row(in, order[start[k]]) + at, bytes - at);
        for (size_t i = first; i < in->dim && count != 1; i++)
            xp_store_f32(row, in->dtype, i, mean_value(in, order + start[k], count, i));
    }
}

void xp_means_c(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *work, void *out)
{
    (void)work;
    xp_means_columns(in, order, start, K, 0, out);
}
