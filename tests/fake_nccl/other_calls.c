/*
 * other_calls.c - versions, texts, memory and registration, and the names whose work the double does not do
 *
 * Every name that NCCL 2.32 exports is here or in the other *_calls.c, so that a table of functions can be filled. What the double
 * cannot do says so: ncclInvalidUsage and a text.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/cudart.h"
#include "tests/fake_nccl/fake_nccl.h"
#include <stdlib.h>
#include <string.h>

NCCL_API(ncclResult_t, ncclGetVersion, int *version)
{
    const char *text = getenv("FAKE_NCCL_VERSION");

    if (!version)
        return fake_error(ncclInvalidArgument, "ncclGetVersion: NULL");
#ifdef FAKE_NCCL_OLD
    *version = XP_NCCL_VERSION(2, 21, 5);
#else
    *version = XP_NCCL_VERSION(2, 28, 9);
#endif
    if (text && *text)
        *version = atoi(text);
    return ncclSuccess;
}

NCCL_API(const char *, ncclGetErrorString, ncclResult_t result)
{
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
                                        "unhandled system error (run with NCCL_DEBUG=INFO for details)",
                                        "internal error - please report this issue to the NCCL developers",
                                        "invalid argument (run with NCCL_DEBUG=WARN for details)",
                                        "invalid usage (run with NCCL_DEBUG=WARN for details)",
                                        "remote process exited or there was a network error",
                                        "NCCL operation in progress"};

    return (unsigned)result < sizeof texts / sizeof *texts ? texts[result] : "unknown result code";
}

NCCL_API(const char *, ncclGetLastError, ncclComm_t comm)
{
    return fake_last_error();
}

void ncclResetDebugInit(void);
NCCL_API(void, ncclResetDebugInit, void)
{
}

NCCL_API(ncclResult_t, ncclMemAlloc, void **ptr, size_t size)
{
    return cudaMalloc(ptr, size) ? fake_error(ncclUnhandledCudaError, "ncclMemAlloc: no memory") : ncclSuccess;
}

NCCL_API(ncclResult_t, ncclMemFree, void *ptr)
{
    return cudaFree(ptr) ? fake_error(ncclInvalidArgument, "ncclMemFree: not from ncclMemAlloc") : ncclSuccess;
}

/* A registration is a piece of memory of its own; to give one back twice is found by the heap. */
static ncclResult_t new_handle(struct ncclComm *comm, void *buffer, size_t bytes, void **handle)
{
    ncclResult_t r = fake_check_comm(comm);

    if (r)
        return r;
    if (!buffer || !bytes || !handle)
        return fake_error(ncclInvalidArgument, "a registration needs a buffer");
    *handle = malloc(sizeof(void *));
    if (!*handle)
        return ncclSystemError;
    *(void **)*handle = buffer;
    return ncclSuccess;
}

NCCL_API(ncclResult_t, ncclCommRegister, const ncclComm_t comm, void *buffer, size_t bytes, void **handle)
{
    return new_handle(comm, buffer, bytes, handle);
}

NCCL_API(ncclResult_t, ncclCommDeregister, const ncclComm_t comm, void *handle)
{
    free(handle);
    return ncclSuccess;
}

#ifndef FAKE_NCCL_OLD

NCCL_API(ncclResult_t, ncclCommWindowRegister, ncclComm_t comm, void *buffer, size_t bytes, ncclWindow_t *window, int flags)
{
    return new_handle(comm, buffer, bytes, (void **)window);
}

NCCL_API(ncclResult_t, ncclCommWindowDeregister, ncclComm_t comm, ncclWindow_t window)
{
    free(window);
    return ncclSuccess;
}

ncclResult_t ncclWinGetUserPtr(ncclComm_t comm, ncclWindow_t window, void **ptr);
NCCL_API(ncclResult_t, ncclWinGetUserPtr, ncclComm_t comm, ncclWindow_t window, void **ptr)
{
    *ptr = *(void **)window;
    return ncclSuccess;
}

/* ---- 2.31: the collectives with a configuration for each call, which the double does not read */

#define WITH_CONFIG(name, parameters, arguments)                                                              \
    ncclResult_t name##Config parameters;                                                                     \
    ncclResult_t p##name##Config parameters;                                                                  \
    __attribute__((visibility("default"))) ncclResult_t p##name##Config parameters                            \
    {                                                                                                         \
        return name arguments;                                                                                \
    }                                                                                                         \
    __attribute__((visibility("default"), weak, alias("p" #name "Config"))) ncclResult_t name##Config parameters

WITH_CONFIG(ncclAllGather, (const void *s, void *r, size_t n, ncclDataType_t t, ncclComm_t c, cudaStream_t q, const ncclCollConfig_t *k),
            (s, r, n, t, c, q));
WITH_CONFIG(ncclAlltoAll, (const void *s, void *r, size_t n, ncclDataType_t t, ncclComm_t c, cudaStream_t q, const ncclCollConfig_t *k),
            (s, r, n, t, c, q));
WITH_CONFIG(ncclAllReduce, (const void *s, void *r, size_t n, ncclDataType_t t, ncclRedOp_t o, ncclComm_t c, cudaStream_t q,
                            const ncclCollConfig_t *k), (s, r, n, t, o, c, q));
WITH_CONFIG(ncclReduceScatter, (const void *s, void *r, size_t n, ncclDataType_t t, ncclRedOp_t o, ncclComm_t c, cudaStream_t q,
                                const ncclCollConfig_t *k), (s, r, n, t, o, c, q));
WITH_CONFIG(ncclReduce, (const void *s, void *r, size_t n, ncclDataType_t t, ncclRedOp_t o, int root, ncclComm_t c, cudaStream_t q,
                         const ncclCollConfig_t *k), (s, r, n, t, o, root, c, q));
WITH_CONFIG(ncclBroadcast, (const void *s, void *r, size_t n, ncclDataType_t t, int root, ncclComm_t c, cudaStream_t q,
                            const ncclCollConfig_t *k), (s, r, n, t, root, c, q));
WITH_CONFIG(ncclGather, (const void *s, void *r, size_t n, ncclDataType_t t, int root, ncclComm_t c, cudaStream_t q,
                         const ncclCollConfig_t *k), (s, r, n, t, root, c, q));
WITH_CONFIG(ncclScatter, (const void *s, void *r, size_t n, ncclDataType_t t, int root, ncclComm_t c, cudaStream_t q,
                          const ncclCollConfig_t *k), (s, r, n, t, root, c, q));

/* ---- names without work */

static ncclResult_t cannot(const char *name)
{
    fake_log("%s", name);
    return fake_error(ncclInvalidUsage, "%s: not done by the double", name);
}

#define CANNOT(name)                                                                                          \
    ncclResult_t name(void);                                                                                  \
    NCCL_API(ncclResult_t, name, void)                                                                        \
    {                                                                                                         \
        return cannot(#name);                                                                                 \
    }

/* one-sided, since 2.29 */
CANNOT(ncclPutSignal)
CANNOT(ncclSignal)
CANNOT(ncclWaitSignal)
/* memory of suspended communicators, encryption */
CANNOT(ncclCommMemStats)
CANNOT(ncclSetEncryption)
/* device side */
CANNOT(ncclCommQueryProperties)
CANNOT(ncclDevCommCreate)
CANNOT(ncclDevCommDestroy)
CANNOT(ncclGetLsaDevicePointer)
CANNOT(ncclGetPeerDevicePointer)
CANNOT(ncclGetMultimemDevicePointer)
CANNOT(ncclGetLsaMultimemDevicePointer)
CANNOT(ncclGetCftDeviceLeInfo)
CANNOT(ncclGetMultimemDeviceLeInfo)
CANNOT(ncclGetPeerDeviceLeInfo)
CANNOT(ncclLsaBarrierCreateRequirement)
CANNOT(ncclGinBarrierCreateRequirement)
CANNOT(ncclGinOutboxCreateRequirement)
CANNOT(ncclGinInboxA2ACreateRequirement)
CANNOT(ncclLLA2ACreateRequirement)
/* parameters, since 2.30.4 */
CANNOT(ncclParamBind)
CANNOT(ncclParamGet)
CANNOT(ncclParamGetI8)
CANNOT(ncclParamGetI16)
CANNOT(ncclParamGetI32)
CANNOT(ncclParamGetI64)
CANNOT(ncclParamGetU8)
CANNOT(ncclParamGetU16)
CANNOT(ncclParamGetU32)
CANNOT(ncclParamGetU64)
CANNOT(ncclParamGetStr)
CANNOT(ncclParamGetParameter)
CANNOT(ncclParamGetAllParameterKeys)

void ncclParamDumpAll(void);
NCCL_API(void, ncclParamDumpAll, void)
{
}

int ncclLLA2ACalcSlots(int elements, int bytes);
NCCL_API(int, ncclLLA2ACalcSlots, int elements, int bytes)
{
    return elements * ((bytes + 7) / 8);
}

/* A team: how many ranks, which of them is this one, how far they lie apart. Every rank is a team of its own but for the world. */
struct team {
    int n, rank, stride;
};

#define TEAM(name, parameters, ...)                                                                           \
    struct team name parameters;                                                                              \
    struct team p##name parameters;                                                                           \
    __attribute__((visibility("default"))) struct team p##name parameters                                     \
    {                                                                                                         \
        return (struct team){__VA_ARGS__};                                                                    \
    }                                                                                                         \
    __attribute__((visibility("default"), weak, alias("p" #name))) struct team name parameters

TEAM(ncclTeamWorld, (ncclComm_t comm), comm->n, comm->rank, 1);
TEAM(ncclTeamRail, (ncclComm_t comm), comm->n, comm->rank, 1);
TEAM(ncclTeamLsa, (ncclComm_t comm), 1, 0, 1);
TEAM(ncclTeamCft, (ncclComm_t comm, int mode), 1, 0, 1);
TEAM(ncclTeamCftMultimem, (ncclComm_t comm), 1, 0, 1);

int ncclTeamRankToWorld(ncclComm_t comm, struct team team, int rank);
NCCL_API(int, ncclTeamRankToWorld, ncclComm_t comm, struct team team, int rank)
{
    return comm->rank + (rank - team.rank) * team.stride;
}

int ncclTeamRankToLsa(ncclComm_t comm, struct team team, int rank);
NCCL_API(int, ncclTeamRankToLsa, ncclComm_t comm, struct team team, int rank)
{
    return 0;
}

#endif

#ifdef FAKE_NCCL_NEW
/* A function of a release after those that our list knows: a replacement of the library must let it through. */
int ncclFutureCall(int a, double b, const char *c);
NCCL_API(int, ncclFutureCall, int a, double b, const char *c)
{
    return a + (int)b + (int)strlen(c);
}
#endif
