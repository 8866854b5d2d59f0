/*
 * bench_alltoallv.c - rows of every rank to every rank: time, bytes, error
 *
 * The time of an iteration is that of the slowest rank, from behind a barrier. Bytes are those of one exchange, summed
 * over the ranks. wire_ratio compares what crossed between nodes with the rows bound for other nodes; on one node, what
 * crossed between ranks.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/comm.h"
#include "perf/reference.h"
#include "perf/xp_perf.h"

#define WARM_UP 2

struct exchange {
    struct perf *p;
    const struct options *opt;
    xp_comm *comm;
    xp_plan *plan;
    int rank, n;
    xp_mode mode;
    double eps;
    size_t *send_rows, *recv_rows;
    size_t total_recv;
    struct memory memory;
    struct place send, recv;
    double *seconds;       /* [iters], this rank's */
};

/* What a rank tells the others. */
struct report {
    xp_stats stats;
    struct reference_result check;
    uint64_t raw_bytes_slow;
};

/* The whole group's figures for one exchange. */
struct summary {
    double median, best;
    uint64_t raw, raw_slow, wire, slow, fast, rows_raw;
    double ratio, err_mean, err_max, encode, decode, wait;
    uint64_t bypassed, checked, missed;
    const char *first_miss;
    char transport[64];
};

static int api_fail(struct exchange *x, const char *what, xp_status s)
{
    const char *text = x->comm != NULL ? xp_comm_last_error(x->comm) : xp_last_error();

    return perf_fail(x->p, "%s: %s", what, text[0] != '\0' ? text : xp_status_string(s));
}

static int memory_fail(struct exchange *x, const char *err)
{
    return perf_fail(x->p, "rank %d: %s", x->rank, err);
}

static int make_buffers(struct exchange *x)
{
    char err[200];
    const struct options *o = x->opt;
    size_t row_bytes = x->p->rows.row_bytes, *counts = calloc((size_t)x->n, sizeof(size_t));

    x->send_rows = calloc((size_t)x->n, sizeof(size_t));
    x->recv_rows = calloc((size_t)x->n, sizeof(size_t));
    x->seconds = calloc((size_t)o->iters, sizeof(double));
    if (counts != NULL && x->send_rows != NULL && x->recv_rows != NULL) {
        rows_spread(o->rows, x->n, x->rank, x->send_rows);
        for (int s = 0; s < x->n; s++) {
            rows_spread(o->rows, x->n, s, counts);
            x->recv_rows[s] = counts[x->rank];
            x->total_recv += counts[x->rank];
        }
    }
    free(counts);
    if (memory_take(&x->memory, &x->send, o->rows * row_bytes) != 0 || memory_take(&x->memory, &x->recv, x->total_recv * row_bytes) != 0 || x->seconds == NULL || x->recv_rows == NULL || x->send_rows == NULL)
        return perf_fail(x->p, "rank %d: no memory for %zu rows of %zu bytes", x->rank, o->rows, row_bytes);
    for (size_t i = 0; i < o->rows; i++)
        rows_get(&x->p->rows, (uint64_t)x->rank * o->rows + i, x->send.host + i * row_bytes);
    return memory_put(&x->memory, &x->send, err, sizeof(err)) != 0 ? memory_fail(x, err) : 0;
}

static int make_plan(struct exchange *x)
{
    const struct options *o = x->opt;
    xp_plan_desc d;
    xp_status s;

    xp_plan_desc_init(&d);
    d.dtype = x->p->rows.dtype;
    d.dim = x->p->rows.dim;
    d.max_send_rows = o->rows;
    d.max_recv_rows = x->total_recv;
    d.mode = x->mode;
    d.eps = x->mode == XP_MODE_BOUNDED ? o->eps : 0.0;
    d.eps_ref = o->eps_ref;
    d.dither = o->dither;
    d.codec = o->codec;
    d.algo = o->algo;
    d.seed = o->seed;
    d.transport = perf_plan_transport(o);
    memory_of_plan(&x->memory, &d);
    s = xp_plan_create(&x->plan, x->comm, &d);
    return s == XP_OK ? 0 : api_fail(x, perf_plan_name(o, &x->memory), s);
}

static int exchange_once(struct exchange *x)
{
    xp_status s = xp_alltoallv(x->plan, x->send.rows, x->send_rows, x->recv.rows, x->recv_rows, NULL);
    char err[200];

    if (s != XP_OK)
        return api_fail(x, "alltoallv", s);
    return memory_wait(&x->memory, err, sizeof(err)) != 0 ? memory_fail(x, err) : 0;
}

static int time_exchanges(struct exchange *x)
{
    for (int i = -WARM_UP; i < x->opt->iters; i++) {
        double start;
        xp_status s;

        if (i == 0)
            xp_plan_stats_reset(x->plan);
        s = xp_comm_barrier(x->comm);
        if (s != XP_OK)
            return api_fail(x, "barrier", s);
        start = bench_now();
        if (exchange_once(x) != 0)
            return 1;
        if (i >= 0)
            x->seconds[i] = bench_now() - start;
        if (x->rank == 0)
            perf_progress("alltoallv", i + 1, i + 1 < x->opt->iters ? x->opt->iters : 0);
    }
    return 0;
}

/* One more exchange, into a buffer that holds nothing useful, compared with the reference. */
static int check_exchange(struct exchange *x, struct report *rep)
{
    struct reference ref = {.rows = &x->p->rows, .T = x->opt->rows, .rank = x->rank, .nranks = x->n,
                            .eps = x->mode == XP_MODE_BOUNDED ? x->eps : 0.0};
    int *counted = calloc((size_t)x->n, sizeof(int)), bad;
    char err[200];

    memset(x->recv.host, 0xa5, x->recv.bytes);
    bad = memory_put(&x->memory, &x->recv, err, sizeof(err)) != 0 ? memory_fail(x, err) : exchange_once(x);
    if (!bad && memory_get(&x->memory, &x->recv, err, sizeof(err)) != 0)
        bad = memory_fail(x, err);
    for (int r = 0; counted != NULL && r < x->n; r++)
        counted[r] = x->comm->nodes > 1 ? x->comm->node_of[r] != x->comm->node : r != x->rank;
    ref.counted = counted;
    if (!bad && (counted == NULL || reference_check(&ref, x->recv.host, &rep->check) != 0))
        bad = perf_fail(x->p, "rank %d: no memory to check", x->rank);
    free(counted);
    return bad;
}

static int make_report(struct exchange *x, struct report *rep)
{
    xp_status s;

    memset(rep, 0, sizeof(*rep));
    rep->stats.size = sizeof(rep->stats);
    s = xp_plan_stats(x->plan, &rep->stats);
    if (s != XP_OK)
        return api_fail(x, "stats", s);
    for (int r = 0; r < x->n; r++) {
        if (x->comm->node_of[r] != x->comm->node)
            rep->raw_bytes_slow += x->send_rows[r] * x->p->rows.row_bytes;
    }
    return x->opt->check ? check_exchange(x, rep) : 0;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* Times: the slowest rank of each iteration. all: [n][iters]; slowest: room for iters. */
static void summarise_times(const struct exchange *x, const double *all, double *slowest, struct summary *sum)
{
    size_t iters = (size_t)x->opt->iters;

    for (size_t i = 0; i < iters; i++) {
        slowest[i] = 0.0;
        for (int r = 0; r < x->n; r++)
            slowest[i] = larger(slowest[i], all[(size_t)r * iters + i]);
    }
    sum->best = bench_best(slowest, iters);
    sum->median = bench_median(slowest, iters);
}

/* Row errors: measured ones when there was a check, else what the senders saw. */
static void summarise_errors(const struct exchange *x, const struct report *rep, struct summary *sum)
{
    double total = 0.0, rows = 0.0;

    for (int r = 0; r < x->n; r++) {
        const struct reference_result *c = &rep[r].check;
        const xp_stats *st = &rep[r].stats;
        double weight = x->opt->check ? (double)c->err_rows : (double)st->rows_sent;

        total += x->opt->check ? c->err_sum : st->err_mean * weight;
        rows += weight;
        sum->err_max = larger(sum->err_max, x->opt->check ? c->err_max : st->err_max);
        sum->checked += c->checked;
        sum->missed += c->missed;
        if (c->missed > 0 && sum->first_miss == NULL)
            sum->first_miss = c->first;
        if (x->mode == XP_MODE_BOUNDED && st->err_ref_max > x->eps * (1.0 + 1e-6) && sum->first_miss == NULL) {
            sum->missed++;
            sum->first_miss = "a sender reports a row beyond eps of its reference";
        }
    }
    sum->err_mean = rows > 0.0 ? total / rows : 0.0;
}

static void summarise_bytes(const struct exchange *x, const struct report *rep, struct summary *sum)
{
    for (int r = 0; r < x->n; r++) {
        const xp_stats *st = &rep[r].stats;
        uint64_t calls = st->calls > 0 ? st->calls : 1;

        sum->raw += st->raw_bytes / calls;
        sum->raw_slow += rep[r].raw_bytes_slow;
        sum->slow += st->wire_bytes_slow / calls;
        sum->fast += st->wire_bytes_fast / calls;
        sum->rows_raw += st->rows_raw / calls;
        sum->encode = larger(sum->encode, st->seconds_encode / (double)calls);
        sum->decode = larger(sum->decode, st->seconds_decode / (double)calls);
        sum->wait = larger(sum->wait, st->seconds_wait / (double)calls);
        sum->bypassed = st->bypassed > sum->bypassed ? st->bypassed : sum->bypassed;
    }
    sum->wire = sum->slow + sum->fast;
    if (sum->raw_slow > 0)
        sum->ratio = (double)sum->slow / (double)sum->raw_slow;
    else
        sum->ratio = sum->raw > 0 ? (double)sum->wire / (double)sum->raw : 1.0;
}

static void print_table(const struct exchange *x, const xp_stats *st, const struct summary *sum)
{
    const struct row_source *rows = &x->p->rows;
    double bytes = (double)x->opt->rows * (double)rows->row_bytes;

    printf("alltoallv: %d ranks on %d nodes over %s, %zu x %zu %s rows a rank (%s%s), mode %s", x->n, x->comm->nodes, sum->transport, x->opt->rows,
           rows->dim, perf_dtype_name(rows->dtype), rows->name, x->memory.device != NULL ? ", on the device" : "", perf_mode_name(x->mode));
    if (x->mode == XP_MODE_BOUNDED)
        printf(" eps %g", x->eps);
    printf("\n  time   median %.3f ms, best %.3f ms of %d (%.2f GB/s a rank; encode %.3f, decode %.3f, wait %.3f ms)\n",
           1e3 * sum->median, 1e3 * sum->best, x->opt->iters, 1e-9 * bytes / sum->best, 1e3 * sum->encode, 1e3 * sum->decode,
           1e3 * sum->wait);
    printf("  choice algo %s, codec %s, isa %s, %llu of %llu exchanges bypassed, %llu rows raw\n", st->algo, st->codec,
           perf_isa(x->comm), (unsigned long long)sum->bypassed, (unsigned long long)st->calls, (unsigned long long)sum->rows_raw);
    printf("  bytes  %.2f MB of rows, %.2f MB sent (%.2f between nodes, %.2f inside), wire ratio %.3f\n", 1e-6 * (double)sum->raw,
           1e-6 * (double)sum->wire, 1e-6 * (double)sum->slow, 1e-6 * (double)sum->fast, sum->ratio);
    printf("  error  mean %.5f, worst %.5f of a row (%s)\n", sum->err_mean, sum->err_max, x->opt->check ? "measured" : "as the senders saw it");
    if (x->opt->check)
        printf("  check  %llu rows, %llu missed\n", (unsigned long long)sum->checked, (unsigned long long)sum->missed);
}

static void write_json(struct exchange *x, const xp_stats *st, const struct summary *sum)
{
    struct json *j = &x->p->json;

    json_open(j);
    json_text(j, "command", "alltoallv");
    json_pair(j, "shape", x->opt->rows, x->p->rows.dim);
    json_text(j, "dtype", perf_dtype_name(x->p->rows.dtype));
    json_text(j, "data", x->p->rows.name);
    json_text(j, "memory", x->memory.device != NULL ? "device" : "host");
    json_whole(j, "ranks", (uint64_t)x->n);
    json_whole(j, "nodes", (uint64_t)x->comm->nodes);
    json_text(j, "mode", perf_mode_name(x->mode));
    json_real(j, "eps", x->mode == XP_MODE_BOUNDED ? x->eps : 0.0);
    json_text(j, "algo", st->algo);
    json_text(j, "codec", st->codec);
    json_text(j, "transport", sum->transport);
    json_text(j, "isa", perf_isa(x->comm));
    json_whole(j, "seed", x->opt->seed);
    json_whole(j, "iters", (uint64_t)x->opt->iters);
    json_real(j, "median_ms", 1e3 * sum->median);
    json_real(j, "best_ms", 1e3 * sum->best);
    json_real(j, "encode_ms", 1e3 * sum->encode);
    json_real(j, "decode_ms", 1e3 * sum->decode);
    json_real(j, "wait_ms", 1e3 * sum->wait);
    json_whole(j, "raw_bytes", sum->raw);
    json_whole(j, "raw_bytes_slow", sum->raw_slow);
    json_whole(j, "wire_bytes", sum->wire);
    json_whole(j, "wire_bytes_slow", sum->slow);
    json_whole(j, "wire_bytes_fast", sum->fast);
    json_real(j, "wire_ratio", sum->ratio);
    json_real(j, "rel_err_mean", sum->err_mean);
    json_real(j, "rel_err_max", sum->err_max);
    json_whole(j, "rows_raw", sum->rows_raw);
    json_whole(j, "bypassed", sum->bypassed);
    json_whole(j, "checked", sum->checked);
    json_close(j);
}

/* Gathers what all ranks saw; rank 0 prints and keeps it; every rank learns of misses. */
static int report(struct exchange *x)
{
    size_t iters = (size_t)x->opt->iters, n = (size_t)x->n;
    struct report mine, *all = calloc(n, sizeof(*all));
    double *times = calloc((n + 1) * iters, sizeof(double));
    struct summary sum = {0};
    xp_status s;
    int bad;

    if (all == NULL || times == NULL)
        bad = perf_fail(x->p, "rank %d: no memory for the report", x->rank);
    else
        bad = make_report(x, &mine);
    if (!bad) {
        s = xp_comm_allgather(x->comm, &mine, all, sizeof(mine));
        if (s == XP_OK)
            s = xp_comm_allgather(x->comm, x->seconds, times, iters * sizeof(double));
        bad = s == XP_OK ? 0 : api_fail(x, "report", s);
    }
    if (!bad) {
        summarise_times(x, times, times + n * iters, &sum);
        summarise_bytes(x, all, &sum);
        summarise_errors(x, all, &sum);
        perf_name_transports(x->p, x->comm, sum.transport, sizeof(sum.transport));
        if (x->rank == 0) {
            print_table(x, &all[0].stats, &sum);
            write_json(x, &all[0].stats, &sum);
        }
        if (sum.missed > 0 && x->opt->check)
            bad = perf_fail(x->p, "check: %llu of %llu rows missed; %s", (unsigned long long)sum.missed, (unsigned long long)sum.checked, sum.first_miss);
    }
    free(all);
    free(times);
    return bad;
}

static int run(struct exchange *x)
{
    x->rank = xp_comm_rank(x->comm);
    x->n = xp_comm_size(x->comm);
    x->mode = x->opt->mode != XP_MODE_DEFAULT ? x->opt->mode : x->comm->params.mode;
    x->eps = x->opt->eps != 0.0 ? x->opt->eps : x->comm->params.eps;
    if (make_buffers(x) != 0 || make_plan(x) != 0 || time_exchanges(x) != 0)
        return 1;
    return report(x);
}

int bench_alltoallv(struct perf *p)
{
    struct exchange x = {.p = p, .opt = p->opt};
    int code = perf_comm(p, &x.comm, &x.memory);

    if (code == 0)
        code = run(&x);
    xp_plan_destroy(x.plan);
    xp_comm_destroy(x.comm);
    memory_free(&x.memory, &x.send);
    memory_free(&x.memory, &x.recv);
    memory_close(&x.memory);
    free(x.send_rows);
    free(x.recv_rows);
    free(x.seconds);
    return code;
}
