/*
 * large.c - a message of 3 GiB: counts and offsets beyond 2^31 bytes. Skipped where memory is short.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTES ((size_t)3 << 30)
#define PIECE ((size_t)1 << 20)
#define STRIDE ((size_t)192 << 20) /* pieces with data of their own: every STRIDE, and the end; the rest is never written */

static size_t available(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/meminfo", "r");

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return (size_t)kib << 10;
}

static size_t piece(size_t i)
{
    size_t at = i * STRIDE;

    return at + PIECE < BYTES ? at : BYTES - PIECE;
}

#define PIECES (BYTES / STRIDE + 1)

/* Uneven: rank 0 sends `count` values to the next rank, the other messages are of one or none. */
static void exchange(struct client *c, ncclComm_t comm, char *large, char *zeros, size_t count, cudaStream_t stream)
{
    int to = (c->rank + 1) % c->n, from = (c->rank + c->n - 1) % c->n;

    NCCL(ncclGroupStart());
    for (int p = 0; p < c->n; p++) {
        bool sends = p == to && c->rank == 0, receives = p == from && p == 0;
        NCCL(ncclSend(sends ? large : zeros, sends ? count : (size_t)(p == to), ncclFloat32, p, comm, stream));
        NCCL(ncclRecv(receives ? large : zeros + 4096, receives ? count : (size_t)(p == from), ncclFloat32, p, comm, stream));
    }
    NCCL(ncclGroupEnd());
}

static int rank_main(struct client *c, int argc, char **argv)
{
    ncclComm_t comm = client_comm(c, 0);
    cudaStream_t stream = new_stream();
    int to = (c->rank + 1) % c->n, from = (c->rank + c->n - 1) % c->n;
    char *buffer = device_alloc(BYTES), *zeros = device_alloc(PIECE), label[64];

    CUDA(cudaMemsetAsync(zeros, 0, PIECE, stream));
    for (size_t i = 0; i < PIECES && c->rank == 0; i++)
        device_fill(buffer + piece(i), PIECE, tag_of(0, to, (int)i), stream);
    exchange(c, comm, zeros, zeros, 1, stream); /* a layer may want to see one before */
    CUDA(cudaStreamSynchronize(stream));
    exchange(c, comm, buffer, zeros, BYTES / 4, stream);
    for (size_t i = 0; i < PIECES && from == 0; i++) {
        snprintf(label, sizeof label, "piece %zu", i);
        device_expect(label, buffer + piece(i), PIECE, tag_of(0, c->rank, (int)i), stream);
    }
    CUDA(cudaStreamSynchronize(stream));
    client_close(comm, buffer, zeros, stream);
    return 0;
}

int main(int argc, char **argv)
{
    if (!getenv("CLIENT_RANK") && available() < 5 * BYTES) {
        fprintf(stderr, "skipped: %zu GiB of memory are available, %zu needed\n", available() >> 30, 5 * BYTES >> 30);
        return CLIENT_SKIP;
    }
    return client_main(argc, argv, 2, 150, rank_main);
}
