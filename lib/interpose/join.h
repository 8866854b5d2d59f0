/*
 * join.h - the ranks of an NCCL communicator become the ranks of a crosspress communicator
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_JOIN_H
#define XP_JOIN_H

#include "lib/interpose/side.h"

/*
 * Joins communicators that the same group of calls is about to use, from the calling thread, outside any group. Collective over
 * the ranks of each. Afterwards each is XP_SIDE_JOINED or XP_SIDE_STRAIGHT, alike on all ranks; nothing else can come of it.
 */
void xp_join(struct xp_side **sides, size_t n);

#endif
