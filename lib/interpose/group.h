/*
 * group.h - groups of calls: what is buffered between ncclGroupStart and ncclGroupEnd, and what becomes of it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_GROUP_H
#define XP_GROUP_H

#include "lib/interpose/pattern.h"

/* A data call, as it came. `caller` is the address it came from. */
ncclResult_t xp_group_call(const struct xp_call *c, const void *caller);

ncclResult_t xp_group_start(void);
ncclResult_t xp_group_end(void);

/* NCCL only estimates and drops the group. */
ncclResult_t xp_group_simulate_end(ncclSimInfo_t *info);

/* Makes a call at once. */
ncclResult_t xp_group_forward(const struct xp_call *c);

#endif
