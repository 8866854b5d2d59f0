/*
 * folded_backward.c - the gradients of folded mode
 *
 * With g = weight * grad_y and G the sum of g over a cluster, backward of y = E(c) + alpha (x - c):
 *   c the mean:   dx = alpha g + (J^T G - alpha G) / N      for every row of the cluster
 *   c the leader: dx = alpha g, and the leader gets J^T G - alpha G besides
 * G is taken as it travelled, so that J^T G - alpha G vanishes where the expert is alpha times the identity.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "collectives/folded_impl.h"

static void load(const struct xp_folder *f, const void *rows, size_t r, float *out)
{
    f->kernels.residual((const char *)rows + r * f->row_bytes, f->dtype, NULL, f->dim, out);
}

/* ---- through combine -------------------------------------------------------------------------------------------------- */

static void sum_gradients(struct xp_fold *s, size_t v, const void *grad_y)
{
    struct xp_folder *f = s->f;
    float *sum = f->f32[0], *g = f->f32[1];

    memset(sum, 0, f->dim * sizeof(*sum));
    for (size_t i = s->start[v]; i < s->start[v + 1]; i++) {
        const float w = s->t.weight[s->member[i]];

        load(f, grad_y, s->member[i] / (unsigned)s->t.topk, g);
        for (size_t j = 0; j < f->dim; j++)
            sum[j] += w * g[j];
    }
    f->kernels.restore(sum, NULL, f->dim, f->dtype, s->sums + v * f->row_bytes);
}

#define PARTIALS 8

static double dot(const float *a, const float *b, size_t n)
{
    double part[PARTIALS] = { 0 }, sum = 0;

    for (size_t i = 0; i < n; i++)
        part[i % PARTIALS] += (double)a[i] * b[i];
    for (size_t p = 0; p < PARTIALS; p++)
        sum += part[p];
    return sum;
}

/* dL/dweight = <grad_y, what the weight multiplied>. */
static void weight_gradients(struct xp_fold *s, const void *grad_y, const void *x, float *grad_weight)
{
    struct xp_folder *f = s->f;

    for (size_t t = 0; t < s->t.tokens; t++) {
        load(f, grad_y, t, f->f32[0]);
        load(f, x, t, f->f32[1]);
        for (int k = 0; k < s->t.topk; k++) {
            const size_t slot = t * (size_t)s->t.topk + (size_t)k;

            grad_weight[slot] = 0;
            if (s->cluster_of[slot] < 0)
                continue;
            xp_fold_slot_result(s, (uint32_t)slot, f->f32[1], f->f32[2]);
            grad_weight[slot] = (float)dot(f->f32[0], f->f32[2], f->dim);
        }
    }
}

void xp_fold_combine_backward(struct xp_fold *s, const void *grad_y, const void *x, void *G, float *grad_weight)
{
    const size_t row_bytes = s->f->row_bytes;

    for (size_t v = 0; v < s->clusters; v++)
        sum_gradients(s, v, grad_y);
    memset(s->sums + s->clusters * row_bytes, 0, s->probes * row_bytes);
    memcpy(G, s->sums, xp_fold_count(s) * row_bytes);
    if (grad_weight)
        weight_gradients(s, grad_y, x, grad_weight);
}

/* ---- through dispatch -------------------------------------------------------------------------------------------------- */

/* sum += the part of a slot's gradient that comes through its centroid. */
static void add_through_centroid(struct xp_fold *s, size_t slot, const void *JG, float *sum)
{
    struct xp_folder *f = s->f;
    const size_t v = (size_t)s->cluster_of[slot], members = s->start[v + 1] - s->start[v];
    const int leader = f->knobs.centroid == XP_CENTROID_LEADER;
    const float alpha = s->alpha_of[slot], n = leader ? 1.0f : (float)members;
    float *jg = f->f32[2], *total = f->f32[3];

    if (leader && s->member[s->start[v]] != slot)
        return;
    load(f, JG, v, jg);
    load(f, s->sums, v, total);
    for (size_t i = 0; i < f->dim; i++)
        sum[i] += (alpha == 0.0f ? jg[i] : jg[i] - alpha * total[i]) / n;
}

void xp_fold_dispatch_backward(struct xp_fold *s, const void *grad_y, const void *JG, void *grad_x)
{
    struct xp_folder *f = s->f;
    float *sum = f->f32[0], *g = f->f32[1];

    for (size_t t = 0; t < s->t.tokens; t++) {
        memset(sum, 0, f->dim * sizeof(*sum));
        load(f, grad_y, t, g);
        for (int k = 0; k < s->t.topk; k++) {
            const size_t slot = t * (size_t)s->t.topk + (size_t)k;
            const float direct = s->cluster_of[slot] < 0 ? 0.0f : s->alpha_of[slot] * s->t.weight[slot];

            if (s->cluster_of[slot] < 0)
                continue;
            if (direct != 0.0f)
                for (size_t i = 0; i < f->dim; i++)
                    sum[i] += direct * g[i];
            add_through_centroid(s, slot, JG, sum);
        }
        f->kernels.restore(sum, NULL, f->dim, f->dtype, (char *)grad_x + t * f->row_bytes);
    }
}
