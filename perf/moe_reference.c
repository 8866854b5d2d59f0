/*
 * moe_reference.c - the plain reference of a layer's exchanges: what experts must have seen, and what must have come home
 *
 * Nothing of the library is used but what it says of its clusters.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/moe_reference.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int moe_rank_of(const struct moe_case *c, int expert)
{
    return (int)((int64_t)expert * c->nranks / c->routing->experts);
}

/* Slot of an expert in the token's routing, or -1. */
static int slot_of(const struct moe_case *c, uint64_t number, int expert)
{
    int32_t id[ROUTING_MAX_K];
    float weight[ROUTING_MAX_K];

    routing_get(c->routing, number, id, weight);
    for (int j = 0; j < c->routing->k; j++)
        if (id[j] == expert)
            return j;
    return -1;
}

size_t moe_pairs(const struct moe_case *c, int from, int to)
{
    int32_t id[ROUTING_MAX_K];
    float weight[ROUTING_MAX_K];
    size_t n = 0;

    for (size_t t = 0; t < c->T; t++) {
        routing_get(c->routing, (uint64_t)from * c->T + t, id, weight);
        for (int j = 0; j < c->routing->k; j++)
            n += id[j] >= 0 && moe_rank_of(c, id[j]) == to;
    }
    return n;
}

__attribute__((format(printf, 2, 3))) static void miss(struct reference_result *out, const char *fmt, ...)
{
    va_list ap;

    if (out->missed++ != 0)
        return;
    va_start(ap, fmt);
    vsnprintf(out->first, sizeof(out->first), fmt, ap);
    va_end(ap);
}

/* ---- what experts saw ---------------------------------------------------------------------------------------------- */

int moe_check_rows(const struct moe_case *c, const void *rows, size_t got, struct reference_result *out)
{
    const size_t row_bytes = c->rows->row_bytes;
    void *want = malloc(row_bytes);
    size_t at = 0;

    if (want == NULL)
        return -1;
    for (int e = 0; e < c->routing->experts; e++) {
        for (uint64_t number = 0; moe_rank_of(c, e) == c->rank && number < (uint64_t)c->nranks * c->T; number++) {
            const char *row = (const char *)rows + at * row_bytes;
            double distance;

            if (slot_of(c, number, e) < 0)
                continue;
            out->checked++;
            if (at++ >= got)
                continue;
            rows_get(c->rows, number, want);
            distance = rows_distance(c->rows, want, row);
            if (distance > c->eps * (1.0 + 1e-6) || isnan(distance))
                miss(out, "rank %d: expert %d: the row of token %llu is %g off", c->rank, e, (unsigned long long)number, distance);
        }
    }
    free(want);
    if (at != got)
        miss(out, "rank %d: experts got %zu rows, not %zu", c->rank, got, at);
    return 0;
}

/* ---- what came home ------------------------------------------------------------------------------------------------- */

/* Rows of one token: its own, and the result of one expert. */
struct scratch {
    char *x, *result, *want;
    float *sum;
};

static int make_scratch(const struct moe_case *c, struct scratch *s)
{
    s->x = malloc(3 * c->rows->row_bytes);
    s->sum = malloc(c->rows->dim * sizeof(float));
    s->result = s->want = NULL;
    if (s->x == NULL || s->sum == NULL)
        return -1;
    s->result = s->x + c->rows->row_bytes;
    s->want = s->result + c->rows->row_bytes;
    return 0;
}

static void free_scratch(struct scratch *s)
{
    free(s->x);
    free(s->sum);
}

static void add(const struct moe_case *c, struct scratch *s, float weight)
{
    for (size_t i = 0; i < c->rows->dim; i++)
        s->sum[i] += weight * (float)rows_value(c->rows->dtype, s->result, i);
}

static void store(const struct moe_case *c, struct scratch *s)
{
    for (size_t i = 0; i < c->rows->dim; i++)
        rows_put(c->rows->dtype, s->want, i, s->sum[i]);
}

/* s->want = the token's result by the plain formula. Returns the sum of its weights. */
static double token_result(const struct moe_case *c, uint64_t number, struct scratch *s)
{
    int32_t id[ROUTING_MAX_K];
    float weight[ROUTING_MAX_K];
    double weights = 0.0;

    routing_get(c->routing, number, id, weight);
    rows_get(c->rows, number, s->x);
    memset(s->sum, 0, c->rows->dim * sizeof(float));
    for (int j = 0; j < c->routing->k; j++) {
        if (id[j] < 0)
            continue;
        c->run(c->expert, id[j], s->x, 1, s->result);
        add(c, s, weight[j]);
        weights += weight[j];
    }
    store(c, s);
    return weights;
}

/* How far a result may be off; infinite where the mode says nothing. */
static double result_limit(const struct moe_case *c, double weights)
{
    const double rounding = c->rows->dtype == XP_BF16 ? 0x1p-7 : 0x1p-9;

    if (c->mode == XP_MODE_RAW || c->mode == XP_MODE_EXACT)
        return c->sums ? rounding : 0.0;
    if (c->mode != XP_MODE_BOUNDED || !c->identity || weights <= 0.0)
        return (double)INFINITY;
    /* There, back, and the roundings of partial sums and sum. */
    return 2.0 * c->eps + c->eps * c->eps + rounding;
}

int moe_check_results(const struct moe_case *c, const void *y, struct reference_result *out)
{
    struct scratch s;
    int bad = make_scratch(c, &s);

    for (size_t t = 0; !bad && t < c->T; t++) {
        double weights = token_result(c, (uint64_t)c->rank * c->T + t, &s);
        double distance = rows_distance(c->rows, s.want, (const char *)y + t * c->rows->row_bytes);

        out->checked++;
        if (!(distance <= result_limit(c, weights)))
            miss(out, "rank %d: the result of token %zu is %g off", c->rank, t, distance);
        if (!isfinite(distance))
            continue;
        out->err_rows++;
        out->err_sum += distance;
        out->err_max = distance > out->err_max ? distance : out->err_max;
    }
    free_scratch(&s);
    return bad;
}

static double norm_of(const struct row_source *s, const void *row)
{
    double sum = 0.0;

    for (size_t i = 0; i < s->dim; i++)
        sum += rows_value(s->dtype, row, i) * rows_value(s->dtype, row, i);
    return sqrt(sum);
}

/* A result may be small beside the centroids that it is the difference of, and it is theirs that are coded: reach is their norm. */
static double folded_distance(const struct row_source *s, const void *want, const void *got, double reach)
{
    const double distance = rows_distance(s, want, got), norm = norm_of(s, want);

    return norm < reach ? distance * (norm / reach) : distance;
}

int moe_check_folded(const struct moe_case *c, const void *y, const void *centroids, size_t clusters, const int32_t *cluster,
                     const float *alpha, struct reference_result *out)
{
    int32_t id[ROUTING_MAX_K];
    float weight[ROUTING_MAX_K];
    struct scratch s;
    int bad = make_scratch(c, &s);

    for (size_t t = 0; !bad && t < c->T; t++) {
        routing_get(c->routing, (uint64_t)c->rank * c->T + t, id, weight);
        rows_get(c->rows, (uint64_t)c->rank * c->T + t, s.x);
        memset(s.sum, 0, c->rows->dim * sizeof(float));
        double reach = 0.0;
        for (int j = 0; j < c->routing->k; j++) {
            size_t at = t * (size_t)c->routing->k + (size_t)j;
            const char *centroid = (const char *)centroids + (size_t)cluster[at] * c->rows->row_bytes;

            if (id[j] < 0)
                continue;
            if (cluster[at] < 0 || (size_t)cluster[at] >= clusters) {
                miss(out, "rank %d: token %zu, slot %d: cluster %d of %zu", c->rank, t, j, cluster[at], clusters);
                continue;
            }
            c->run(c->expert, id[j], centroid, 1, s.result);
            reach += (double)weight[j] * norm_of(c->rows, s.result);
            for (size_t i = 0; i < c->rows->dim; i++) {
                float residual = (float)(rows_value(c->rows->dtype, s.x, i) - rows_value(c->rows->dtype, centroid, i));
                s.sum[i] += weight[j] * ((float)rows_value(c->rows->dtype, s.result, i) + alpha[at] * residual);
            }
        }
        store(c, &s);
        out->checked++;
        double distance = folded_distance(c->rows, s.want, (const char *)y + t * c->rows->row_bytes, reach);
        if (!(distance <= c->fold_limit))
            miss(out, "rank %d: the result of token %zu is not that of its clusters (%g off)", c->rank, t, distance);
    }
    free_scratch(&s);
    return bad;
}
