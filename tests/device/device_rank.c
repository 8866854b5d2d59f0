/*
 * device_rank.c - ranks as processes with a device each, and calls that are compared (device_rank.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/device/device_rank.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/comm.h"
#include "tests/harness/procs.h"

#define SECONDS 100

void must(const struct device_rank *r, int so, const char *what)
{
    if (so)
        return;
    fprintf(stderr, "# rank %d: not so: %s (%s)\n", r->rank, what, r->comm ? xp_comm_last_error(r->comm) : xp_last_error());
    exit(1);
}

/* ---- calls ---------------------------------------------------------------------------------------------------------- */

static void *on_device(struct device_rank *r, size_t bytes)
{
    void *p = NULL;
    must(r, cudaMalloc(&p, bytes + 1) == 0, "device memory");
    return p;
}

/* Copies to and from memory that is not pinned would wait for the stream. */
static void *pinned(struct device_rank *r, void *p, size_t bytes)
{
    must(r, p && cudaHostRegister(p, bytes + 1, xp_cudaHostRegisterPortable) == 0, "pinned memory");
    return p;
}

static void unpin_and_free(void *p)
{
    if (p)
        cudaHostUnregister(p);
    free(p);
}

static int calls_of(const struct exchange *e)
{
    return e->calls ? e->calls : 1;
}

void device_call_open(struct device_rank *r, const struct exchange *e, struct device_call *c)
{
    xp_plan_desc d;
    memset(c, 0, sizeof *c);
    c->e = *e;
    c->row_bytes = e->dim * xp_dtype_size(e->dtype);
    c->most = exchange_most_rows(e, r->ranks);
    must(r, cudaStreamCreateWithFlags(&c->stream, xp_cudaStreamNonBlocking) == 0, "a stream");
    c->send = on_device(r, c->most * c->row_bytes);
    c->recv = on_device(r, c->most * c->row_bytes);
    c->host_recv = malloc(c->most * c->row_bytes + 1);
    c->got = calloc((size_t)calls_of(e), sizeof *c->got);
    c->host_send = calloc((size_t)calls_of(e), sizeof *c->host_send);
    for (int i = 0; i < calls_of(e); i++)
        c->got[i] = pinned(r, malloc(c->most * c->row_bytes + 1), c->most * c->row_bytes);
    exchange_plan(e, r->ranks, &d);
    must(r, xp_plan_create(&c->host_plan, r->comm, &d) == XP_OK, "the host's plan");
    d.memory = XP_MEMORY_DEVICE;
    d.stream = c->stream;
    d.transport = r->transport;
    d.nccl_comm = r->nccl_comm;
    must(r, xp_plan_create(&c->plan, r->comm, &d) == XP_OK, "the device's plan");
}

/* The rows of this call in the host's memory, and the counts. Copies to the device may still be reading those of the calls before. */
static void rows_of(struct device_rank *r, struct device_call *c, int call)
{
    free(exchange_reference(&c->e, r->ranks, r->rank, call, c->recv_rows));
    char *rows = exchange_send(&c->e, r->ranks, r->rank, call, c->send_rows);
    size_t sent = 0;
    for (int i = 0; i < r->ranks; i++)
        sent += c->send_rows[i];
    if (c->host_send[call])
        free(rows);
    else
        c->host_send[call] = pinned(r, rows, sent * c->row_bytes);
}

void device_call_fill(struct device_rank *r, struct device_call *c, int call)
{
    size_t sent = 0;
    rows_of(r, c, call);
    for (int i = 0; i < r->ranks; i++)
        sent += c->send_rows[i];
    if (sent)
        must(r, cudaMemcpyAsync(c->send, c->host_send[call], sent * c->row_bytes, xp_cudaMemcpyDefault, c->stream) == 0, "copy to the device");
}

/* The stream goes on without a wait: spoils the rows that were sent, and fetches those that came. */
static void use(struct device_rank *r, struct device_call *c, int call)
{
    size_t came = 0;
    for (int i = 0; i < r->ranks; i++)
        came += c->recv_rows[i];
    must(r, cudaMemsetAsync(c->send, 0xee, c->most * c->row_bytes + 1, c->stream) == 0, "spoiling the rows that were sent");
    if (came)
        must(r, cudaMemcpyAsync(c->got[call], c->recv, came * c->row_bytes, xp_cudaMemcpyDefault, c->stream) == 0, "copy to the host");
    must(r, cudaMemsetAsync(c->recv, 0xdd, c->most * c->row_bytes + 1, c->stream) == 0, "spoiling the rows that came");
}

void device_call_run(struct device_rank *r, struct device_call *c, int call)
{
    device_call_fill(r, c, call);
    must(r, xp_alltoallv(c->plan, c->send, c->send_rows, c->recv, c->recv_rows, NULL) == XP_OK, "exchange");
    use(r, c, call);
}

void device_call_start(struct device_rank *r, const struct exchange *e, int call, struct device_call *c)
{
    device_call_open(r, e, c);
    device_call_fill(r, c, call);
    must(r, xp_alltoallv(c->plan, c->send, c->send_rows, c->recv, c->recv_rows, &c->request) == XP_OK, "start of an exchange");
}

void device_call_end(struct device_rank *r, struct device_call *c)
{
    must(r, xp_request_wait(c->request) == XP_OK, "end of an exchange");
    xp_request_free(c->request);
    use(r, c, 0);
    device_call_check(r, c, 0);
    device_call_close(r, c);
}

void device_call_check(struct device_rank *r, struct device_call *c, int call)
{
    char why[WORLD_TEXT];
    size_t at = 0;
    rows_of(r, c, call);
    must(r, xp_alltoallv(c->host_plan, c->host_send[call], c->send_rows, c->host_recv, c->recv_rows, NULL) == XP_OK, "the host's exchange");
    must(r, cudaStreamSynchronize(c->stream) == 0, "end of the stream");
    for (int from = 0; from < r->ranks; from++) {
        for (size_t row = 0; row < c->recv_rows[from]; row++, at += c->row_bytes) {
            if (memcmp(c->got[call] + at, c->host_recv + at, c->row_bytes) == 0)
                continue;
            snprintf(why, sizeof why, "call %d: row %zu from rank %d is that of the host's plan", call, row, from);
            must(r, 0, why);
        }
    }
}

void device_call_close(struct device_rank *r, struct device_call *c)
{
    xp_plan_destroy(c->plan);
    xp_plan_destroy(c->host_plan);
    must(r, cudaStreamSynchronize(c->stream) == 0, "end of the stream");
    cudaFree(c->send);
    cudaFree(c->recv);
    free(c->host_recv);
    for (int i = 0; i < calls_of(&c->e); i++) {
        unpin_and_free(c->host_send[i]);
        unpin_and_free(c->got[i]);
    }
    free(c->host_send);
    free(c->got);
}

/* In exact mode the host does to rows what it does to its own, and so sends as many bytes; whether to pack is decided by time unless the
 * codec says so. */
static void check_bytes(struct device_rank *r, const struct device_call *c)
{
    xp_stats host = {.size = sizeof host}, device = {.size = sizeof device};
    must(r, xp_plan_stats(c->host_plan, &host) == XP_OK && xp_plan_stats(c->plan, &device) == XP_OK, "statistics");
    must(r, host.rows_unique == device.rows_unique && strcmp(host.algo, device.algo) == 0, "copies are left out as by the host's plan");
    must(r, !c->e.codec || host.wire_bytes_slow == device.wire_bytes_slow, "as many bytes as the host's plan sends");
}

void device_compare(struct device_rank *r, const struct exchange *e)
{
    struct device_call c;
    device_call_open(r, e, &c);
    for (int call = 0; call < calls_of(e); call++) /* each finds the one before still under way on the device */
        device_call_run(r, &c, call);
    for (int call = 0; call < calls_of(e); call++)
        device_call_check(r, &c, call);
    if (e->mode == XP_MODE_EXACT && r->comm->nodes > 1 && !r->leaves_copies)
        check_bytes(r, &c);
    device_call_close(r, &c);
}

/* ---- ranks ----------------------------------------------------------------------------------------------------------- */

struct run {
    const struct device_case *what;
    int ranks;
};

static int rank_main(int rank, void *arg)
{
    const struct run *run = arg;
    struct device_rank r = {.rank = rank, .ranks = run->ranks};
    emulator_open((unsigned)getpid());
    must(&r, cudaSetDevice(rank % 8) == 0, "a device");
    must(&r, xp_comm_create(&r.comm, NULL, NULL) == XP_OK, "a comm");
    run->what->run(&r);
    if (!r.broken)
        must(&r, xp_comm_barrier(r.comm) == XP_OK, "the end");
    xp_comm_destroy(r.comm);
    return emulator_findings() != 0;
}

int device_main(int argc, char **argv, const struct device_case *cases)
{
    struct run run = {0};
    struct procs p = {0};
    if (argc == 4) {
        run.ranks = p.n = atoi(argv[2]);
        p.nodes = atoi(argv[3]);
        for (run.what = cases; run.what->name && strcmp(run.what->name, argv[1]) != 0; run.what++)
            ;
    }
    if (!run.what || !run.what->name || p.n < 1 || p.n > WORLD_MAX || p.nodes < 1 || p.nodes > p.n) {
        fprintf(stderr, "usage: %s CASE RANKS NODES\n", argv[0]);
        return 2;
    }
    if (procs_start(&p, rank_main, &run) != 0)
        return 1;
    int bad = procs_wait(&p, SECONDS);
    for (int i = 0; i < p.n; i++)
        if (p.code[i])
            fprintf(stderr, "# rank %d ended with %d\n", i, p.code[i]);
    return bad != 0;
}
