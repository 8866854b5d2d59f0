/*
 * life.c - birth, death and state of communicators
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/life.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/interpose/join.h"
#include "lib/interpose/options.h"
#include "lib/interpose/proxy.h"
#include "lib/interpose/real.h"

#define LEAVE_MS 5000

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The one line at load: what is hooked, and whether it can do anything. */
static void say_hello(void)
{
    const struct xp_options *o = xp_options();
    char path[256];
    int version = 0;

    if (o->params.log < XP_LOG_INFO)
        return;
    xp_real_path(path, sizeof path);
    if (XP_REAL(ncclGetVersion))
        XP_REAL(ncclGetVersion)(&version);
    xp_say(XP_LOG_INFO,
           "crosspress %s before NCCL %d (%s): hooks ncclSend, ncclRecv, ncclAlltoAll, groups, communicators; mode %s%s%s, groups %s, "
           "messages from %zu bytes%s%s",
           xp_version(), version, path, o->mode == XP_RULE_BOUNDED ? "bounded" : o->mode == XP_RULE_OFF ? "off" : "exact",
           o->params.row[0] ? ", rows " : "", o->params.row, o->params.groups, o->params.min_size,
           o->off[0] ? "; all goes straight through: " : "", o->off);
}

void xp_life_born(ncclComm_t comm)
{
    pthread_once(&once, say_hello);
    if (comm && xp_side_peek(comm)) /* freed behind our back, and its address used again */
        xp_life_end(comm, 1);
}

void xp_life_flush(ncclComm_t comm)
{
    struct xp_side *s = xp_side_peek(comm);
    if (s && s->proxy)
        xp_proxy_drain(s->proxy);
}

static void say_stats(const struct xp_side *s)
{
    const char *why = xp_side_is(s, XP_SIDE_STRAIGHT) || xp_side_is(s, XP_SIDE_FAILED) ? s->why : "";
    struct xp_traffic t = {0};

    if (!xp_options()->params.stats)
        return;
    if (s->proxy)
        xp_proxy_total(s->proxy, &t);
    fprintf(stderr,
            "crosspress-nccl[%d] communicator %p, rank %d of %d: %llu exchanges diverted, %llu bypassed, %llu captured, %llu other calls; "
            "%llu bytes for other nodes, %llu sent, %lld saved (%.1f %%)%s%s\n",
            (int)getpid(), (void *)s->handle, s->rank, s->size, (unsigned long long)s->diverted, (unsigned long long)s->bypassed,
            (unsigned long long)s->captured, (unsigned long long)s->forwarded, (unsigned long long)t.raw, (unsigned long long)t.wire,
            (long long)t.raw - (long long)t.wire, t.raw ? 100 * (1 - (double)t.wire / (double)t.raw) : 0.0, why[0] ? ": " : "",
            why);
}

/* An abort comes from any thread, while another one is inside with the communicator: it is turned out first, and what it may still look
 * at stays. So does memory that CUDA knows: to free it may take waiting for the device, on which NCCL still waits for the other ranks. */
static void end_by_abort(struct xp_side *s)
{
    int waited = 0;

    xp_side_fail(s, XP_ERR_STATE, "aborted");
    if (s->proxy) {
        xp_proxy_abort(s->proxy);
        for (; atomic_load(&s->users) > 0 && waited < LEAVE_MS; waited++)
            usleep(1000);
        say_stats(s);
        s->ended = waited < LEAVE_MS && xp_proxy_end(s->proxy, 1);
    }
    xp_side_bury(s);
}

/* What aborts have left. */
static void free_left(struct xp_side *s)
{
    if (!s->ended)
        return;
    s->ended = 0;
    xp_proxy_free(s->proxy, 0);
    s->proxy = NULL;
}

static void end_in_order(struct xp_side *s)
{
    int ended = 1;

    if (s->proxy)
        xp_proxy_drain(s->proxy);
    say_stats(s);
    if (s->proxy && (ended = xp_proxy_end(s->proxy, 0)))
        xp_proxy_free(s->proxy, 1);
    xp_side_buried(free_left);
    if (ended && xp_join_free(s))
        xp_side_free(s);
    else
        xp_side_bury(s);
}

void xp_life_end(ncclComm_t comm, int abort)
{
    struct xp_side *s = comm ? xp_side_take(comm) : NULL;

    if (s && abort)
        end_by_abort(s);
    else if (s)
        end_in_order(s);
}

void xp_life_revoke(ncclComm_t comm)
{
    struct xp_side *s = xp_side_peek(comm);
    if (!s)
        return;
    xp_side_set_straight(s, "revoked");
    if (s->proxy)
        xp_proxy_abort(s->proxy);
}

void xp_life_straight(ncclComm_t comm, const char *why)
{
    struct xp_side *s = comm ? xp_side_find(comm) : NULL;
    if (s && !xp_side_is(s, XP_SIDE_STRAIGHT) && !xp_side_is(s, XP_SIDE_FAILED))
        xp_side_set_straight(s, why);
}

static _Atomic(const char *) last_error;

ncclResult_t xp_life_error(ncclComm_t comm)
{
    static char text[200];
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct xp_side *s = xp_side_peek(comm);

    if (!s || !xp_side_is(s, XP_SIDE_FAILED))
        return ncclSuccess;
    pthread_mutex_lock(&lock);
    if (!atomic_load(&last_error)) {
        snprintf(text, sizeof text, "crosspress: %s", s->why);
        atomic_store(&last_error, text);
    }
    pthread_mutex_unlock(&lock);
    return (ncclResult_t)atomic_load(&s->error);
}

const char *xp_life_last_error(void)
{
    return atomic_load(&last_error);
}
