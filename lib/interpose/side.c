/*
 * side.c - what is kept beside a communicator: the side table
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/side.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/interpose/options.h"
#include "lib/interpose/real.h"
#include "lib/interpose/thread.h"

#define BUCKETS 256

static struct xp_side *buckets[BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic unsigned age; /* grows when an entry goes: what threads remember is then void */

static struct xp_side **bucket(ncclComm_t comm)
{
    uintptr_t v = (uintptr_t)comm;
    return &buckets[(v >> 4 ^ v >> 12 ^ v >> 20) % BUCKETS];
}

static struct xp_side *lookup(ncclComm_t comm)
{
    struct xp_side *s = *bucket(comm);
    while (s && s->handle != comm)
        s = s->next;
    return s;
}

struct xp_side *xp_side_peek(ncclComm_t comm)
{
    struct xp_side *s;
    pthread_mutex_lock(&lock);
    s = lookup(comm);
    pthread_mutex_unlock(&lock);
    return s;
}

/* NULL when NCCL does not answer: the communicator is not ready, or not one. */
static struct xp_side *make(ncclComm_t comm)
{
    struct xp_side *s = calloc(1, sizeof *s);
    ncclResult_t r = ncclInternalError;

    if (s && XP_REAL(ncclCommCount) && XP_REAL(ncclCommUserRank) && XP_REAL(ncclCommCuDevice)) {
        xp_thread.inside++;
        r = XP_REAL(ncclCommCount)(comm, &s->size);
        if (r == ncclSuccess)
            r = XP_REAL(ncclCommUserRank)(comm, &s->rank);
        if (r == ncclSuccess)
            r = XP_REAL(ncclCommCuDevice)(comm, &s->device);
        xp_thread.inside--;
    }
    if (r != ncclSuccess) {
        free(s);
        return NULL;
    }
    s->handle = comm;
    if (xp_options()->off[0])
        xp_side_set_straight(s, xp_options()->off);
    else if (s->size < 2)
        xp_side_set_straight(s, "a single rank");
    return s;
}

static struct xp_side *find_or_make(ncclComm_t comm)
{
    struct xp_side *s = xp_side_peek(comm), *made;
    if (s || !(made = make(comm)))
        return s;
    pthread_mutex_lock(&lock);
    s = lookup(comm);
    if (!s) {
        made->next = *bucket(comm);
        *bucket(comm) = s = made;
        made = NULL;
    }
    pthread_mutex_unlock(&lock);
    free(made);
    return s;
}

struct xp_side *xp_side_find(ncclComm_t comm)
{
    struct xp_thread *t = &xp_thread;
    unsigned now = atomic_load_explicit(&age, memory_order_acquire);
    struct xp_side *s;

    if (t->last == comm && t->last_age == now && t->last_side)
        return t->last_side;
    s = comm ? find_or_make(comm) : NULL;
    t->last = comm;
    t->last_side = s;
    t->last_age = now;
    return s;
}

struct xp_side *xp_side_take(ncclComm_t comm)
{
    struct xp_side **at, *s;

    pthread_mutex_lock(&lock);
    for (at = bucket(comm); *at && (*at)->handle != comm; at = &(*at)->next)
        ;
    s = *at;
    if (s)
        *at = s->next;
    pthread_mutex_unlock(&lock);
    atomic_fetch_add(&age, 1);
    return s;
}

void xp_side_free(struct xp_side *s)
{
    if (s)
        free(s->node_of);
    free(s);
}

static struct xp_side *buried;

void xp_side_bury(struct xp_side *s)
{
    pthread_mutex_lock(&lock);
    s->next = buried;
    buried = s;
    pthread_mutex_unlock(&lock);
}

void xp_side_buried(void (*fn)(struct xp_side *s))
{
    pthread_mutex_lock(&lock);
    for (struct xp_side *s = buried; s; s = s->next)
        fn(s);
    pthread_mutex_unlock(&lock);
}

int xp_side_change(struct xp_side *s, enum xp_side_state state, const char *why)
{
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    int changed;

    pthread_mutex_lock(&one_at_a_time);
    changed = !xp_side_is(s, XP_SIDE_FAILED) && (state != XP_SIDE_JOINED || xp_side_is(s, XP_SIDE_JOINING));
    if (changed && why)
        snprintf(s->why, sizeof s->why, "%s", why);
    if (changed)
        atomic_store_explicit(&s->state, state, memory_order_release);
    pthread_mutex_unlock(&one_at_a_time);
    return changed;
}

void xp_side_set_straight(struct xp_side *s, const char *why)
{
    if (!xp_side_change(s, XP_SIDE_STRAIGHT, why))
        return;
    xp_say(XP_LOG_INFO, "communicator %p, rank %d of %d: every call goes straight through: %s", (void *)s->handle, s->rank,
           s->size, why);
}
