/*
 * moe_layer.c - one MoE layer of a benchmark (moe_layer.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/moe_layer.h"

#include <stdlib.h>
#include <string.h>

#include "lib/comm.h"
#include "perf/spawn.h"

#define DEFAULT_EXPERTS 16

int layer_fail(struct layer *l, const char *what, xp_status s)
{
    const char *text = l->comm != NULL ? xp_comm_last_error(l->comm) : xp_last_error();

    return perf_fail(l->p, "%s: %s", what, text[0] != '\0' ? text : xp_status_string(s));
}

static int memory_fail(struct layer *l, const char *err)
{
    return perf_fail(l->p, "rank %d: %s", l->rank, err);
}

int layer_put(struct layer *l, const struct place *p)
{
    char err[200];

    return memory_put(&l->memory, p, err, sizeof(err)) != 0 ? memory_fail(l, err) : 0;
}

int layer_get(struct layer *l, const struct place *p)
{
    char err[200];

    return memory_get(&l->memory, p, err, sizeof(err)) != 0 ? memory_fail(l, err) : 0;
}

/* ---- set-up -------------------------------------------------------------------------------------------------------- */

static int open_routing(struct layer *l)
{
    const struct moe_options *m = &l->opt->moe;
    int experts = m->experts ? m->experts : DEFAULT_EXPERTS, k = m->k ? m->k : 2;
    char err[SPAWN_ERROR];

    if (m->topk != NULL) {
        if (routing_open_file(&l->routes, m->topk, m->weights, m->k, experts, err, sizeof(err)) != 0)
            return perf_fail(l->p, "%s", err);
    } else if (k > experts) {
        return perf_fail(l->p, "--k %d is more than the %d experts", k, experts);
    } else {
        routing_open_generated(&l->routes, m->routing != NULL ? m->routing : "uniform", k, experts, l->opt->seed);
    }
    if (expert_open(&l->expert, m->expert, experts, l->p->rows.dtype, l->p->rows.dim, err, sizeof(err)) != 0)
        return perf_fail(l->p, "%s", err);
    return 0;
}

static void run_expert(const void *expert, int id, const void *in, size_t rows, void *out)
{
    expert_run(expert, id, in, rows, out);
}

static void make_case(struct layer *l)
{
    const struct options *o = l->opt;

    l->plain = (struct moe_case){.rows = &l->p->rows, .routing = &l->routes, .T = o->rows, .rank = l->rank, .nranks = l->n,
                                 .run = run_expert, .expert = &l->expert, .identity = expert_is_identity(&l->expert),
                                 .sums = o->moe.combine == XP_COMBINE_SUM};
    l->plain.mode = o->mode != XP_MODE_DEFAULT ? o->mode : l->comm->params.mode;
    if (l->plain.mode == XP_MODE_BOUNDED)
        l->plain.eps = o->eps != 0.0 ? o->eps : l->comm->params.eps;
    /* Sums in another order; coded results are further off by their coding. */
    l->plain.fold_limit = o->codec == NULL || strcmp(o->codec, "raw") == 0 || strcmp(o->codec, "auto") == 0 ? 0x1p-6 : 0.1;
    for (int r = 0; r < l->n; r++)
        l->max_recv += moe_pairs(&l->plain, r, l->rank);
}

static int make_buffers(struct layer *l)
{
    const size_t T = l->opt->rows, k = (size_t)l->routes.k, row_bytes = l->p->rows.row_bytes;

    l->ids = calloc(T * k + 1, sizeof(*l->ids));
    l->weights = calloc(T * k + 1, sizeof(*l->weights));
    l->grad_weights = calloc(T * k + 1, sizeof(*l->grad_weights));
    const int none = memory_take(&l->memory, &l->x, T * row_bytes) | memory_take(&l->memory, &l->y, T * row_bytes) |
                     memory_take(&l->memory, &l->grad, T * row_bytes) | memory_take(&l->memory, &l->rows, l->max_recv * row_bytes) |
                     memory_take(&l->memory, &l->results, l->max_recv * row_bytes);
    l->seconds = calloc((size_t)l->opt->iters * PHASES, sizeof(double));
    if (!l->ids || !l->weights || !l->grad_weights || none || !l->seconds)
        return perf_fail(l->p, "rank %d: no memory for %zu tokens of %zu bytes", l->rank, T, row_bytes);
    for (size_t t = 0; t < T; t++) {
        rows_get(&l->p->rows, (uint64_t)l->rank * T + t, l->x.host + t * row_bytes);
        routing_get(&l->routes, (uint64_t)l->rank * T + t, l->ids + t * k, l->weights + t * k);
    }
    return layer_put(l, &l->x);
}

static int make_plan(struct layer *l)
{
    const struct options *o = l->opt;
    xp_moe_desc m;
    xp_plan_desc d;
    xp_status s;

    xp_moe_desc_init(&m);
    m.experts = l->routes.experts;
    m.max_topk = l->routes.k;
    m.preset = o->moe.preset;
    m.rate = o->moe.rate;
    m.alpha_rule = o->moe.alpha_fixed ? XP_ALPHA_FIXED : XP_ALPHA_FIT;
    m.alpha = o->moe.alpha;
    m.centroid = o->moe.centroid;
    m.combine = o->moe.combine;
    m.refine = o->moe.refine;
    xp_plan_desc_init(&d);
    d.dtype = l->p->rows.dtype;
    d.dim = l->p->rows.dim;
    d.max_send_rows = o->rows;
    d.max_recv_rows = l->max_recv;
    d.mode = l->plain.mode;
    d.eps = l->plain.eps;
    d.eps_ref = o->eps_ref;
    d.dither = o->dither;
    d.codec = o->codec;
    d.algo = o->algo;
    d.seed = o->seed;
    d.moe = &m;
    d.transport = perf_plan_transport(o);
    memory_of_plan(&l->memory, &d);
    s = xp_plan_create(&l->plan, l->comm, &d);
    return s == XP_OK ? 0 : layer_fail(l, perf_plan_name(o, &l->memory), s);
}

int layer_open(struct layer *l)
{
    if (open_routing(l) != 0)
        return 1;
    make_case(l);
    return make_buffers(l) != 0 || make_plan(l) != 0;
}

void layer_close(struct layer *l)
{
    xp_routing_destroy(l->routing);
    xp_plan_destroy(l->plan);
    routing_close(&l->routes);
    expert_close(&l->expert);
    free(l->ids);
    free(l->weights);
    free(l->grad_weights);
    memory_free(&l->memory, &l->x);
    memory_free(&l->memory, &l->y);
    memory_free(&l->memory, &l->grad);
    memory_free(&l->memory, &l->rows);
    memory_free(&l->memory, &l->results);
    free(l->seconds);
}

/* ---- one iteration --------------------------------------------------------------------------------------------------- */

/* The experts of this rank, on what dispatch brought; they are on the host. */
static int run_experts(struct layer *l)
{
    const int32_t *id = xp_routing_expert_ids(l->routing);
    const size_t *at = xp_routing_offsets(l->routing), row_bytes = l->p->rows.row_bytes;

    if (layer_get(l, &l->rows) != 0)
        return 1;
    for (int e = 0; e < xp_routing_local_experts(l->routing); e++)
        expert_run(&l->expert, id[e], l->rows.host + at[e] * row_bytes, at[e + 1] - at[e], l->results.host + at[e] * row_bytes);
    return layer_put(l, &l->results);
}

static xp_status step(struct layer *l, enum phase ph)
{
    xp_route_desc d;

    switch (ph) {
    case ROUTE:
        xp_route_desc_init(&d);
        d.tokens = l->opt->rows;
        d.topk = l->routes.k;
        d.expert = l->ids;
        d.weight = l->weights;
        return xp_route(l->plan, &d, &l->routing);
    case DISPATCH: return xp_dispatch(l->plan, l->routing, l->x.rows, l->rows.rows, NULL);
    case COMBINE: return xp_combine(l->plan, l->routing, l->results.rows, l->x.rows, l->y.rows, NULL);
    /* The gradients of y are x here, those of the experts' rows their results: any rows serve to be timed. */
    case COMBINE_BACKWARD: return xp_combine_backward(l->plan, l->routing, l->x.rows, l->results.rows, l->rows.rows, l->grad_weights, NULL);
    default: return xp_dispatch_backward(l->plan, l->routing, l->rows.rows, l->x.rows, l->grad.rows, NULL);
    }
}

int layer_iterate(struct layer *l, double *seconds)
{
    static const char *const what[PHASES] = {"route", "dispatch", "combine", "combine_backward", "dispatch_backward"};
    int phases = l->opt->moe.backward ? PHASES : COMBINE + 1;
    char err[200];
    xp_status s;

    xp_routing_destroy(l->routing);
    l->routing = NULL;
    s = xp_comm_barrier(l->comm);
    if (s != XP_OK)
        return layer_fail(l, "barrier", s);
    for (int ph = 0; ph < phases; ph++) {
        double start = bench_now();

        s = step(l, (enum phase)ph);
        if (s != XP_OK)
            return layer_fail(l, what[ph], s);
        if (memory_wait(&l->memory, err, sizeof(err)) != 0)
            return memory_fail(l, err);
        seconds[ph] = bench_now() - start;
        if (ph == DISPATCH) {
            if ((!l->have_results || l->plain.mode == XP_MODE_FOLDED) && run_experts(l) != 0)
                return 1;
            l->have_results = 1;
            s = xp_comm_barrier(l->comm);
            if (s != XP_OK)
                return layer_fail(l, "barrier", s);
        }
    }
    return 0;
}
