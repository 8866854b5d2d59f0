/*
 * liveness.c - the thread that owns the star of sockets
 *
 * One lock guards everything. The thread holds it except while it polls; callers hold it while they queue a message (and try
 * to send it at once) or wait for a gather. What is sent never blocks: the rest of a message waits in its link's queue.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <ctype.h>
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
#include "lib/liveness.h"
#include "lib/message.h"

#define PIECE_BYTES (256u << 10)   /* of a gather's result in one message */
#define FAREWELL_SECONDS 0.5       /* to get the goodbye out, and for the root: to hear those of the others */
#define ROOT_ANSWER_SECONDS 1.0    /* a late rank gives the root so long to say who is missing */
#define THREAD_STACK (512u << 10)

struct packet { /* one message, perhaps queued on many links */
    unsigned refs;
    size_t len;
    uint8_t bytes[];
};

struct waiting_packet {
    struct waiting_packet *next;
    struct packet *packet;
    size_t sent;
};

struct link {
    int fd; /* -1: closed */
    int rank;
    double heard;    /* when something last came */
    int left;        /* said goodbye */
    struct waiting_packet *first, **last;
    uint8_t head[XP_MSG_HEAD];
    uint8_t *body;   /* [body_room] */
    size_t body_room, got; /* got counts head and body */
};

/* The gather that this rank's caller is in. */
struct gather {
    uint32_t number; /* gathers completed before it; equal on all ranks */
    int active, done;
    const char *what;
    uint8_t *out;
    size_t len, got;
    xp_status status;
    char text[XP_BAD_NEWS_MAX];
};

struct part { /* root: what a rank has contributed to the gather under way */
    int here;
    size_t len;
    uint8_t *bytes;
};

struct xp_liveness {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int rank, size, nlinks;
    struct link *links;  /* root: [size - 1], link i is rank i + 1; others: [1], the root */
    struct pollfd *polls;/* [1 + nlinks] */
    int wake;            /* eventfd */
    double heartbeat;
    int stopping;
    unsigned char *left; /* [size] */
    _Atomic unsigned departures;
    _Atomic int status;
    int culprit;
    char news[XP_BAD_NEWS_MAX];
    struct gather gather;
    struct part *parts;  /* root: [size] */
};

/* ------------------------------------------------------------------------------------------------ sending */

static struct packet *new_packet(enum xp_msg_type type, uint32_t word, size_t len)
{
    struct packet *p = malloc(sizeof(*p) + XP_MSG_HEAD + len);

    if (!p)
        return NULL;
    p->refs = 0;
    p->len = XP_MSG_HEAD + len;
    xp_msg_head_write(p->bytes, type, word, (uint32_t)len);
    return p;
}

static void release(struct packet *p)
{
    if (p && (p->refs == 0 || --p->refs == 0))
        free(p);
}

static void wake_thread(struct xp_liveness *l)
{
    uint64_t one = 1;
    ssize_t n = write(l->wake, &one, sizeof(one));

    (void)n; /* full means awake */
}

static void drop_first(struct link *k)
{
    struct waiting_packet *w = k->first;

    k->first = w->next;
    if (!k->first)
        k->last = &k->first;
    release(w->packet);
    free(w);
}

static void close_link(struct link *k)
{
    if (k->fd >= 0)
        close(k->fd);
    k->fd = -1;
    while (k->first)
        drop_first(k);
}

/* Sends what the socket takes. A broken socket is left to the reader, which sees its end. */
static void flush_link(struct link *k)
{
    while (k->fd >= 0 && k->first) {
        struct waiting_packet *w = k->first;
        ssize_t n = send(k->fd, w->packet->bytes + w->sent, w->packet->len - w->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n < 0) {
            while (k->first)
                drop_first(k);
            return;
        }
        w->sent += (size_t)n;
        if (w->sent == w->packet->len)
            drop_first(k);
    }
}

/* Returns 0 without memory. */
static int queue(struct xp_liveness *l, struct link *k, struct packet *p)
{
    struct waiting_packet *w;

    if (k->fd < 0)
        return 1;
    w = malloc(sizeof(*w));
    if (!w)
        return 0;
    *w = (struct waiting_packet){NULL, p, 0};
    p->refs++;
    *k->last = w;
    k->last = &w->next;
    flush_link(k);
    if (k->first)
        wake_thread(l); /* so that it polls for room */
    return 1;
}

static void remember_failure(struct xp_liveness *l, xp_status s, int culprit, const char *text);

/* Queues a message on every open link except one (NULL: on all), and lets go of it. */
static void queue_all(struct xp_liveness *l, const struct link *except, struct packet *p)
{
    int ok = p != NULL;

    if (p)
        p->refs++;
    for (int i = 0; i < l->nlinks && ok; i++)
        if (&l->links[i] != except)
            ok = queue(l, &l->links[i], p);
    release(p);
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
static struct packet *revoke_packet(xp_status s, int culprit, const char *text)
{
    size_t len = strnlen(text, XP_BAD_NEWS_MAX - 1);
    struct packet *p = new_packet(XP_MSG_REVOKE, (uint32_t)s, 4 + len);

    if (p) {
        xp_put32(p->bytes + XP_MSG_HEAD, (uint32_t)culprit);
        memcpy(p->bytes + XP_MSG_HEAD + 4, text, len);
    }
    return p;
}

/* With the lock held: the group has failed; everybody but `from` must hear of it. */
static void fail_group(struct xp_liveness *l, const struct link *from, xp_status s, int culprit, const char *text)
{
    struct packet *p;

    if (atomic_load(&l->status) != XP_OK)
        return;
    remember_failure(l, s, culprit, text);
    p = revoke_packet(s, culprit, text);
    if (p)
        queue_all(l, from, p);
}

static void fail_group_fmt(struct xp_liveness *l, xp_status s, int culprit, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void fail_group_fmt(struct xp_liveness *l, xp_status s, int culprit, const char *fmt, ...)
{
    char text[XP_BAD_NEWS_MAX];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    fail_group(l, NULL, s, culprit, text);
}

/* ------------------------------------------------------------------------------------------------- gathers */

static void end_gather(struct xp_liveness *l, xp_status s, const char *text)
{
    struct gather *g = &l->gather;

    g->status = s;
    snprintf(g->text, sizeof(g->text), "%s", text);
    g->done = 1;
    g->active = 0;
    g->number++;
    for (int r = 0; l->parts && r < l->size; r++) {
        free(l->parts[r].bytes);
        l->parts[r] = (struct part){0};
    }
    pthread_cond_broadcast(&l->changed);
}

/* Root: this gather fails on every rank, the group lives on. */
static void refuse_gather(struct xp_liveness *l, xp_status s, const char *text)
{
    size_t len = strnlen(text, XP_BAD_NEWS_MAX - 1);
    struct packet *p = new_packet(XP_MSG_GATHER_FAILED, l->gather.number, 4 + len);

    if (p) {
        xp_put32(p->bytes + XP_MSG_HEAD, (uint32_t)s);
        memcpy(p->bytes + XP_MSG_HEAD + 4, text, len);
    }
    queue_all(l, NULL, p);
    end_gather(l, s, text);
}

/* Root: the result goes out in pieces. */
static void send_result(struct xp_liveness *l)
{
    const struct gather *g = &l->gather;
    size_t total = g->len * (size_t)l->size, at = 0;

    do {
        size_t n = total - at < PIECE_BYTES ? total - at : PIECE_BYTES;
        struct packet *p = new_packet(XP_MSG_GATHERED, g->number, 8 + n);

        if (p) {
            xp_put64(p->bytes + XP_MSG_HEAD, at);
            if (n > 0)
                memcpy(p->bytes + XP_MSG_HEAD + 8, g->out + at, n);
        }
        queue_all(l, NULL, p);
        at += n;
    } while (at < total);
}

/* Root: completes the gather when everybody is in, or refuses it when that can no longer be. */
static void settle_gather(struct xp_liveness *l)
{
    struct gather *g = &l->gather;
    char text[XP_BAD_NEWS_MAX];

    if (l->rank != 0 || !g->active)
        return;
    for (int r = 1; r < l->size; r++) {
        if (l->parts[r].here && l->parts[r].len != g->len) {
            snprintf(text, sizeof(text), "%s: rank %d gathers %zu bytes, rank 0 gathers %zu", g->what, r, l->parts[r].len,
                     g->len);
            refuse_gather(l, XP_ERR_MISMATCH, text);
            return;
        }
        if (!l->parts[r].here && l->left[r]) {
            snprintf(text, sizeof(text), "%s: rank %d has left", g->what, r);
            refuse_gather(l, XP_ERR_REMOTE, text);
            return;
        }
    }
    for (int r = 1; r < l->size; r++)
        if (!l->parts[r].here)
            return;
    for (int r = 1; r < l->size; r++)
        if (g->len > 0)
            memcpy(g->out + (size_t)r * g->len, l->parts[r].bytes, g->len);
    send_result(l);
    end_gather(l, XP_OK, "");
}

/* Root: a deadline has passed somewhere; says to all who is missing. */
static void blame_the_missing(struct xp_liveness *l, const char *what, double timeout)
{
    char text[XP_BAD_NEWS_MAX];
    size_t at = (size_t)snprintf(text, sizeof(text), "%s: the deadline of %.3g s passed; missing:", what, timeout);
    int culprit = -1;

    for (int r = 0, named = 0; r < l->size && at < sizeof(text); r++) {
        if (r == 0 ? l->gather.active : l->parts[r].here)
            continue;
        if (named++ == 16) {
            snprintf(text + at, sizeof(text) - at, " and others");
            break;
        }
        culprit = r;
        at += (size_t)snprintf(text + at, sizeof(text) - at, " rank %d", r);
    }
    fail_group(l, NULL, XP_ERR_TIMEOUT, culprit, text);
}

/* ----------------------------------------------------------------------------------------------- messages */

static void copy_text(char *out, size_t size, const uint8_t *body, size_t len)
{
    size_t n = len < size - 1 ? len : size - 1;

    for (size_t i = 0; i < n; i++)
        out[i] = isprint(body[i]) ? (char)body[i] : '?';
    out[n] = '\0';
}

static void bad_message(struct xp_liveness *l, struct link *k, const char *what)
{
    fail_group_fmt(l, XP_ERR_CORRUPT, k->rank, "rank %d sent a message that makes no sense (%s)", k->rank, what);
}

/* The peer has said goodbye (or the root says so of another rank). */
static void note_departure(struct xp_liveness *l, int rank)
{
    if (l->left[rank])
        return;
    l->left[rank] = 1;
    atomic_fetch_add(&l->departures, 1);
    pthread_cond_broadcast(&l->changed);
    settle_gather(l);
}

static void on_goodbye(struct xp_liveness *l, struct link *k)
{
    k->left = 1;
    if (l->rank == 0)
        queue_all(l, k, new_packet(XP_MSG_LEFT, (uint32_t)k->rank, 0));
    note_departure(l, k->rank);
}

static void on_revoke(struct xp_liveness *l, struct link *k, const struct xp_msg_head *h)
{
    char text[XP_BAD_NEWS_MAX];
    int32_t culprit;

    if (h->len < 4 || (int32_t)h->word >= 0) {
        bad_message(l, k, "revoke");
        return;
    }
    culprit = (int32_t)xp_get32(k->body);
    copy_text(text, sizeof(text), k->body + 4, h->len - 4);
    fail_group(l, k, (xp_status)(int32_t)h->word, culprit >= 0 && culprit < l->size ? culprit : -1, text);
}

/* Root. */
static void on_contribution(struct xp_liveness *l, struct link *k, const struct xp_msg_head *h)
{
    struct part *part;

    if (l->rank != 0 || h->word != l->gather.number || h->len > XP_GATHER_MAX || l->parts[k->rank].here) {
        bad_message(l, k, "gather");
        return;
    }
    part = &l->parts[k->rank];
    part->bytes = malloc((size_t)h->len + 1);
    if (!part->bytes) {
        fail_group(l, NULL, XP_ERR_NO_MEMORY, -1, "rank 0 has no memory for a gather");
        return;
    }
    if (h->len > 0)
        memcpy(part->bytes, k->body, h->len);
    part->len = h->len;
    part->here = 1;
    settle_gather(l);
}

/* Not the root. A caller that has given up no longer has an active gather; what still comes is dropped. */
static void on_result(struct xp_liveness *l, struct link *k, const struct xp_msg_head *h)
{
    struct gather *g = &l->gather;
    size_t n = h->len - 8, total = g->len * (size_t)l->size;
    uint64_t at;

    if (l->rank == 0 || h->len < 8) {
        bad_message(l, k, "gathered");
        return;
    }
    if (!g->active)
        return;
    at = xp_get64(k->body);
    if (h->word != g->number || at != g->got || n > total - g->got) {
        bad_message(l, k, "gathered");
        return;
    }
    if (n > 0)
        memcpy(g->out + at, k->body + 8, n);
    g->got += n;
    if (g->got == total)
        end_gather(l, XP_OK, "");
}

static void on_refusal(struct xp_liveness *l, struct link *k, const struct xp_msg_head *h)
{
    char text[XP_BAD_NEWS_MAX];
    int32_t s;

    if (l->rank == 0 || h->len < 4) {
        bad_message(l, k, "gather refusal");
        return;
    }
    s = (int32_t)xp_get32(k->body);
    copy_text(text, sizeof(text), k->body + 4, h->len - 4);
    if (l->gather.active && h->word == l->gather.number)
        end_gather(l, s < 0 ? (xp_status)s : XP_ERR_REMOTE, text);
}

static void on_late(struct xp_liveness *l, struct link *k, const struct xp_msg_head *h)
{
    char what[32];

    if (l->rank != 0 || h->len < 8) {
        bad_message(l, k, "late");
        return;
    }
    copy_text(what, sizeof(what), k->body + 8, h->len - 8);
    if (h->word == l->gather.number)
        blame_the_missing(l, what, 1e-3 * (double)xp_get64(k->body));
}

static void on_message(struct xp_liveness *l, struct link *k, const struct xp_msg_head *h)
{
    switch (h->type) {
    case XP_MSG_HEARTBEAT: break;
    case XP_MSG_GOODBYE: on_goodbye(l, k); break;
    case XP_MSG_LEFT:
        if (l->rank != 0 && h->word < (uint32_t)l->size)
            note_departure(l, (int)h->word);
        break;
    case XP_MSG_REVOKE: on_revoke(l, k, h); break;
    case XP_MSG_GATHER: on_contribution(l, k, h); break;
    case XP_MSG_GATHERED: on_result(l, k, h); break;
    case XP_MSG_GATHER_FAILED: on_refusal(l, k, h); break;
    case XP_MSG_LATE: on_late(l, k, h); break;
    default: bad_message(l, k, "type"); break;
    }
}

/* ------------------------------------------------------------------------------------------------ reading */

static void lose_link(struct xp_liveness *l, struct link *k, int error)
{
    close_link(k);
    if (k->left)
        return;
    fail_group_fmt(l, XP_ERR_REMOTE, k->rank, "rank %d is gone: its connection ended without a goodbye%s%s", k->rank,
                   error ? ": " : "", error ? strerror(error) : "");
}

/* Returns 0 when there is no memory for a body. */
static int make_room(struct link *k, size_t len)
{
    uint8_t *body;

    if (len <= k->body_room)
        return 1;
    body = realloc(k->body, len);
    if (!body)
        return 0;
    k->body = body;
    k->body_room = len;
    return 1;
}

/* Reads all that is there. */
static void hear_link(struct xp_liveness *l, struct link *k)
{
    struct xp_msg_head h = {0};

    while (k->fd >= 0) {
        size_t want = XP_MSG_HEAD;
        uint8_t *to = k->head + k->got;
        ssize_t n;

        if (k->got >= XP_MSG_HEAD) {
            if (!xp_msg_head_read(k->head, XP_MSG_MAX, &h)) {
                bad_message(l, k, "head");
                close_link(k);
                return;
            }
            if (!make_room(k, h.len)) {
                fail_group(l, NULL, XP_ERR_NO_MEMORY, -1, "no memory for a message of another rank");
                close_link(k);
                return;
            }
            want = XP_MSG_HEAD + h.len;
            to = k->body + (k->got - XP_MSG_HEAD);
        }
        if (k->got == want) {
            k->got = 0;
            on_message(l, k, &h);
            continue;
        }
        n = recv(k->fd, to, want - k->got, MSG_DONTWAIT);
        if (n > 0) {
            k->got += (size_t)n;
            k->heard = xp_now();
        } else if (n == 0) {
            lose_link(l, k, 0);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        } else if (errno != EINTR) {
            lose_link(l, k, errno);
        }
    }
}

/* --------------------------------------------------------------------------------------------- the thread */

static void beat(struct xp_liveness *l)
{
    queue_all(l, NULL, new_packet(XP_MSG_HEARTBEAT, 0, 0));
}

static void judge_silence(struct xp_liveness *l, double now)
{
    double limit = XP_SILENT_HEARTBEATS * l->heartbeat;

    for (int i = 0; i < l->nlinks; i++) {
        struct link *k = &l->links[i];
        if (k->fd >= 0 && !k->left && now - k->heard > limit)
            fail_group_fmt(l, XP_ERR_REMOTE, k->rank, "rank %d is gone: silent for %.3g s", k->rank, now - k->heard);
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
        struct link *k = &l->links[i];
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
        struct link *k = &l->links[i];
        if (k->fd < 0 || l->polls[1 + i].revents == 0)
            continue;
        flush_link(k);
        hear_link(l, k);
    }
}

static int all_said(const struct xp_liveness *l)
{
    for (int i = 0; i < l->nlinks; i++) {
        const struct link *k = &l->links[i];
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
        flush_link(&l->links[i]);
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
        close_link(&l->links[i]);
        free(l->links[i].body);
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
    for (int i = 0; l->links && i < l->nlinks; i++) {
        l->links[i].fd = -1;
        l->links[i].last = &l->links[i].first;
    }
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
        struct link *k = &l->links[i];
        k->rank = net->rank == 0 ? i + 1 : 0;
        k->fd = net->fds[net->rank == 0 ? i + 1 : 0];
        k->heard = xp_now();
        xp_socket_tune(k->fd, XP_SILENT_HEARTBEATS * heartbeat);
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

void xp_liveness_stop(struct xp_liveness *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    queue_all(l, NULL, new_packet(XP_MSG_GOODBYE, 0, 0));
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
    fail_group(l, NULL, s, -1, text);
    pthread_mutex_unlock(&l->lock);
}

/* Waits until the gather is done, the group has failed, or the moment has come. */
static void await_gather(struct xp_liveness *l, double until)
{
    struct timespec t = {(time_t)until, (long)(1e9 * (until - (double)(time_t)until))};

    while (!l->gather.done && atomic_load(&l->status) == XP_OK && !(l->rank != 0 && l->left[0]))
        if (pthread_cond_timedwait(&l->changed, &l->lock, &t) == ETIMEDOUT)
            return;
}

/* The deadline has passed. The root knows who is missing. */
static void report_late(struct xp_liveness *l, double timeout)
{
    const char *what = l->gather.what;
    size_t len = strlen(what);
    struct packet *p;

    if (l->rank == 0) {
        blame_the_missing(l, what, timeout);
        return;
    }
    p = new_packet(XP_MSG_LATE, l->gather.number, 8 + len);
    if (p) {
        xp_put64(p->bytes + XP_MSG_HEAD, (uint64_t)(1000 * timeout));
        memcpy(p->bytes + XP_MSG_HEAD + 8, what, len);
    }
    queue_all(l, NULL, p);
    await_gather(l, xp_now() + ROOT_ANSWER_SECONDS);
    if (!l->gather.done && atomic_load(&l->status) == XP_OK)
        fail_group_fmt(l, XP_ERR_TIMEOUT, 0, "%s: the deadline of %.3g s passed and rank 0 does not answer", what, timeout);
}

static void post_gather(struct xp_liveness *l, const char *what, const void *in, void *out, size_t len)
{
    struct packet *p;

    l->gather = (struct gather){.number = l->gather.number, .active = 1, .what = what, .out = out, .len = len};
    if (l->rank == 0) {
        if (len > 0)
            memmove(out, in, len);
        settle_gather(l);
        return;
    }
    p = new_packet(XP_MSG_GATHER, l->gather.number, len);
    if (p && len > 0)
        memcpy(p->bytes + XP_MSG_HEAD, in, len);
    queue_all(l, NULL, p);
}

/* How the gather ended, once nothing touches its buffers any more. */
static xp_status conclude_gather(struct xp_liveness *l, char *err, size_t err_size)
{
    struct gather *g = &l->gather;

    g->active = 0;
    if (g->done) {
        snprintf(err, err_size, "%s", g->text);
        return g->status;
    }
    if (atomic_load(&l->status) != XP_OK) {
        snprintf(err, err_size, "%s", l->news);
        return (xp_status)atomic_load(&l->status);
    }
    snprintf(err, err_size, "%s: rank 0 has left", g->what);
    return XP_ERR_REMOTE;
}

xp_status xp_liveness_gather(struct xp_liveness *l, const char *what, const void *in, void *out, size_t len, double timeout,
                             char *err, size_t err_size)
{
    xp_status s;

    pthread_mutex_lock(&l->lock);
    s = (xp_status)atomic_load(&l->status);
    if (s != XP_OK) {
        snprintf(err, err_size, "%s", l->news);
    } else {
        post_gather(l, what, in, out, len);
        await_gather(l, xp_now() + timeout);
        if (!l->gather.done && atomic_load(&l->status) == XP_OK && !(l->rank != 0 && l->left[0]))
            report_late(l, timeout);
        s = conclude_gather(l, err, err_size);
    }
    pthread_mutex_unlock(&l->lock);
    return s;
}
