/*
 * group.c - groups of calls: what is buffered between ncclGroupStart and ncclGroupEnd, and what becomes of it
 *
 * The program's group is opened in the real NCCL at once, so that calls we do not see take part in it. Sends, receives and
 * ncclAlltoAll wait until the outermost end; there the all-to-alls that leave NCCL are taken out and the rest is made in its
 * order, in the group that is still open. NCCL orders nothing inside a group, so that nothing can tell the difference.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/group.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/interpose/agree.h"
#include "lib/interpose/divert.h"
#include "lib/interpose/join.h"
#include "lib/interpose/options.h"
#include "lib/interpose/real.h"
#include "lib/interpose/thread.h"
#include "lib/interpose/timing.h"

#define OPS_MAX 32 /* all-to-alls in one group; more are forwarded */

__thread struct xp_thread xp_thread;

static ncclResult_t no_nccl(void)
{
    return ncclSystemError; /* there is no NCCL below us */
}

/* ---- forwarding --------------------------------------------------------------------------------------------------- */

/* ncclAlltoAll as NCCL itself does it; for a library older than the call, and for the part of it that stays. */
static ncclResult_t alltoall_as_pairs(const struct xp_call *c, int size, int (*stays)(const struct xp_divert *, int), const struct xp_divert *d)
{
    size_t bytes = c->count * xp_nccl_type_size(c->type);
    ncclResult_t r = ncclSuccess;

    for (int p = 0; p < size && r == ncclSuccess; p++) {
        if (stays && !stays(d, p))
            continue;
        r = XP_REAL(ncclSend)((const char *)c->send + (size_t)p * bytes, c->count, (ncclDataType_t)c->type, p, c->handle, c->stream);
        if (r == ncclSuccess || r == ncclInProgress)
            r = XP_REAL(ncclRecv)((char *)c->recv + (size_t)p * bytes, c->count, (ncclDataType_t)c->type, p, c->handle, c->stream);
        if (r == ncclInProgress)
            r = ncclSuccess;
    }
    return r;
}

static ncclResult_t forward_alltoall(const struct xp_call *c)
{
    int size = 0;
    ncclResult_t r, e;

    if (c->config && XP_REAL(ncclAlltoAllConfig))
        return XP_REAL(ncclAlltoAllConfig)(c->send, c->recv, c->count, (ncclDataType_t)c->type, c->handle, c->stream, c->config);
    if (XP_REAL(ncclAlltoAll))
        return XP_REAL(ncclAlltoAll)(c->send, c->recv, c->count, (ncclDataType_t)c->type, c->handle, c->stream);
    if (!XP_REAL(ncclCommCount) || !XP_REAL(ncclGroupStart))
        return no_nccl();
    r = XP_REAL(ncclCommCount)(c->handle, &size);
    if (r != ncclSuccess)
        return r;
    XP_REAL(ncclGroupStart)();
    r = alltoall_as_pairs(c, size, NULL, NULL);
    e = XP_REAL(ncclGroupEnd)();
    return r != ncclSuccess ? r : e;
}

static ncclResult_t forward(const struct xp_call *c)
{
    if (c->kind == XP_CALL_ALLTOALL)
        return forward_alltoall(c);
    if (!XP_REAL(ncclSend) || !XP_REAL(ncclRecv))
        return no_nccl();
    if (c->kind == XP_CALL_SEND)
        return XP_REAL(ncclSend)(c->send, c->count, (ncclDataType_t)c->type, c->peer, c->handle, c->stream);
    return XP_REAL(ncclRecv)(c->recv, c->count, (ncclDataType_t)c->type, c->peer, c->handle, c->stream);
}

ncclResult_t xp_group_forward(const struct xp_call *c)
{
    return XP_INSIDE(forward(c));
}

/* ---- buffering ---------------------------------------------------------------------------------------------------- */

/* Frameworks that always name every rank when they do an all-to-all by sends and receives. */
static int caller_completes(const void *caller)
{
    static __thread uintptr_t low, high; /* the last module asked about, */
    static __thread int answer;          /* and what was found */
    uintptr_t at = (uintptr_t)caller;
    Dl_info info;

    if (at - low < high - low)
        return answer;
    if (!dladdr(caller, &info) || !info.dli_fname)
        return 0;
    low = at & ~(uintptr_t)0xfff; /* dladdr knows the start of a module, not its end: one page at a time */
    high = low + 0x1000;
    answer = strstr(info.dli_fname, "libtorch") != NULL;
    return answer;
}

static pthread_key_t end_of_thread;
static int have_end_of_thread;

static void empty(struct xp_thread *t)
{
    for (size_t i = 0; i < t->ncalls; i++)
        free((void *)(uintptr_t)t->calls[i].config);
    t->ncalls = 0;
}

static void thread_ends(void *arg)
{
    struct xp_thread *t = arg;
    empty(t);
    free(t->calls);
    t->calls = NULL;
    t->cap = 0;
}

static void make_key(void)
{
    have_end_of_thread = pthread_key_create(&end_of_thread, thread_ends) == 0;
}

__attribute__((destructor)) static void drop_key(void)
{
    if (have_end_of_thread)
        pthread_key_delete(end_of_thread);
}

/* The list of a thread goes with the thread. */
static void watch_thread(struct xp_thread *t)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_key);
    if (have_end_of_thread)
        pthread_setspecific(end_of_thread, t);
}

#define CONFIG_MIN 64
#define CONFIG_MAX 4096

/* NCCL reads a configuration during the call, and may refuse it then; what it points to the program keeps until the group ends. */
static int copy_config(struct xp_call *c)
{
    size_t size = c->config ? ((const struct xp_nccl_coll_config_head *)c->config)->size : 0;
    void *copy = size ? malloc(size) : NULL;

    if (copy)
        c->config = memcpy(copy, c->config, size);
    return copy || !size;
}

static int strange_config(const struct xp_call *c)
{
    const struct xp_nccl_coll_config_head *head = (const struct xp_nccl_coll_config_head *)c->config;
    return head && (head->size < CONFIG_MIN || head->size > CONFIG_MAX);
}

static int buffer(const struct xp_call *c)
{
    struct xp_thread *t = &xp_thread;
    if (t->cap == 0)
        watch_thread(t);
    if (t->ncalls == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 128;
        struct xp_call *more = realloc(t->calls, cap * sizeof *more);
        if (!more)
            return 0;
        t->calls = more;
        t->cap = cap;
    }
    t->calls[t->ncalls] = *c;
    if (!copy_config(&t->calls[t->ncalls]))
        return 0;
    t->ncalls++;
    return 1;
}

/* A call that NCCL would refuse is made at once: its error belongs to this call and to the group. */
static int would_be_refused(const struct xp_call *c, const struct xp_side *s)
{
    return !s || !xp_nccl_type_size(c->type) || strange_config(c) || (c->kind != XP_CALL_ALLTOALL && (c->peer < 0 || c->peer >= s->size)) ||
           (c->count > 0 && ((c->kind != XP_CALL_RECV && !c->send) || (c->kind != XP_CALL_SEND && !c->recv)));
}

static ncclResult_t error_of(const struct xp_side *s)
{
    return (ncclResult_t)atomic_load(&s->error);
}

ncclResult_t xp_group_call(const struct xp_call *call, const void *caller)
{
    struct xp_thread *t = &xp_thread;
    struct xp_side *s = xp_side_find(call->handle);
    struct xp_call c = *call;
    int alone = t->depth == 0;
    ncclResult_t r;

    if (would_be_refused(&c, s))
        return xp_group_forward(&c);
    if (xp_side_is(s, XP_SIDE_FAILED)) {
        if (!alone)
            t->failed = error_of(s);
        return error_of(s);
    }
    if (xp_side_is(s, XP_SIDE_STRAIGHT) || (alone && c.kind != XP_CALL_ALLTOALL)) {
        s->forwarded++;
        if (alone || t->ncalls == 0)
            return xp_group_forward(&c);
    } else {
        c.side = s;
    }
    if (c.kind != XP_CALL_ALLTOALL && xp_options()->groups == XP_GROUPS_AUTO && !caller_completes(caller))
        c.side = NULL;
    if (!alone && !c.side && t->ncalls == 0)
        return xp_group_forward(&c);
    if (!alone)
        return buffer(&c) ? ncclSuccess : xp_group_forward(&c);
    r = xp_group_start(); /* a lone ncclAlltoAll is a group of one */
    if (r != ncclSuccess)
        return r;
    r = buffer(&c) ? ncclSuccess : xp_group_forward(&c);
    ncclResult_t e = xp_group_end();
    return r != ncclSuccess ? r : e;
}

ncclResult_t xp_group_start(void)
{
    ncclResult_t r;
    if (!XP_REAL(ncclGroupStart))
        return no_nccl();
    r = XP_INSIDE(XP_REAL(ncclGroupStart)());
    if (r == ncclSuccess)
        xp_thread.depth++;
    return r;
}

/* ---- the end of a group ------------------------------------------------------------------------------------------- */

static struct xp_comm_view view_of(const struct xp_side *s)
{
    struct xp_comm_view v = {s->rank, s->size, xp_options()->groups};
    if (v.groups == XP_GROUPS_AUTO) /* calls that do not come from such a framework have no side */
        v.groups = XP_GROUPS_COMPLETE;
    if (xp_side_is(s, XP_SIDE_STRAIGHT) || xp_side_is(s, XP_SIDE_FAILED))
        v.size = 0;
    return v;
}

static size_t find_diverts(struct xp_thread *t, struct xp_divert *ops)
{
    struct xp_found found[OPS_MAX];
    size_t n = xp_pattern_find(t->calls, t->ncalls, view_of, found, OPS_MAX);

    for (size_t i = 0; i < n; i++)
        ops[i] = (struct xp_divert){.side = found[i].side, .calls = t->calls, .ncalls = t->ncalls, .op = (int)i,
                                    .collective = found[i].collective, .first = found[i].first};
    return n;
}

/* Communicators whose first exchange this is. */
static size_t strangers(struct xp_divert *ops, size_t n, struct xp_side **sides)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        size_t j = 0;
        ops[i].asks = xp_side_is(ops[i].side, XP_SIDE_NEW) && xp_divert_possible(&ops[i]);
        if (!ops[i].asks)
            continue;
        while (j < count && sides[j] != ops[i].side)
            j++;
        if (j == count)
            sides[count++] = ops[i].side;
    }
    return count;
}

/* What they need to know of one another goes with the group. */
static ncclResult_t join_strangers(struct xp_side **sides, size_t n)
{
    ncclResult_t r = ncclSuccess;
    for (size_t i = 0; i < n && r == ncclSuccess; i++)
        r = xp_join_begin(sides[i]);
    return r;
}

static int stays(const struct xp_divert *d, int peer)
{
    const struct xp_call *c = &d->calls[d->first];
    return !xp_divert_takes(d, peer, c->count * xp_nccl_type_size(c->type));
}

/* Makes the calls that stay, in their order. */
static ncclResult_t replay(struct xp_thread *t, const struct xp_divert *ops)
{
    ncclResult_t first_error = ncclSuccess;
    for (size_t i = 0; i < t->ncalls; i++) {
        const struct xp_call *c = &t->calls[i];
        const struct xp_divert *d = c->op >= 0 && ops[c->op].diverted ? &ops[c->op] : NULL;
        ncclResult_t r = ncclSuccess;
        if (d && d->collective)
            r = alltoall_as_pairs(c, d->side->size, stays, d);
        else if (!d || !xp_divert_takes(d, c->peer, c->count * xp_nccl_type_size(c->type)))
            r = forward(c);
        if (r != ncclSuccess && r != ncclInProgress && first_error == ncclSuccess)
            first_error = r; /* NCCL remembers it too: the end of the group returns it */
    }
    return first_error;
}

static int has_thread(const struct xp_side *s)
{
    return s->proxy && (xp_side_is(s, XP_SIDE_JOINING) || xp_side_is(s, XP_SIDE_JOINED));
}

static ncclResult_t begin_all(struct xp_divert *ops, size_t n)
{
    ncclResult_t r = ncclSuccess;
    for (size_t i = 0; i < n && r == ncclSuccess; i++) {
        struct xp_divert *d = &ops[i];
        if (!has_thread(d->side) || !xp_divert_possible(d))
            continue;
        d->diverted = xp_divert_wanted(d);
        if (d->timed)
            xp_timing_begin(d);
        r = d->diverted ? xp_divert_begin(d) : ncclSuccess;
        d->diverted = d->diverted && r == ncclSuccess;
    }
    return r;
}

static void hold(struct xp_divert *ops, size_t n, int by)
{
    for (size_t i = 0; i < n; i++)
        atomic_fetch_add(&ops[i].side->users, by);
}

static ncclResult_t end_with(struct xp_thread *t, struct xp_divert *ops, size_t n)
{
    struct xp_side *fresh[OPS_MAX];
    size_t joining = strangers(ops, n, fresh);
    ncclResult_t r, e, f = ncclSuccess;

    xp_thread.inside++;
    r = join_strangers(fresh, joining);
    if (r == ncclSuccess)
        r = begin_all(ops, n);
    e = replay(t, ops);
    r = r != ncclSuccess ? r : e;
    e = XP_REAL(ncclGroupEnd)();
    for (size_t i = 0; i < joining; i++)
        if (fresh[i]->join)
            xp_join_launched(fresh[i], e == ncclSuccess || e == ncclInProgress);
    for (size_t i = 0; i < n; i++)
        if (ops[i].asks && has_thread(ops[i].side))
            xp_agree_mark(ops[i].side->proxy, ops[i].calls[ops[i].first].stream);
    for (size_t i = 0; i < n; i++)
        if (ops[i].diverted && f == ncclSuccess)
            f = xp_divert_finish(&ops[i]);
    for (size_t i = 0; i < n; i++)
        if (ops[i].timed)
            xp_timing_end(&ops[i]);
    xp_thread.inside--;
    if (r != ncclSuccess)
        return r;
    return e != ncclSuccess ? e : f;
}

/* A group in which a call failed launches nothing: a call that NCCL must refuse makes it drop what it has. */
static ncclResult_t end_failed(struct xp_thread *t)
{
    ncclResult_t r = t->failed;
    xp_thread.inside++;
    XP_REAL(ncclSend)(NULL, 0, ncclInt8, 0, NULL, NULL);
    XP_REAL(ncclGroupEnd)();
    xp_thread.inside--;
    t->failed = ncclSuccess;
    return r;
}

static ncclResult_t drop_calls(struct xp_thread *t, ncclResult_t r)
{
    empty(t);
    return r;
}

ncclResult_t xp_group_end(void)
{
    struct xp_thread *t = &xp_thread;
    struct xp_divert ops[OPS_MAX];
    ncclResult_t r;
    size_t n;

    if (!XP_REAL(ncclGroupEnd))
        return no_nccl();
    if (t->depth > 1 || (t->ncalls == 0 && t->failed == ncclSuccess)) {
        t->depth -= t->depth > 0;
        return XP_INSIDE(XP_REAL(ncclGroupEnd)());
    }
    t->depth = 0;
    if (t->failed != ncclSuccess)
        return drop_calls(t, end_failed(t));
    n = find_diverts(t, ops);
    hold(ops, n, 1);
    r = end_with(t, ops, n);
    hold(ops, n, -1);
    return drop_calls(t, r);
}

ncclResult_t xp_group_simulate_end(ncclSimInfo_t *info)
{
    struct xp_thread *t = &xp_thread;
    ncclResult_t r;

    if (!XP_REAL(ncclGroupSimulateEnd))
        return XP_REAL(ncclGroupEnd) ? ncclInvalidUsage : no_nccl();
    t->depth -= t->depth > 0;
    xp_thread.inside++;
    for (size_t i = 0; t->depth == 0 && i < t->ncalls; i++)
        forward(&t->calls[i]);
    r = XP_REAL(ncclGroupSimulateEnd)(info);
    xp_thread.inside--;
    if (t->depth == 0)
        empty(t);
    return r;
}
