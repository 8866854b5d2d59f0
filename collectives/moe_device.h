/*
 * moe_device.h - rows of a MoE layer in device memory: the work of dispatch.c and combine.c as launches on the caller's stream
 *
 * Maps are made on the host. What launches must know of one, its *lists* (which rows a row is made of, with which weights), is copied to the
 * device once, when the map is complete. A folded step has one map more, which its dispatch makes: of virtual tokens. Nothing here waits for the device but the scalars that come back for gradients of weights, which travel as
 * messages of the host. An error of CUDA is kept until the operation asks for it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_MOE_DEVICE_H
#define XP_MOE_DEVICE_H

#include "collectives/moe.h"

/* Sets m->device with the rows' staging memory in m->out and m->in, and m->dots; the current device is the plan's. */
xp_status xp_moe_device_create(struct xp_moe *m);
/* Sets m->fold_device, for the folder. */
xp_status xp_moe_device_fold(struct xp_moe *m);
void xp_moe_device_destroy(struct xp_moe *m);

/* Lists of a routing, with room for any map, and what r->fold has on the device. 0 or -1. */
int xp_moe_lists_create(const struct xp_moe *m, struct xp_routing *r);
void xp_moe_lists_destroy(struct xp_routing *r);

/* The stream of an operation goes on behind what the layer last did and behind the lists of its routing. */
extern const struct xp_moe_row_ops xp_moe_device_rows;

#endif
