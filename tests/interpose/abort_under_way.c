/*
 * abort_under_way.c - an all-to-all that one rank never joins is aborted on the others; a new communicator works
 *
 * usage: abort_under_way first|later      the first exchange of the communicator, or one after another that went well
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EACH 200000

static void fill(struct client *c, char *send, int step, cudaStream_t stream)
{
    for (int p = 0; p < c->n; p++)
        device_fill(send + p * EACH, EACH, tag_of(c->rank, p, step), stream);
}

static int rank_main(struct client *c, int argc, char **argv)
{
    bool later = argc > 1 && strcmp(argv[1], "later") == 0;
    char *send, *recv, label[64];
    cudaStream_t stream;

    for (int round = 0; round < 2; round++) {
        ncclComm_t comm = client_comm(c, 2 * round);
        stream = new_stream();
        send = device_alloc((size_t)c->n * EACH);
        recv = device_alloc((size_t)c->n * EACH);
        if (later) {
            fill(c, send, 50 + round, stream);
            client_exchange(c, comm, send, recv, EACH, stream);
            CUDA(cudaStreamSynchronize(stream));
        }
        fill(c, send, 1, stream);
        if (c->rank != 1) {
            client_exchange(c, comm, send, recv, EACH, stream);
            usleep(50000);
            TRUE(cudaStreamQuery(stream) == xp_cudaErrorNotReady);
        }
        client_barrier(c);
        double since = client_seconds();
        NCCL(ncclCommAbort(comm));
        CUDA(cudaStreamSynchronize(stream)); /* the stream is free again; what is in recv is nobody's */
        TRUE(client_seconds() - since < 10);
        cudaGetLastError();
        client_barrier(c);

        comm = client_comm(c, 2 * round + 1);
        fill(c, send, 2 + round, stream);
        client_exchange(c, comm, send, recv, EACH, stream);
        for (int p = 0; p < c->n; p++) {
            snprintf(label, sizeof label, "afterwards from %d", p);
            device_expect(label, recv + p * EACH, EACH, tag_of(p, c->rank, 2 + round), stream);
        }
        client_close(comm, send, recv, stream);
    }
    return 0;
}

int main(int argc, char **argv)
{
    return client_main(argc, argv, 4, 60, rank_main);
}
