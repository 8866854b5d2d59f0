/*
 * thread_group.c - an allgather among threads of one process
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/comm.h"
#include "lib/thread_group.h"

struct xp_thread_group {
    int nranks;
    int broken_by; /* rank that gave up, -1 = none */
    char why[256]; /* its text */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned generation; /* rounds completed */
    int arrived, leaving;
    unsigned char *here; /* [nranks] has arrived in this round */
    size_t len;
    unsigned char *data; /* [nranks * len] */
};

xp_status xp_thread_group_create(xp_thread_group **out, int nranks)
{
    xp_thread_group *g;
    pthread_condattr_t attr;

    if (!out || nranks < 1)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "thread group: %s", out ? "fewer than 1 rank" : "out is NULL");
    g = calloc(1, sizeof(*g));
    if (g)
        g->here = calloc((size_t)nranks, 1);
    if (!g || !g->here) {
        free(g);
        return xp_error(NULL, XP_ERR_NO_MEMORY, "thread group: no memory");
    }
    g->nranks = nranks;
    g->broken_by = -1;
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->changed, &attr);
    pthread_condattr_destroy(&attr);
    *out = g;
    return XP_OK;
}

void xp_thread_group_destroy(xp_thread_group *g)
{
    if (!g)
        return;
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    free(g->here);
    free(g->data);
    free(g);
}

int xp_thread_group_size(const xp_thread_group *g)
{
    return g->nranks;
}

static int fail(struct xp_thread_seat *seat, xp_status s, const char *text)
{
    snprintf(seat->err, sizeof(seat->err), "start-up: %s", text);
    return s;
}

/* With the lock held: the first rank to give up, and why. */
static void give_up(xp_thread_group *g, int rank, const char *why)
{
    if (g->broken_by < 0) {
        g->broken_by = rank;
        snprintf(g->why, sizeof(g->why), "%s", why);
    }
    pthread_cond_broadcast(&g->changed);
}

static int fail_with_group(struct xp_thread_seat *seat)
{
    snprintf(seat->err, sizeof(seat->err), "%.220s; rank %d gave up", seat->group->why, seat->group->broken_by);
    return XP_ERR_REMOTE;
}

static void name_the_missing(const xp_thread_group *g, char *text, size_t size)
{
    size_t at = (size_t)snprintf(text, size, "the deadline passed; missing:");

    for (int r = 0; r < g->nranks && at < size; r++)
        if (!g->here[r])
            at += (size_t)snprintf(text + at, size - at, " rank %d", r);
}

/* With the lock held. Returns 0 when the round is complete. */
static int await_round(struct xp_thread_seat *seat, unsigned round)
{
    xp_thread_group *g = seat->group;
    struct timespec until = {(time_t)seat->deadline, (long)(1e9 * (seat->deadline - (double)(time_t)seat->deadline))};
    char text[200];

    while (g->generation == round && g->broken_by < 0) {
        if (pthread_cond_timedwait(&g->changed, &g->lock, &until) == ETIMEDOUT && g->generation == round &&
            g->broken_by < 0) {
            name_the_missing(g, text, sizeof(text));
            fail(seat, XP_ERR_TIMEOUT, text);
            give_up(g, seat->rank, seat->err);
            return XP_ERR_TIMEOUT;
        }
    }
    return g->generation != round ? 0 : fail_with_group(seat);
}

/* With the lock held: this rank's part goes into the round's buffer. */
static int contribute(struct xp_thread_seat *seat, const void *in, size_t len)
{
    xp_thread_group *g = seat->group;

    if (g->here[seat->rank])
        return fail(seat, XP_ERR_INVALID_ARG, "two threads use the same rank");
    if (g->arrived == 0) {
        free(g->data);
        g->len = len;
        g->data = malloc(len * (size_t)g->nranks + 1);
        if (!g->data)
            return fail(seat, XP_ERR_NO_MEMORY, "no memory");
    }
    memcpy(g->data + (size_t)seat->rank * g->len, in, g->len);
    g->here[seat->rank] = 1;
    g->arrived++;
    return 0;
}

int xp_thread_group_allgather(void *user, const void *in, void *out, size_t len)
{
    struct xp_thread_seat *seat = user;
    xp_thread_group *g = seat->group;
    unsigned round;
    int e = 0;

    pthread_mutex_lock(&g->lock);
    while (g->leaving > 0 && g->broken_by < 0) /* somebody still reads the last round */
        pthread_cond_wait(&g->changed, &g->lock);
    round = g->generation;
    if (g->broken_by >= 0)
        e = fail_with_group(seat);
    else
        e = contribute(seat, in, len);
    if (e == 0 && g->arrived == g->nranks) {
        g->generation++;
        g->leaving = g->nranks;
        pthread_cond_broadcast(&g->changed);
    } else if (e == 0) {
        e = await_round(seat, round);
    }
    if (e == 0) {
        memcpy(out, g->data, g->len * (size_t)g->nranks);
        if (--g->leaving == 0) {
            g->arrived = 0;
            memset(g->here, 0, (size_t)g->nranks);
            pthread_cond_broadcast(&g->changed);
        }
    }
    pthread_mutex_unlock(&g->lock);
    return e;
}

void xp_thread_group_break(xp_thread_group *g, int rank, const char *why)
{
    pthread_mutex_lock(&g->lock);
    give_up(g, rank, why);
    pthread_mutex_unlock(&g->lock);
}
