/*
 * row_sum.c - a row that is a sum of weighted rows (C variant)
 *
 * Columns are summed a block at a time, so that the sums stay in the first cache and loops over columns become vector code.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "hash/variants.h"

#define BLOCK 1024

/* part[i] += w * row[at + i] */
static void add_row(float *restrict part, const void *row, xp_dtype t, size_t at, size_t n, float w)
{
    if (t == XP_BF16) {
        for (size_t i = 0; i < n; i++)
            part[i] += w * xp_load_f32(row, XP_BF16, at + i);
    } else if (t == XP_F16) {
        for (size_t i = 0; i < n; i++)
            part[i] += w * xp_f16_to_f32_straight(row, at + i);
    } else {
        for (size_t i = 0; i < n; i++)
            part[i] += w * xp_load_f32(row, XP_F32, at + i);
    }
}

static void store(void *row, xp_dtype t, size_t at, size_t n, const float *restrict sum)
{
    if (t == XP_BF16) {
        for (size_t i = 0; i < n; i++)
            xp_store_f32(row, XP_BF16, at + i, sum[i]);
    } else if (t == XP_F16) {
        for (size_t i = 0; i < n; i++)
            xp_store_f32(row, XP_F16, at + i, sum[i]);
    } else {
        for (size_t i = 0; i < n; i++)
            xp_store_f32(row, XP_F32, at + i, sum[i]);
    }
}

void xp_row_sum_c(const struct xp_sum_term *terms, size_t n, xp_dtype t, size_t dim, void *row)
{
    float sum[BLOCK], part[BLOCK];

    for (size_t at = 0; at < dim; at += BLOCK) {
        const size_t width = dim - at < BLOCK ? dim - at : BLOCK;

        memset(sum, 0, sizeof(sum));
        memset(part, 0, sizeof(part));
        for (size_t j = 0; j < n; j++) {
            add_row(part, terms[j].row, t, at, width, terms[j].weight);
            if (!terms[j].ends_part)
                continue;
            for (size_t i = 0; i < width; i++) {
                sum[i] += part[i];
                part[i] = 0;
            }
        }
        store(row, t, at, width, sum);
    }
}
