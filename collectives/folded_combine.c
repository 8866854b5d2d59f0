/*
 * folded_combine.c - forward, after combine: rows of the results of their centroids
 *
 * y = sum over slots of weight * (E(c) + alpha (x - c)), summed as alpha x + (E(c) - alpha c): where E is the identity and alpha 1 the
 * second part is zero to the last bit and y is x.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "collectives/folded_impl.h"

static void set_alphas(struct xp_fold *s)
{
    for (size_t v = 0; v < s->clusters; v++) {
        /* x - c is not even a number in a wild row, and zero in its cluster by definition. */
        const float alpha = s->is_wild[v] ? 0.0f : s->f->expert[s->expert[v]].alpha;

        for (size_t i = s->start[v]; i < s->start[v + 1]; i++)
            s->alpha_of[s->member[i]] = alpha;
    }
}

void xp_fold_slot_result(const struct xp_fold *s, uint32_t slot, const float *x, float *out)
{
    const struct xp_folder *f = s->f;
    const size_t v = (size_t)s->cluster_of[slot];
    const float alpha = s->alpha_of[slot];
    float *c = f->f32[3];

    f->kernels.residual(s->results + v * f->row_bytes, f->dtype, NULL, f->dim, out);
    if (alpha == 0.0f)
        return;
    f->kernels.residual(s->seen + v * f->row_bytes, f->dtype, NULL, f->dim, c);
    for (size_t i = 0; i < f->dim; i++)
        out[i] = alpha * x[i] + (out[i] - alpha * c[i]);
}

static void combine_token(struct xp_fold *s, size_t token, const void *x, void *y)
{
    struct xp_folder *f = s->f;
    float *sum = f->f32[0], *row = f->f32[1], *result = f->f32[2];

    memset(sum, 0, f->dim * sizeof(*sum));
    f->kernels.residual((const char *)x + token * f->row_bytes, f->dtype, NULL, f->dim, row);
    for (int k = 0; k < s->t.topk; k++) {
        const size_t slot = token * (size_t)s->t.topk + (size_t)k;
        const float w = s->t.weight[slot];

        if (s->cluster_of[slot] < 0)
            continue;
        xp_fold_slot_result(s, (uint32_t)slot, row, result);
        for (size_t i = 0; i < f->dim; i++)
            sum[i] += w * result[i];
    }
    f->kernels.restore(sum, NULL, f->dim, f->dtype, (char *)y + token * f->row_bytes);
}

void xp_fold_combine(struct xp_fold *s, const void *x, const void *results, void *y)
{
    memcpy(s->results, results, xp_fold_count(s) * s->f->row_bytes);
    /* For a causal model the probes of this step, which may be late rows, must not speak in its outputs. */
    if (s->f->knobs.centroid == XP_CENTROID_LEADER) {
        set_alphas(s);
        xp_fold_learn(s);
    } else {
        xp_fold_learn(s);
        set_alphas(s);
    }
    for (size_t t = 0; t < s->t.tokens; t++)
        combine_token(s, t, x, y);
}
