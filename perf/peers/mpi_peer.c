/*
 * mpi_peer.c - what the MPI programs beside xp_perf have in common (mpi_peer.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "perf/peers/mpi_peer.h"

#include <errno.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

void peer_die(const char *text)
{
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, text);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

void *peer_room(size_t bytes)
{
    void *p = calloc(1, bytes + 64);

    if (p == NULL)
        peer_die("no memory");
    return p;
}

void peer_open(struct options *o, struct row_source *rows, const char *command, int argc, char **argv)
{
    char err[512];

    *o = (struct options){.command = command, .rows = 4096, .dtype = XP_BF16, .seed = 1, .iters = 10};
    if (options_parse(o, argc - 1, argv + 1, err, sizeof(err)) != 0)
        peer_die(err);
    if (o->input == NULL)
        rows_open_generated(rows, o->data != NULL ? o->data : "gaussian", o->dtype, o->dim != 0 ? o->dim : 4096, o->seed);
    else if (rows_open_file(rows, o->input, o->seed, err, sizeof(err)) != 0)
        peer_die(err);
}

static void write_json(const struct peer_result *r, double *slowest, unsigned long long bytes)
{
    size_t iters = (size_t)r->opt->iters;
    struct json j = {0};
    char err[512];

    json_open(&j);
    json_text(&j, "command", r->opt->command);
    json_pair(&j, "shape", r->opt->rows, r->rows->dim);
    json_text(&j, "dtype", perf_dtype_name(r->rows->dtype));
    json_text(&j, "data", r->rows->name);
    if (r->routing != NULL) {
        json_text(&j, "routing", r->routing);
        json_whole(&j, "k", (uint64_t)r->k);
    }
    json_whole(&j, "ranks", (uint64_t)r->n);
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
    if (json_save(&j, r->opt->json != NULL ? r->opt->json : "-", err, sizeof(err)) != 0)
        peer_die(err);
    json_free(&j);
}

void peer_report(const struct peer_result *r)
{
    double *slowest = peer_room((size_t)r->opt->iters * sizeof(double));
    unsigned long long bytes = 0;

    MPI_Reduce(r->seconds, slowest, r->opt->iters, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    MPI_Reduce(&r->bytes, &bytes, 1, MPI_UNSIGNED_LONG_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
    if (r->rank == 0)
        write_json(r, slowest, bytes);
    free(slowest);
}
