/*
 * bench_moe.c - the exchanges of one MoE layer: route, dispatch, experts, combine, and their backward passes
 *
 * The time of an iteration is what its exchanges take at the slowest rank, from behind a barrier; the experts' own work is not in it. Bytes
 * are those of one iteration, summed over the ranks. wire_ratio compares what crossed between nodes with what a plain library
 * would send there: one row for every (token, expert) pair, each way; on one node, what crossed between ranks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/comm.h"
#include "perf/expert.h"
#include "perf/moe_reference.h"
#include "perf/spawn.h"
#include "perf/xp_perf.h"

#define WARM_UP 2
#define DEFAULT_EXPERTS 16

enum phase { ROUTE, DISPATCH, COMBINE, COMBINE_BACKWARD, DISPATCH_BACKWARD, PHASES };
static const char *const phase_names[PHASES] = {"route_ms", "dispatch_ms", "combine_ms", "combine_backward_ms", "dispatch_backward_ms"};

struct layer {
    struct perf *p;
    const struct options *opt;
    xp_comm *comm;
    xp_plan *plan;
    xp_routing *routing;
    struct routing_source routes;
    struct expert expert;
    struct moe_case plain;  /* the reference's view */
    int rank, n;
    size_t max_recv;
    int32_t *ids;           /* [T][k] */
    float *weights, *grad_weights;
    char *x, *y, *grad;     /* [T][dim] */
    char *rows, *results;   /* [max_recv][dim] */
    int have_results;       /* of these rows: they are the same in every iteration, but for folded mode's centroids */
    double *seconds;        /* [iters][PHASES], this rank's */
};

/* What a rank tells the others. */
struct report {
    xp_stats stats;
    struct reference_result check;
    uint64_t pairs, pairs_slow; /* rows of a plain library bound for other ranks, and for other nodes */
};

/* The whole group's figures for one iteration. */
struct summary {
    double median, best, phase[PHASES]; /* phases: medians */
    uint64_t raw, raw_slow, slow, fast, hop_slow, hop_fast;
    double ratio, err_mean, err_max, encode, decode;
    uint64_t bypassed, checked, missed;
    const char *first_miss;
    char transport[64];
};

static int api_fail(struct layer *l, const char *what, xp_status s)
{
    const char *text = l->comm != NULL ? xp_comm_last_error(l->comm) : xp_last_error();

    return perf_fail(l->p, "%s: %s", what, text[0] != '\0' ? text : xp_status_string(s));
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
    l->x = malloc(T * row_bytes + 64);
    l->y = malloc(T * row_bytes + 64);
    l->grad = malloc(T * row_bytes + 64);
    l->rows = malloc(l->max_recv * row_bytes + 64);
    l->results = malloc(l->max_recv * row_bytes + 64);
    l->seconds = calloc((size_t)l->opt->iters * PHASES, sizeof(double));
    if (!l->ids || !l->weights || !l->grad_weights || !l->x || !l->y || !l->grad || !l->rows || !l->results || !l->seconds)
        return perf_fail(l->p, "rank %d: no memory for %zu tokens of %zu bytes", l->rank, T, row_bytes);
    for (size_t t = 0; t < T; t++) {
        rows_get(&l->p->rows, (uint64_t)l->rank * T + t, l->x + t * row_bytes);
        routing_get(&l->routes, (uint64_t)l->rank * T + t, l->ids + t * k, l->weights + t * k);
    }
    return 0;
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
    d.codec = o->codec;
    d.algo = o->algo;
    d.seed = o->seed;
    d.moe = &m;
    s = xp_plan_create(&l->plan, l->comm, &d);
    return s == XP_OK ? 0 : api_fail(l, "plan", s);
}

/* ---- one iteration --------------------------------------------------------------------------------------------------- */

/* The experts of this rank, on what dispatch brought. */
static void run_experts(const struct layer *l)
{
    const int32_t *id = xp_routing_expert_ids(l->routing);
    const size_t *at = xp_routing_offsets(l->routing), row_bytes = l->p->rows.row_bytes;

    for (int e = 0; e < xp_routing_local_experts(l->routing); e++)
        expert_run(&l->expert, id[e], l->rows + at[e] * row_bytes, at[e + 1] - at[e], l->results + at[e] * row_bytes);
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
    case DISPATCH: return xp_dispatch(l->plan, l->routing, l->x, l->rows, NULL);
    case COMBINE: return xp_combine(l->plan, l->routing, l->results, l->x, l->y, NULL);
    /* The gradients of y are x here, those of the experts' rows their results: any rows serve to be timed. */
    case COMBINE_BACKWARD: return xp_combine_backward(l->plan, l->routing, l->x, l->results, l->rows, l->grad_weights, NULL);
    default: return xp_dispatch_backward(l->plan, l->routing, l->rows, l->x, l->grad, NULL);
    }
}

static int iterate(struct layer *l, double *seconds)
{
    static const char *const what[PHASES] = {"route", "dispatch", "combine", "combine_backward", "dispatch_backward"};
    int phases = l->opt->moe.backward ? PHASES : COMBINE + 1;
    xp_status s = xp_comm_barrier(l->comm);

    if (s != XP_OK)
        return api_fail(l, "barrier", s);
    for (int ph = 0; ph < phases; ph++) {
        double start = bench_now();

        s = step(l, (enum phase)ph);
        if (s != XP_OK)
            return api_fail(l, what[ph], s);
        seconds[ph] = bench_now() - start;
        if (ph == DISPATCH) {
            if (!l->have_results || l->plain.mode == XP_MODE_FOLDED)
                run_experts(l);
            l->have_results = 1;
            s = xp_comm_barrier(l->comm);
            if (s != XP_OK)
                return api_fail(l, "barrier", s);
        }
    }
    return 0;
}

static int time_layer(struct layer *l)
{
    double unused[PHASES];

    for (int i = -WARM_UP; i < l->opt->iters; i++) {
        if (i == 0)
            xp_plan_stats_reset(l->plan);
        if (iterate(l, i < 0 ? unused : l->seconds + (size_t)i * PHASES) != 0)
            return 1;
        xp_routing_destroy(l->routing);
        l->routing = NULL;
        if (l->rank == 0)
            perf_progress("moe", i + 1, i + 1 < l->opt->iters ? l->opt->iters : 0);
    }
    return 0;
}

/* ---- check ------------------------------------------------------------------------------------------------------------ */

static int check_folded(struct layer *l, struct reference_result *out)
{
    const size_t slots = l->opt->rows * (size_t)l->routes.k + 1;
    int32_t *cluster = calloc(slots, sizeof(*cluster));
    float *alpha = calloc(slots, sizeof(*alpha));
    char *centroids = malloc(slots * l->p->rows.row_bytes);
    size_t clusters = 0;
    int bad = cluster == NULL || alpha == NULL || centroids == NULL;
    xp_status s = bad ? XP_ERR_NO_MEMORY : xp_routing_clusters(l->routing, cluster, alpha, centroids, &clusters);

    if (s != XP_OK)
        bad = api_fail(l, "clusters", s);
    if (!bad)
        bad = moe_check_folded(&l->plain, l->y, centroids, clusters, cluster, alpha, out);
    free(cluster);
    free(alpha);
    free(centroids);
    return bad;
}

/* One more iteration, into buffers that hold nothing useful, compared with the reference. */
static int check_layer(struct layer *l, struct report *rep)
{
    double unused[PHASES];
    int bad;

    memset(l->rows, 0xa5, l->max_recv * l->p->rows.row_bytes);
    memset(l->y, 0xa5, l->opt->rows * l->p->rows.row_bytes);
    l->have_results = 0;
    bad = iterate(l, unused);
    if (bad)
        return bad;
    if (l->plain.mode == XP_MODE_FOLDED)
        bad = check_folded(l, &rep->check);
    else if (!l->opt->moe.backward) /* backward has written over the rows */
        bad = moe_check_rows(&l->plain, l->rows, xp_routing_rows(l->routing), &rep->check);
    if (!bad)
        bad = moe_check_results(&l->plain, l->y, &rep->check);
    return bad ? perf_fail(l->p, "rank %d: no memory to check", l->rank) : 0;
}

/* ---- report ----------------------------------------------------------------------------------------------------------- */

static int make_report(struct layer *l, struct report *rep)
{
    xp_status s;

    memset(rep, 0, sizeof(*rep));
    rep->stats.size = sizeof(rep->stats);
    s = xp_plan_stats(l->plan, &rep->stats);
    if (s != XP_OK)
        return api_fail(l, "stats", s);
    for (int r = 0; r < l->n; r++) {
        uint64_t pairs = r == l->rank ? 0 : moe_pairs(&l->plain, l->rank, r);

        rep->pairs += pairs;
        rep->pairs_slow += l->comm->node_of[r] != l->comm->node ? pairs : 0;
    }
    return l->opt->check ? check_layer(l, rep) : 0;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* all: [n][iters][PHASES]; work: room for iters values. */
static void summarise_times(const struct layer *l, const double *all, double *work, struct summary *sum)
{
    size_t iters = (size_t)l->opt->iters;

    for (int ph = 0; ph <= PHASES; ph++) {
        for (size_t i = 0; i < iters; i++) {
            work[i] = 0.0;
            for (int r = 0; r < l->n; r++) {
                const double *s = all + ((size_t)r * iters + i) * PHASES;
                double total = 0.0;

                for (int q = 0; q < PHASES; q++)
                    total += s[q];
                work[i] = larger(work[i], ph < PHASES ? s[ph] : total);
            }
        }
        if (ph == PHASES)
            sum->best = bench_best(work, iters);
        *(ph < PHASES ? &sum->phase[ph] : &sum->median) = bench_median(work, iters);
    }
}

static void summarise(const struct layer *l, const struct report *rep, struct summary *sum)
{
    const uint64_t ways = l->opt->moe.backward ? 4 : 2, row_bytes = l->p->rows.row_bytes, iters = (uint64_t)l->opt->iters;
    double total = 0.0, rows = 0.0;

    for (int r = 0; r < l->n; r++) {
        const struct reference_result *c = &rep[r].check;
        const xp_stats *st = &rep[r].stats;

        sum->raw += rep[r].pairs * ways * row_bytes;
        sum->raw_slow += rep[r].pairs_slow * ways * row_bytes;
        sum->slow += st->wire_bytes_slow / iters;
        sum->fast += st->wire_bytes_fast / iters;
        sum->hop_slow += st->hop_rows_slow / iters;
        sum->hop_fast += st->hop_rows_fast / iters;
        sum->encode = larger(sum->encode, st->seconds_encode / (double)iters);
        sum->decode = larger(sum->decode, st->seconds_decode / (double)iters);
        sum->bypassed = st->bypassed > sum->bypassed ? st->bypassed : sum->bypassed;
        total += l->opt->check ? c->err_sum : st->err_mean * (double)st->rows_sent;
        rows += l->opt->check ? (double)c->err_rows : (double)st->rows_sent;
        sum->err_max = larger(sum->err_max, l->opt->check ? c->err_max : st->err_max);
        sum->checked += c->checked;
        sum->missed += c->missed;
        if (c->missed > 0 && sum->first_miss == NULL)
            sum->first_miss = c->first;
    }
    sum->err_mean = rows > 0.0 ? total / rows : 0.0;
    if (sum->raw_slow > 0)
        sum->ratio = (double)sum->slow / (double)sum->raw_slow;
    else
        sum->ratio = sum->raw > 0 ? (double)(sum->slow + sum->fast) / (double)sum->raw : 1.0;
}

static void print_table(const struct layer *l, const xp_stats *st, const struct summary *sum)
{
    const struct row_source *rows = &l->p->rows;

    printf("moe: %d ranks on %d nodes over %s, %zu tokens x %zu %s a rank (%s), top-%d of %d experts (%s), experts %s, mode %s", l->n,
           l->comm->nodes, sum->transport, l->opt->rows, rows->dim, perf_dtype_name(rows->dtype), rows->name, l->routes.k,
           l->routes.experts, l->routes.name, expert_name(&l->expert), perf_mode_name(l->plain.mode));
    if (l->plain.mode == XP_MODE_BOUNDED)
        printf(" eps %g", l->plain.eps);
    printf("\n  time   median %.3f ms, best %.3f ms of %d (route %.3f, dispatch %.3f, combine %.3f", 1e3 * sum->median, 1e3 * sum->best,
           l->opt->iters, 1e3 * sum->phase[ROUTE], 1e3 * sum->phase[DISPATCH], 1e3 * sum->phase[COMBINE]);
    if (l->opt->moe.backward)
        printf(", combine backward %.3f, dispatch backward %.3f", 1e3 * sum->phase[COMBINE_BACKWARD], 1e3 * sum->phase[DISPATCH_BACKWARD]);
    printf("; encode %.3f, decode %.3f)\n", 1e3 * sum->encode, 1e3 * sum->decode);
    printf("  choice algo %s, codec %s, isa %s, %llu exchanges bypassed\n", st->algo, st->codec, perf_isa(l->comm), (unsigned long long)sum->bypassed);
    printf("  bytes  %.2f MB of rows, %.2f MB between nodes (%llu rows), %.2f inside (%llu rows), wire ratio %.3f\n", 1e-6 * (double)sum->raw,
           1e-6 * (double)sum->slow, (unsigned long long)sum->hop_slow, 1e-6 * (double)sum->fast, (unsigned long long)sum->hop_fast, sum->ratio);
    if (l->plain.mode == XP_MODE_FOLDED)
        printf("  folded rate %.3f, rho %.3f, error of the experts' results by probes %.3f, %llu steps bounded\n", st->rate, st->rho,
               st->fold_err, (unsigned long long)st->fold_fallbacks);
    printf("  error  mean %.5f, worst %.5f of a result (%s)\n", sum->err_mean, sum->err_max, l->opt->check ? "measured" : "of rows, as the senders saw it");
    if (l->opt->check)
        printf("  check  %llu rows, %llu missed\n", (unsigned long long)sum->checked, (unsigned long long)sum->missed);
}

static void write_json(struct layer *l, const xp_stats *st, const struct summary *sum)
{
    struct json *j = &l->p->json;

    json_open(j);
    json_text(j, "command", "moe");
    json_pair(j, "shape", l->opt->rows, l->p->rows.dim);
    json_text(j, "dtype", perf_dtype_name(l->p->rows.dtype));
    json_text(j, "data", l->p->rows.name);
    json_text(j, "routing", l->routes.name);
    json_whole(j, "k", (uint64_t)l->routes.k);
    json_whole(j, "experts", (uint64_t)l->routes.experts);
    json_text(j, "expert", expert_name(&l->expert));
    json_whole(j, "ranks", (uint64_t)l->n);
    json_whole(j, "nodes", (uint64_t)l->comm->nodes);
    json_text(j, "mode", perf_mode_name(l->plain.mode));
    json_real(j, "eps", l->plain.eps);
    json_text(j, "algo", st->algo);
    json_text(j, "codec", st->codec);
    json_text(j, "transport", sum->transport);
    json_text(j, "isa", perf_isa(l->comm));
    json_whole(j, "seed", l->opt->seed);
    json_whole(j, "iters", (uint64_t)l->opt->iters);
    json_real(j, "median_ms", 1e3 * sum->median);
    json_real(j, "best_ms", 1e3 * sum->best);
    for (int ph = 0; ph < PHASES; ph++)
        json_real(j, phase_names[ph], 1e3 * sum->phase[ph]);
    json_real(j, "encode_ms", 1e3 * sum->encode);
    json_real(j, "decode_ms", 1e3 * sum->decode);
    json_whole(j, "raw_bytes", sum->raw);
    json_whole(j, "raw_bytes_slow", sum->raw_slow);
    json_whole(j, "wire_bytes", sum->slow + sum->fast);
    json_whole(j, "wire_bytes_slow", sum->slow);
    json_whole(j, "wire_bytes_fast", sum->fast);
    json_real(j, "wire_ratio", sum->ratio);
    json_whole(j, "hop_rows_slow", sum->hop_slow);
    json_whole(j, "hop_rows_fast", sum->hop_fast);
    json_real(j, "rate", st->rate);
    json_real(j, "rho", st->rho);
    json_real(j, "fold_err", st->fold_err);
    json_whole(j, "fold_fallbacks", st->fold_fallbacks);
    json_real(j, "rel_err_mean", sum->err_mean);
    json_real(j, "rel_err_max", sum->err_max);
    json_whole(j, "bypassed", sum->bypassed);
    json_whole(j, "checked", sum->checked);
    json_close(j);
}

/* Gathers what all ranks saw; rank 0 prints and keeps it; every rank learns of misses. */
static int report(struct layer *l)
{
    size_t values = (size_t)l->opt->iters * PHASES, n = (size_t)l->n;
    struct report mine, *all = calloc(n, sizeof(*all));
    double *times = calloc((n + 1) * values, sizeof(double));
    struct summary sum = {0};
    xp_status s;
    int bad;

    if (all == NULL || times == NULL)
        bad = perf_fail(l->p, "rank %d: no memory for the report", l->rank);
    else
        bad = make_report(l, &mine);
    if (!bad) {
        s = xp_comm_allgather(l->comm, &mine, all, sizeof(mine));
        if (s == XP_OK)
            s = xp_comm_allgather(l->comm, l->seconds, times, values * sizeof(double));
        bad = s == XP_OK ? 0 : api_fail(l, "report", s);
    }
    if (!bad) {
        summarise_times(l, times, times + n * values, &sum);
        summarise(l, all, &sum);
        perf_name_transports(l->comm, sum.transport, sizeof(sum.transport));
        if (l->rank == 0) {
            print_table(l, &all[0].stats, &sum);
            write_json(l, &all[0].stats, &sum);
        }
        if (sum.missed > 0)
            bad = perf_fail(l->p, "check: %llu of %llu rows missed; %s", (unsigned long long)sum.missed, (unsigned long long)sum.checked, sum.first_miss);
    }
    free(all);
    free(times);
    return bad;
}

static int run(struct layer *l)
{
    l->rank = xp_comm_rank(l->comm);
    l->n = xp_comm_size(l->comm);
    if (open_routing(l) != 0)
        return 1;
    make_case(l);
    if (make_buffers(l) != 0 || make_plan(l) != 0 || time_layer(l) != 0)
        return 1;
    return report(l);
}

int bench_moe(struct perf *p)
{
    struct layer l = {.p = p, .opt = p->opt};
    int code = perf_comm(p, &l.comm);

    if (code == 0)
        code = run(&l);
    xp_routing_destroy(l.routing);
    xp_plan_destroy(l.plan);
    xp_comm_destroy(l.comm);
    routing_close(&l.routes);
    expert_close(&l.expert);
    free(l.ids);
    free(l.weights);
    free(l.grad_weights);
    free(l.x);
    free(l.y);
    free(l.grad);
    free(l.rows);
    free(l.results);
    free(l.seconds);
    return code;
}
