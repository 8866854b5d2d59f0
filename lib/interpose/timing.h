/*
 * timing.h - how long exchanges take on the program's streams: through NCCL, and through this layer
 *
 * Fewer bytes are no gain where NCCL has the better path (RDMA that UCX has not, say). So some exchanges of a class that is diverted are left
 * to NCCL, and the ranks compare what a byte took.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TIMING_H
#define XP_TIMING_H

#include "lib/interpose/divert.h"

/* Before the exchange is enqueued, and after it; both only when d->timed. */
void xp_timing_begin(struct xp_divert *d);
void xp_timing_end(struct xp_divert *d);

/* Seconds for a byte since the last time, the least of some exchanges: through NCCL, through this layer; 0: not known. */
void xp_timing_take(struct xp_class *k, double pace[2]);

void xp_timing_free(struct xp_side *s);

#endif
