/*
 * folded_combine.c - forward, after combine: rows of the results of their centroids
 *
 * y = sum over slots of weight * (E(c) + alpha (x - c)), summed as (sum of weight alpha) x + sum of weight (E(c) - alpha c): where E is the
 * identity and alpha 1 the second part is zero to the last bit, and where the weights sum to 1 y is x.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "collectives/folded_impl.h"

static void spread_alphas(struct xp_fold *s)
{
    for (size_t v = 0; v < s->clusters; v++) {
        /* x - c is not even a number in a wild row, and zero in its cluster by definition. */
        const float alpha = s->is_wild[v] ? 0.0f : s->f->expert[s->expert[v]].alpha;

        s->f->alpha[v] = alpha;
        for (size_t i = s->start[v]; i < s->start[v + 1]; i++)
            s->alpha_of[s->member[i]] = alpha;
    }
}

/* For a causal model the probes of this step, which may be late rows, must not speak in its outputs. */
void xp_fold_set_alphas(struct xp_fold *s)
{
    if (s->f->knobs.centroid == XP_CENTROID_LEADER) {
        spread_alphas(s);
        xp_fold_learn(s);
    } else {
        xp_fold_learn(s);
        spread_alphas(s);
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

/* f->scale: what is left of a token's own row. Of a wild one nothing is: it is in wild clusters only. */
static void set_scales(struct xp_fold *s)
{
    for (size_t t = 0; t < s->t.tokens; t++) {
        float scale = 0;

        for (size_t slot = t * (size_t)s->t.topk; slot < (t + 1) * (size_t)s->t.topk; slot++)
            if (s->cluster_of[slot] >= 0)
                scale += s->t.weight[slot] * s->alpha_of[slot];
        s->f->scale[t] = scale;
    }
}

void xp_fold_combine(struct xp_fold *s, const void *x, const void *results, void *y)
{
    struct xp_folder *f = s->f;

    if (results != s->results)
        memcpy(s->results, results, xp_fold_count(s) * f->row_bytes);
    xp_fold_set_alphas(s);
    set_scales(s);
    const struct xp_fold_sums sums = {.dtype = f->dtype, .dim = f->dim, .clusters = s->clusters, .tokens = s->t.tokens, .topk = (size_t)s->t.topk,
                                      .results = s->results, .centroids = s->seen, .alpha = f->alpha, .cluster_of = s->cluster_of,
                                      .weight = s->t.weight, .scale = f->scale};
    f->kernels.fold_sums(&sums, x, f->tile, y);
}
