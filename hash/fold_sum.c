/*
 * fold_sum.c - a row of the results of centroids (C variant)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "hash/variants.h"

void xp_fold_sum_c(const struct xp_fold_term *terms, size_t n, float scale, const void *x, xp_dtype t, size_t dim, void *row)
{
    for (size_t i = 0; i < dim; i++) {
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
