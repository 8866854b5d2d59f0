/*
 * near.h - rows inside the node: the part that algorithms with a slow hop have in common
 *
 * Every pair of ranks of the node directly, in plain streams; the own rows by a copy that goes on from the beginning of the call.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_NEAR_H
#define XP_NEAR_H

#include "collectives/counts.h"
#include "collectives/round.h"
#include "collectives/selfcopy.h"

struct xp_near {
    const int *local;  /* [locals] ranks of this node */
    int locals, index; /* how many; which one is this rank */
    struct xp_segment *out_seg, *in_seg; /* [locals] of the call */
    struct xp_send_stream *out;          /* [locals] */
    struct xp_recv_stream *in;
    struct xp_self_copy self;
};

xp_status xp_near_create(struct xp_near *n, const struct xp_comm *c);
void xp_near_destroy(struct xp_near *n);

/* Posts what comes from the node, sets up what goes to it. */
void xp_near_begin(struct xp_near *n, struct xp_pipe *p, const struct xp_call *call);
/* Whether the headers of all other ranks of the node are here. */
int xp_near_headers_here(const struct xp_near *n, const struct xp_counts *k);
/* With these here: XP_OK, or XP_ERR_CORRUPT when one of them does not have so many words in its tail. */
xp_status xp_near_check_tails(const struct xp_near *n, const struct xp_counts *k, size_t words);
/* Moves the streams on (the copy: xp_self_copy_progress, in every round). */
xp_status xp_near_round(struct xp_near *n, struct xp_round *r);
/* Whether the rows of local rank i have come. */
int xp_near_here(const struct xp_near *n, int i);
void xp_near_cancel(struct xp_near *n);

#endif
