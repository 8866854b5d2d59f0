/*
 * mpi_alltoallv.c - MPI_Alltoallv of the same rows with the same counts, timed the same way as xp_perf alltoallv
 *
 * perf/demo.sh builds and runs it; by hand:
 *   mpicc -std=c11 -D_GNU_SOURCE -O2 -I. -Ilib/include -o build/mpi_alltoallv perf/peers/mpi_alltoallv.c perf/peers/mpi_peer.c
 *         build/perf/libxp_perf.a build/lib/tools/libxp_tools.a build/lib/libxp_core.a -lm
 *   mpirun -np 4 build/mpi_alltoallv --rows 4096 --input X.npy --json out.json
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "perf/peers/mpi_peer.h"

struct exchange {
    struct options opt;
    struct row_source rows;
    int rank, n;
    int *send_rows, *send_at, *recv_rows, *recv_at;
    size_t total_recv;
    char *send, *recv;
    double *seconds;
};

static void make_buffers(struct exchange *x)
{
    size_t T = x->opt.rows, *counts = peer_room((size_t)x->n * sizeof(size_t));
    int at = 0;

    x->send_rows = peer_room((size_t)x->n * sizeof(int));
    x->recv_rows = peer_room((size_t)x->n * sizeof(int));
    x->send_at = peer_room((size_t)x->n * sizeof(int));
    x->recv_at = peer_room((size_t)x->n * sizeof(int));
    x->seconds = peer_room((size_t)x->opt.iters * sizeof(double));
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
    x->send = peer_room(T * x->rows.row_bytes);
    x->recv = peer_room(x->total_recv * x->rows.row_bytes);
    for (size_t i = 0; i < T; i++)
        rows_get(&x->rows, (uint64_t)x->rank * T + i, x->send + i * x->rows.row_bytes);
}

static void time_exchanges(struct exchange *x)
{
    MPI_Datatype row;

    MPI_Type_contiguous((int)x->rows.row_bytes, MPI_BYTE, &row);
    MPI_Type_commit(&row);
    for (int i = -PEER_WARM_UP; i < x->opt.iters; i++) {
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
    char *want = peer_room(x->rows.row_bytes), *got = x->recv;
    size_t *counts = peer_room((size_t)x->n * sizeof(size_t));

    for (int s = 0; s < x->n; s++) {
        uint64_t number = (uint64_t)s * x->opt.rows;

        rows_spread(x->opt.rows, x->n, s, counts);
        for (int d = 0; d < x->rank; d++)
            number += counts[d];
        for (int r = 0; r < x->recv_rows[s]; r++, got += x->rows.row_bytes) {
            rows_get(&x->rows, number + (uint64_t)r, want);
            if (memcmp(want, got, x->rows.row_bytes) != 0)
                peer_die("check: a row is not what was sent");
        }
    }
    free(counts);
    free(want);
}

int main(int argc, char **argv)
{
    struct exchange x = {.rank = 0};

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &x.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &x.n);
    peer_open(&x.opt, &x.rows, "alltoallv", argc, argv);
    make_buffers(&x);
    time_exchanges(&x);
    if (x.opt.check)
        check(&x);
    peer_report(&(struct peer_result){.opt = &x.opt, .rows = &x.rows, .rank = x.rank, .n = x.n, .seconds = x.seconds,
                                      .bytes = (x.opt.rows - (size_t)x.send_rows[x.rank]) * x.rows.row_bytes});
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
