/*
 * mpi_moe.c - the exchanges of a MoE layer as plain libraries do them: one row for every (token, expert) pair through MPI_Alltoallv,
 * there and back, timed the same way as xp_perf moe
 *
 * perf/demo.sh builds and runs it, as mpi_alltoallv.c. Per iteration: counts (MPI_Alltoall), rows to the experts, rows back. Packing and summing are not in the time.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "perf/moe_reference.h"
#include "perf/peers/mpi_peer.h"

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

static void open_routing(struct layer *l)
{
    const struct options *o = &l->opt;
    int experts = o->moe.experts ? o->moe.experts : DEFAULT_EXPERTS;
    char err[512];

    if (o->moe.topk == NULL)
        routing_open_generated(&l->routes, o->moe.routing != NULL ? o->moe.routing : "uniform", o->moe.k ? o->moe.k : 2, experts, o->seed);
    else if (routing_open_file(&l->routes, o->moe.topk, o->moe.weights, o->moe.k, experts, err, sizeof(err)) != 0)
        peer_die(err);
}

static void count(struct layer *l)
{
    l->plain = (struct moe_case){.rows = &l->rows, .routing = &l->routes, .T = l->opt.rows, .rank = l->rank, .nranks = l->n};
    l->send_rows = peer_room((size_t)l->n * sizeof(int));
    l->recv_rows = peer_room((size_t)l->n * sizeof(int));
    l->send_at = peer_room((size_t)l->n * sizeof(int));
    l->recv_at = peer_room((size_t)l->n * sizeof(int));
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
    size_t *at = peer_room((size_t)l->n * sizeof(size_t));

    l->send = peer_room(l->total_send * l->rows.row_bytes);
    l->back = peer_room(l->total_send * l->rows.row_bytes);
    l->recv = peer_room(l->total_recv * l->rows.row_bytes);
    l->seconds = peer_room((size_t)l->opt.iters * sizeof(double));
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
    int *counts = peer_room((size_t)l->n * sizeof(int));
    MPI_Datatype row;

    MPI_Type_contiguous((int)l->rows.row_bytes, MPI_BYTE, &row);
    MPI_Type_commit(&row);
    for (int i = -PEER_WARM_UP; i < l->opt.iters; i++) {
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
        peer_die("check: a row did not come back as it was sent");
    free(counts);
}

int main(int argc, char **argv)
{
    struct layer l = {.rank = 0};

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &l.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &l.n);
    peer_open(&l.opt, &l.rows, "moe", argc, argv);
    open_routing(&l);
    count(&l);
    fill(&l);
    time_layer(&l);
    peer_report(&(struct peer_result){.opt = &l.opt, .rows = &l.rows, .rank = l.rank, .n = l.n, .seconds = l.seconds,
                                      .bytes = 2 * (l.total_send - (size_t)l.send_rows[l.rank]) * l.rows.row_bytes,
                                      .routing = l.routes.name, .k = l.routes.k});
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
