/*
 * layer.c - MoE steps, their plain reference, and the body that compares (layer.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/harness/layer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/random.h"
#include "tests/harness/values.h"

static size_t row_bytes(const struct layer *l)
{
    return l->dim * xp_dtype_size(l->dtype);
}

/* ---- what the ranks have ---------------------------------------------------------------------------------------------- */

static size_t tokens_of(const struct layer *l, int ranks, int rank, struct random *r)
{
    if (l->choice == CHOICE_EMPTY_RANKS && rank % 2 == 0)
        return 0;
    return l->choice == CHOICE_RANDOM || l->tokens < 4 ? l->tokens : l->tokens - random_below(r, l->tokens / 2);
}

/* A permutation's first k numbers. */
static void choose(const struct layer *l, struct random *r, int topk, int32_t *expert)
{
    int start = l->choice == CHOICE_HOT ? 0 : -1, k = 0;
    int want = l->choice == CHOICE_VARYING ? (int)random_below(r, (uint64_t)topk + 1) : topk;
    if (start >= 0 && topk)
        expert[k++] = l->experts / 2;
    while (k < topk) {
        int32_t e = (int32_t)random_below(r, (uint64_t)l->experts);
        int taken = 0;
        for (int i = 0; i < k; i++)
            taken |= expert[i] == e;
        if (!taken)
            expert[k++] = e;
    }
    for (int i = 0; i < topk; i++) /* holes anywhere, not only at the end */
        if (want < topk && random_below(r, (uint64_t)topk) >= (uint64_t)want)
            expert[i] = -1;
}

void layer_step_make(struct layer_step *s, const struct layer *l, int ranks, int rank, int step)
{
    struct random r = {l->seed * 1000003 + (uint64_t)step * 8191 + (uint64_t)rank * 131 + 7}, shared = {l->seed + (uint64_t)step};
    s->tokens = tokens_of(l, ranks, rank, &r);
    s->topk = l->choice == CHOICE_NONE ? 0 : l->topk;
    size_t slots = s->tokens * (size_t)s->topk, values = s->tokens * l->dim;
    s->expert = malloc((slots + 1) * sizeof *s->expert);
    s->weight = malloc((slots + 1) * sizeof *s->weight);
    s->x = malloc(s->tokens * row_bytes(l) + 1);
    s->grad_y = malloc(s->tokens * row_bytes(l) + 1);
    s->expert_rank = l->moving ? malloc((size_t)l->experts * sizeof *s->expert_rank) : NULL;
    for (size_t t = 0; t < s->tokens; t++)
        choose(l, &r, s->topk, s->expert + t * (size_t)s->topk);
    for (size_t i = 0; i < slots; i++)
        s->weight[i] = (float)random_unit(&r) - 0.25f;
    for (size_t i = 0; i < values; i++) {
        value_put(s->x, l->dtype, i, 2 * random_unit(&r) - 1);
        value_put(s->grad_y, l->dtype, i, 2 * random_unit(&r) - 1);
    }
    for (size_t t = 0; t < l->wild && t < s->tokens; t++)
        value_put(s->x, l->dtype, t * 3 % s->tokens * l->dim, t % 2 ? NAN : INFINITY);
    s->sequence = l->centroid == XP_CENTROID_SEQUENCES ? malloc((s->tokens + 1) * sizeof *s->sequence) : NULL;
    for (size_t t = 0; s->sequence && t < s->tokens; t++)
        s->sequence[t] = (int32_t)(t / 5);
    for (int e = 0; s->expert_rank && e < l->experts; e++)
        s->expert_rank[e] = (int32_t)random_below(&shared, (uint64_t)ranks);
}

void layer_step_free(struct layer_step *s)
{
    free(s->expert);
    free(s->weight);
    free(s->x);
    free(s->grad_y);
    free(s->expert_rank);
    free(s->sequence);
}

int layer_rank_of(const struct layer *l, const struct layer_step *s, int ranks, int expert)
{
    return s->expert_rank ? s->expert_rank[expert] : (int)((int64_t)expert * ranks / l->experts);
}

void layer_expert(const struct layer *l, int expert, const void *x, void *out)
{
    for (size_t i = 0; i < l->dim; i++)
        value_put(out, l->dtype, i, value_get(x, l->dtype, i) * (1 + expert / 16.0) + expert / 4.0);
}

void layer_expert_grad(const struct layer *l, int expert, const void *grad_out, void *grad_in)
{
    for (size_t i = 0; i < l->dim; i++)
        value_put(grad_in, l->dtype, i, value_get(grad_out, l->dtype, i) * (1 + expert / 16.0));
}

/* ---- the reference ------------------------------------------------------------------------------------------------------ */

static void scale(const struct layer *l, const void *in, float w, void *out)
{
    for (size_t i = 0; i < l->dim; i++)
        value_put(out, l->dtype, i, w * (float)value_get(in, l->dtype, i));
}

size_t layer_reference_rows(const struct layer *l, const struct layer_step *all, int ranks, int rank, size_t *offsets, int32_t *ids,
                            int *local, char *rows, char *grad_rows)
{
    size_t n = 0, bytes = row_bytes(l);
    *local = 0;
    for (int e = 0; e < l->experts; e++) {
        if (layer_rank_of(l, &all[0], ranks, e) != rank)
            continue;
        offsets[*local] = n;
        ids[(*local)++] = e;
        for (int from = 0; from < ranks; from++)
            for (size_t i = 0; i < all[from].tokens * (size_t)all[from].topk; i++) {
                size_t t = i / (size_t)all[from].topk;
                if (all[from].expert[i] != e)
                    continue;
                if (rows)
                    memcpy(rows + n * bytes, all[from].x + t * bytes, bytes);
                if (grad_rows)
                    scale(l, all[from].grad_y + t * bytes, all[from].weight[i], grad_rows + n * bytes);
                n++;
            }
    }
    offsets[*local] = n;
    return n;
}

void layer_reference_home(const struct layer *l, const struct layer_step *s, char *y, char *grad_x, float *grad_weight)
{
    size_t bytes = row_bytes(l);
    char *out = malloc(bytes), *grad = malloc(bytes);
    float *acc = calloc(l->dim, 4), *acc_grad = calloc(l->dim, 4);
    for (size_t t = 0; t < s->tokens; t++) {
        memset(acc, 0, 4 * l->dim);
        memset(acc_grad, 0, 4 * l->dim);
        for (int k = 0; k < s->topk; k++) {
            size_t at = t * (size_t)s->topk + (size_t)k;
            double dot = 0;
            if (s->expert[at] >= 0) {
                layer_expert(l, s->expert[at], s->x + t * bytes, out);
                scale(l, s->grad_y + t * bytes, s->weight[at], grad);
                layer_expert_grad(l, s->expert[at], grad, grad);
                for (size_t i = 0; i < l->dim; i++) {
                    acc[i] += s->weight[at] * (float)value_get(out, l->dtype, i);
                    acc_grad[i] += (float)value_get(grad, l->dtype, i);
                    dot += value_get(out, l->dtype, i) * value_get(s->grad_y + t * bytes, l->dtype, i);
                }
            }
            grad_weight[at] = (float)dot;
        }
        for (size_t i = 0; i < l->dim; i++) {
            value_put(y + t * bytes, l->dtype, i, acc[i]);
            value_put(grad_x + t * bytes, l->dtype, i, acc_grad[i]);
        }
    }
    free(out);
    free(grad);
    free(acc);
    free(acc_grad);
}

/* ---- the body ------------------------------------------------------------------------------------------------------------- */

void layer_plan(const struct layer *l, int ranks, xp_plan_desc *d, xp_moe_desc *m)
{
    xp_moe_desc_init(m);
    m->experts = l->experts;
    m->max_topk = l->topk ? l->topk : 1;
    m->combine = l->combine;
    m->centroid = l->centroid;
    m->outlier = l->outlier;
    m->error_limit = l->error_limit;
    xp_plan_desc_init(d);
    d->dtype = l->dtype;
    d->dim = l->dim;
    d->max_send_rows = l->tokens;
    d->max_recv_rows = l->tokens * (size_t)(l->topk ? l->topk : 1) * (size_t)ranks;
    d->mode = l->mode;
    d->eps = l->eps;
    d->algo = l->algo;
    d->codec = l->codec;
    d->dither = l->dither;
    d->moe = m;
}

xp_status layer_route(const struct layer_step *s, xp_plan *plan, xp_routing **r)
{
    xp_route_desc d;
    xp_route_desc_init(&d);
    d.tokens = s->tokens;
    d.topk = s->topk;
    d.expert = s->expert;
    d.weight = s->weight;
    d.expert_rank = s->expert_rank;
    d.sequence = s->sequence;
    return xp_route(plan, &d, r);
}

/* How far results may be off, relative to the size of what went in: nothing where every row comes home as it is. */
static double tolerance(const struct layer *l)
{
    double sums = l->combine == XP_COMBINE_SUM || l->mode == XP_MODE_BOUNDED ? (l->dtype == XP_BF16 ? 0.02 : l->dtype == XP_F16 ? 3e-3 : 1e-5) : 0;
    return sums + (l->mode == XP_MODE_BOUNDED ? 3 * l->eps : 0);
}

/* Rows alike, each within `off` of `size` (NULL: of the wanted row). */
static void compare(const struct layer *l, const char *what, const char *got, const char *want, size_t rows, double off, const double *size,
                    char *why)
{
    size_t bytes = row_bytes(l);
    for (size_t r = 0; r < rows && !why[0]; r++) {
        const char *g = got + r * bytes, *w = want + r * bytes;
        double most = off * (size ? size[r] : value_norm(w, l->dtype, l->dim));
        if (memcmp(g, w, bytes) == 0)
            continue;
        double d = value_distance(g, w, l->dtype, l->dim);
        if (!(off > 0 && d <= most * (1 + 1e-6)))
            snprintf(why, WORLD_TEXT, "%s: row %zu of %zu is off by %g (allowed %g)", what, r, rows, d, most);
    }
}

/* Sum over the slots of |w| (1 with grad) * the size of what the expert makes of a row. */
static double *sizes(const struct layer *l, const struct layer_step *s, int grad)
{
    double *out = calloc(s->tokens + 1, sizeof *out);
    size_t bytes = row_bytes(l);
    char *tmp = malloc(bytes);
    for (size_t i = 0; i < s->tokens * (size_t)s->topk; i++) {
        size_t t = i / (size_t)s->topk;
        if (s->expert[i] < 0)
            continue;
        if (grad)
            layer_expert_grad(l, s->expert[i], s->grad_y + t * bytes, tmp);
        else
            layer_expert(l, s->expert[i], s->x + t * bytes, tmp);
        out[t] += fabs(s->weight[i]) * value_norm(tmp, l->dtype, l->dim);
    }
    free(tmp);
    return out;
}

struct world_step {
    const struct layer *l;
    xp_comm *comm;
    xp_plan *plan;
    struct layer_step *all;
    int ranks, rank, local;
    size_t rows, *offsets;
    int32_t *ids;
    char *want_rows, *want_grad, *rows_in, *rows_out;
    xp_routing *routing;
};

static void fail(struct world_step *s, const char *what, xp_status st, char *why)
{
    snprintf(why, WORLD_TEXT, "%s: %s: %.300s", what, xp_status_string(st), xp_comm_last_error(s->comm));
}

static void check_layout(const struct world_step *s, char *why)
{
    if (xp_routing_rows(s->routing) != s->rows)
        snprintf(why, WORLD_TEXT, "%zu rows, not %zu", xp_routing_rows(s->routing), s->rows);
    else if (xp_routing_local_experts(s->routing) != s->local ||
             memcmp(xp_routing_expert_ids(s->routing), s->ids, (size_t)s->local * sizeof *s->ids) != 0)
        snprintf(why, WORLD_TEXT, "other experts than expected");
    else if (memcmp(xp_routing_offsets(s->routing), s->offsets, ((size_t)s->local + 1) * sizeof *s->offsets) != 0)
        snprintf(why, WORLD_TEXT, "other offsets than expected");
}

static void run_experts(const struct world_step *s, int grad)
{
    size_t bytes = row_bytes(s->l);
    for (int e = 0; e < s->local; e++)
        for (size_t r = s->offsets[e]; r < s->offsets[e + 1]; r++) {
            if (grad)
                layer_expert_grad(s->l, s->ids[e], s->rows_in + r * bytes, s->rows_out + r * bytes);
            else
                layer_expert(s->l, s->ids[e], s->rows_in + r * bytes, s->rows_out + r * bytes);
        }
}

static void forward(struct world_step *s, const char *want_y, char *why)
{
    const struct layer_step *mine = &s->all[s->rank];
    char *y = malloc(mine->tokens * row_bytes(s->l) + 1);
    double *size = sizes(s->l, mine, 0);
    xp_status st = xp_dispatch(s->plan, s->routing, mine->x, s->rows_in, NULL);
    if (st != XP_OK)
        fail(s, "dispatch", st, why);
    else
        compare(s->l, "dispatch", s->rows_in, s->want_rows, s->rows, s->l->mode == XP_MODE_BOUNDED ? s->l->eps : 0, NULL, why);
    if (st == XP_OK) {
        run_experts(s, 0);
        st = xp_combine(s->plan, s->routing, s->rows_out, NULL, y, NULL);
        if (st != XP_OK)
            fail(s, "combine", st, why);
        else
            compare(s->l, "combine", y, want_y, mine->tokens, tolerance(s->l), size, why);
    }
    free(size);
    free(y);
}

static void backward(struct world_step *s, const char *want_grad_x, const float *want_weight, char *why)
{
    const struct layer_step *mine = &s->all[s->rank];
    size_t slots = mine->tokens * (size_t)mine->topk;
    char *grad_x = malloc(mine->tokens * row_bytes(s->l) + 1);
    float *grad_weight = malloc((slots + 1) * sizeof *grad_weight);
    double *size = sizes(s->l, mine, 1), off = tolerance(s->l);
    xp_status st = xp_combine_backward(s->plan, s->routing, mine->grad_y, s->rows_out, s->rows_in, grad_weight, NULL);
    if (st != XP_OK)
        fail(s, "combine_backward", st, why);
    else
        compare(s->l, "grad_rows", s->rows_in, s->want_grad, s->rows, off, NULL, why);
    for (size_t i = 0; st == XP_OK && i < slots && !why[0]; i++)
        if (fabs(grad_weight[i] - want_weight[i]) > (off + 1e-6) * (1 + s->l->experts / 4.0) * (double)s->l->dim)
            snprintf(why, WORLD_TEXT, "grad_weight of slot %zu is %g, not %g", i, grad_weight[i], want_weight[i]);
    if (st == XP_OK) {
        run_experts(s, 1);
        st = xp_dispatch_backward(s->plan, s->routing, s->rows_out, NULL, grad_x, NULL);
        if (st != XP_OK)
            fail(s, "dispatch_backward", st, why);
        else
            compare(s->l, "grad_x", grad_x, want_grad_x, mine->tokens, off, size, why);
    }
    free(size);
    free(grad_x);
    free(grad_weight);
}

static void one_step(struct world_step *s, int step, char *why)
{
    const struct layer *l = s->l;
    const struct layer_step *mine;
    size_t most = l->tokens * (size_t)(l->topk + 1) * (size_t)s->ranks * row_bytes(l) + 1;
    s->all = calloc((size_t)s->ranks, sizeof *s->all);
    for (int i = 0; i < s->ranks; i++)
        layer_step_make(&s->all[i], l, s->ranks, i, step);
    mine = &s->all[s->rank];
    s->offsets = calloc((size_t)l->experts + 1, sizeof *s->offsets);
    s->ids = calloc((size_t)l->experts + 1, sizeof *s->ids);
    s->want_rows = malloc(most);
    s->want_grad = malloc(most);
    s->rows_in = malloc(most);
    s->rows_out = malloc(most);
    s->rows = layer_reference_rows(l, s->all, s->ranks, s->rank, s->offsets, s->ids, &s->local, s->want_rows, s->want_grad);
    char *y = malloc(mine->tokens * row_bytes(l) + 1), *grad_x = malloc(mine->tokens * row_bytes(l) + 1);
    float *grad_weight = malloc((mine->tokens * (size_t)mine->topk + 1) * sizeof *grad_weight);
    layer_reference_home(l, mine, y, grad_x, grad_weight);
    xp_status st = layer_route(mine, s->plan, &s->routing);
    if (st != XP_OK)
        fail(s, "route", st, why);
    else
        check_layout(s, why);
    if (st == XP_OK && !why[0])
        forward(s, y, why);
    if (st == XP_OK && !why[0] && !l->no_backward)
        backward(s, grad_x, grad_weight, why);
    if (st == XP_OK)
        xp_routing_destroy(s->routing);
    for (int i = 0; i < s->ranks; i++)
        layer_step_free(&s->all[i]);
    free(s->all);
    free(s->offsets);
    free(s->ids);
    free(s->want_rows);
    free(s->want_grad);
    free(s->rows_in);
    free(s->rows_out);
    free(y);
    free(grad_x);
    free(grad_weight);
}

void layer_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct world_step s = {.l = arg, .comm = comm, .rank = rank, .ranks = xp_comm_size(comm)};
    xp_plan_desc d;
    xp_moe_desc m;
    layer_plan(s.l, s.ranks, &d, &m);
    xp_status st = xp_plan_create(&s.plan, comm, &d);
    if (st != XP_OK) {
        fail(&s, "plan", st, why);
        return;
    }
    for (int step = 0; step < (s.l->steps ? s.l->steps : 1) && !why[0]; step++)
        one_step(&s, step, why);
    xp_plan_destroy(s.plan);
}

const char *layer_text(const struct layer *l, const struct world *w)
{
    static _Thread_local char text[300];
    size_t len = (size_t)snprintf(text, sizeof text, "nodes");
    for (int k = 0; w->nodes[k]; k++)
        len += (size_t)snprintf(text + len, sizeof text - len, " %d", w->nodes[k]);
    snprintf(text + len, sizeof text - len, "%s choice %d tokens %zu dim %zu experts %d topk %d dtype %d mode %d algo %s sum %d moving %d seed %llu",
             w->interleaved ? " interleaved" : "", l->choice, l->tokens, l->dim, l->experts, l->topk, l->dtype, l->mode,
             l->algo ? l->algo : "auto", (int)l->combine, l->moving, (unsigned long long)l->seed);
    return text;
}
