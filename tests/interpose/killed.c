/*
 * killed.c - a rank is killed; the others learn it from ncclCommGetAsyncError while their streams wait, abort, and go on
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define EACH 100000
#define DEADLINE 15.0
#define VICTIM 2

/* As a watchdog does: the stream, then the state of the communicator. The error, or success when the stream ran empty. */
static ncclResult_t watch(ncclComm_t comm, cudaStream_t stream)
{
    double since = client_seconds();
    ncclResult_t state;

    for (;;) {
        int error = cudaStreamQuery(stream);
        TRUE(error == 0 || error == xp_cudaErrorNotReady);
        NCCL(ncclCommGetAsyncError(comm, &state));
        if (state || !error)
            return state;
        TRUE(client_seconds() - since < DEADLINE + 5);
        usleep(500);
    }
}

static int rank_main(struct client *c, int argc, char **argv)
{
    ncclComm_t comm = client_comm(c, 0);
    cudaStream_t stream = new_stream();
    size_t all = (size_t)c->n * EACH;
    char *send = device_alloc(all), *recv = device_alloc(all);
    ncclResult_t state = ncclSuccess;

    device_fill(send, all, 1, stream);
    for (int step = 0; step < 3; step++) {
        client_exchange(c, comm, send, recv, EACH, stream);
        CUDA(cudaStreamSynchronize(stream));
    }
    client_barrier(c);
    if (c->rank == VICTIM) {
        usleep(20000);
        atomic_store(&c->board->when, client_seconds());
        raise(SIGKILL);
    }
    while (!state) { /* may pass once or twice before it is dead */
        client_exchange(c, comm, send, recv, EACH, stream);
        state = watch(comm, stream);
    }
    double late = client_seconds() - atomic_load(&c->board->when);
    printf("error %d\n", state == ncclRemoteError || state == ncclSystemError);
    TRUE(late < DEADLINE);
    NCCL(ncclCommAbort(comm));
    CUDA(cudaStreamSynchronize(stream));
    cudaGetLastError();
    CUDA(cudaFree(send));
    CUDA(cudaFree(recv));
    CUDA(cudaStreamDestroy(stream));
    return 0;
}

int main(int argc, char **argv)
{
    return client_main_victim(argc, argv, 4, 60, VICTIM, rank_main);
}
