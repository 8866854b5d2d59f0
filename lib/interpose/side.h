/*
 * side.h - what is kept beside a communicator: the side table
 *
 * Handles stay NCCL's own, so that programs may pass them to libraries that do not go through us. A communicator is found at its
 * first data call, because one made by ncclCommSplit in a group or without blocking gets its handle later, from another thread.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_SIDE_H
#define XP_SIDE_H

#include <stdatomic.h>
#include <stdint.h>

#include "lib/interpose/cuda_abi.h"
#include "lib/interpose/pattern.h"

struct xp_proxy;

enum xp_side_state {
    XP_SIDE_NEW,      /* no exchange yet */
    XP_SIDE_JOINING,  /* its thread looks for those of the other ranks (join.h); nothing is diverted yet */
    XP_SIDE_JOINED,   /* exchanges from number `from` on may be diverted */
    XP_SIDE_STRAIGHT, /* nothing is diverted; why says what for */
    XP_SIDE_FAILED    /* a diverted exchange failed: data calls report it */
};

#define XP_CLASSES (2 * ncclNumTypes) /* index: 2 * type + collective */

/* What the ranks have agreed on for a class; it holds from exchange `from` of the communicator on. */
struct xp_agreed {
    uint64_t from;
    uint64_t divisor; /* of all messages: what rows are multiples of */
    int judged, pays;
};

/* The least of what exchanges of a class took (timing.c). */
struct xp_timer {
    cudaEvent_t begin, end;
    int running;
    double bytes, pace; /* of the exchange that is timed; seconds for a byte, 0: not known */
};

/* Exchanges of one kind: they share a row length, plans, and the verdict whether diverting them pays. */
struct xp_class {
    size_t unit;           /* bytes of a row as the exchange sees it; 0: not settled yet */
    uint64_t divisor;      /* common divisor of this rank's messages, until the unit is settled; under the proxy's lock */
    uint64_t issued;       /* exchanges of this class since the communicator is joined, diverted or not */
    uint64_t trial_end;    /* number of the exchange whose end brings the next verdict */
    uint64_t bypass_until; /* exchanges below this number go straight through */
    enum { XP_SETTLED, XP_AGREEING, XP_AGREED } agreement; /* whether `next` is under way, or there; under the proxy's lock */
    struct xp_agreed next;
    int pays; /* the last verdict */
    struct xp_timer timer[2]; /* through NCCL, through this layer */
};

struct xp_side {
    ncclComm_t handle;
    int rank, size, device;
    _Atomic int state;
    _Atomic int users; /* threads that are inside with it, and may use the proxy */
    char why[160];     /* of XP_SIDE_STRAIGHT and XP_SIDE_FAILED */
    _Atomic int error; /* ncclResult_t of XP_SIDE_FAILED */
    int nodes;
    int *node_of;            /* [size], after joining */
    struct xp_proxy *_Atomic proxy; /* from the first exchange on */
    int ended;               /* the thread of the proxy is; its memory may go */
    struct xp_join *join;    /* what joining needs; kept while the device may use it */
    uint64_t from;           /* exchange that may be the first to be diverted; set before XP_SIDE_JOINED */
    struct xp_class classes[XP_CLASSES];
    uint64_t diverted, captured, bypassed; /* exchanges; the last two: that could have been diverted otherwise */
    uint64_t forwarded;                    /* other data calls */
    struct xp_side *next;
};

/* The entry of a communicator, made if need be; NULL when it is not usable (then NCCL has something to say about it). */
struct xp_side *xp_side_find(ncclComm_t comm);

/* The entry if there is one. */
struct xp_side *xp_side_peek(ncclComm_t comm);

/* Takes the entry out of the table; the caller owns it. NULL when there is none. */
struct xp_side *xp_side_take(ncclComm_t comm);

/* Frees an entry that has been taken out and whose proxy is gone. */
void xp_side_free(struct xp_side *s);

/* For an entry that another thread may still look at: the memory is kept. */
void xp_side_bury(struct xp_side *s);

/* Calls fn for all of these; one thread at a time. */
void xp_side_buried(void (*fn)(struct xp_side *s));

/* Changes the state, unless the communicator has failed: that is final. why: a text, or NULL. Returns whether it did. */
int xp_side_change(struct xp_side *s, enum xp_side_state state, const char *why);

/* Nothing of this communicator is diverted from now on. Only at a point that all ranks pass alike. */
void xp_side_set_straight(struct xp_side *s, const char *why);

static inline int xp_side_is(const struct xp_side *s, enum xp_side_state state)
{
    return atomic_load_explicit(&s->state, memory_order_acquire) == (int)state;
}

#endif
