/*
 * split_loop.c - 200 times: split, one to three all-to-alls in the child, destroy. Handles, files and memory are used again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include <dirent.h>
#include <stdio.h>

#define EACH 4000
#define ROUNDS 200

static int open_files(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

static void exchange(ncclComm_t child, int me, int n, char *send, char *recv, int round, cudaStream_t stream)
{
    char label[64];

    for (int p = 0; p < n; p++)
        device_fill(send + p * EACH, EACH, tag_of(me, p, round), stream);
    if (round % 2) {
        NCCL(ncclAlltoAll(send, recv, EACH / 2, ncclFloat16, child, stream));
    } else {
        NCCL(ncclGroupStart());
        for (int p = 0; p < n; p++) {
            NCCL(ncclSend(send + p * EACH, EACH, ncclInt8, p, child, stream));
            NCCL(ncclRecv(recv + p * EACH, EACH, ncclInt8, p, child, stream));
        }
        NCCL(ncclGroupEnd());
    }
    for (int p = 0; p < n; p++) {
        snprintf(label, sizeof label, "round %d from %d", round, p);
        device_expect(label, recv + p * EACH, EACH, tag_of(p, me, round), stream);
    }
}

static int rank_main(struct client *c, int argc, char **argv)
{
    ncclComm_t comm = client_comm(c, 0), child;
    cudaStream_t stream = new_stream();
    char *send = device_alloc((size_t)c->n * EACH), *recv = device_alloc((size_t)c->n * EACH);
    int files = 0;

    for (int round = 0; round < ROUNDS; round++) {
        bool out = round % 5 == 4 && c->rank == round / 5 % c->n; /* one rank takes no part */
        int color = out ? NCCL_SPLIT_NOCOLOR : round % 3 ? 0 : c->rank % 2, me, n;
        if (round % 4 == 1) {
            NCCL(ncclGroupStart());
            NCCL(ncclCommSplit(comm, color, round % 2 ? -c->rank : c->rank, &child, NULL));
            NCCL(ncclGroupEnd());
        } else {
            NCCL(ncclCommSplit(comm, color, round % 2 ? -c->rank : c->rank, &child, NULL));
        }
        TRUE(out == (child == NULL));
        if (!out) {
            NCCL(ncclCommCount(child, &n));
            NCCL(ncclCommUserRank(child, &me));
            for (int i = 0; i <= round % 7 % 3; i++)
                exchange(child, me, n, send, recv, round, stream);
            NCCL(ncclCommDestroy(child));
        }
        if (round == ROUNDS / 2)
            files = open_files();
    }
    TRUE(open_files() <= files + 8);
    for (int i = 0; i < 3; i++)
        exchange(comm, c->rank, c->n, send, recv, ROUNDS, stream);
    client_close(comm, send, recv, stream);
    return 0;
}

int main(int argc, char **argv)
{
    return client_main(argc, argv, 4, 120, rank_main);
}
