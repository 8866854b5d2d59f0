/*
 * divert.h - an all-to-all of a group that leaves NCCL: whether, and its part on the program's streams
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_DIVERT_H
#define XP_DIVERT_H

#include "lib/interpose/proxy.h"

/* The calls of a group that is being ended, and one exchange in it. */
struct xp_divert {
    struct xp_side *side;
    struct xp_call *calls;
    size_t ncalls;
    int op;         /* calls[i].op of its calls */
    int collective; /* one ncclAlltoAll, at calls[first] */
    size_t first;
    struct xp_slot *slot;
    int diverted;
    int timed;      /* its time is of interest, whether it is diverted or not */
    int asks;       /* it stays, but the ranks agree on something because of it */
};

/* Whether the exchange may leave NCCL at all: known before the ranks are joined, and the same on all of them. */
int xp_divert_possible(const struct xp_divert *d);

/* Whether it does, on a joined communicator. Counts it; from time to time the ranks meet here and judge whether it pays. */
int xp_divert_wanted(struct xp_divert *d);

/* Whether a message of this exchange leaves NCCL; both its ends answer alike. */
int xp_divert_takes(const struct xp_divert *d, int peer, size_t bytes);

/* Enqueues the copies to the staging buffer and hands the exchange to the proxy. */
ncclResult_t xp_divert_begin(struct xp_divert *d);

/* Enqueues the wait for the proxy and the copies from the staging buffer. */
ncclResult_t xp_divert_finish(struct xp_divert *d);

#endif
