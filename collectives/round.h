/*
 * round.h - one round of an algorithm with many streams: what it may still do, and whether all is done
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_ROUND_H
#define XP_ROUND_H

#include "collectives/pipeline.h"

struct xp_round {
    int encodes, decodes; /* pieces of work that are left */
    int done;             /* every stream that was looked at is */
    int *moved;
};

/* A stream that was not begun in this call (pipe is NULL) is done. */
static inline xp_status xp_round_send(struct xp_round *r, struct xp_send_stream *s)
{
    if (!s->pipe)
        return XP_OK;
    xp_status st = xp_send_progress(s, &r->encodes, r->moved);
    r->done &= xp_send_done(s);
    return st;
}

static inline xp_status xp_round_recv(struct xp_round *r, struct xp_recv_stream *s)
{
    if (!s->pipe)
        return XP_OK;
    xp_status st = xp_recv_progress(s, &r->decodes, r->moved);
    r->done &= xp_recv_done(s);
    return st;
}

/* What the call has come to after a round without errors. */
static inline xp_status xp_round_end(const struct xp_round *r, struct xp_pipe *p)
{
    if (!r->done || !xp_pipe_idle(p))
        return XP_IN_PROGRESS;
    xp_pipe_end(p);
    return XP_OK;
}

/* Sums of maxima that may be "no limit". */
static inline size_t xp_add_saturated(size_t a, size_t b)
{
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}

#endif
