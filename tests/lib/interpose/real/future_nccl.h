/*
 * future_nccl.h - what the stand-in for a later NCCL has
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_FUTURE_NCCL_H
#define XP_FUTURE_NCCL_H

#define FUTURE_VERSION 29901
#define FUTURE_API __attribute__((visibility("default")))

struct future_team {
    int ranks, rank, stride;
};

struct future_big {
    int value[32]; /* as big as an ncclUniqueId: passed on the stack */
};

FUTURE_API double ncclGather(double a, long b, float c, long d, double e, long f, double g, long h, double i, long j, long k, long l, double m);
FUTURE_API struct future_team ncclTeamWorld(struct future_big in);
FUTURE_API struct future_big ncclTeamRail(int first);
FUTURE_API int ncclFutureThing(int x);
FUTURE_API int pncclFutureThing(int x);

#endif
