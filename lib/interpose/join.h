/*
 * join.h - the ranks of an NCCL communicator become the ranks of a crosspress communicator
 *
 * The first exchange of a communicator stays with NCCL and carries what the ranks must know of one another. The communicator's
 * thread does the rest. Until then everything stays with NCCL, and no call waits; a rank that does not come within the deadline
 * is an error of the communicator.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_JOIN_H
#define XP_JOIN_H

#include "lib/interpose/proxy.h"

/* For the group that holds the first exchange, while it is open: adds a gather to it and makes the thread. Collective. */
ncclResult_t xp_join_begin(struct xp_side *s);

/* Whether that group was launched; if not, all is as before. */
void xp_join_launched(struct xp_side *s, int launched);

/* The thread's part. Afterwards the side is XP_SIDE_JOINED or XP_SIDE_STRAIGHT, alike on all ranks, or has failed. */
void xp_join_run(struct xp_proxy *p);

/* Frees what joining needed. 0: the device is not through with it. */
int xp_join_free(struct xp_side *s);

#endif
