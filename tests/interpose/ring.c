/*
 * ring.c - sends and receives that are no all-to-all: a ring in groups, a ring of lone calls, everybody to one rank
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <stdio.h>

#define BYTES 70000
#define STEPS 8

static void ring_in_groups(struct client *c, ncclComm_t comm, char *send, char *recv, cudaStream_t stream)
{
    int next = (c->rank + 1) % c->n, before = (c->rank + c->n - 1) % c->n;

    device_fill(send, BYTES, tag_of(c->rank, next, 0), stream);
    for (int step = 0; step < STEPS; step++) { /* hands on what it got */
        NCCL(ncclGroupStart());
        NCCL(ncclRecv(recv, BYTES, ncclInt8, before, comm, stream));
        NCCL(ncclSend(send, BYTES, ncclInt8, next, comm, stream));
        NCCL(ncclGroupEnd());
        CUDA(cudaMemcpyAsync(send, recv, BYTES, xp_cudaMemcpyDeviceToDevice, stream));
    }
    int origin = ((c->rank - STEPS) % c->n + c->n) % c->n;
    device_expect("ring", recv, BYTES, tag_of(origin, (origin + 1) % c->n, 0), stream);
}

/* Lone calls: even ranks send first, odd ones receive first. */
static void ring_of_lone_calls(struct client *c, ncclComm_t comm, char *send, char *recv, cudaStream_t stream)
{
    int next = (c->rank + 1) % c->n, before = (c->rank + c->n - 1) % c->n;

    for (int step = 1; step <= STEPS; step++) {
        size_t count = step % 3 ? 1000 * (size_t)step : 0;
        device_fill(send, 4 * count, tag_of(c->rank, next, step), stream);
        if (c->rank % 2 == 0)
            NCCL(ncclSend(send, count, ncclFloat32, next, comm, stream));
        NCCL(ncclRecv(recv, count, ncclFloat32, before, comm, stream));
        if (c->rank % 2 == 1)
            NCCL(ncclSend(send, count, ncclFloat32, next, comm, stream));
        device_expect("lone", recv, 4 * count, tag_of(before, c->rank, step), stream);
    }
}

/* The n-th send meets the n-th receive, also when several go to one rank in a group. */
static void several_to_one(struct client *c, ncclComm_t comm, char *send, char *recv, cudaStream_t stream)
{
    NCCL(ncclGroupStart());
    for (int i = 0; i < 3; i++) {
        size_t at = 10000 * (size_t)i;
        device_fill(send + at, 5000, tag_of(c->rank, 0, 100 + i), stream);
        NCCL(ncclSend(send + at, 5000, ncclUint8, 0, comm, stream));
    }
    for (int p = 0; p < c->n && c->rank == 0; p++)
        for (int i = 0; i < 3; i++)
            NCCL(ncclRecv(recv + 5000 * (3 * p + i), 5000, ncclUint8, p, comm, stream));
    NCCL(ncclGroupEnd());
    for (int p = 0; p < c->n && c->rank == 0; p++)
        for (int i = 0; i < 3; i++)
            device_expect("to one", recv + 5000 * (3 * p + i), 5000, tag_of(p, 0, 100 + i), stream);
    CUDA(cudaStreamSynchronize(stream));
}

static int rank_main(struct client *c, int argc, char **argv)
{
    ncclComm_t comm = client_comm(c, 0);
    cudaStream_t stream = new_stream();
    char *send = device_alloc(BYTES), *recv = device_alloc(BYTES);

    ring_in_groups(c, comm, send, recv, stream);
    ring_of_lone_calls(c, comm, send, recv, stream);
    several_to_one(c, comm, send, recv, stream);
    client_close(comm, send, recv, stream);
    return 0;
}

int main(int argc, char **argv)
{
    return client_main(argc, argv, 4, 60, rank_main);
}
