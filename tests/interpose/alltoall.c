/*
 * alltoall.c - ncclAlltoAll: sizes from nothing on, several in one group, the call with one buffer that must not crash
 *
 * usage: alltoall [config]      config: by ncclAlltoAllConfig
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <stdio.h>
#include <string.h>

#define IN_GROUP 3
#define MOST 40000 /* bytes to one rank */

struct buffers {
    char *send, *recv;
};

static void fill(struct client *c, struct buffers b, size_t each, int step, cudaStream_t stream)
{
    device_clear(b.recv, (size_t)c->n * MOST, stream);
    for (int p = 0; p < c->n; p++)
        device_fill(b.send + (size_t)p * each, each, tag_of(c->rank, p, step), stream);
}

static void expect(struct client *c, struct buffers b, size_t each, int step, cudaStream_t stream)
{
    char label[64];

    for (int p = 0; p < c->n; p++) {
        snprintf(label, sizeof label, "step %d from %d", step, p);
        device_expect(label, b.recv + (size_t)p * each, each, tag_of(p, c->rank, step), stream);
    }
    snprintf(label, sizeof label, "step %d behind", step);
    device_report(label, b.recv + (size_t)c->n * each, (size_t)c->n * (MOST - each), stream);
}

static bool configured;

/* The configuration is gone when the call returns, as NCCL allows. */
static void alltoall(struct buffers b, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream)
{
    struct {
        struct xp_nccl_coll_config_head head;
        char rest[48];
    } config = {{sizeof config, NCCL_CONFIG_MAGIC}, {0}};

    if (configured)
        NCCL(ncclAlltoAllConfig(b.send, b.recv, count, type, comm, stream, (const ncclCollConfig_t *)&config));
    else
        NCCL(ncclAlltoAll(b.send, b.recv, count, type, comm, stream));
    memset(&config, 0xff, sizeof config);
}

static int rank_main(struct client *c, int argc, char **argv)
{
    static const struct {
        size_t count;
        ncclDataType_t type;
        size_t bytes;
    } cases[] = {{0, ncclFloat32, 4}, {1, ncclUint8, 1}, {1001, ncclInt8, 1}, {4096, ncclBfloat16, 2}, {513, ncclFloat64, 8},
                 {MOST / 2, ncclFloat16, 2}};
    ncclComm_t comm = client_comm(c, 0);
    cudaStream_t stream = new_stream();
    struct buffers b[IN_GROUP];
    int step = 0;

    configured = argc > 1 && strcmp(argv[1], "config") == 0;
    for (int i = 0; i < IN_GROUP; i++)
        b[i] = (struct buffers){device_alloc((size_t)c->n * MOST), device_alloc((size_t)c->n * MOST)};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++, step++) {
        size_t each = cases[i].count * cases[i].bytes;
        fill(c, b[0], each, step, stream);
        alltoall(b[0], cases[i].count, cases[i].type, comm, stream);
        expect(c, b[0], each, step, stream);
    }
    for (int round = 0; round < 2; round++, step += IN_GROUP) {
        for (int i = 0; i < IN_GROUP; i++)
            fill(c, b[i], 4096 * (size_t)(i + 1), step + i, stream);
        NCCL(ncclGroupStart());
        for (int i = 0; i < IN_GROUP; i++)
            alltoall(b[i], 2048 * (size_t)(i + 1), ncclBfloat16, comm, stream);
        NCCL(ncclGroupEnd());
        for (int i = 0; i < IN_GROUP; i++)
            expect(c, b[i], 4096 * (size_t)(i + 1), step + i, stream);
    }
    NCCL(ncclAlltoAll(b[0].send, b[0].send, 4096, ncclUint8, comm, stream)); /* as nccl-tests does; the result is nobody's */
    CUDA(cudaStreamSynchronize(stream));
    NCCL(ncclCommDestroy(comm));
    for (int i = 0; i < IN_GROUP; i++) {
        CUDA(cudaFree(b[i].send));
        CUDA(cudaFree(b[i].recv));
    }
    CUDA(cudaStreamDestroy(stream));
    return 0;
}

int main(int argc, char **argv)
{
    return client_main(argc, argv, 4, 60, rank_main);
}
