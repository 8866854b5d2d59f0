/*
 * mpi_moe.c - the exchanges of a MoE layer as plain libraries do them: one row for every (token, expert) pair through MPI_Alltoallv,
 * there and back, timed the same way as xp_perf moe
 *
 * perf/demo.sh builds and runs it, beside mpi_alltoallv.c. It takes the options of xp_perf moe and ignores those that only concern
 * crosspress. Per iteration: counts (MPI_Alltoall), rows to the experts, rows back. Packing and summing are not in the time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "perf/moe_reference.h"
#include "perf/options.h"

#define WARM_UP 2
#define DEFAULT_EXPERTS 16

struct layer {
    struct options opt;
    struct row_source rows;
    struct routing_source routes;
    struct moe_case plain;
    int rank, n;
    int *send_rows, *send_at, *recv_rows, *recv_at;
    size_t total_send, total_recv;
    char *send, *recv, *back;
    double *seconds;
};

static void die(const char *text)
{
    fprintf(stderr, "mpi_moe: %s\n", text);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void *room(size_t bytes)
{
    void *p = calloc(1, bytes + 64);

    if (p == NULL)
        die("no memory");
    return p;
}

static void open_sources(struct layer *l, int argc, char **argv)
{
    struct options *o = &l->opt;
    char err[512];
    int experts;

    *o = (struct options){.command = "moe", .rows = 4096, .dtype = XP_BF16, .seed = 1, .iters = 10};
    if (options_parse(o, argc - 1, argv + 1, err, sizeof(err)) != 0)
        die(err);
    if (o->input == NULL)
        rows_open_generated(&l->rows, o->data != NULL ? o->data : "gaussian", o->dtype, o->dim != 0 ? o->dim : 4096, o->seed);
    else if (rows_open_file(&l->rows, o->input, o->seed, err, sizeof(err)) != 0)
        die(err);
    experts = o->moe.experts ? o->moe.experts : DEFAULT_EXPERTS;
    if (o->moe.topk == NULL)
        routing_open_generated(&l->routes, o->moe.routing != NULL ? o->moe.routing : "uniform", o->moe.k ? o->moe.k : 2, experts, o->seed);
    else if (routing_open_file(&l->routes, o->moe.topk, o->moe.weights, o->moe.k, experts, err, sizeof(err)) != 0)
        die(err);
}

static void count(struct layer *l)
{
    l->plain = (struct moe_case){.rows = &l->rows, .routing = &l->routes, .T = l->opt.rows, .rank = l->rank, .nranks = l->n};
    l->send_rows = room((size_t)l->n * sizeof(int));
    l->recv_rows = room((size_t)l->n * sizeof(int));
    l->send_at = room((size_t)l->n * sizeof(int));
    l->recv_at = room((size_t)l->n * sizeof(int));
    for (int p = 0; p < l->n; p++) {
        l->send_at[p] = (int)l->total_send;
        l->recv_at[p] = (int)l->total_recv;
        l->send_rows[p] = (int)moe_pairs(&l->plain, l->rank, p);
        l->recv_rows[p] = (int)moe_pairs(&l->plain, p, l->rank);
        l->total_send += (size_t)l->send_rows[p];
        l->total_recv += (size_t)l->recv_rows[p];
    }
}

/* Rows by rank, then token, then slot. */
static void fill(struct layer *l)
{
    int32_t id[ROUTING_MAX_K];
    float weight[ROUTING_MAX_K];
    size_t *at = room((size_t)l->n * sizeof(size_t));

    l->send = room(l->total_send * l->rows.row_bytes);
    l->back = room(l->total_send * l->rows.row_bytes);
    l->recv = room(l->total_recv * l->rows.row_bytes);
    l->seconds = room((size_t)l->opt.iters * sizeof(double));
    for (int p = 0; p < l->n; p++)
        at[p] = (size_t)l->send_at[p];
    for (size_t t = 0; t < l->opt.rows; t++) {
        uint64_t number = (uint64_t)l->rank * l->opt.rows + t;

        routing_get(&l->routes, number, id, weight);
        for (int j = 0; j < l->routes.k; j++)
            if (id[j] >= 0)
                rows_get(&l->rows, number, l->send + at[moe_rank_of(&l->plain, id[j])]++ * l->rows.row_bytes);
    }
    free(at);
}

static void time_layer(struct layer *l)
{
    int *counts = room((size_t)l->n * sizeof(int));
    MPI_Datatype row;

    MPI_Type_contiguous((int)l->rows.row_bytes, MPI_BYTE, &row);
    MPI_Type_commit(&row);
    for (int i = -WARM_UP; i < l->opt.iters; i++) {
        double start;

        MPI_Barrier(MPI_COMM_WORLD);
        start = bench_now();
        MPI_Alltoall(l->send_rows, 1, MPI_INT, counts, 1, MPI_INT, MPI_COMM_WORLD);
        MPI_Alltoallv(l->send, l->send_rows, l->send_at, row, l->recv, l->recv_rows, l->recv_at, row, MPI_COMM_WORLD);
        MPI_Alltoallv(l->recv, l->recv_rows, l->recv_at, row, l->back, l->send_rows, l->send_at, row, MPI_COMM_WORLD);
        if (i >= 0)
            l->seconds[i] = bench_now() - start;
    }
    MPI_Type_free(&row);
    if (l->opt.check && memcmp(l->send, l->back, l->total_send * l->rows.row_bytes) != 0)
        die("check: a row did not come back as it was sent");
    free(counts);
}

static void report(struct layer *l)
{
    size_t iters = (size_t)l->opt.iters;
    double *slowest = room(iters * sizeof(double));
    unsigned long long mine = 2 * (l->total_send - (size_t)l->send_rows[l->rank]) * l->rows.row_bytes, bytes = 0;
    struct json j = {0};
    char err[512];

    MPI_Reduce(l->seconds, slowest, l->opt.iters, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    MPI_Reduce(&mine, &bytes, 1, MPI_UNSIGNED_LONG_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
    if (l->rank == 0) {
        json_open(&j);
        json_text(&j, "command", "moe");
        json_pair(&j, "shape", l->opt.rows, l->rows.dim);
        json_text(&j, "dtype", perf_dtype_name(l->rows.dtype));
        json_text(&j, "data", l->rows.name);
        json_text(&j, "routing", l->routes.name);
        json_whole(&j, "k", (uint64_t)l->routes.k);
        json_whole(&j, "ranks", (uint64_t)l->n);
        json_text(&j, "mode", "mpi");
        json_text(&j, "algo", "MPI_Alltoallv");
        json_text(&j, "codec", "none");
        json_real(&j, "best_ms", 1e3 * bench_best(slowest, iters));
        json_real(&j, "median_ms", 1e3 * bench_median(slowest, iters));
        json_whole(&j, "raw_bytes", bytes);
        json_whole(&j, "wire_bytes", bytes);
        json_real(&j, "wire_ratio", 1.0);
        json_real(&j, "rel_err_mean", 0.0);
        json_real(&j, "rel_err_max", 0.0);
        json_close(&j);
        if (json_save(&j, l->opt.json != NULL ? l->opt.json : "-", err, sizeof(err)) != 0)
            die(err);
        json_free(&j);
    }
    free(slowest);
}

int main(int argc, char **argv)
{
    struct layer l = {.rank = 0};

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &l.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &l.n);
    open_sources(&l, argc, argv);
    count(&l);
    fill(&l);
    time_layer(&l);
    report(&l);
    free(l.send);
    free(l.recv);
    free(l.back);
    free(l.send_rows);
    free(l.recv_rows);
    free(l.send_at);
    free(l.recv_at);
    free(l.seconds);
    routing_close(&l.routes);
    rows_close(&l.rows);
    return MPI_Finalize();
}
