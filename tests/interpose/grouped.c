/*
 * grouped.c - an all-to-all as frameworks write it: a group of sends and receives to everybody
 *
 * usage: grouped even|uneven|zeros|sparse      zeros: pairs of nothing are posted (PyTorch); sparse: they are left out (Tutel)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS 18
#define TYPES 6
#define MOST 6000 /* elements to one rank */

enum shape { EVEN, UNEVEN, ZEROS, SPARSE };

static const struct {
    ncclDataType_t type;
    size_t bytes;
} types[TYPES] = {{ncclFloat16, 2}, {ncclInt8, 1}, {ncclBfloat16, 2}, {ncclFloat32, 4}, {ncclInt64, 8}, {ncclUint8, 1}};

/* Known to both ends. */
static size_t count(const struct client *c, enum shape shape, int from, int to, int step)
{
    uint64_t h = (c->seed + 1) * 0x9e3779b97f4a7c15u ^ (uint64_t)(from * 131 + to * 17 + step * 1009) * 0xbf58476d1ce4e5b9u;

    h ^= h >> 29;
    h *= 0x94d049bb133111ebu;
    h ^= h >> 32;
    if (shape == EVEN)
        return 256 * (size_t)(step + 1) + (size_t)(step % 2);
    if (shape == SPARSE && to == (from + 1) % c->n) /* a rank that calls nobody breaks the promise of CROSSPRESS_GROUPS=sparse */
        return 1 + h % MOST;
    if (shape != UNEVEN && h % 3 == 0)
        return 0;
    return 1 + h % MOST;
}

struct buffers {
    char *send[CLIENT_MAX], *recv[CLIENT_MAX];
};

static void exchange(struct client *c, enum shape shape, ncclComm_t comm, struct buffers *b, cudaStream_t stream, int step)
{
    ncclDataType_t type = types[step % TYPES].type;
    size_t bytes = types[step % TYPES].bytes;

    NCCL(ncclGroupStart());
    for (int p = 0; p < c->n; p++) {
        size_t out = count(c, shape, c->rank, p, step), in = count(c, shape, p, c->rank, step);
        if (out || shape != SPARSE)
            NCCL(ncclSend(b->send[p], out, type, p, comm, stream));
        if (in || shape != SPARSE)
            NCCL(ncclRecv(b->recv[p], in, type, p, comm, stream));
    }
    NCCL(ncclGroupEnd());
    for (int p = 0; p < c->n; p++) {
        char label[64];
        snprintf(label, sizeof label, "step %d from %d", step, p);
        device_expect(label, b->recv[p], count(c, shape, p, c->rank, step) * bytes, tag_of(p, c->rank, step), stream);
    }
}

static int rank_main(struct client *c, int argc, char **argv)
{
    static const char *const names[] = {"even", "uneven", "zeros", "sparse"};
    ncclComm_t comm = client_comm(c, 0);
    cudaStream_t stream = new_stream();
    enum shape shape = EVEN;
    struct buffers b;

    while (shape < SPARSE && argc > 1 && strcmp(argv[1], names[shape]) != 0)
        shape++;
    for (int p = 0; p < c->n; p++) {
        b.send[p] = device_alloc(8 * MOST + 8);
        b.recv[p] = device_alloc(8 * MOST + 8);
    }
    for (int step = 0; step < STEPS; step++) {
        for (int p = 0; p < c->n; p++) {
            device_clear(b.recv[p], 8 * MOST, stream);
            device_fill(b.send[p], count(c, shape, c->rank, p, step) * types[step % TYPES].bytes, tag_of(c->rank, p, step), stream);
        }
        exchange(c, shape, comm, &b, stream, step);
    }
    NCCL(ncclCommDestroy(comm));
    for (int p = 0; p < c->n; p++) {
        CUDA(cudaFree(b.send[p]));
        CUDA(cudaFree(b.recv[p]));
    }
    CUDA(cudaStreamDestroy(stream));
    return 0;
}

#ifdef PLUGIN
/* Opened by local_open.c; the arguments begin `skip` later. */
__attribute__((visibility("default"))) int plugin_main(int argc, char **argv, int skip);

static int skipped;

static int plugin_rank_main(struct client *c, int argc, char **argv)
{
    return rank_main(c, argc - skipped, argv + skipped);
}

int plugin_main(int argc, char **argv, int skip)
{
    skipped = skip;
    return client_main(argc, argv, 4, 60, plugin_rank_main);
}
#else
int main(int argc, char **argv)
{
    return client_main(argc, argv, 4, 60, rank_main);
}
#endif
