/*
 * pattern.h - which calls of a group are an all-to-all
 *
 * Pure: no NCCL, no CUDA, no state. The rules and why they are safe are in README.md of this folder.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PATTERN_H
#define XP_PATTERN_H

#include <stddef.h>
#include <stdint.h>

#include "lib/interpose/nccl_abi.h"

struct xp_side; /* what is kept beside a communicator: side.h */

enum xp_call_kind { XP_CALL_SEND, XP_CALL_RECV, XP_CALL_ALLTOALL };

/* One buffered call. */
struct xp_call {
    enum xp_call_kind kind;
    int type, peer;   /* peer: send and recv only */
    int op;           /* pattern's answer: index of the exchange that takes it, or -1: forwarded */
    const void *send; /* send, all-to-all */
    void *recv;       /* recv, all-to-all */
    size_t count;     /* elements; all-to-all: for each peer */
    ncclComm_t handle;
    cudaStream_t stream;
    struct xp_side *side; /* NULL: nothing of this communicator is ever diverted */
    const ncclCollConfig_t *config; /* ncclAlltoAllConfig; in the list of a group: a copy */
};

/* How much a group of sends and receives proves (setting GROUPS). */
enum xp_groups {
    XP_GROUPS_OFF,      /* only ncclAlltoAll is an all-to-all */
    XP_GROUPS_AUTO,     /* complete groups issued by a framework that always completes them */
    XP_GROUPS_COMPLETE, /* a group that names every rank, this one included, is the same on every rank */
    XP_GROUPS_SPARSE    /* every rank's group is its part of one all-to-all; what it skips is empty */
};

struct xp_comm_view { /* what the pattern needs to know of a communicator */
    int rank, size;
    enum xp_groups groups;
};

/* One recognised exchange of a group. */
struct xp_found {
    struct xp_side *side;
    int type;
    int collective; /* one ncclAlltoAll; else a set of sends and receives */
    size_t first;   /* index of its first call */
};

/*
 * Finds the all-to-alls of a group and sets `op` of their calls. view(side) tells about a communicator. Returns how many were
 * written to `found` (at most `max`; calls that find no place are forwarded). Order: for each communicator the ncclAlltoAlls as
 * they were called, then sets of sends and receives by data type, so that all ranks agree on it.
 */
size_t xp_pattern_find(struct xp_call *calls, size_t ncalls, struct xp_comm_view (*view)(const struct xp_side *side),
                       struct xp_found *found, size_t max);

/* Bytes of one element, or 0 for a type that this version does not know. */
size_t xp_nccl_type_size(int type);

#endif
