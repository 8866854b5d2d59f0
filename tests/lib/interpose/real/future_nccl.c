/*
 * future_nccl.c - stands for a later NCCL: a few functions, some of which the replacement's list does not have
 *
 * Signatures are chosen to show that trampolines keep every argument; they are not all NCCL's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */

#define ncclGather declared_elsewhere /* here it has another signature */
#include "lib/interpose/nccl_abi.h"
#undef ncclGather
#include "tests/lib/interpose/real/future_nccl.h"

FUTURE_API ncclResult_t ncclGetVersion(int *version)
{
    *version = FUTURE_VERSION;
    return ncclSuccess;
}

double ncclGather(double a, long b, float c, long d, double e, long f, double g, long h, double i, long j, long k, long l, double m)
{
    return a + 2 * (double)b + 3 * (double)c + 4 * (double)d + 5 * e + 6 * (double)f + 7 * g + 8 * (double)h + 9 * i + 10 * (double)j +
           11 * (double)k + 12 * (double)l + 13 * m;
}

struct future_team ncclTeamWorld(struct future_big in)
{
    return (struct future_team){in.value[0], in.value[31], in.value[15]};
}

struct future_big ncclTeamRail(int first)
{
    struct future_big out;
    for (int i = 0; i < 32; i++)
        out.value[i] = first + i;
    return out;
}

int ncclFutureThing(int x)
{
    return x + 1;
}

int pncclFutureThing(int x)
{
    return x + 2;
}
