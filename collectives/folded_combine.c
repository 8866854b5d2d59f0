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

#define LINE 64 /* of a cache, */
#define NEAR 2  /* the second of which has room for the rows of a token */

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

/* Rows of clusters lie anywhere: they are asked for one token ahead. */
static void fetch(const struct xp_fold *s, size_t token)
{
    const struct xp_folder *f = s->f;

    for (size_t slot = token * (size_t)s->t.topk; slot < (token + 1) * (size_t)s->t.topk; slot++) {
        const size_t at = s->cluster_of[slot] < 0 ? 0 : (size_t)s->cluster_of[slot] * f->row_bytes;

        for (size_t i = 0; i < f->row_bytes; i += LINE) {
            __builtin_prefetch(s->results + at + i, 0, NEAR);
            __builtin_prefetch(s->seen + at + i, 0, NEAR);
        }
    }
}

static void combine_token(struct xp_fold *s, size_t token, const void *x, void *y)
{
    struct xp_folder *f = s->f;
    float scale = 0;
    size_t n = 0;

    for (int k = 0; k < s->t.topk; k++) {
        const size_t slot = token * (size_t)s->t.topk + (size_t)k, at = (size_t)s->cluster_of[slot] * f->row_bytes;

        if (s->cluster_of[slot] < 0)
            continue;
        f->term[n++] = (struct xp_fold_term){ s->results + at, s->seen + at, s->t.weight[slot], s->alpha_of[slot] };
        scale += s->t.weight[slot] * s->alpha_of[slot];
    }
    /* A wild row is in wild clusters only: it is not touched. */
    f->kernels.fold_sum(f->term, n, scale, scale != 0.0f ? (const char *)x + token * f->row_bytes : NULL, f->dtype, f->dim,
                        (char *)y + token * f->row_bytes);
}

void xp_fold_combine(struct xp_fold *s, const void *x, const void *results, void *y)
{
    if (results != s->results)
        memcpy(s->results, results, xp_fold_count(s) * s->f->row_bytes);
    /* For a causal model the probes of this step, which may be late rows, must not speak in its outputs. */
    if (s->f->knobs.centroid == XP_CENTROID_LEADER) {
        set_alphas(s);
        xp_fold_learn(s);
    } else {
        xp_fold_learn(s);
        set_alphas(s);
    }
    for (size_t t = 0; t < s->t.tokens; t++) {
        if (t + 1 < s->t.tokens)
            fetch(s, t + 1);
        combine_token(s, t, x, y);
    }
}
