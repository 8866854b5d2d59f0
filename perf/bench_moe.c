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
#include "perf/moe_layer.h"

#define WARM_UP 2

static const char *const phase_names[PHASES] = {"route_ms", "dispatch_ms", "combine_ms", "combine_backward_ms", "dispatch_backward_ms"};

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
    size_t plain_dim;              /* --exposed: plain rows of so many values make as many bytes, */
    double plain, beside, exposed; /* their time, that of these rows measured in turns with it, the share of the codec's time that shows */
    uint64_t bypassed, checked, missed;
    const char *first_miss;
    char transport[64];
};

static int time_layer(struct layer *l)
{
    double unused[PHASES];

    for (int i = -WARM_UP; i < l->opt->iters; i++) {
        if (i == 0)
            xp_plan_stats_reset(l->plan);
        if (layer_iterate(l, i < 0 ? unused : l->seconds + (size_t)i * PHASES) != 0)
            return 1;
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
        bad = layer_fail(l, "clusters", s);
    if (!bad)
        bad = moe_check_folded(&l->plain, l->y.host, centroids, clusters, cluster, alpha, out);
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

    memset(l->rows.host, 0xa5, l->rows.bytes);
    memset(l->y.host, 0xa5, l->y.bytes);
    l->have_results = 0;
    bad = layer_put(l, &l->rows) || layer_put(l, &l->y) || layer_iterate(l, unused) || layer_get(l, &l->rows) || layer_get(l, &l->y);
    if (bad)
        return bad;
    if (l->plain.mode == XP_MODE_FOLDED)
        bad = check_folded(l, &rep->check);
    else if (!l->opt->moe.backward) /* backward has written over the rows */
        bad = moe_check_rows(&l->plain, l->rows.host, xp_routing_rows(l->routing), &rep->check);
    if (!bad)
        bad = moe_check_results(&l->plain, l->y.host, &rep->check);
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
        return layer_fail(l, "stats", s);
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

/* ---- how much of the codec's time shows --------------------------------------------------------------------------------- */

/* The same layer with rows that nobody codes and that take as many bytes. */
struct twin {
    struct options opt;
    struct perf perf;
    struct layer layer;
};

static int open_twin(struct twin *t, struct layer *l, size_t dim)
{
    t->opt = *l->opt;
    t->opt.mode = XP_MODE_EXACT;
    t->opt.codec = "raw";
    t->opt.eps = 0;
    t->opt.moe.combine = XP_COMBINE_SUM;
    t->opt.moe.expert = NULL;
    t->perf = *l->p;
    t->perf.opt = &t->opt;
    if (rows_open_generated(&t->perf.rows, "gaussian", l->p->rows.dtype, dim, t->opt.seed) != 0)
        return perf_fail(l->p, "no plain rows of %zu values", dim);
    t->layer = (struct layer){.p = &t->perf, .opt = &t->opt, .comm = l->comm, .memory = l->memory, .rank = l->rank, .n = l->n};
    return layer_open(&t->layer);
}

/* Both layers in turns, so that both see the same machine. */
static int time_both(struct layer *l, struct layer *plain)
{
    double unused[PHASES];

    for (int i = -WARM_UP; i < l->opt->iters; i++) {
        struct layer *both[] = {l, plain};

        for (int k = 0; k < 2; k++)
            if (layer_iterate(both[k], i < 0 ? unused : both[k]->seconds + (size_t)i * PHASES) != 0)
                return 1;
        if (l->rank == 0)
            perf_progress("moe, plain beside", i + 1, i + 1 < l->opt->iters ? l->opt->iters : 0);
    }
    return 0;
}

/* The median time of a layer whose seconds are here. times: room for (n + 1) ranks. */
static int median_of(struct layer *l, double *times, double *median)
{
    size_t values = (size_t)l->opt->iters * PHASES;
    xp_status s = xp_comm_allgather(l->comm, l->seconds, times, values * sizeof(double));
    struct summary sum = {0};

    if (s != XP_OK)
        return layer_fail(l, "report", s);
    summarise_times(l, times, times + (size_t)l->n * values, &sum);
    *median = sum.median;
    return 0;
}

static int measure_exposed(struct layer *l, double *times, struct summary *sum)
{
    const double coding = sum->encode + sum->decode;
    struct twin t = {0};
    int bad;

    if (sum->hop_slow == 0 || coding <= 0.0)
        return perf_fail(l->p, "--exposed: nothing was coded between nodes");
    sum->plain_dim = (size_t)lrint((double)sum->slow / (double)sum->hop_slow / ((double)l->p->rows.row_bytes / (double)l->p->rows.dim));
    bad = open_twin(&t, l, sum->plain_dim);
    if (!bad)
        bad = time_both(l, &t.layer);
    if (!bad)
        bad = median_of(l, times, &sum->beside) || median_of(&t.layer, times, &sum->plain);
    sum->exposed = (sum->beside - sum->plain) / coding;
    layer_close(&t.layer);
    rows_close(&t.perf.rows);
    return bad;
}

/* ---- output ------------------------------------------------------------------------------------------------------------- */

static void print_table(const struct layer *l, const xp_stats *st, const struct summary *sum)
{
    const struct row_source *rows = &l->p->rows;

    printf("moe: %d ranks on %d nodes over %s, %zu tokens x %zu %s a rank (%s%s), top-%d of %d experts (%s), experts %s, mode %s", l->n,
           l->comm->nodes, sum->transport, l->opt->rows, rows->dim, perf_dtype_name(rows->dtype), rows->name,
           l->memory.device != NULL ? ", on the device" : "", l->routes.k,
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
    if (l->opt->moe.exposed)
        printf("  hidden %.3f ms beside %.3f ms of plain rows of %zu values: %.2f of the codec's time is exposed\n", 1e3 * sum->beside, 1e3 * sum->plain,
               sum->plain_dim, sum->exposed);
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
    json_text(j, "memory", l->memory.device != NULL ? "device" : "host");
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
    if (l->opt->moe.exposed) {
        json_whole(j, "plain_dim", sum->plain_dim);
        json_real(j, "plain_ms", 1e3 * sum->plain);
        json_real(j, "beside_plain_ms", 1e3 * sum->beside);
        json_real(j, "exposed", sum->exposed);
    }
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
        bad = s == XP_OK ? 0 : layer_fail(l, "report", s);
    }
    if (!bad) {
        summarise_times(l, times, times + n * values, &sum);
        summarise(l, all, &sum);
        perf_name_transports(l->p, l->comm, sum.transport, sizeof(sum.transport));
        if (l->opt->moe.exposed)
            bad = measure_exposed(l, times, &sum);
    }
    if (!bad) {
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
    if (layer_open(l) != 0 || time_layer(l) != 0)
        return 1;
    return report(l);
}

int bench_moe(struct perf *p)
{
    struct layer l = {.p = p, .opt = p->opt};
    int code = perf_comm(p, &l.comm, &l.memory);

    if (code == 0)
        code = run(&l);
    layer_close(&l);
    memory_close(&l.memory);
    xp_comm_destroy(l.comm);
    return code;
}
