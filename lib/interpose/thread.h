/*
 * thread.h - what the interposer keeps for each thread: the open group, and whether the thread is inside NCCL
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_THREAD_H
#define XP_THREAD_H

#include "lib/interpose/pattern.h"

struct xp_side;

struct xp_thread {
    int inside;  /* > 0: the real NCCL is running and may call its own functions through us */
    int depth;   /* open groups */
    size_t ncalls, cap;
    struct xp_call *calls; /* of the open group, in order */
    ncclResult_t failed;   /* what a call of the open group returned without NCCL's knowing */
    ncclComm_t last;       /* the communicator looked up last, */
    struct xp_side *last_side;
    unsigned last_age;     /* valid while the table has this age */
};

extern __thread struct xp_thread xp_thread;

/* Calls into the real NCCL: wrappers that are entered from inside go straight through. */
#define XP_INSIDE(call) (xp_thread.inside++, xp_leave_with(call))
static inline ncclResult_t xp_leave_with(ncclResult_t r)
{
    xp_thread.inside--;
    return r;
}

#endif
