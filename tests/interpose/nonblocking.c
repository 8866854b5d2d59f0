/*
 * nonblocking.c - non-blocking communicators: every call may answer ncclInProgress, and the state tells when it is done
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include "tests/interpose/client_config.h"
#include <stdio.h>
#include <unistd.h>

#define EACH 25000
#define STEPS 12

/* As NCCL's documentation has it. */
static void until_done(ncclResult_t result, ncclComm_t comm, const char *what)
{
    double since = client_seconds();

    while (result == ncclInProgress || result == ncclSuccess) {
        ncclResult_t state;
        NCCL(ncclCommGetAsyncError(comm, &state));
        if (state != ncclInProgress) {
            result = state;
            break;
        }
        TRUE(client_seconds() - since < 30);
        usleep(100);
    }
    client_nccl(result, what, __FILE__, __LINE__);
}
#define DONE(call, comm)                                                                                      \
    do {                                                                                                      \
        ncclResult_t result_ = call; /* may write comm */                                                     \
        until_done(result_, comm, #call);                                                                     \
    } while (0)

static void group(struct client *c, ncclComm_t comm, char *send, char *recv, cudaStream_t stream)
{
    NCCL(ncclGroupStart());
    for (int p = 0; p < c->n; p++) {
        ncclResult_t s = ncclSend(send + p * EACH, EACH, ncclInt8, p, comm, stream);
        ncclResult_t r = ncclRecv(recv + p * EACH, EACH, ncclInt8, p, comm, stream);
        TRUE((s == ncclSuccess || s == ncclInProgress) && (r == ncclSuccess || r == ncclInProgress));
    }
    DONE(ncclGroupEnd(), comm);
}

static int rank_main(struct client *c, int argc, char **argv)
{
    struct config_2_18 config = config_with(0);
    ncclUniqueId id = client_id(c, 0);
    ncclComm_t comm = NULL, half = NULL;
    cudaStream_t stream;
    char *send, *recv, label[64];

    CUDA(cudaSetDevice(c->rank));
    DONE(ncclCommInitRankConfig(&comm, c->n, id, c->rank, (ncclConfig_t *)&config), comm);
    stream = new_stream();
    send = device_alloc((size_t)c->n * EACH);
    recv = device_alloc((size_t)c->n * EACH);
    for (int step = 0; step < STEPS; step++) {
        device_clear(recv, (size_t)c->n * EACH, stream);
        for (int p = 0; p < c->n; p++)
            device_fill(send + p * EACH, EACH, tag_of(c->rank, p, step), stream);
        if (step % 3 == 2)
            DONE(ncclAlltoAll(send, recv, EACH, ncclUint8, comm, stream), comm);
        else
            group(c, comm, send, recv, stream);
        for (int p = 0; p < c->n; p++) {
            snprintf(label, sizeof label, "step %d from %d", step, p);
            device_expect(label, recv + p * EACH, EACH, tag_of(p, c->rank, step), stream);
        }
    }
    DONE(ncclCommSplit(comm, c->rank % 2, c->rank, &half, NULL), comm);
    TRUE(half != NULL);
    int n, rank;
    DONE(ncclSuccess, half);
    NCCL(ncclCommCount(half, &n));
    NCCL(ncclCommUserRank(half, &rank));
    printf("half %d of %d\n", rank, n);
    DONE(ncclCommFinalize(half), half);
    NCCL(ncclCommDestroy(half));
    DONE(ncclCommFinalize(comm), comm);
    client_close(comm, send, recv, stream);
    return 0;
}

int main(int argc, char **argv)
{
    return client_main(argc, argv, 4, 60, rank_main);
}
