/*
 * test_forward.c - what a forwarded group costs: the wrapped calls against the same calls under their p-names, which are not wrapped
 *
 * Preloaded with libcrosspress-nccl.so and linked with an NCCL that does nothing. CROSSPRESS_GROUPS chooses the way: off, every call
 * goes straight on; complete, groups are buffered, looked through and replayed. Limit: 1 us for each send or receive.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/interpose/nccl_abi.h"

#define PEERS 64
#define LIMIT_NS 1000

extern unsigned long null_nccl_calls;
ncclResult_t pncclSend(const void *send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream);
ncclResult_t pncclRecv(void *recv, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream);
ncclResult_t pncclGroupStart(void);
ncclResult_t pncclGroupEnd(void);

static char memory[64];
static ncclComm_t comm = (ncclComm_t)memory; /* a handle like any other */

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static int wrapped_group(int peers)
{
    int bad = ncclGroupStart();
    for (int p = 0; p < peers; p++) {
        bad |= ncclSend(memory, 1 << 20, ncclBfloat16, p, comm, NULL);
        bad |= ncclRecv(memory, 1 << 20, ncclBfloat16, p, comm, NULL);
    }
    return bad | (int)ncclGroupEnd();
}

static int plain_group(int peers)
{
    int bad = pncclGroupStart();
    for (int p = 0; p < peers; p++) {
        bad |= pncclSend(memory, 1 << 20, ncclBfloat16, p, comm, NULL);
        bad |= pncclRecv(memory, 1 << 20, ncclBfloat16, p, comm, NULL);
    }
    return bad | (int)pncclGroupEnd();
}

/* Least nanoseconds of one call. */
static double least(int (*group)(int), int peers)
{
    double best = 1e18;
    for (int i = 0; i < 2000; i++) {
        double start = now_ns(), t;
        if (group(peers) != 0)
            return 1e18;
        t = (now_ns() - start) / (2 * peers);
        best = t < best ? t : best;
    }
    return best;
}

static int run(const char *what, int peers)
{
    double plain = least(plain_group, peers), wrapped = least(wrapped_group, peers);
    printf("%s of %d ranks: %.1f ns a call without, %.1f ns with\n", what, peers, plain, wrapped);
    return wrapped - plain > LIMIT_NS;
}

int main(void)
{
    unsigned long before = null_nccl_calls;
    int failed = 0;

    if (!getenv("LD_PRELOAD"))
        return 77;
    wrapped_group(PEERS);
    if (null_nccl_calls - before != 2 * PEERS) { /* each once */
        printf("%lu calls came through of %d\n", null_nccl_calls - before, 2 * PEERS);
        return 1;
    }
    failed |= run("a complete group", PEERS);
    failed |= run("a group that names some", PEERS / 2);
    return failed;
}
