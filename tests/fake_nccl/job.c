/*
 * job.c - the calls of one group on one communicator become one operation of a stream
 *
 * Every collective is made of messages between two ranks and of copies and sums at the end. The operation runs on one stream, after
 * what all streams of the group had before, and all of them go on after it. Captured groups run again at every launch of the graph.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/cudart.h"
#include "tests/cuemu/runtime.h"
#include "tests/fake_nccl/fake_nccl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A buffer of the user's that the group reads or writes. */
struct touch {
    void *at;
    size_t bytes;
    bool write;
};

struct local_copy {
    void *to;
    const void *from;
    size_t bytes;
};

struct reduction {
    char *scratch; /* one contribution per rank */
    void *out;
    size_t count;
    int type, op;
};

struct job {
    struct ncclComm *comm;
    struct transfer *transfers;
    struct touch *touches;
    struct local_copy *copies;
    struct reduction *reductions;
    size_t ntransfers, ntouches, ncopies, nreductions;
    bool captured, running, muted, finished;
    uint64_t *seq; /* of a captured group */
    uint32_t space, round;
    uint64_t number;
    double not_before, moved_at;
    size_t moved;
};

size_t fake_type_bytes(int type)
{
    static const unsigned char bytes[ncclNumTypes] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};

    return type >= 0 && type < ncclNumTypes ? bytes[type] : 0;
}

/* ---- planning; room for everything is there (plan_new) */

static void touch(struct job *job, const void *at, size_t bytes, bool write)
{
    if (bytes)
        job->touches[job->ntouches++] = (struct touch){(void *)at, bytes, write};
}

static void move(struct job *job, bool send, bool collective, int peer, const void *at, size_t bytes, int type)
{
    job->transfers[job->ntransfers++] =
        (struct transfer){.send = send, .collective = collective, .peer = peer, .at = (char *)at, .bytes = bytes, .type = type};
}

static void copy(struct job *job, void *to, const void *from, size_t bytes)
{
    if (to != from && bytes)
        job->copies[job->ncopies++] = (struct local_copy){to, from, bytes};
}

/* Sends to itself meet receives from itself, the first the first. */
static ncclResult_t plan_self(struct job *job, const struct call *calls, size_t n)
{
    size_t s = 0, r = 0;

    for (;;) {
        while (s < n && !(calls[s].comm == job->comm && calls[s].kind == CALL_SEND && calls[s].peer == job->comm->rank))
            s++;
        while (r < n && !(calls[r].comm == job->comm && calls[r].kind == CALL_RECV && calls[r].peer == job->comm->rank))
            r++;
        if (s == n && r == n)
            return ncclSuccess;
        if (s == n || r == n)
            return fake_error(ncclInvalidUsage, "rank %d: a send to itself without the receive in the same group, or the reverse",
                              job->comm->rank);
        size_t bytes = calls[s].count * fake_type_bytes(calls[s].type);
        if (bytes != calls[r].count * fake_type_bytes(calls[r].type))
            return fake_error(ncclInvalidUsage, "rank %d: send to itself and receive differ in size", job->comm->rank);
        touch(job, calls[s].send, bytes, false);
        touch(job, calls[r].recv, bytes, true);
        copy(job, calls[r].recv, calls[s].send, bytes);
        s++;
        r++;
    }
}

static void plan_message(struct job *job, const struct call *c, size_t bytes)
{
    bool send = c->kind == CALL_SEND;
    const void *at = send ? c->send : c->recv;

    if (c->peer == job->comm->rank)
        return;
    touch(job, at, bytes, !send);
    move(job, send, false, c->peer, at, bytes, c->type);
}

/* Pieces to all, pieces from all; stride 0: the same buffer for everybody, NULL: none. */
static void plan_pieces(struct job *job, const struct call *c, const char *send, size_t send_stride, char *recv,
                        size_t recv_stride, size_t bytes)
{
    int n = job->comm->n, me = job->comm->rank;

    for (int i = 0; i < n; i++) {
        if (i == me && send && recv)
            copy(job, recv + me * recv_stride, send + me * send_stride, bytes);
        if (i != me && send)
            move(job, true, true, i, send + (size_t)i * send_stride, bytes, c->type);
        if (i != me && recv)
            move(job, false, true, i, recv + (size_t)i * recv_stride, bytes, c->type);
    }
}

/* From or to the root alone. */
static void plan_rooted(struct job *job, const struct call *c, size_t bytes)
{
    int me = job->comm->rank;
    bool root = c->peer == me, gathers = c->kind == CALL_GATHER;
    size_t stride = c->kind == CALL_BROADCAST ? 0 : bytes, all = stride ? stride * (size_t)job->comm->n : bytes;

    if (gathers ? !root : root)
        touch(job, c->send, gathers ? bytes : all, false);
    if (root && gathers) {
        touch(job, c->send, bytes, false);
        touch(job, c->recv, all, true);
        plan_pieces(job, c, NULL, 0, c->recv, bytes, bytes);
        copy(job, (char *)c->recv + (size_t)me * bytes, c->send, bytes);
    } else if (root) {
        touch(job, c->recv, bytes, true);
        plan_pieces(job, c, c->send, stride, NULL, 0, bytes);
        copy(job, c->recv, (const char *)c->send + (size_t)me * stride, bytes);
    } else if (gathers) {
        move(job, true, true, c->peer, c->send, bytes, c->type);
    } else {
        touch(job, c->recv, bytes, true);
        move(job, false, true, c->peer, c->recv, bytes, c->type);
    }
}

/* Everybody's contribution goes to whoever needs the sum, which is made in the order of ranks. */
static ncclResult_t plan_reduction(struct job *job, const struct call *c, size_t bytes)
{
    int n = job->comm->n, me = job->comm->rank;
    bool sums = c->kind != CALL_REDUCE || c->peer == me;
    size_t stride = c->kind == CALL_REDUCE_SCATTER ? bytes : 0;
    char *scratch = sums ? malloc(bytes * (size_t)n) : NULL;

    if (sums && !scratch)
        return ncclSystemError;
    touch(job, c->send, stride ? stride * (size_t)n : bytes, false);
    for (int i = 0; i < n; i++) {
        if (i != me && (c->kind != CALL_REDUCE || i == c->peer))
            move(job, true, true, i, (const char *)c->send + (size_t)i * stride, bytes, c->type);
        if (i != me && sums)
            move(job, false, true, i, scratch + (size_t)i * bytes, bytes, c->type);
    }
    if (sums) {
        touch(job, c->recv, bytes, true);
        copy(job, scratch + (size_t)me * bytes, (const char *)c->send + (size_t)me * stride, bytes);
        job->reductions[job->nreductions++] = (struct reduction){scratch, c->recv, c->count, c->type, c->op};
    }
    return ncclSuccess;
}

static ncclResult_t plan_call(struct job *job, const struct call *c)
{
    size_t bytes = c->count * fake_type_bytes(c->type), all = bytes * (size_t)job->comm->n;
    char *own = (char *)c->recv;

    if (c->kind == CALL_SEND || c->kind == CALL_RECV) {
        plan_message(job, c, bytes); /* also of no bytes: each needs its other half */
        return ncclSuccess;
    }
    if (!bytes)
        return ncclSuccess;
    switch (c->kind) {
    case CALL_ALLTOALL:
        touch(job, c->send, all, false);
        touch(job, c->recv, all, true);
        plan_pieces(job, c, c->send, bytes, own, bytes, bytes);
        return ncclSuccess;
    case CALL_ALLGATHER:
        touch(job, c->send, bytes, false);
        touch(job, c->recv, all, true);
        plan_pieces(job, c, c->send, 0, own, bytes, bytes);
        return ncclSuccess;
    case CALL_BROADCAST:
    case CALL_GATHER:
    case CALL_SCATTER:
        plan_rooted(job, c, bytes);
        return ncclSuccess;
    default:
        return plan_reduction(job, c, bytes);
    }
}

static void job_drop(void *arg)
{
    struct job *job = arg;

    for (size_t i = 0; i < job->nreductions; i++)
        free(job->reductions[i].scratch);
    if (job->captured)
        job->comm->graphs--;
    else if (!job->finished)
        job->comm->outstanding--;
    free(job->seq);
    free(job->transfers);
    free(job->touches);
    free(job->copies);
    free(job->reductions);
    free(job);
}

static struct job *job_new(struct ncclComm *comm, size_t ncalls)
{
    struct job *job = calloc(1, sizeof *job);
    size_t n = (size_t)comm->n;

    if (!job)
        return NULL;
    job->comm = comm;
    job->transfers = calloc(ncalls * 2 * n, sizeof *job->transfers);
    job->touches = calloc(ncalls * 4, sizeof *job->touches);
    job->copies = calloc(ncalls, sizeof *job->copies);
    job->reductions = calloc(ncalls, sizeof *job->reductions);
    job->seq = calloc(4 * n, sizeof *job->seq);
    comm->outstanding++;
    if (!job->seq || !job->transfers || !job->touches || !job->copies || !job->reductions) {
        job_drop(job);
        return NULL;
    }
    return job;
}

/* ---- running */

/*
 * The n-th send of one end is the n-th receive of the other, collectives and single messages apart. A captured group counts for
 * itself, at each launch anew.
 */
static void number_messages(struct job *job, uint64_t *seq)
{
    for (size_t i = 0; i < job->ntransfers; i++) {
        struct transfer *t = &job->transfers[i];
        size_t row = 2 * (size_t)t->collective + t->send;
        t->key.space = (job->captured ? job->space : 0) + t->collective;
        t->key.round = job->round;
        t->key.seq = seq[row * (size_t)job->comm->n + (size_t)t->peer]++;
    }
}

static void begin(struct job *job)
{
    struct ncclComm *comm = job->comm;
    long late = fake_setting("late", 0), unused;

    if (job->captured) {
        memset(job->seq, 0, 4 * (size_t)comm->n * sizeof *job->seq);
        job->round++;
        number_messages(job, job->seq);
        comm->outstanding++;
    }
    job->moved_at = fake_seconds();
    job->not_before = job->moved_at + 1e-6 * (late > 0 ? (double)(xp_cuemu_random() % (uint32_t)late) : 0);
    job->muted = fake_fault_at("mute", comm, job->number, &unused);
    job->moved = 0;
    job->running = false;
}

static void start(struct job *job)
{
    for (size_t i = 0; i < job->ntouches; i++) {
        if (job->touches[i].write)
            xp_cuemu_writes(job->touches[i].at, job->touches[i].bytes);
        else
            xp_cuemu_reads(job->touches[i].at, job->touches[i].bytes);
    }
    for (size_t i = 0; i < job->ncopies; i++)
        memmove(job->copies[i].to, job->copies[i].from, job->copies[i].bytes);
    for (size_t i = 0; i < job->ntransfers; i++)
        fake_wires_start(job->comm, &job->transfers[i]);
    job->running = true;
}

static void stuck(const struct job *job)
{
    fprintf(stderr, "fake nccl: a group of rank %d of %d has not moved for long; it waits to\n", job->comm->rank, job->comm->n);
    for (size_t i = 0; i < job->ntransfers; i++) {
        const struct transfer *t = &job->transfers[i];
        if (t->step != ENDED)
            fprintf(stderr, "  %s %zu bytes %s rank %d (message %llu, %s)\n", t->send ? "send" : "receive", t->bytes,
                    t->send ? "to" : "from", t->peer, (unsigned long long)t->key.seq,
                    t->step == WAITS ? "the other end is not there" : "under way");
    }
    fflush(stderr);
    _exit(FAKE_EXIT_LOUD);
}

/* True while something moves or may; looks at the clock otherwise. */
static void watch(struct job *job, size_t left)
{
    const char *text = getenv("FAKE_NCCL_STUCK_S");
    double now = fake_seconds(), patience = text && *text ? strtod(text, NULL) : 20;
    size_t moved = 0;

    for (size_t i = 0; i < job->ntransfers; i++)
        moved += job->transfers[i].moved + 1 + (job->transfers[i].step == ENDED);
    if (moved != job->moved || job->muted || fake_broken(job->comm)) {
        job->moved = moved;
        job->moved_at = now;
    } else if (left && now - job->moved_at > patience) {
        stuck(job);
    }
}

static int finish(struct job *job)
{
    struct ncclComm *comm = job->comm;
    long code;

    if (fake_fault_at("async", comm, job->number, &code))
        fake_set_error(comm, (ncclResult_t)code);
    job->running = false;
    job->finished = true;
    comm->outstanding--; /* from here on the communicator may be freed, unless a graph holds it */
    return XP_CUEMU_DONE;
}

static int job_run(void *arg, int first)
{
    struct job *job = arg;
    struct ncclComm *comm = job->comm;
    size_t left = 0;

    if (first)
        begin(job);
    if (comm->aborted || comm->revoked) {
        for (size_t i = 0; i < job->ntransfers && job->running; i++)
            if (job->transfers[i].step != ENDED)
                fake_wires_drop(comm, &job->transfers[i]);
        return finish(job);
    }
    if (job->muted || fake_seconds() < job->not_before)
        return XP_CUEMU_AGAIN;
    if (!job->running)
        start(job);
    fake_wires_progress(comm);
    for (size_t i = 0; i < job->ntransfers; i++)
        left += job->transfers[i].step != ENDED;
    watch(job, left);
    if (left)
        return XP_CUEMU_AGAIN;
    for (size_t i = 0; i < job->nreductions; i++)
        fake_reduce(comm, job->reductions[i].out, job->reductions[i].scratch, job->reductions[i].count,
                    job->reductions[i].type, job->reductions[i].op);
    return finish(job);
}

/* ---- launching */

struct streams {
    cudaStream_t *at;
    size_t n;
    bool captured;
};

/* The streams of the group, the one that came last at the end; all of them captured by one graph, or none. */
static ncclResult_t collect_streams(struct streams *streams, const struct ncclComm *comm, const struct call *calls, size_t n)
{
    unsigned long long id = 0, first_id = 0;

    streams->at = calloc(n, sizeof *streams->at);
    if (!streams->at)
        return ncclSystemError;
    for (size_t i = 0; i < n; i++) {
        bool seen = calls[i].comm != comm;
        int status = 0;
        for (size_t k = 0; k < streams->n && !seen; k++)
            seen = streams->at[k] == calls[i].stream;
        if (seen)
            continue;
        id = 0;
        if (cudaStreamGetCaptureInfo(calls[i].stream, &status, &id, NULL, NULL, NULL, NULL) != 0 || status == 2)
            return fake_error(ncclUnhandledCudaError, "rank %d: a stream of the group cannot be used", comm->rank);
        id = status ? id : 0;
        if (streams->n && id != first_id)
            return fake_error(ncclInvalidUsage, "rank %d: streams of one group are not captured alike", comm->rank);
        first_id = id;
        streams->at[streams->n++] = calls[i].stream;
    }
    streams->captured = first_id != 0;
    return ncclSuccess;
}

/* All streams wait for the one, or the one for all. */
static int join(const struct streams *s, bool before)
{
    cudaStream_t main = s->at[s->n - 1];
    int error = 0;

    for (size_t i = 0; i + 1 < s->n && !error; i++) {
        cudaEvent_t event;
        error = cudaEventCreateWithFlags(&event, xp_cudaEventDisableTiming);
        if (error)
            break;
        error = cudaEventRecord(event, before ? s->at[i] : main);
        if (!error)
            error = cudaStreamWaitEvent(before ? main : s->at[i], event, 0);
        cudaEventDestroy(event);
    }
    return error;
}

/* It counts as under way only while a graph runs it. */
static void be_captured(struct job *job)
{
    struct ncclComm *comm = job->comm;

    job->captured = true;
    job->space = 2 + 2 * comm->captured++;
    comm->outstanding--;
    comm->graphs++;
}

static ncclResult_t enqueue(struct job *job, const struct streams *streams)
{
    struct xp_cuemu_op op = {.run = job_run, .drop = job_drop, .arg = job, .name = "NCCL group", .outside = 1};
    struct ncclComm *comm = job->comm;
    int error = join(streams, true);

    job->number = ++comm->launched;
    if (streams->captured)
        be_captured(job);
    else
        number_messages(job, comm->seq);
    if (!error)
        error = xp_cuemu_enqueue_op(streams->at[streams->n - 1], &op);
    if (error) {
        job_drop(job);
        return fake_error(ncclUnhandledCudaError, "rank %d: %s", comm->rank, cudaGetErrorString(error));
    }
    error = join(streams, false);
    return error ? fake_error(ncclUnhandledCudaError, "rank %d: %s", comm->rank, cudaGetErrorString(error)) : ncclSuccess;
}

ncclResult_t fake_launch(struct ncclComm *comm, const struct call *calls, size_t n)
{
    struct job *job = job_new(comm, n);
    struct streams streams = {NULL, 0, false};
    ncclResult_t result = job ? ncclSuccess : ncclSystemError;
    int device;

    cudaGetDevice(&device);
    cudaSetDevice(comm->device);
    if (!result)
        result = plan_self(job, calls, n);
    for (size_t i = 0; i < n && !result; i++)
        if (calls[i].comm == comm)
            result = plan_call(job, &calls[i]);
    if (!result)
        result = collect_streams(&streams, comm, calls, n);
    if (result && job)
        job_drop(job);
    else if (!result)
        result = enqueue(job, &streams);
    free(streams.at);
    cudaSetDevice(device);
    return result;
}
