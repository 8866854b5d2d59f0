/*
 * nested.c - groups in groups, collectives beside an all-to-all, simulated groups, and the errors that NCCL gives
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <stdio.h>

#define EACH 9000

struct buffers {
    char *send, *recv;
    float *sum;
    cudaStream_t stream;
    ncclComm_t comm;
};

static void fill(struct client *c, struct buffers *b, int step)
{
    device_clear(b->recv, (size_t)c->n * EACH, b->stream);
    for (int p = 0; p < c->n; p++)
        device_fill(b->send + p * EACH, EACH, tag_of(c->rank, p, step), b->stream);
}

static void pairs(struct client *c, struct buffers *b)
{
    for (int p = 0; p < c->n; p++) {
        NCCL(ncclGroupStart());
        NCCL(ncclSend(b->send + p * EACH, EACH, ncclUint8, p, b->comm, b->stream));
        NCCL(ncclRecv(b->recv + p * EACH, EACH, ncclUint8, p, b->comm, b->stream));
        NCCL(ncclGroupEnd());
    }
}

static void expect(struct client *c, struct buffers *b, int step)
{
    char label[64];

    for (int p = 0; p < c->n; p++) {
        snprintf(label, sizeof label, "step %d from %d", step, p);
        device_expect(label, b->recv + p * EACH, EACH, tag_of(p, c->rank, step), b->stream);
    }
}

/* The inner groups only count: nothing may run before the end of the outer one. */
static void inner_groups(struct client *c, struct buffers *b, int step)
{
    fill(c, b, step);
    NCCL(ncclGroupStart());
    pairs(c, b);
    CUDA(cudaStreamSynchronize(b->stream));
    NCCL(ncclGroupEnd());
    expect(c, b, step);
}

static void collectives_beside(struct client *c, struct buffers *b, int step)
{
    float values[4] = {1, 2.5f, (float)c->rank, -1}, want[4];

    fill(c, b, step);
    CUDA(cudaMemcpyAsync(b->sum, values, sizeof values, xp_cudaMemcpyHostToDevice, b->stream));
    NCCL(ncclGroupStart());
    NCCL(ncclAllReduce(b->sum, b->sum, 4, ncclFloat32, ncclSum, b->comm, b->stream));
    pairs(c, b);
    NCCL(ncclBroadcast(b->sum + 4, b->sum + 8, 4, ncclFloat32, c->n - 1, b->comm, b->stream));
    NCCL(ncclGroupEnd());
    NCCL(ncclBcast(b->sum + 8, 4, ncclFloat32, 0, b->comm, b->stream)); /* NCCL calls its own ncclBroadcast here */
    NCCL(ncclAllGather(b->sum, b->sum + 16, 1, ncclFloat32, b->comm, b->stream));
    CUDA(cudaMemcpyAsync(want, b->sum, sizeof want, xp_cudaMemcpyDeviceToHost, b->stream));
    TRUE(want[0] == (float)c->n && want[1] == 2.5f * (float)c->n && want[2] == (float)(c->n * (c->n - 1) / 2));
    expect(c, b, step);
}

static void errors(struct client *c, struct buffers *b, int step)
{
    ncclSimInfo_t info = {sizeof info, NCCL_SIM_INFO_MAGIC, 22200, 0};

    printf("end without start %d\n", ncclGroupEnd());
    fill(c, b, step);
    NCCL(ncclGroupStart()); /* an error spoils the whole group, and only this one */
    pairs(c, b);
    printf("no communicator %d", ncclSend(b->send, 1, ncclInt8, 0, NULL, b->stream));
    printf(", at the end %d\n", ncclGroupEnd());
    NCCL(ncclGroupStart());
    printf("rank too high %d", ncclSend(b->send, 1, ncclInt8, c->n, b->comm, b->stream));
    printf(", at the end %d\n", ncclGroupEnd());
    printf("rank below 0 %d\n", ncclRecv(b->recv, 1, ncclInt8, -1, b->comm, b->stream));
    printf("type %d\n", ncclSend(b->send, 1, (ncclDataType_t)77, 0, b->comm, b->stream));
    printf("alone to itself %d\n", ncclSend(b->send, 1, ncclInt8, c->rank, b->comm, b->stream));
    printf("destroy NULL %d, abort NULL %d, count NULL %d\n", ncclCommDestroy(NULL), ncclCommAbort(NULL),
           ncclCommCount(NULL, &(int){0}));
    NCCL(ncclGroupStart()); /* counted, not sent: the ranks do not even agree */
    NCCL(ncclSend(b->send, (size_t)c->rank + 1, ncclInt8, (c->rank + 1) % c->n, b->comm, b->stream));
    NCCL(ncclGroupSimulateEnd(&info));
    info.magic = 0;
    NCCL(ncclGroupStart());
    printf("simulation without magic %d\n", ncclGroupSimulateEnd(&info));
    ncclGroupEnd();
    printf("end without start %d\n", ncclGroupEnd());
    inner_groups(c, b, step + 1);
}

static int rank_main(struct client *c, int argc, char **argv)
{
    struct buffers b = {.comm = client_comm(c, 0)};

    b.stream = new_stream();
    b.send = device_alloc((size_t)c->n * EACH);
    b.recv = device_alloc((size_t)c->n * EACH);
    b.sum = device_alloc(256);
    device_fill(b.sum, 256, 7, b.stream);
    for (int step = 0; step < 3; step++) {
        inner_groups(c, &b, 10 * step);
        collectives_beside(c, &b, 10 * step + 1);
    }
    errors(c, &b, 50);
    NCCL(ncclCommDestroy(b.comm));
    CUDA(cudaFree(b.send));
    CUDA(cudaFree(b.recv));
    CUDA(cudaFree(b.sum));
    CUDA(cudaStreamDestroy(b.stream));
    return 0;
}

int main(int argc, char **argv)
{
    return client_main(argc, argv, 4, 60, rank_main);
}
