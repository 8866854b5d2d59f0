/*
 * cost.h - what a transfer costs: t = messages * alpha + bytes * beta, per class of link
 *
 * Two kinds of questions. Which algorithm serves a plan must be answered alike on all ranks, so only values that all ranks
 * share go in. Whether a stream is coded is the sender's own choice (the stream says which form it has), so there the rank's
 * latest measurement counts.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_COST_H
#define XP_COST_H

#include "collectives/pipeline.h"

/* Predicted seconds of a call of average size (every rank sends half of its maximum, evenly). */
double xp_cost_flat(const struct xp_shape *s);
double xp_cost_hier(const struct xp_shape *s);
double xp_cost_leader(const struct xp_shape *s);

/* Whether sending `distinct` rows and a map takes noticeably fewer bytes than sending all rows. */
int xp_cost_dedup_pays(const struct xp_shape *s, size_t rows, size_t distinct);

/* Whether the coder makes these rows arrive sooner than plain ones would. Always, when the user named a codec that does
 * more than leave out copies. */
int xp_cost_coding_pays(const struct xp_shape *s, const struct xp_rows *in);

/* After a call: takes over how fast the slow hop delivered. */
void xp_cost_refine(struct xp_pipe *p);

/*
 * Measures the slow hop, once per comm: every rank streams XP_COST_PROBE bytes to the rank of the same index on the next node,
 * all at the same time. Collective. The least speed of all ranks is kept in c->link_bytes_per_s, equal on all.
 */
#define XP_COST_PROBE ((size_t)1 << 20)
xp_status xp_cost_measure(struct xp_comm *c, uint32_t plan);

#endif
