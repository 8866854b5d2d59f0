/*
 * mpi_alltoallv.c - MPI_Alltoallv of the same rows with the same counts, timed the same way as xp_perf alltoallv
 *
 * perf/demo.sh builds and runs it; by hand:
 *   mpicc -std=c11 -D_GNU_SOURCE -O2 -I. -Ilib/include -o build/mpi_alltoallv perf/peers/mpi_alltoallv.c perf/bench.c
 *         perf/options.c perf/rows.c build/lib/tools/libxp_tools.a build/lib/libxp_core.a -lm
 *   mpirun -np 4 build/mpi_alltoallv --rows 4096 --input X.npy --json out.json
 * It takes the options of xp_perf and ignores those that only concern crosspress.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "perf/options.h"

#define WARM_UP 2

struct exchange {
    struct options opt;
    struct row_source rows;
    int rank, n;
    int *send_rows, *send_at, *recv_rows, *recv_at;
    size_t total_recv;
    char *send, *recv;
    double *seconds;
};

static void die(const char *text)
{
    fprintf(stderr, "mpi_alltoallv: %s\n", text);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void *room(size_t bytes)
{
    void *p = calloc(1, bytes + 64);

    if (p == NULL)
        die("no memory");
    return p;
}

static void open_rows(struct exchange *x, int argc, char **argv)
{
    struct options *o = &x->opt;
    char err[512];

    *o = (struct options){.command = "alltoallv", .rows = 4096, .dtype = XP_BF16, .seed = 1, .iters = 10};
    if (options_parse(o, argc - 1, argv + 1, err, sizeof(err)) != 0)
        die(err);
    if (o->input != NULL) {
        if (rows_open_file(&x->rows, o->input, o->seed, err, sizeof(err)) != 0)
            die(err);
    } else {
        rows_open_generated(&x->rows, o->data != NULL ? o->data : "gaussian", o->dtype, o->dim != 0 ? o->dim : 4096, o->seed);
    }
}

static void make_buffers(struct exchange *x)
{
    size_t T = x->opt.rows, *counts = room((size_t)x->n * sizeof(size_t));
    int at = 0;

    x->send_rows = room((size_t)x->n * sizeof(int));
    x->recv_rows = room((size_t)x->n * sizeof(int));
    x->send_at = room((size_t)x->n * sizeof(int));
    x->recv_at = room((size_t)x->n * sizeof(int));
    x->seconds = room((size_t)x->opt.iters * sizeof(double));
    for (int p = 0; p < x->n; p++) {
        rows_spread(T, x->n, p, counts);
        x->recv_rows[p] = (int)counts[x->rank];
        x->recv_at[p] = (int)x->total_recv;
        x->total_recv += counts[x->rank];
    }
    rows_spread(T, x->n, x->rank, counts);
    for (int p = 0; p < x->n; p++) {
        x->send_rows[p] = (int)counts[p];
        x->send_at[p] = at;
        at += x->send_rows[p];
    }
    free(counts);
    x->send = room(T * x->rows.row_bytes);
    x->recv = room(x->total_recv * x->rows.row_bytes);
    for (size_t i = 0; i < T; i++)
        rows_get(&x->rows, (uint64_t)x->rank * T + i, x->send + i * x->rows.row_bytes);
}

static void time_exchanges(struct exchange *x)
{
    MPI_Datatype row;

    MPI_Type_contiguous((int)x->rows.row_bytes, MPI_BYTE, &row);
    MPI_Type_commit(&row);
    for (int i = -WARM_UP; i < x->opt.iters; i++) {
        double start;

        MPI_Barrier(MPI_COMM_WORLD);
        start = bench_now();
        MPI_Alltoallv(x->send, x->send_rows, x->send_at, row, x->recv, x->recv_rows, x->recv_at, row, MPI_COMM_WORLD);
        if (i >= 0)
            x->seconds[i] = bench_now() - start;
    }
    MPI_Type_free(&row);
}

/* Every byte as sent. */
static void check(const struct exchange *x)
{
    char *want = room(x->rows.row_bytes), *got = x->recv;
    size_t *counts = room((size_t)x->n * sizeof(size_t));

    for (int s = 0; s < x->n; s++) {
        uint64_t number = (uint64_t)s * x->opt.rows;

        rows_spread(x->opt.rows, x->n, s, counts);
        for (int d = 0; d < x->rank; d++)
            number += counts[d];
        for (int r = 0; r < x->recv_rows[s]; r++, got += x->rows.row_bytes) {
            rows_get(&x->rows, number + (uint64_t)r, want);
            if (memcmp(want, got, x->rows.row_bytes) != 0)
                die("check: a row is not what was sent");
        }
    }
    free(counts);
    free(want);
}

static void report(struct exchange *x)
{
    size_t iters = (size_t)x->opt.iters;
    double *slowest = room(iters * sizeof(double));
    struct json j = {0};

    MPI_Reduce(x->seconds, slowest, x->opt.iters, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    if (x->rank == 0) {
        uint64_t bytes = (uint64_t)(x->opt.rows - x->opt.rows / (size_t)x->n) * x->rows.row_bytes * (uint64_t)x->n;
        char err[512];

        json_open(&j);
        json_text(&j, "command", "alltoallv");
        json_pair(&j, "shape", x->opt.rows, x->rows.dim);
        json_text(&j, "dtype", perf_dtype_name(x->rows.dtype));
        json_text(&j, "data", x->rows.name);
        json_whole(&j, "ranks", (uint64_t)x->n);
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
        if (json_save(&j, x->opt.json != NULL ? x->opt.json : "-", err, sizeof(err)) != 0)
            die(err);
        json_free(&j);
    }
    free(slowest);
}

int main(int argc, char **argv)
{
    struct exchange x = {.rank = 0};

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &x.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &x.n);
    open_rows(&x, argc, argv);
    make_buffers(&x);
    time_exchanges(&x);
    if (x.opt.check)
        check(&x);
    report(&x);
    free(x.send);
    free(x.recv);
    free(x.send_rows);
    free(x.recv_rows);
    free(x.send_at);
    free(x.recv_at);
    free(x.seconds);
    rows_close(&x.rows);
    return MPI_Finalize();
}
