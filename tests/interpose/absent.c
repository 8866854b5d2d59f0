/*
 * absent.c - a rank stays away from an all-to-all: no call of the others waits for it, and with a deadline they learn it from
 * ncclCommGetAsyncError; aborted, all can go on with a new communicator
 *
 * usage: absent first|later      the first exchange of the communicator, or one after others that went well
 *
 * CLIENT_DEADLINE: seconds after which there must be an error. NCCL alone has none.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EACH 50000
#define ABSENT 1
#define CALL_SECONDS 1.0 /* the most a call may take, on a machine that does other things besides */
#define GRACE 5.0

static void exchange(struct client *c, ncclComm_t comm, char *send, char *recv, int step, cudaStream_t stream)
{
    char label[64];

    for (int p = 0; p < c->n; p++)
        device_fill(send + p * EACH, EACH, tag_of(c->rank, p, step), stream);
    client_exchange(c, comm, send, recv, EACH, stream);
    for (int p = 0; p < c->n; p++) {
        snprintf(label, sizeof label, "step %d from %d", step, p);
        device_expect(label, recv + p * EACH, EACH, tag_of(p, c->rank, step), stream);
    }
}

/* Nothing waits in here: neither for the absent rank, nor for the exchange before. */
static void exchange_without_it(struct client *c, ncclComm_t comm, char *send, char *recv, cudaStream_t stream)
{
    for (int i = 0; i < 3; i++) {
        double since = client_seconds();
        client_exchange(c, comm, send, recv, EACH, stream);
        TRUE(client_seconds() - since < CALL_SECONDS);
    }
}

static void await_error(ncclComm_t comm, double deadline)
{
    double since = client_seconds();
    ncclResult_t state = ncclSuccess;

    while (!state) {
        NCCL(ncclCommGetAsyncError(comm, &state));
        TRUE(client_seconds() - since < deadline + GRACE);
        usleep(1000);
    }
    TRUE(state == ncclRemoteError || state == ncclSystemError);
    TRUE(client_seconds() - since > deadline / 2); /* it is the deadline that told, not something else */
    TRUE(strlen(ncclGetLastError(comm)) > 0);
}

static int rank_main(struct client *c, int argc, char **argv)
{
    bool later = argc > 1 && strcmp(argv[1], "later") == 0;
    const char *deadline = getenv("CLIENT_DEADLINE");
    ncclComm_t comm = client_comm(c, 0);
    cudaStream_t stream = new_stream();
    char *send = device_alloc((size_t)c->n * EACH), *recv = device_alloc((size_t)c->n * EACH);

    for (int step = 0; step < 3 && later; step++)
        exchange(c, comm, send, recv, step, stream);
    if (c->rank != ABSENT) {
        exchange_without_it(c, comm, send, recv, stream);
        if (deadline)
            await_error(comm, atof(deadline));
    }
    client_barrier(c);
    NCCL(ncclCommAbort(comm));
    CUDA(cudaStreamSynchronize(stream));
    cudaGetLastError();
    client_barrier(c);

    comm = client_comm(c, 1);
    for (int step = 10; step < 13; step++)
        exchange(c, comm, send, recv, step, stream);
    client_close(comm, send, recv, stream);
    return 0;
}

int main(int argc, char **argv)
{
    return client_main(argc, argv, 4, 60, rank_main);
}
