/*
 * client.h - what the NCCL programs of the tests share: ranks as processes, the id, data that can be checked, a report
 *
 * A program is its own launcher: without a rank in its environment it starts the ranks (by exec, so that a preloaded library is
 * loaded in each), waits for them and prints what each wrote to stdout, in the order of ranks. That text says what arrived, as
 * checksums; it must be the same with and without a layer between program and NCCL. Everything that arrives is also checked against
 * what was sent, so that each run stands for itself.
 *
 * With CLIENT_SHARED=FILE the program is one rank under another launcher (RANK, WORLD_SIZE), which may lie in a network namespace of
 * its own: perf/fabric.sh run 2 1 -- env FAKE_NCCL_TCP=eth0 CLIENT_SHARED=/tmp/new-file build/tests/interpose/client_alltoall
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef INTERPOSE_CLIENT_H
#define INTERPOSE_CLIENT_H

#include "lib/interpose/nccl_abi.h"
#include "tests/cuemu/cudart.h"
#include <stdbool.h>
#include <stdint.h>

#define CLIENT_MAX 16
#define CLIENT_SKIP 77

/* Seen by all ranks. */
struct board {
    _Atomic unsigned arrived, left; /* barrier */
    _Atomic unsigned ids[8];        /* 1: the id is there */
    char id[8][NCCL_UNIQUE_ID_BYTES];
    _Atomic double when;            /* for programs in which something happens at a time */
    _Atomic unsigned flags[8];
};

struct client {
    int rank, n;
    struct board *board;
    uint64_t seed;
};

/* The program: how many ranks by default (-n changes it), seconds after which the launcher kills them. Returns the exit code. */
int client_main(int argc, char **argv, int ranks, int seconds, int (*rank_main)(struct client *c, int argc, char **argv));

/* As client_main; rank `victim` is meant to die by SIGKILL. */
int client_main_victim(int argc, char **argv, int ranks, int seconds, int victim,
                       int (*rank_main)(struct client *c, int argc, char **argv));

/* Id number `which`, made by rank 0. */
ncclUniqueId client_id(struct client *c, int which);
void client_barrier(struct client *c);
double client_seconds(void);

/* One communicator over all ranks, on device rank % 8. */
ncclComm_t client_comm(struct client *c, int which);

/* A group of sends and receives of `each` bytes with every rank, itself included. */
void client_exchange(struct client *c, ncclComm_t comm, char *send, char *recv, size_t each, cudaStream_t stream);

/* Ends the process with a message when a call fails. */
void client_nccl(ncclResult_t result, const char *what, const char *file, int line);
void client_cuda(int error, const char *what, const char *file, int line);
void client_true(bool ok, const char *what, const char *file, int line);
#define NCCL(call) client_nccl(call, #call, __FILE__, __LINE__)
#define CUDA(call) client_cuda(call, #call, __FILE__, __LINE__)
#define TRUE(condition) client_true(condition, #condition, __FILE__, __LINE__)

/* Data: `tag` says which; half of its rows of 256 bytes come from a few that many tags share. */
void pattern(void *at, size_t bytes, uint64_t tag);
uint64_t tag_of(int from, int to, int step);

/* Device memory, filled in stream order; and back: prints "label checksum bytes" and checks it. `stream` is waited for. */
void *device_alloc(size_t bytes);
void device_fill(void *at, size_t bytes, uint64_t tag, cudaStream_t stream);
void device_clear(void *at, size_t bytes, cudaStream_t stream);
void device_expect(const char *label, const void *at, size_t bytes, uint64_t tag, cudaStream_t stream);
void device_report(const char *label, const void *at, size_t bytes, cudaStream_t stream);

cudaStream_t new_stream(void);

/* The end of a program: its communicator, its two buffers and its stream. */
void client_close(ncclComm_t comm, void *send, void *recv, cudaStream_t stream);

#endif
