/*
 * group.c - group calls of the NCCL double, and work that a thread does for non-blocking communicators
 *
 * Everything happens at the end of the outermost group: communicators come up, then the calls of each communicator become one
 * operation of its streams, then communicators are destroyed. The first error in a group is what its end returns; nothing of such a
 * group is launched.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/cudart.h"
#include "tests/fake_nccl/fake_nccl.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct deferred {
    struct ncclComm *comm;
    ncclResult_t (*how)(struct ncclComm *comm);
};

struct group {
    struct call *calls;
    struct birth **births;
    struct deferred *deferred;
    size_t ncalls, nbirths, ndeferred;
};

static __thread int depth;
static __thread ncclResult_t group_error;
static __thread struct group *open_group;

int fake_depth(void)
{
    return depth;
}

static void free_group(struct group *g)
{
    if (g) {
        free(g->calls);
        free(g->births);
        free(g->deferred);
        free(g);
    }
}

ncclResult_t fake_group_fail(ncclResult_t error)
{
    if (depth && !group_error)
        group_error = error;
    return error;
}

/* Room for one more in an array; the group is there. */
static void *more(void *array, size_t n, size_t size)
{
    return n & (n - 1) ? array : realloc(array, (n ? 2 * n : 1) * size);
}

/* ---- what the end of a group does */

/* All that come up in one group come up together. */
static ncclResult_t bring_up(struct birth **births, size_t n)
{
    ncclResult_t first = ncclSuccess;
    size_t left = n;

    while (left) {
        for (size_t i = 0; i < n; i++) {
            ncclResult_t r = births[i] ? fake_birth_step(births[i]) : ncclInProgress;
            if (r == ncclInProgress)
                continue;
            fake_birth_end(births[i], r);
            births[i] = NULL;
            first = first ? first : r;
            left--;
        }
        if (left)
            usleep(100);
    }
    return first;
}

static ncclResult_t carry_out(struct group *g)
{
    ncclResult_t first = bring_up(g->births, g->nbirths);

    for (size_t i = 0; i < g->ncalls && !first; i++) {
        bool seen = false;
        for (size_t k = 0; k < i && !seen; k++)
            seen = g->calls[k].comm == g->calls[i].comm;
        if (!seen)
            first = fake_launch(g->calls[i].comm, g->calls, g->ncalls);
    }
    for (size_t i = 0; i < g->ndeferred; i++) {
        ncclResult_t r = g->deferred[i].how(g->deferred[i].comm);
        first = first ? first : r;
    }
    return first;
}

/* ---- non-blocking communicators: a thread does it, and the state tells when it is done */

struct background {
    struct ncclComm **comms;
    size_t ncomms;
    ncclResult_t (*fn)(void *arg);
    void *arg;
    int device;
};

static __thread bool in_background;

bool fake_is_background(void)
{
    return in_background;
}

static void *background_main(void *arg)
{
    struct background *b = arg;

    in_background = true;
    cudaSetDevice(b->device);
    usleep((useconds_t)(1000 * fake_setting("inprogress", 1)));
    ncclResult_t r = b->fn(b->arg);
    for (size_t i = 0; i < b->ncomms; i++) {
        int expected = ncclInProgress;
        atomic_compare_exchange_strong(&b->comms[i]->state, &expected, (int)r);
    }
    free(b->comms);
    free(b);
    return NULL;
}

/* Takes comms (from malloc). */
static ncclResult_t start_background(struct ncclComm **comms, size_t n, ncclResult_t (*fn)(void *arg), void *arg)
{
    struct background *b = malloc(sizeof *b);
    pthread_attr_t attr;
    pthread_t thread;
    int failed;

    if (!b)
        return ncclSystemError;
    *b = (struct background){comms, n, fn, arg, 0};
    cudaGetDevice(&b->device);
    for (size_t i = 0; i < n; i++)
        comms[i]->state = ncclInProgress;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    failed = pthread_create(&thread, &attr, background_main, b);
    pthread_attr_destroy(&attr);
    return failed ? ncclSystemError : ncclInProgress;
}

ncclResult_t fake_in_background(struct ncclComm *comm, ncclResult_t (*fn)(void *arg), void *arg)
{
    struct ncclComm **comms = malloc(sizeof *comms);

    if (!comms)
        return ncclSystemError;
    *comms = comm;
    return start_background(comms, 1, fn, arg);
}

static ncclResult_t group_main(void *arg)
{
    ncclResult_t r = carry_out(arg);

    free_group(arg);
    return r;
}

/* ---- the end of the outermost group */

static struct ncclComm *member(const struct group *g, size_t i)
{
    if (i < g->ncalls)
        return g->calls[i].comm;
    i -= g->ncalls;
    return i < g->nbirths ? fake_birth_comm(g->births[i]) : g->deferred[i - g->nbirths].comm;
}

static size_t blocking_members(const struct group *g, size_t n)
{
    size_t blocking = 0;

    for (size_t i = 0; i < n; i++)
        blocking += member(g, i)->blocking;
    return blocking;
}

/* A group that is not carried out. */
static ncclResult_t give_up(struct group *g, ncclResult_t error)
{
    for (size_t i = 0; i < g->nbirths; i++)
        fake_birth_end(g->births[i], error);
    free_group(g);
    return error;
}

static ncclResult_t finish_group(struct group *g)
{
    size_t n = g->ncalls + g->nbirths, blocking = blocking_members(g, n);

    if (blocking && blocking < n)
        return give_up(g, fake_error(ncclInvalidArgument, "blocking and non-blocking communicators in one group"));
    if (g->ncalls && g->nbirths)
        return give_up(g, fake_error(ncclInvalidUsage, "communicators come up in a group with calls that move data"));
    if (!n || blocking || g->ndeferred) {
        ncclResult_t r = carry_out(g);
        free_group(g);
        return r;
    }
    struct ncclComm **comms = malloc(n * sizeof *comms);
    size_t distinct = 0; /* to tell a communicator's state twice would end the next group, too, which the program may have begun between */
    for (size_t i = 0; i < n && comms; i++) {
        size_t k = 0;
        while (k < distinct && comms[k] != member(g, i))
            k++;
        comms[k] = member(g, i);
        distinct += k == distinct;
    }
    return comms ? start_background(comms, distinct, group_main, g) : ncclSystemError;
}

static ncclResult_t end_group(void)
{
    struct group *g = open_group;
    ncclResult_t error = group_error;

    if (--depth)
        return ncclSuccess;
    open_group = NULL;
    group_error = ncclSuccess;
    if (!g)
        return error;
    return error ? give_up(g, error) : finish_group(g);
}

static struct group *current_group(void)
{
    if (!open_group)
        open_group = calloc(1, sizeof *open_group);
    return open_group;
}

/* A call outside a group is a group of one. */
ncclResult_t fake_submit(const struct call *call)
{
    struct group *g;

    depth++;
    g = current_group();
    struct call *calls = g ? more(g->calls, g->ncalls, sizeof *calls) : NULL;
    if (calls) {
        g->calls = calls;
        g->calls[g->ncalls++] = *call;
    } else {
        fake_group_fail(ncclSystemError);
    }
    return depth > 1 ? (depth--, ncclSuccess) : end_group();
}

ncclResult_t fake_submit_birth(struct birth *birth)
{
    struct group *g;

    depth++;
    g = current_group();
    struct birth **births = g && birth ? more(g->births, g->nbirths, sizeof *births) : NULL;
    if (births) {
        g->births = births;
        g->births[g->nbirths++] = birth;
    } else {
        fake_group_fail(ncclSystemError);
    }
    return depth > 1 ? (depth--, ncclSuccess) : end_group();
}

bool fake_defer(struct ncclComm *comm, ncclResult_t (*how)(struct ncclComm *comm))
{
    struct group *g = depth ? current_group() : NULL;
    struct deferred *list = g ? more(g->deferred, g->ndeferred, sizeof *list) : NULL;

    if (!list)
        return false;
    g->deferred = list;
    g->deferred[g->ndeferred++] = (struct deferred){comm, how};
    return true;
}

NCCL_API(ncclResult_t, ncclGroupStart, void)
{
    int fault = fake_fault("ncclGroupStart", NULL);

    if (fault != FAKE_NO_FAULT)
        return fake_group_fail((ncclResult_t)fault);
    fake_log("ncclGroupStart depth=%d", depth);
    depth++;
    return ncclSuccess;
}

NCCL_API(ncclResult_t, ncclGroupEnd, void)
{
    int fault = fake_fault("ncclGroupEnd", NULL);

    fake_log("ncclGroupEnd depth=%d", depth);
    if (!depth)
        return fake_error(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
    if (fault != FAKE_NO_FAULT)
        fake_group_fail((ncclResult_t)fault);
    return end_group();
}

#ifndef FAKE_NCCL_OLD
/* Ends the group without launching it. */
NCCL_API(ncclResult_t, ncclGroupSimulateEnd, ncclSimInfo_t *info)
{
    fake_log("ncclGroupSimulateEnd depth=%d", depth);
    if (!depth)
        return fake_error(ncclInvalidUsage, "ncclGroupSimulateEnd without ncclGroupStart");
    if (!info || info->magic != NCCL_SIM_INFO_MAGIC)
        fake_group_fail(fake_error(ncclInvalidArgument, "ncclSimInfo_t is not initialised"));
    else
        info->estimatedTime = 1.0f;
    if (depth == 1 && open_group) {
        open_group->ncalls = 0;
        if (open_group->nbirths == 0 && open_group->ndeferred == 0) {
            free_group(open_group);
            open_group = NULL;
        }
    }
    return end_group();
}
#endif
