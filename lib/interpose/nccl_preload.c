/*
 * nccl_preload.c - the NCCL functions that programs reach instead of NCCL's own
 *
 * Each does its part and calls the real one. Inside NCCL (it calls its own public functions) they go straight through.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "lib/interpose/group.h"
#include "lib/interpose/life.h"
#include "lib/interpose/real.h"
#include "lib/interpose/thread.h"

#define EXPORT __attribute__((visibility("default")))
#define CALLER __builtin_return_address(0)

/* The real function must be there; whatever it answers is the answer. */
#define CALL_REAL(name, ...) (XP_REAL(name) ? XP_INSIDE(XP_REAL(name)(__VA_ARGS__)) : not_there())

/* An NCCL that is older than the call; or none at all. */
static ncclResult_t not_there(void)
{
    return XP_REAL(ncclGetVersion) ? ncclInvalidUsage : ncclSystemError;
}

/* ---- data --------------------------------------------------------------------------------------------------------- */

static ncclResult_t data_call(const struct xp_call *c, const void *caller)
{
    return xp_thread.inside ? xp_group_forward(c) : xp_group_call(c, caller);
}

EXPORT ncclResult_t ncclSend(const void *send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    struct xp_call c = {.kind = XP_CALL_SEND, .type = (int)type, .peer = peer, .op = -1, .send = send, .count = count, .handle = comm, .stream = stream};
    return data_call(&c, CALLER);
}

EXPORT ncclResult_t ncclRecv(void *recv, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    struct xp_call c = {.kind = XP_CALL_RECV, .type = (int)type, .peer = peer, .op = -1, .recv = recv, .count = count, .handle = comm, .stream = stream};
    return data_call(&c, CALLER);
}

EXPORT ncclResult_t ncclAlltoAll(const void *send, void *recv, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream)
{
    struct xp_call c = {.kind = XP_CALL_ALLTOALL, .type = (int)type, .op = -1, .send = send, .recv = recv, .count = count, .handle = comm, .stream = stream};
    return data_call(&c, CALLER);
}

EXPORT ncclResult_t ncclAlltoAllConfig(const void *send, void *recv, size_t count, ncclDataType_t type, ncclComm_t comm,
                                       cudaStream_t stream, const ncclCollConfig_t *config)
{
    struct xp_call c = {.kind = XP_CALL_ALLTOALL, .type = (int)type, .op = -1, .send = send, .recv = recv, .count = count, .handle = comm,
                        .stream = stream, .config = config};
    return XP_REAL(ncclAlltoAllConfig) ? data_call(&c, CALLER) : not_there();
}

/* ---- groups ------------------------------------------------------------------------------------------------------- */

EXPORT ncclResult_t ncclGroupStart(void)
{
    return xp_thread.inside ? CALL_REAL(ncclGroupStart) : xp_group_start();
}

EXPORT ncclResult_t ncclGroupEnd(void)
{
    return xp_thread.inside ? CALL_REAL(ncclGroupEnd) : xp_group_end();
}

EXPORT ncclResult_t ncclGroupSimulateEnd(ncclSimInfo_t *info)
{
    return xp_thread.inside ? CALL_REAL(ncclGroupSimulateEnd, info) : xp_group_simulate_end(info);
}

/* ---- birth: handles appear at once, or later (split, shrink); either way the table learns of them at their first use ---- */

static ncclResult_t born(ncclComm_t *comm, ncclResult_t r)
{
    if (comm && (r == ncclSuccess || r == ncclInProgress))
        xp_life_born(*comm);
    return r;
}

EXPORT ncclResult_t ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank)
{
    return born(comm, CALL_REAL(ncclCommInitRank, comm, nranks, id, rank));
}

EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    return born(comm, CALL_REAL(ncclCommInitRankConfig, comm, nranks, id, rank, config));
}

EXPORT ncclResult_t ncclCommInitRankScalable(ncclComm_t *comm, int nranks, int rank, int nids, ncclUniqueId *ids, ncclConfig_t *config)
{
    return born(comm, CALL_REAL(ncclCommInitRankScalable, comm, nranks, rank, nids, ids, config));
}

EXPORT ncclResult_t ncclCommInitAll(ncclComm_t *comms, int ndev, const int *devices)
{
    ncclResult_t r = CALL_REAL(ncclCommInitAll, comms, ndev, devices);
    for (int i = 0; i < ndev && r == ncclSuccess && comms; i++) {
        xp_life_born(comms[i]);
        xp_life_straight(comms[i], "all ranks in one process");
    }
    return r;
}

/* The child may be written later by a thread of NCCL's: its value is not looked at. */
EXPORT ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *newcomm, ncclConfig_t *config)
{
    return CALL_REAL(ncclCommSplit, comm, color, key, newcomm, config);
}

EXPORT ncclResult_t ncclCommShrink(ncclComm_t comm, int *exclude, int nexclude, ncclComm_t *newcomm, ncclConfig_t *config, int flags)
{
    if ((flags & NCCL_SHRINK_ABORT) && !xp_thread.inside)
        xp_life_revoke(comm);
    return CALL_REAL(ncclCommShrink, comm, exclude, nexclude, newcomm, config, flags);
}

EXPORT ncclResult_t ncclCommGrow(ncclComm_t comm, int nranks, const ncclUniqueId *id, int rank, ncclComm_t *newcomm, ncclConfig_t *config)
{
    return CALL_REAL(ncclCommGrow, comm, nranks, id, rank, newcomm, config);
}

/* ---- death and pauses: ours first, while the handle is still good ------------------------------------------------------ */

EXPORT ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    if (!xp_thread.inside)
        xp_life_flush(comm);
    return CALL_REAL(ncclCommFinalize, comm);
}

EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    if (!xp_thread.inside)
        xp_life_end(comm, 0);
    return CALL_REAL(ncclCommDestroy, comm);
}

EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    if (!xp_thread.inside)
        xp_life_end(comm, 1);
    return CALL_REAL(ncclCommAbort, comm);
}

EXPORT ncclResult_t ncclCommRevoke(ncclComm_t comm, int flags)
{
    if (!xp_thread.inside)
        xp_life_revoke(comm);
    return CALL_REAL(ncclCommRevoke, comm, flags);
}

EXPORT ncclResult_t ncclCommSuspend(ncclComm_t comm, int flags)
{
    if (!xp_thread.inside)
        xp_life_flush(comm);
    return CALL_REAL(ncclCommSuspend, comm, flags);
}

/* ---- state -------------------------------------------------------------------------------------------------------- */

EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    ncclResult_t r = CALL_REAL(ncclCommGetAsyncError, comm, error);
    if (r == ncclSuccess && error && *error == ncclSuccess && !xp_thread.inside)
        *error = xp_life_error(comm);
    return r;
}

EXPORT const char *ncclGetLastError(ncclComm_t comm)
{
    const char *own = xp_life_last_error();
    if (own && !xp_thread.inside)
        return own;
    return XP_REAL(ncclGetLastError) ? XP_REAL(ncclGetLastError)(comm) : "";
}

/* Memory that NCCL has a window on is moved by other means than sends and receives; all ranks register it together. */
EXPORT ncclResult_t ncclCommWindowRegister(ncclComm_t comm, void *buf, size_t size, ncclWindow_t *win, int flags)
{
    if (!xp_thread.inside)
        xp_life_straight(comm, "memory windows are registered");
    return CALL_REAL(ncclCommWindowRegister, comm, buf, size, win, flags);
}
