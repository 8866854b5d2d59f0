/*
 * life.h - birth, death and state of communicators
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_LIFE_H
#define XP_LIFE_H

#include "lib/interpose/nccl_abi.h"

/* A communicator may now go by this handle: what was kept of an older one is dropped. */
void xp_life_born(ncclComm_t comm);

/* Waits until nothing of ours is under way. */
void xp_life_flush(ncclComm_t comm);

/* Drops the entry, before NCCL frees the handle. abort: without waiting for anybody. */
void xp_life_end(ncclComm_t comm, int abort);

/* Gives up what is under way; the handle lives on, and NCCL answers for it. */
void xp_life_revoke(ncclComm_t comm);

/* Nothing of it is diverted from now on, for the reason given; called at a point that all ranks pass. */
void xp_life_straight(ncclComm_t comm, const char *why);

/* What a failed exchange of ours adds to NCCL's own state, or ncclSuccess. */
ncclResult_t xp_life_error(ncclComm_t comm);

/* The text of the last failed exchange, or NULL. */
const char *xp_life_last_error(void);

#endif
