/*
 * two_comms.c - two communicators (the ranks of the second in reverse) in one group, in turns on two streams, and one group on
 * several streams, which joins them
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <stdio.h>

#define EACH 20000
#define STEPS 5

struct side {
    ncclComm_t comm;
    int me;
    cudaStream_t stream;
    char *send, *recv;
};

static void fill(struct client *c, struct side *s, int step)
{
    device_clear(s->recv, (size_t)c->n * EACH, s->stream);
    for (int p = 0; p < c->n; p++)
        device_fill(s->send + p * EACH, EACH, tag_of(s->me, p, step), s->stream);
}

static void expect(struct client *c, struct side *s, int step, cudaStream_t stream)
{
    char label[64];

    for (int p = 0; p < c->n; p++) {
        snprintf(label, sizeof label, "step %d from %d", step, p);
        device_expect(label, s->recv + p * EACH, EACH, tag_of(p, s->me, step), stream);
    }
}

static void pair(struct side *s, int p, cudaStream_t send_stream, cudaStream_t recv_stream)
{
    NCCL(ncclSend(s->send + p * EACH, EACH / 2, ncclBfloat16, p, s->comm, send_stream));
    NCCL(ncclRecv(s->recv + p * EACH, EACH / 2, ncclBfloat16, p, s->comm, recv_stream));
}

static void in_one_group(struct client *c, struct side side[2], int step)
{
    fill(c, &side[0], step);
    fill(c, &side[1], step + 1);
    NCCL(ncclGroupStart());
    for (int p = 0; p < c->n; p++) {
        pair(&side[0], p, side[0].stream, side[0].stream);
        pair(&side[1], p, side[1].stream, side[1].stream);
    }
    NCCL(ncclGroupEnd());
    expect(c, &side[1], step + 1, side[1].stream);
    expect(c, &side[0], step, side[0].stream);
}

/* Nobody waits in between, and half of the ranks look at the second result first. */
static void in_turns(struct client *c, struct side side[2], int step)
{
    for (int i = 0; i < 2; i++)
        fill(c, &side[i], step + i);
    for (int i = 0; i < 2; i++) {
        NCCL(ncclGroupStart());
        for (int p = 0; p < c->n; p++)
            pair(&side[i], p, side[i].stream, side[i].stream);
        NCCL(ncclGroupEnd());
    }
    for (int k = 0; k < 2; k++)
        expect(c, &side[(k + c->rank) % 2], step + (k + c->rank) % 2, side[(k + c->rank) % 2].stream);
}

/* Sends on one stream, receives on another: the group comes after both, and both go on after it. */
static void on_two_streams(struct client *c, struct side *s, cudaStream_t other, int step)
{
    device_clear(s->recv, (size_t)c->n * EACH, other);
    for (int p = 0; p < c->n; p++)
        device_fill(s->send + p * EACH, EACH, tag_of(s->me, p, step), s->stream);
    NCCL(ncclGroupStart());
    for (int p = 0; p < c->n; p++)
        pair(s, p, s->stream, other);
    NCCL(ncclGroupEnd());
    device_clear(s->send, (size_t)c->n * EACH, other);
    expect(c, s, step, s->stream);
    CUDA(cudaStreamSynchronize(other));
}

static int rank_main(struct client *c, int argc, char **argv)
{
    struct side side[2];
    ncclUniqueId id[2] = {client_id(c, 0), client_id(c, 1)};
    cudaStream_t other;

    CUDA(cudaSetDevice(c->rank));
    NCCL(ncclGroupStart());
    for (int i = 0; i < 2; i++) {
        side[i].me = i ? c->n - 1 - c->rank : c->rank;
        NCCL(ncclCommInitRank(&side[i].comm, c->n, id[i], side[i].me));
    }
    NCCL(ncclGroupEnd());
    other = new_stream();
    for (int i = 0; i < 2; i++) {
        side[i].stream = new_stream();
        side[i].send = device_alloc((size_t)c->n * EACH);
        side[i].recv = device_alloc((size_t)c->n * EACH);
    }
    for (int step = 0; step < STEPS; step++) {
        in_one_group(c, side, 10 * step);
        in_turns(c, side, 10 * step + 3);
        on_two_streams(c, &side[step % 2], other, 10 * step + 6);
    }
    for (int i = 0; i < 2; i++) {
        NCCL(ncclCommFinalize(side[i].comm));
        NCCL(ncclCommDestroy(side[i].comm));
        CUDA(cudaFree(side[i].send));
        CUDA(cudaFree(side[i].recv));
        CUDA(cudaStreamDestroy(side[i].stream));
    }
    CUDA(cudaStreamDestroy(other));
    return 0;
}

int main(int argc, char **argv)
{
    return client_main(argc, argv, 4, 60, rank_main);
}
