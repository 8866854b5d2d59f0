/*
 * gather.c - small gathers over the star: contributions to the root, the result to everybody
 *
 * A rank's contribution to gather n leaves after it has the result of n - 1, so the root holds at most one of each rank.
 * The caller waits under the lock; the liveness thread completes its gather. `what` names the calling operation in texts.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/comm.h"
#include "lib/liveness_state.h"

#define PIECE_BYTES (256u << 10) /* of the result in one message */
#define ROOT_ANSWER_SECONDS 1.0  /* a late rank gives the root so long to say who is missing */

/* ------------------------------------------------------------------------------------------- at the root */

static void end_gather(struct xp_liveness *l, xp_status s, const char *text)
{
    struct xp_gather *g = &l->gather;

    g->status = s;
    snprintf(g->text, sizeof(g->text), "%s", text);
    g->done = 1;
    g->active = 0;
    g->number++;
    for (int r = 0; l->parts && r < l->size; r++) {
        free(l->parts[r].bytes);
        l->parts[r] = (struct xp_part){0};
    }
    pthread_cond_broadcast(&l->changed);
}

/* Root: this gather fails on every rank, the group lives on. */
static void refuse_gather(struct xp_liveness *l, xp_status s, const char *text)
{
    size_t len = strnlen(text, XP_BAD_NEWS_MAX - 1);
    struct xp_packet *p = xp_packet_new(XP_MSG_GATHER_FAILED, l->gather.number, 4 + len);

    if (p) {
        xp_put32(xp_packet_body(p), (uint32_t)s);
        memcpy(xp_packet_body(p) + 4, text, len);
    }
    xp_liveness_send_all(l, NULL, p);
    end_gather(l, s, text);
}

/* Root: the result goes out in pieces. */
static void send_result(struct xp_liveness *l)
{
    const struct xp_gather *g = &l->gather;
    size_t total = g->len * (size_t)l->size, at = 0;

    do {
        size_t n = total - at < PIECE_BYTES ? total - at : PIECE_BYTES;
        struct xp_packet *p = xp_packet_new(XP_MSG_GATHERED, g->number, 8 + n);

        if (p) {
            xp_put64(xp_packet_body(p), at);
            if (n > 0)
                memcpy(xp_packet_body(p) + 8, g->out + at, n);
        }
        xp_liveness_send_all(l, NULL, p);
        at += n;
    } while (at < total);
}

/* Root: what is wrong with a gather to which everybody who is left has contributed. XP_OK: nothing. */
static xp_status find_fault(const struct xp_liveness *l, char *text, size_t size)
{
    const struct xp_gather *g = &l->gather;

    for (int r = 1; r < l->size; r++) {
        if (!l->parts[r].here) {
            snprintf(text, size, "%s: rank %d has left", g->what, r);
            return XP_ERR_REMOTE;
        }
        if (l->parts[r].len != g->len) {
            snprintf(text, size, "%s: rank %d gathers %zu bytes, rank 0 gathers %zu", g->what, r, l->parts[r].len, g->len);
            return XP_ERR_MISMATCH;
        }
    }
    return XP_OK;
}

/* Root: ends the gather once everybody who has not left is in. Not before, or a late rank would miss the verdict. */
void xp_gather_settle(struct xp_liveness *l)
{
    struct xp_gather *g = &l->gather;
    char text[XP_BAD_NEWS_MAX];
    xp_status fault;

    if (l->rank != 0 || !g->active || atomic_load(&l->status) != XP_OK)
        return;
    for (int r = 1; r < l->size; r++)
        if (!l->parts[r].here && !l->left[r])
            return;
    fault = find_fault(l, text, sizeof(text));
    if (fault != XP_OK) {
        refuse_gather(l, fault, text);
        return;
    }
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
    xp_liveness_fail(l, NULL, XP_ERR_TIMEOUT, culprit, text);
}

/* ----------------------------------------------------------------------------------------------- messages */

/* Root. */
void xp_gather_on_part(struct xp_liveness *l, struct xp_link *k, const struct xp_msg_head *h)
{
    struct xp_part *part;

    if (l->rank != 0 || h->word != l->gather.number || h->len > XP_GATHER_MAX || l->parts[k->rank].here) {
        xp_liveness_bad_message(l, k, "gather");
        return;
    }
    part = &l->parts[k->rank];
    part->bytes = malloc((size_t)h->len + 1);
    if (!part->bytes) {
        xp_liveness_fail(l, NULL, XP_ERR_NO_MEMORY, -1, "rank 0 has no memory for a gather");
        return;
    }
    if (h->len > 0)
        memcpy(part->bytes, k->body, h->len);
    part->len = h->len;
    part->here = 1;
    xp_gather_settle(l);
}

/* Not the root. A caller that has given up no longer has an active gather; what still comes is dropped. */
void xp_gather_on_result(struct xp_liveness *l, struct xp_link *k, const struct xp_msg_head *h)
{
    struct xp_gather *g = &l->gather;
    size_t n = h->len - 8, total = g->len * (size_t)l->size;
    uint64_t at;

    if (l->rank == 0 || h->len < 8) {
        xp_liveness_bad_message(l, k, "gathered");
        return;
    }
    if (!g->active)
        return;
    at = xp_get64(k->body);
    if (h->word != g->number || at != g->got || n > total - g->got) {
        xp_liveness_bad_message(l, k, "gathered");
        return;
    }
    if (n > 0)
        memcpy(g->out + at, k->body + 8, n);
    g->got += n;
    if (g->got == total)
        end_gather(l, XP_OK, "");
}

void xp_gather_on_refusal(struct xp_liveness *l, struct xp_link *k, const struct xp_msg_head *h)
{
    char text[XP_BAD_NEWS_MAX];
    int32_t s;

    if (l->rank == 0 || h->len < 4) {
        xp_liveness_bad_message(l, k, "gather refusal");
        return;
    }
    s = (int32_t)xp_get32(k->body);
    xp_msg_text(text, sizeof(text), k->body + 4, h->len - 4);
    if (l->gather.active && h->word == l->gather.number)
        end_gather(l, s < 0 ? (xp_status)s : XP_ERR_REMOTE, text);
}

void xp_gather_on_late(struct xp_liveness *l, struct xp_link *k, const struct xp_msg_head *h)
{
    char what[32];

    if (l->rank != 0 || h->len < 8) {
        xp_liveness_bad_message(l, k, "late");
        return;
    }
    xp_msg_text(what, sizeof(what), k->body + 8, h->len - 8);
    if (h->word == l->gather.number)
        blame_the_missing(l, what, 1e-3 * (double)xp_get64(k->body));
}

/* -------------------------------------------------------------------------------------------- the caller */

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
    struct xp_packet *p;

    if (l->rank == 0) {
        blame_the_missing(l, what, timeout);
        return;
    }
    p = xp_packet_new(XP_MSG_LATE, l->gather.number, 8 + len);
    if (p) {
        xp_put64(xp_packet_body(p), (uint64_t)(1000 * timeout));
        memcpy(xp_packet_body(p) + 8, what, len);
    }
    xp_liveness_send_all(l, NULL, p);
    await_gather(l, xp_now() + ROOT_ANSWER_SECONDS);
    if (!l->gather.done && atomic_load(&l->status) == XP_OK)
        xp_liveness_fail_fmt(l, XP_ERR_TIMEOUT, 0, "%s: the deadline of %.3g s passed and rank 0 does not answer", what, timeout);
}

static void post_gather(struct xp_liveness *l, const char *what, const void *in, void *out, size_t len)
{
    struct xp_packet *p;

    l->gather = (struct xp_gather){.number = l->gather.number, .active = 1, .what = what, .out = out, .len = len};
    if (l->rank == 0) {
        if (len > 0)
            memmove(out, in, len);
        xp_gather_settle(l);
        return;
    }
    p = xp_packet_new(XP_MSG_GATHER, l->gather.number, len);
    if (p && len > 0)
        memcpy(xp_packet_body(p), in, len);
    xp_liveness_send_all(l, NULL, p);
}

/* How the gather ended, once nothing touches its buffers any more. */
static xp_status conclude_gather(struct xp_liveness *l, char *err, size_t err_size)
{
    struct xp_gather *g = &l->gather;

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
