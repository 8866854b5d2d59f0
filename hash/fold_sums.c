/*
 * fold_sums.c - rows of the results of centroids (C variant)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "hash/variants.h"

/* Value i of the row of a token. */
static float value_of(const struct xp_fold_sums *s, const void *x, size_t token, size_t i)
{
    const float scale = s->scale[token];
    float sum = scale != 0.0f ? scale * xp_load_f32(x, s->dtype, token * s->dim + i) : 0.0f;

    for (size_t slot = token * s->topk; slot < (token + 1) * s->topk; slot++) {
        const size_t c = (size_t)s->cluster_of[slot];
        float value;

        if (s->cluster_of[slot] < 0)
            continue;
        value = xp_load_f32(s->results, s->dtype, c * s->dim + i);
        if (s->alpha[c] != 0.0f)
            value -= s->alpha[c] * xp_load_f32(s->centroids, s->dtype, c * s->dim + i);
        sum += s->weight[slot] * value;
    }
    return sum;
}

void xp_fold_sums_columns(const struct xp_fold_sums *s, const void *x, size_t first, void *y)
{
    for (size_t t = 0; t < s->tokens; t++)
        for (size_t i = first; i < s->dim; i++)
            xp_store_f32(y, s->dtype, t * s->dim + i, value_of(s, x, t, i));
}

void xp_fold_sums_c(const struct xp_fold_sums *s, const void *x, float *work, void *y)
{
    (void)work;
    xp_fold_sums_columns(s, x, 0, y);
}
