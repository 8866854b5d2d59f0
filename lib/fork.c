/*
 * fork.c - what happens to comms in a forked child
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <pthread.h>
#include <stdatomic.h>

#include "lib/fork.h"
#include "lib/liveness.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct xp_comm *watched; /* list through ->next_watched */
static _Atomic unsigned forks;

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void in_parent(void)
{
    pthread_mutex_unlock(&lock);
}

static void in_child(void)
{
    for (struct xp_comm *c = watched; c; c = c->next_watched)
        if (c->live)
            xp_liveness_abandon(c->live);
    watched = NULL;
    atomic_fetch_add(&forks, 1);
    pthread_mutex_unlock(&lock);
}

static void install(void)
{
    pthread_atfork(before_fork, in_parent, in_child);
}

unsigned xp_fork_count(void)
{
    return atomic_load_explicit(&forks, memory_order_relaxed);
}

void xp_fork_watch(struct xp_comm *c)
{
    pthread_once(&once, install);
    pthread_mutex_lock(&lock);
    c->next_watched = watched;
    watched = c;
    pthread_mutex_unlock(&lock);
}

void xp_fork_unwatch(struct xp_comm *c)
{
    pthread_mutex_lock(&lock);
    for (struct xp_comm **p = &watched; *p; p = &(*p)->next_watched) {
        if (*p == c) {
            *p = c->next_watched;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
}
