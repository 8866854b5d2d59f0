/*
 * liveness.h - one thread per comm that owns the star of sockets: who is alive, small gathers, and bad news
 *
 * A peer's death is the end of its connection without a GOODBYE, or silence for 10 heartbeats; the root tells everybody, so
 * that each rank learns of it within milliseconds whatever it is doing. The thread never calls the user's code.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_LIVENESS_H
#define XP_LIVENESS_H

#include "lib/star.h"

#define XP_SILENT_HEARTBEATS 10
#define XP_GATHER_MAX (1u << 20) /* bytes of one rank in a gather */
#define XP_BAD_NEWS_MAX 400

struct xp_liveness;

/* Takes over the sockets of net (a copy is kept; net->fds is left NULL). Needs a net of at least 2 ranks. */
xp_status xp_liveness_start(struct xp_liveness **out, struct xp_bootstrap_net *net, double heartbeat);

/* Tells the others that this rank leaves in good order: they wait for nothing that it has not sent yet. */
void xp_liveness_say_goodbye(struct xp_liveness *l);

/* Says goodbye, if that is still to be done, and ends the thread; at most about 1 s. NULL is accepted. */
void xp_liveness_stop(struct xp_liveness *l);

/* In a forked child: lets go of the sockets, so that the parent's death is still seen. Nothing is sent. */
void xp_liveness_abandon(struct xp_liveness *l);

/* XP_OK or the error that ended the group. One atomic read. */
xp_status xp_liveness_health(const struct xp_liveness *l);
/* Waits for bad news, at most that long; returns the health then. */
xp_status xp_liveness_await_news(struct xp_liveness *l, double seconds);
/* After bad health: its text, and the rank that is gone (-1: none in particular). */
int xp_liveness_news(struct xp_liveness *l, char *text, size_t size);

/* Grows with every rank that leaves in good order; xp_liveness_has_left() tells which. */
unsigned xp_liveness_departures(const struct xp_liveness *l);
int xp_liveness_has_left(struct xp_liveness *l, int rank);

/* Ends the group for all ranks, unless it has ended already. */
void xp_liveness_revoke(struct xp_liveness *l, xp_status s, const char *text);

/* Gathers len bytes of every rank at every rank. One thread at a time. On an error the text is in err. `what` names the call. */
xp_status xp_liveness_gather(struct xp_liveness *l, const char *what, const void *in, void *out, size_t len, double timeout,
                             char *err, size_t err_size);

#endif
