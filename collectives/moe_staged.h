/*
 * moe_staged.h - rows of a folded layer in device memory, where the host must see them: its operations between two copies
 *
 * Leaders and outliers are found by looking at rows while clusters are chosen, which is work of the host (folded.h), so such a layer keeps its staging
 * memory and its inner plans there; others are folded on the device (folded_device.h). What an operation takes is copied to pinned memory behind what the caller's stream has been given; the operation runs as for rows of the host; what it gives is copied to
 * the device, and the caller's stream goes on behind that copy. The host never waits for the device but by asking again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_MOE_STAGED_H
#define XP_MOE_STAGED_H

#include "collectives/moe.h"

/* Sets m->stage. */
xp_status xp_moe_stage_create(struct xp_moe *m);
void xp_moe_stage_destroy(struct xp_moe *m);

/* In the place of xp_moe_ops for a layer with a stage. */
extern const struct xp_algo_ops xp_moe_staged_ops;

#endif
