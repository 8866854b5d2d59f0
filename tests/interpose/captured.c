/*
 * captured.c - all-to-alls in a CUDA graph, launched several times, with calls outside the graph in between
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <stdio.h>

#define EACH 12000
#define LAUNCHES 6

static void expect(struct client *c, const char *recv, int step, cudaStream_t stream)
{
    char label[64];

    for (int p = 0; p < c->n; p++) {
        snprintf(label, sizeof label, "step %d from %d", step, p);
        device_expect(label, recv + p * EACH, EACH, tag_of(p, c->rank, step), stream);
    }
}

static cudaGraphExec_t capture(struct client *c, ncclComm_t comm, char *send, char *between, char *recv, cudaStream_t stream)
{
    cudaGraphExec_t exec;
    cudaGraph_t graph;
    cudaEvent_t event;
    cudaStream_t side = new_stream();

    CUDA(cudaEventCreateWithFlags(&event, xp_cudaEventDisableTiming));
    CUDA(cudaStreamBeginCapture(stream, xp_cudaStreamCaptureModeGlobal));
    NCCL(ncclAlltoAll(send, between, EACH, ncclUint8, comm, stream));
    CUDA(cudaEventRecord(event, stream));
    CUDA(cudaStreamWaitEvent(side, event, 0));
    client_exchange(c, comm, between, recv, EACH, side); /* brings everything back */
    CUDA(cudaEventRecord(event, side));
    CUDA(cudaStreamWaitEvent(stream, event, 0));
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaEventDestroy(event));
    CUDA(cudaStreamDestroy(side));
    return exec;
}

static int rank_main(struct client *c, int argc, char **argv)
{
    ncclComm_t comm = client_comm(c, 0);
    cudaStream_t stream = new_stream();
    size_t all = (size_t)c->n * EACH;
    char *send = device_alloc(all), *between = device_alloc(all), *recv = device_alloc(all), label[64];
    cudaGraphExec_t exec;

    for (int p = 0; p < c->n; p++)
        device_fill(send + p * EACH, EACH, tag_of(c->rank, p, 0), stream);
    client_exchange(c, comm, send, recv, EACH, stream); /* once outside, as frameworks do */
    expect(c, recv, 0, stream);
    client_barrier(c);
    exec = capture(c, comm, send, between, recv, stream);
    for (int step = 1; step <= LAUNCHES; step++) {
        for (int p = 0; p < c->n; p++)
            device_fill(send + p * EACH, EACH, tag_of(c->rank, p, step), stream);
        device_clear(recv, all, stream);
        CUDA(cudaGraphLaunch(exec, stream));
        expect(c, between, step, stream);
        for (int p = 0; p < c->n; p++) {
            snprintf(label, sizeof label, "back from %d", p);
            device_expect(label, recv + p * EACH, EACH, tag_of(c->rank, p, step), stream);
        }
        if (step % 2) {
            client_exchange(c, comm, send, recv, EACH, stream);
            expect(c, recv, step, stream);
        }
    }
    CUDA(cudaGraphExecDestroy(exec));
    NCCL(ncclCommDestroy(comm));
    CUDA(cudaFree(send));
    CUDA(cudaFree(between));
    CUDA(cudaFree(recv));
    CUDA(cudaStreamDestroy(stream));
    return 0;
}

int main(int argc, char **argv)
{
    return client_main(argc, argv, 4, 60, rank_main);
}
