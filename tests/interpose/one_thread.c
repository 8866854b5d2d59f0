/*
 * one_thread.c - two processes whose one thread drives two ranks each, as nccl-tests -g 2 does
 *
 * The calls on both communicators stand in one group. A layer that waits in the first for all ranks would wait for itself.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/interpose/nccl_abi.h"
#include "tests/cuemu/cudart.h"

#define COUNT 65536 /* elements to each rank */
#define STEPS 6

static int process;

static void must(int result, const char *what)
{
    if (result == 0)
        return;
    printf("process %d: %s: %d\n", process, what, result);
    exit(1);
}
#define MUST(call) must((int)(call), #call)

static void set_up(ncclUniqueId id, ncclComm_t *comm, cudaStream_t *stream, unsigned short **send, unsigned short **recv)
{
    MUST(ncclGroupStart());
    for (int i = 0; i < 2; i++) {
        MUST(cudaSetDevice(i));
        MUST(ncclCommInitRank(&comm[i], 4, id, 2 * process + i));
    }
    MUST(ncclGroupEnd());
    for (int i = 0; i < 2; i++) {
        MUST(cudaSetDevice(i));
        MUST(cudaStreamCreateWithFlags(&stream[i], xp_cudaStreamNonBlocking));
        MUST(cudaMalloc((void **)&send[i], 4 * COUNT * sizeof **send));
        MUST(cudaMalloc((void **)&recv[i], 4 * COUNT * sizeof **recv));
        MUST(cudaMemsetAsync(send[i], 2 * process + i + 1, 4 * COUNT * sizeof **send, stream[i]));
    }
}

/* Every byte of rank p is p + 1. */
static void compare(unsigned short *recv, cudaStream_t stream)
{
    static unsigned char host[4 * COUNT * sizeof *recv];

    MUST(cudaMemcpyAsync(host, recv, sizeof host, xp_cudaMemcpyDefault, stream));
    MUST(cudaStreamSynchronize(stream));
    for (size_t i = 0; i < sizeof host; i++)
        must(host[i] != i / (sizeof host / 4) + 1, "byte");
}

int main(void)
{
    ncclComm_t comm[2];
    cudaStream_t stream[2];
    unsigned short *send[2], *recv[2];
    ncclUniqueId id;
    int status = 0;
    pid_t child;

    MUST(ncclGetUniqueId(&id));
    child = fork();
    process = child == 0;
    setenv("CROSSPRESS_NODE", process ? "b" : "a", 1);
    set_up(id, comm, stream, send, recv);
    for (int step = 0; step < STEPS; step++) {
        MUST(ncclGroupStart());
        for (int i = 0; i < 2; i++)
            MUST(ncclAlltoAll(send[i], recv[i], COUNT, ncclBfloat16, comm[i], stream[i]));
        MUST(ncclGroupEnd());
        for (int i = 0; i < 2; i++)
            compare(recv[i], stream[i]);
    }
    for (int i = 0; i < 2; i++)
        MUST(ncclCommDestroy(comm[i]));
    if (child == 0)
        return 0;
    must(waitpid(child, &status, 0) != child || status != 0, "the other process");
    printf("%d steps on 2 ranks a thread\n", STEPS);
    return 0;
}
