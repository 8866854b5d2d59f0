/*
 * liveness_state.h - what liveness.c and gather.c share: the state of one comm's star, guarded by one lock
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_LIVENESS_STATE_H
#define XP_LIVENESS_STATE_H

#include <poll.h>
#include <pthread.h>

#include "lib/link.h"
#include "lib/liveness.h"

/* The gather that this rank's caller is in. */
struct xp_gather {
    uint32_t number; /* gathers completed before it; equal on all ranks */
    int active, done;
    const char *what;
    uint8_t *out;
    size_t len, got;
    xp_status status;
    char text[XP_BAD_NEWS_MAX];
};

/* Root: what a rank has contributed to the gather under way. */
struct xp_part {
    int here;
    size_t len;
    uint8_t *bytes;
};

struct xp_liveness {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int rank, size, nlinks;
    struct xp_link *links; /* root: [size - 1], link i is rank i + 1; others: [1], the root */
    struct pollfd *polls;  /* [1 + nlinks] */
    int wake;              /* eventfd */
    double heartbeat;
    int said_goodbye, stopping;
    unsigned char *left;   /* [size] */
    _Atomic unsigned departures;
    _Atomic int status;
    int culprit;
    char news[XP_BAD_NEWS_MAX];
    struct xp_gather gather;
    struct xp_part *parts; /* root: [size] */
};

/* All of these with the lock held. */

/* The group has failed; everybody but `from` (NULL: nobody) must hear of it. The first failure is the one that counts. */
void xp_liveness_fail(struct xp_liveness *l, const struct xp_link *from, xp_status s, int culprit, const char *text);
void xp_liveness_fail_fmt(struct xp_liveness *l, xp_status s, int culprit, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* A peer that proved itself sends what this version does not understand. */
void xp_liveness_bad_message(struct xp_liveness *l, const struct xp_link *k, const char *what);
/* Queues a message on every open link except one (NULL: on all) and lets go of it. p may be NULL: no memory. */
void xp_liveness_send_all(struct xp_liveness *l, const struct xp_link *except, struct xp_packet *p);

/* gather.c: its messages, and what must be looked at again when a rank leaves. */
void xp_gather_on_part(struct xp_liveness *l, struct xp_link *k, const struct xp_msg_head *h);
void xp_gather_on_result(struct xp_liveness *l, struct xp_link *k, const struct xp_msg_head *h);
void xp_gather_on_refusal(struct xp_liveness *l, struct xp_link *k, const struct xp_msg_head *h);
void xp_gather_on_late(struct xp_liveness *l, struct xp_link *k, const struct xp_msg_head *h);
void xp_gather_settle(struct xp_liveness *l);

#endif
