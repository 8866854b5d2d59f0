/*
 * faulty.c - programs with mistakes, and programs whose NCCL fails on request: the doubles must say so (test_fake_nccl.py)
 *
 * usage: faulty SCENARIO
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/interpose/client.h"
#include "tests/interpose/client_config.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EACH 50000

struct setting {
    struct client *c;
    ncclComm_t comm;
    cudaStream_t stream, other;
    char *send, *recv;
};

static ncclResult_t exchange(struct setting *s)
{
    int n = s->c->n;

    ncclGroupStart();
    for (int p = 0; p < n; p++) {
        ncclSend(s->send + p * EACH, EACH, ncclUint8, p, s->comm, s->stream);
        ncclRecv(s->recv + p * EACH, EACH, ncclUint8, p, s->comm, s->stream);
    }
    return ncclGroupEnd();
}

/* Until the communicator or a stream says something. */
static ncclResult_t watch(struct setting *s, double seconds)
{
    double since = client_seconds();
    ncclResult_t state = ncclSuccess;

    while (cudaStreamQuery(s->stream) == xp_cudaErrorNotReady && !state && client_seconds() - since < seconds) {
        NCCL(ncclCommGetAsyncError(s->comm, &state));
        usleep(200);
    }
    NCCL(ncclCommGetAsyncError(s->comm, &state));
    return state;
}

/* ---- mistakes of programs */

static void sends_before_receives(struct setting *s)
{
    int peer = s->c->rank ^ 1;

    NCCL(ncclSend(s->send, EACH, ncclUint8, peer, s->comm, s->stream));
    NCCL(ncclRecv(s->recv, EACH, ncclUint8, peer, s->comm, s->stream));
    CUDA(cudaStreamSynchronize(s->stream));
}

static void counts_that_differ(struct setting *s)
{
    int peer = s->c->rank ^ 1;

    NCCL(ncclGroupStart());
    NCCL(ncclSend(s->send, EACH, ncclUint8, peer, s->comm, s->stream));
    NCCL(ncclRecv(s->recv, EACH - (s->c->rank == 0), ncclUint8, peer, s->comm, s->stream));
    NCCL(ncclGroupEnd());
    CUDA(cudaStreamSynchronize(s->stream));
}

static void fills_on_another_stream(struct setting *s)
{
    CUDA(cudaMemsetAsync(s->send, 1, EACH, s->other));
    NCCL(exchange(s));
    CUDA(cudaDeviceSynchronize());
}

static void reads_on_another_stream(struct setting *s)
{
    NCCL(exchange(s));
    CUDA(cudaMemcpyAsync(s->send, s->recv + EACH, 100, xp_cudaMemcpyDeviceToDevice, s->other));
    CUDA(cudaDeviceSynchronize());
}

static void refills_too_early(struct setting *s)
{
    NCCL(exchange(s));
    CUDA(cudaMemsetAsync(s->send + EACH, 1, EACH, s->other));
    CUDA(cudaDeviceSynchronize());
}

static void calls_from_a_host_function(void *arg)
{
    exchange(arg);
}

static void touches_device_memory(struct setting *s)
{
    NCCL(exchange(s));
    CUDA(cudaStreamSynchronize(s->stream));
    printf("%d\n", s->recv[0]);
}

static void in_host_function(struct setting *s)
{
    CUDA(cudaLaunchHostFunc(s->stream, calls_from_a_host_function, s));
    CUDA(cudaStreamSynchronize(s->stream));
}

/* ---- failures on request */

static void async_error(struct setting *s)
{
    int groups = 0;
    ncclResult_t state = ncclSuccess;

    while (!state && groups < 10) {
        NCCL(exchange(s));
        groups++;
        state = watch(s, 10);
    }
    printf("group %d: %d\n", groups, state);
    NCCL(ncclCommAbort(s->comm));
    s->comm = NULL;
}

static void result_codes(struct setting *s)
{
    for (int i = 0; i < 3; i++)
        printf("exchange %d: %d\n", i, exchange(s));
    if (s->c->rank == 0)
        printf("%s\n", ncclGetLastError(NULL));
    client_barrier(s->c); /* a rank that is gone would be the last error */
    NCCL(ncclCommAbort(s->comm)); /* the others' second exchange waits for this rank's */
    s->comm = NULL;
}

static void silence(struct setting *s)
{
    NCCL(exchange(s));
    CUDA(cudaStreamSynchronize(s->stream));
    NCCL(exchange(s));
    printf("state %d, stream %d\n", watch(s, 0.7), cudaStreamQuery(s->stream));
    client_barrier(s->c);
    NCCL(ncclCommAbort(s->comm));
    s->comm = NULL;
}

static void simple(struct setting *s)
{
    int version;

    NCCL(ncclGetVersion(&version));
    printf("version %d, %s\n", version, ncclGetErrorString((ncclResult_t)42));
    for (int i = 0; i < 5; i++) {
        NCCL(exchange(s));
        CUDA(cudaStreamSynchronize(s->stream));
    }
}

static void handles(struct setting *s)
{
    ncclComm_t before = s->comm;

    NCCL(ncclCommDestroy(s->comm));
    printf("stale %d\n", ncclSend(s->send, 1, ncclInt8, 0, before, s->stream));
    s->comm = client_comm(s->c, 1);
    printf("same handle %d\n", s->comm == before);
    NCCL(exchange(s));
    CUDA(cudaStreamSynchronize(s->stream));
}

static void until_ready(ncclComm_t comm)
{
    ncclResult_t state = ncclInProgress;

    while (state == ncclInProgress)
        NCCL(ncclCommGetAsyncError(comm, &state));
    NCCL(state);
}

/* Bytes [first, first + n) of send to recv, `each` bytes a message. */
static void to_itself(struct setting *s, ncclComm_t comm, size_t first, size_t n, size_t each)
{
    ncclGroupStart();
    for (size_t at = first; at < first + n; at += each) {
        ncclSend(s->send + at, each, ncclUint8, s->c->rank, comm, s->stream);
        ncclRecv(s->recv + at, each, ncclUint8, s->c->rank, comm, s->stream);
    }
    ncclGroupEnd();
    until_ready(comm);
}

/* A group of many calls, then one of few: what ends the first must not end the second. */
static void in_background(struct setting *s)
{
    struct config_2_18 config = config_with(0);
    ncclUniqueId id = client_id(s->c, 1);
    ncclComm_t comm = NULL;

    ncclCommInitRankConfig(&comm, s->c->n, id, s->c->rank, (ncclConfig_t *)&config);
    until_ready(comm);
    for (uint64_t i = 0; i < 4; i++) {
        device_fill(s->send, EACH, i, s->stream);
        device_clear(s->recv, EACH, s->stream);
        to_itself(s, comm, 1000, EACH - 1000, 10);
        to_itself(s, comm, 0, 1000, 1000);
        device_expect("two groups", s->recv, EACH, i, s->stream);
    }
    client_barrier(s->c); /* a rank that is gone would be an error of the others */
    NCCL(ncclCommAbort(comm));
}

static const struct {
    const char *name;
    void (*run)(struct setting *s);
} scenarios[] = {
    {"deadlock", sends_before_receives}, {"mismatch", counts_that_differ},    {"fill", fills_on_another_stream},
    {"read", reads_on_another_stream},   {"refill", refills_too_early},       {"host", in_host_function},
    {"async", async_error},              {"codes", result_codes},             {"mute", silence},
    {"simple", simple},                  {"handles", handles},                {"touch", touches_device_memory},
    {"background", in_background},
};

static int rank_main(struct client *c, int argc, char **argv)
{
    struct setting s = {.c = c, .comm = client_comm(c, 0), .stream = new_stream(), .other = new_stream()};

    s.send = device_alloc((size_t)c->n * EACH);
    s.recv = device_alloc((size_t)c->n * EACH);
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
        if (argc > 1 && strcmp(argv[1], scenarios[i].name) == 0)
            scenarios[i].run(&s);
    NCCL(ncclCommDestroy(s.comm));
    CUDA(cudaDeviceSynchronize());
    CUDA(cudaFree(s.send));
    CUDA(cudaFree(s.recv));
    CUDA(cudaStreamDestroy(s.stream));
    CUDA(cudaStreamDestroy(s.other));
    return 0;
}

int main(int argc, char **argv)
{
    return client_main(argc, argv, 2, 30, rank_main);
}
