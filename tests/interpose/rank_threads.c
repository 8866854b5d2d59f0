/*
 * rank_threads.c - ranks that are threads: two in each process, each with its own device, communicator and stream
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <pthread.h>
#include <stdio.h>

#define THREADS 2
#define EACH 30000
#define STEPS 12
#define APART 4 /* so many steps at a time nobody waits */

struct rank {
    struct client *c;
    int rank, n, thread;
    ncclUniqueId id;
    char *recv[STEPS];
    cudaStream_t stream;
    pthread_t handle;
};

static void *thread_main(void *arg)
{
    struct rank *r = arg;
    char *send = NULL;
    ncclComm_t comm;

    CUDA(cudaSetDevice(r->rank));
    NCCL(ncclCommInitRank(&comm, r->n, r->id, r->rank));
    r->stream = new_stream();
    send = device_alloc((size_t)r->n * EACH);
    for (int step = 0; step < STEPS; step++) {
        if (step % APART == 0)
            CUDA(cudaStreamSynchronize(r->stream));
        r->recv[step] = device_alloc((size_t)r->n * EACH);
        for (int p = 0; p < r->n; p++)
            device_fill(send + p * EACH, EACH, tag_of(r->rank, p, step), r->stream);
        if (step % 2) {
            NCCL(ncclAlltoAll(send, r->recv[step], EACH, ncclUint8, comm, r->stream));
            continue;
        }
        NCCL(ncclGroupStart());
        for (int p = 0; p < r->n; p++) {
            NCCL(ncclSend(send + p * EACH, EACH, ncclInt8, p, comm, r->stream));
            NCCL(ncclRecv(r->recv[step] + p * EACH, EACH, ncclInt8, p, comm, r->stream));
        }
        NCCL(ncclGroupEnd());
    }
    CUDA(cudaStreamSynchronize(r->stream));
    NCCL(ncclCommDestroy(comm));
    CUDA(cudaFree(send));
    return NULL;
}

static int rank_main(struct client *c, int argc, char **argv)
{
    ncclUniqueId id = client_id(c, 0);
    struct rank ranks[THREADS];
    char label[64];

    for (int t = 0; t < THREADS; t++) {
        ranks[t] = (struct rank){.c = c, .rank = c->rank * THREADS + t, .n = c->n * THREADS, .id = id};
        TRUE(pthread_create(&ranks[t].handle, NULL, thread_main, &ranks[t]) == 0);
    }
    for (int t = 0; t < THREADS; t++)
        pthread_join(ranks[t].handle, NULL);
    for (int t = 0; t < THREADS; t++)
        for (int step = 0; step < STEPS; step++) {
            struct rank *r = &ranks[t];
            for (int p = 0; p < r->n; p++) {
                snprintf(label, sizeof label, "rank %d step %d from %d", r->rank, step, p);
                device_expect(label, r->recv[step] + p * EACH, EACH, tag_of(p, r->rank, step), r->stream);
            }
            CUDA(cudaFree(r->recv[step]));
        }
    for (int t = 0; t < THREADS; t++)
        CUDA(cudaStreamDestroy(ranks[t].stream));
    return 0;
}

int main(int argc, char **argv)
{
    return client_main(argc, argv, 2, 60, rank_main);
}
