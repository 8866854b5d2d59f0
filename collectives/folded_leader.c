/*
 * folded_leader.c - clusters for causal models: a row joins the nearest earlier row that leads a cluster, or leads one from now on
 *
 * Rows are taken in the order of the batch and every decision is made from the row, the leaders so far and what earlier steps left, so
 * nothing that is said of a row depends on a later one: no Lloyd rounds, no mean over the step. The number of clusters is kept
 * by a threshold that rises with every row that became a leader and sinks with every row that did not, in such a proportion that it
 * rests where the wanted part of the rows leads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <string.h>

#include "collectives/folded_impl.h"

#define GAIN 0.05       /* of the threshold, in powers of two */
#define FIRST_GAIN 0.5  /* more while little is known */
#define KNOWN 16        /* rows */
#define LARGEST 32      /* of thresholds: no distance is beyond 2^32 */
#define MEAN_GAIN 0.25  /* of the mean row, a step */

/* |a - b|^2. A sketch is shorter than 2^15 (kernels.h, hash), so the sum fits. */
static uint32_t sketch_distance(const int16_t *a, const int16_t *b, unsigned s)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < s; i++) {
        const int32_t d = a[i] - b[i];
        sum += (uint32_t)d * (uint32_t)d;
    }
    return sum;
}

/* The nearest of n leaders, n > 0; the first of equals. */
static size_t nearest(const int16_t *leaders, size_t n, const int16_t *v, unsigned s, uint32_t *distance)
{
    size_t best = 0;

    *distance = sketch_distance(leaders, v, s);
    for (size_t i = 1; i < n; i++) {
        const uint32_t d = sketch_distance(leaders + i * s, v, s);

        if (d < *distance) {
            *distance = d;
            best = i;
        }
    }
    return best;
}

static void adjust(struct xp_folder *f, int led, double rate)
{
    const double gain = GAIN + FIRST_GAIN / (1 + (double)f->led / KNOWN);

    f->threshold = fmin(fmax(f->threshold + gain * ((led ? 1 : 0) - rate), 0), LARGEST);
    f->led++;
}

/* Does the row lose more to this leader than the outlier guard lets it? */
static int is_outlier(struct xp_folder *f, const void *row, const void *leader)
{
    float sums[2];

    if (f->knobs.outlier <= 0)
        return 0;
    f->kernels.residual(leader, f->dtype, NULL, f->dim, f->f32[1]);
    f->kernels.residual_sums(row, f->dtype, f->f32[1], f->dim, f->f32[2], sums);
    return sums[1] > f->knobs.outlier * sums[0];
}

/* Mean row of the past, for the next step. Tokens that go to no expert count too. */
static void learn_mean(struct xp_fold *s, const void *x)
{
    struct xp_folder *f = s->f;
    const struct xp_rows in = { .data = x, .rows = s->t.tokens, .dim = f->dim, .dtype = f->dtype };
    uint32_t start[] = { 0, 0 };

    for (size_t t = 0; t < s->t.tokens; t++)
        if (!xp_fold_is_wild(f, xp_row(&in, t)))
            f->token[start[1]++] = (uint32_t)t;
    if (start[1] == 0)
        return;
    f->kernels.centroid(&in, f->token, start, 1, f->f32[0]);
    for (size_t i = 0; i < f->dim; i++)
        f->past_mean[i] += (float)(f->step ? MEAN_GAIN : 1) * (f->f32[0][i] - f->past_mean[i]);
}

/* Puts the row at the end of the expert's leaders, at the head of a new cluster. */
static uint32_t lead(struct xp_folder *f, size_t e, const int16_t *v, uint32_t token)
{
    struct xp_fold_expert *expert = &f->expert[e];
    const size_t at = f->expert_start[e] + expert->leaders++;

    memcpy(f->leaders + at * f->sketch_values, v, f->sketch_values * sizeof(*v));
    f->leader[at].token = token;
    return f->leader[at].cluster = expert->clusters++;
}

/* The cluster of a tame row. */
static uint32_t place(struct xp_fold *s, const void *x, size_t e, uint32_t token, double rate)
{
    struct xp_folder *f = s->f;
    const size_t first = f->expert_start[e], n = f->expert[e].leaders;
    const int16_t *v = f->sketch + (size_t)token * f->sketch_values;
    const char *rows = x;
    uint32_t distance = 0;
    size_t at = first;
    int leads = n == 0;

    if (n > 0) {
        at += nearest(f->leaders + first * f->sketch_values, n, v, f->sketch_values, &distance);
        if (!f->threshold_known) {
            f->threshold += log2(1.0 + distance); /* the first distance that is met */
            f->threshold_known = 1;
        }
        leads = (distance > 0 && log2(1.0 + distance) > f->threshold) ||
                is_outlier(f, rows + token * f->row_bytes, rows + f->leader[at].token * f->row_bytes);
    }
    adjust(f, leads, rate);
    return leads ? lead(f, e, v, token) : f->leader[at].cluster;
}

void xp_fold_lead(struct xp_fold *s, const void *x, double rate)
{
    struct xp_folder *f = s->f;
    const struct xp_rows in = { .data = x, .rows = s->t.tokens, .dim = f->dim, .dtype = f->dtype };
    const size_t all = s->t.tokens * (size_t)s->t.topk;

    xp_hasher_set_mean(&f->hasher, f->step ? f->past_mean : NULL);
    f->kernels.hash(&f->hasher, &in, f->ids, f->sketch);
    for (int e = 0; e < f->experts; e++)
        f->expert[e].leaders = f->expert[e].clusters = 0;
    for (size_t slot = 0; slot < all; slot++) {
        const uint32_t token = (uint32_t)(slot / (unsigned)s->t.topk);

        if (s->t.expert[slot] < 0)
            continue;
        const size_t e = (size_t)s->t.expert[slot];
        if (xp_fold_is_wild(f, xp_row(&in, token))) {
            s->cluster_of[slot] = (int32_t)f->expert[e].clusters++;
            adjust(f, 1, rate);
        } else {
            s->cluster_of[slot] = (int32_t)place(s, x, e, token, rate);
        }
    }
    learn_mean(s, x);
}
