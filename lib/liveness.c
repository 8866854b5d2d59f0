/*
 * liveness.c - the thread that owns the star of sockets
 *
 * One lock guards everything. The thread holds it except while it polls; callers hold it while they queue a message (and try
 * to send it at once) or wait for a gather. What is sent never blocks: the rest of a message waits in its link's queue.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "lib/comm.h"
#include "lib/liveness_state.h"

#define FAREWELL_SECONDS 0.5 /* to get the goodbye out, and for the root: to hear those of the others */
#define THREAD_STACK (512u << 10)

/* ------------------------------------------------------------------------------------------------ sending */

static void wake_thread(struct xp_liveness *l)
{
    uint64_t one = 1;
    ssize_t n = write(l->wake, &one, sizeof(one));

    (void)n; /* full means awake */
}

static void remember_failure(struct xp_liveness *l, xp_status s, int culprit, const char *text);

void xp_liveness_send_all(struct xp_liveness *l, const struct xp_link *except, struct xp_packet *p)
{
    int ok = p != NULL;

    for (int i = 0; i < l->nlinks && ok; i++) {
        struct xp_link *k = &l->links[i];

        if (k == except)
            continue;
        ok = xp_link_queue(k, p);
        if (k->first)
            wake_thread(l); /* so that it polls for room */
    }
    xp_packet_release(p);
    if (!ok)
        remember_failure(l, XP_ERR_NO_MEMORY, -1, "no memory for a message to the other ranks");
}

/* ------------------------------------------------------------------------------------------------ bad news */

/* The first failure is the one that counts. */
static void remember_failure(struct xp_liveness *l, xp_status s, int culprit, const char *text)
{
    if (atomic_load(&l->status) != XP_OK)
        return;
    snprintf(l->news, sizeof(l->news), "%s", text);
    l->culprit = culprit;
    atomic_store(&l->status, s);
    pthread_cond_broadcast(&l->changed);
}

/* Body of REVOKE: the rank that is gone (32 bits, -1 = none), then the text. */
static struct xp_packet *revoke_packet(xp_status s, int culprit, const char *text)
{
    size_t len = strnlen(text, XP_BAD_NEWS_MAX - 1);
    struct xp_packet *p = xp_packet_new(XP_MSG_REVOKE, (uint32_t)s, 4 + len);

    if (p) {
        xp_put32(xp_packet_body(p), (uint32_t)culprit);
        memcpy(xp_packet_body(p) + 4, text, len);
    }
    return p;
}

void xp_liveness_fail(struct xp_liveness *l, const struct xp_link *from, xp_status s, int culprit, const char *text)
{
    struct xp_packet *p;

    if (atomic_load(&l->status) != XP_OK)
        return;
    remember_failure(l, s, culprit, text);
    p = revoke_packet(s, culprit, text);
    if (p)
        xp_liveness_send_all(l, from, p);
}

void xp_liveness_fail_fmt(struct xp_liveness *l, xp_status s, int culprit, const char *fmt, ...)
{
    char text[XP_BAD_NEWS_MAX];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    xp_liveness_fail(l, NULL, s, culprit, text);
}

/* ----------------------------------------------------------------------------------------------- messages */

void xp_liveness_bad_message(struct xp_liveness *l, const struct xp_link *k, const char *what)
{
    xp_liveness_fail_fmt(l, XP_ERR_CORRUPT, k->rank, "rank %d sent a message that makes no sense (%s)", k->rank, what);
}

/* The peer has said goodbye (or the root says so of another rank). */
static void note_departure(struct xp_liveness *l, int rank)
{
    if (l->left[rank])
        return;
    l->left[rank] = 1;
    atomic_fetch_add(&l->departures, 1);
    pthread_cond_broadcast(&l->changed);
    xp_gather_settle(l);
}

static void on_goodbye(struct xp_liveness *l, struct xp_link *k)
{
    k->left = 1;
    if (l->rank == 0)
        xp_liveness_send_all(l, k, xp_packet_new(XP_MSG_LEFT, (uint32_t)k->rank, 0));
    note_departure(l, k->rank);
}

static void on_revoke(struct xp_liveness *l, struct xp_link *k, const struct xp_msg_head *h)
{
    char text[XP_BAD_NEWS_MAX];
    int32_t culprit;

    if (h->len < 4 || (int32_t)h->word >= 0) {
        xp_liveness_bad_message(l, k, "revoke");
        return;
    }
    culprit = (int32_t)xp_get32(k->body);
    xp_msg_text(text, sizeof(text), k->body + 4, h->len - 4);
    xp_liveness_fail(l, k, (xp_status)(int32_t)h->word, culprit >= 0 && culprit < l->size ? culprit : -1, text);
}

static void on_message(struct xp_liveness *l, struct xp_link *k, const struct xp_msg_head *h)
{
    switch (h->type) {
    case XP_MSG_HEARTBEAT: break;
    case XP_MSG_GOODBYE: on_goodbye(l, k); break;
    case XP_MSG_LEFT:
        if (l->rank != 0 && h->word < (uint32_t)l->size)
            note_departure(l, (int)h->word);
        break;
    case XP_MSG_REVOKE: on_revoke(l, k, h); break;
    case XP_MSG_GATHER: xp_gather_on_part(l, k, h); break;
    case XP_MSG_GATHERED: xp_gather_on_result(l, k, h); break;
    case XP_MSG_GATHER_FAILED: xp_gather_on_refusal(l, k, h); break;
    case XP_MSG_LATE: xp_gather_on_late(l, k, h); break;
    default: xp_liveness_bad_message(l, k, "type"); break;
    }
}

/* ------------------------------------------------------------------------------------------------ reading */

static void lose_link(struct xp_liveness *l, struct xp_link *k, int error)
{
    xp_link_close(k);
    if (k->left)
        return;
    xp_liveness_fail_fmt(l, XP_ERR_REMOTE, k->rank, "rank %d is gone: its connection ended without a goodbye%s%s", k->rank,
                   error ? ": " : "", error ? strerror(error) : "");
}

/* Handles all that is there. */
static void hear_link(struct xp_liveness *l, struct xp_link *k)
{
    struct xp_msg_head h = {0};
    int error = 0;

    while (k->fd >= 0) {
        switch (xp_link_next(k, &h, &error)) {
        case XP_LINK_MESSAGE:
            on_message(l, k, &h);
            break;
        case XP_LINK_QUIET:
            return;
        case XP_LINK_ENDED:
            lose_link(l, k, error);
            break;
        case XP_LINK_BAD:
            xp_liveness_bad_message(l, k, "head");
            xp_link_close(k);
            break;
        case XP_LINK_NO_MEMORY:
            xp_liveness_fail(l, NULL, XP_ERR_NO_MEMORY, -1, "no memory for a message of another rank");
            xp_link_close(k);
            break;
        }
    }
}

/* --------------------------------------------------------------------------------------------- the thread */

static void beat(struct xp_liveness *l)
{
    xp_liveness_send_all(l, NULL, xp_packet_new(XP_MSG_HEARTBEAT, 0, 0));
}

static void judge_silence(struct xp_liveness *l, double now)
{
    double limit = XP_SILENT_HEARTBEATS * l->heartbeat;

    for (int i = 0; i < l->nlinks; i++) {
        struct xp_link *k = &l->links[i];
        if (k->fd >= 0 && !k->left && now - k->heard > limit)
            xp_liveness_fail_fmt(l, XP_ERR_REMOTE, k->rank, "rank %d is gone: silent for %.3g s", k->rank, now - k->heard);
    }
}

/* This process was stopped or starved: the silence was ours. */
static void forgive_silence(struct xp_liveness *l, double now)
{
    for (int i = 0; i < l->nlinks; i++)
        l->links[i].heard = now;
}

static void poll_links(struct xp_liveness *l, int timeout_ms)
{
    l->polls[0] = (struct pollfd){l->wake, POLLIN, 0};
    for (int i = 0; i < l->nlinks; i++) {
        struct xp_link *k = &l->links[i];
        l->polls[1 + i] = (struct pollfd){k->fd, (short)(POLLIN | (k->first ? POLLOUT : 0)), 0};
    }
    pthread_mutex_unlock(&l->lock);
    poll(l->polls, (nfds_t)(1 + l->nlinks), timeout_ms);
    pthread_mutex_lock(&l->lock);
}

static void serve_links(struct xp_liveness *l)
{
    uint64_t count;

    if (l->polls[0].revents) {
        ssize_t n = read(l->wake, &count, sizeof(count));
        (void)n;
    }
    for (int i = 0; i < l->nlinks; i++) {
        struct xp_link *k = &l->links[i];
        if (k->fd < 0 || l->polls[1 + i].revents == 0)
            continue;
        xp_link_flush(k);
        hear_link(l, k);
    }
}

static int all_said(const struct xp_liveness *l)
{
    for (int i = 0; i < l->nlinks; i++) {
        const struct xp_link *k = &l->links[i];
        if (k->fd >= 0 && (k->first || (l->rank == 0 && !k->left)))
            return 0;
    }
    return 1;
}

/* The goodbyes are queued. Gets them out; the root stays until the others have said theirs. */
static void farewell(struct xp_liveness *l)
{
    double deadline = xp_now() + FAREWELL_SECONDS;

    while (!all_said(l) && xp_now() < deadline && atomic_load(&l->status) == XP_OK) {
        poll_links(l, 10);
        serve_links(l);
    }
    for (int i = 0; i < l->nlinks; i++) {
        xp_link_flush(&l->links[i]);
        if (l->links[i].fd >= 0)
            shutdown(l->links[i].fd, SHUT_WR);
    }
}

static void *run(void *arg)
{
    struct xp_liveness *l = arg;
    double next_beat, before;

    pthread_mutex_lock(&l->lock);
    before = xp_now();
    next_beat = before + l->heartbeat;
    while (!l->stopping) {
        double left = next_beat - xp_now();
        double now;

        poll_links(l, left <= 0 ? 0 : (int)ceil(1000 * left));
        serve_links(l);
        now = xp_now();
        if (now - before > 4 * l->heartbeat)
            forgive_silence(l, now);
        before = now;
        if (now >= next_beat) {
            beat(l);
            judge_silence(l, now);
            next_beat = now + l->heartbeat;
        }
    }
    farewell(l);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ----------------------------------------------------------------------------------------- start and stop */

static void free_liveness(struct xp_liveness *l)
{
    for (int i = 0; l->links && i < l->nlinks; i++) {
        xp_link_free(&l->links[i]);
    }
    for (int r = 0; l->parts && r < l->size; r++)
        free(l->parts[r].bytes);
    if (l->wake >= 0)
        close(l->wake);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l->links);
    free(l->polls);
    free(l->left);
    free(l->parts);
    free(l);
}

/* The host's signals are the host's: this thread takes none. */
static int start_thread(struct xp_liveness *l)
{
    pthread_attr_t attr;
    sigset_t all, before;
    int e;

    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, THREAD_STACK);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    e = pthread_create(&l->thread, &attr, run, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (e == 0)
        pthread_setname_np(l->thread, "xp-liveness");
    return e;
}

static struct xp_liveness *allocate(const struct xp_bootstrap_net *net)
{
    struct xp_liveness *l = calloc(1, sizeof(*l));
    pthread_condattr_t attr;

    if (!l)
        return NULL;
    l->rank = net->rank;
    l->size = net->size;
    l->nlinks = net->rank == 0 ? net->size - 1 : 1;
    l->culprit = -1;
    l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->links = calloc((size_t)l->nlinks, sizeof(*l->links));
    l->polls = calloc((size_t)l->nlinks + 1, sizeof(*l->polls));
    l->left = calloc((size_t)l->size, 1);
    l->parts = net->rank == 0 ? calloc((size_t)l->size, sizeof(*l->parts)) : NULL;
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->changed, &attr);
    pthread_condattr_destroy(&attr);
    for (int i = 0; l->links && i < l->nlinks; i++)
        xp_link_init(&l->links[i], 0, -1);
    if (l->wake < 0 || !l->links || !l->polls || !l->left || (net->rank == 0 && !l->parts)) {
        free_liveness(l);
        return NULL;
    }
    return l;
}

xp_status xp_liveness_start(struct xp_liveness **out, struct xp_bootstrap_net *net, double heartbeat)
{
    struct xp_liveness *l = allocate(net);

    if (!l)
        return XP_ERR_NO_MEMORY;
    l->heartbeat = heartbeat;
    for (int i = 0; i < l->nlinks; i++) {
        int peer = net->rank == 0 ? i + 1 : 0;

        xp_link_init(&l->links[i], peer, net->fds[peer]);
        if (l->links[i].fd >= 0)
            xp_socket_tune(l->links[i].fd, XP_SILENT_HEARTBEATS * heartbeat);
    }
    free(net->fds);
    net->fds = NULL;
    if (start_thread(l) != 0) {
        free_liveness(l);
        return XP_ERR_SYSTEM;
    }
    *out = l;
    return XP_OK;
}

void xp_liveness_say_goodbye(struct xp_liveness *l)
{
    pthread_mutex_lock(&l->lock);
    if (!l->said_goodbye)
        xp_liveness_send_all(l, NULL, xp_packet_new(XP_MSG_GOODBYE, 0, 0));
    l->said_goodbye = 1;
    wake_thread(l);
    pthread_mutex_unlock(&l->lock);
}

void xp_liveness_stop(struct xp_liveness *l)
{
    if (!l)
        return;
    xp_liveness_say_goodbye(l);
    pthread_mutex_lock(&l->lock);
    l->stopping = 1;
    wake_thread(l);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    free_liveness(l);
}

void xp_liveness_abandon(struct xp_liveness *l)
{
    for (int i = 0; i < l->nlinks; i++)
        if (l->links[i].fd >= 0)
            close(l->links[i].fd);
    close(l->wake);
}

/* -------------------------------------------------------------------------------------------- for callers */

xp_status xp_liveness_health(const struct xp_liveness *l)
{
    return (xp_status)atomic_load_explicit(&l->status, memory_order_acquire);
}

xp_status xp_liveness_await_news(struct xp_liveness *l, double seconds)
{
    double until = xp_now() + seconds;
    struct timespec t = {(time_t)until, (long)(1e9 * (until - (double)(time_t)until))};

    pthread_mutex_lock(&l->lock);
    while (atomic_load(&l->status) == XP_OK && pthread_cond_timedwait(&l->changed, &l->lock, &t) != ETIMEDOUT)
        ;
    pthread_mutex_unlock(&l->lock);
    return xp_liveness_health(l);
}

int xp_liveness_news(struct xp_liveness *l, char *text, size_t size)
{
    int culprit;

    pthread_mutex_lock(&l->lock);
    snprintf(text, size, "%s", l->news);
    culprit = l->culprit;
    pthread_mutex_unlock(&l->lock);
    return culprit;
}

unsigned xp_liveness_departures(const struct xp_liveness *l)
{
    return atomic_load_explicit(&l->departures, memory_order_acquire);
}

int xp_liveness_has_left(struct xp_liveness *l, int rank)
{
    int left;

    pthread_mutex_lock(&l->lock);
    left = l->left[rank];
    pthread_mutex_unlock(&l->lock);
    return left;
}

void xp_liveness_revoke(struct xp_liveness *l, xp_status s, const char *text)
{
    pthread_mutex_lock(&l->lock);
    xp_liveness_fail(l, NULL, s, -1, text);
    pthread_mutex_unlock(&l->lock);
}

