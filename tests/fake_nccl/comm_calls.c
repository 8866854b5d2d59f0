/*
 * comm_calls.c - the life of communicators of the NCCL double, and what they tell of themselves
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/cudart.h"
#include "tests/cuemu/runtime.h"
#include "tests/fake_nccl/fake_nccl.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define COMM_MAGIC 0x6e636f6du
#define PATIENCE 60.0 /* for groups under way when a communicator ends */

/* ---- state */

static ncclResult_t known(const struct ncclComm *comm)
{
    if (!comm)
        return fake_error(ncclInvalidArgument, "the communicator is NULL");
    if (comm->magic != COMM_MAGIC)
        return fake_error(ncclInvalidArgument, "%p is no communicator, or none any more", (const void *)comm);
    return ncclSuccess;
}

ncclResult_t fake_check_comm(struct ncclComm *comm)
{
    ncclResult_t r = known(comm);

    if (r)
        return r;
    if (comm->state == ncclInProgress)
        return fake_error(ncclInvalidArgument, "rank %d: the communicator is not ready", comm->rank);
    if (comm->revoked || comm->finalized || comm->aborted)
        return fake_error(ncclInvalidUsage, "rank %d: the communicator was revoked or finalized", comm->rank);
    return ncclSuccess;
}

/* The first error stays. */
void fake_set_error(struct ncclComm *comm, ncclResult_t error)
{
    int expected = ncclSuccess, running = ncclInProgress;

    if (!atomic_compare_exchange_strong(&comm->state, &expected, (int)error))
        atomic_compare_exchange_strong(&comm->state, &running, (int)error);
}

bool fake_broken(const struct ncclComm *comm)
{
    int state = comm->state;

    return state != ncclSuccess && state != ncclInProgress;
}

static bool not_blocking(const ncclConfig_t *config, const struct ncclComm *parent)
{
    const struct xp_nccl_config_head *head = (const struct xp_nccl_config_head *)config;

    if (!head || head->blocking == NCCL_UNDEF_INT)
        return parent && !parent->blocking;
    return head->blocking == 0;
}

static ncclResult_t check_config(const ncclConfig_t *config)
{
    const struct xp_nccl_config_head *head = (const struct xp_nccl_config_head *)config;

    if (head && (head->magic != NCCL_CONFIG_MAGIC || head->size < sizeof *head ||
                 (head->blocking != NCCL_UNDEF_INT && head->blocking != 0 && head->blocking != 1)))
        return fake_error(ncclInvalidArgument, "ncclConfig_t is not initialised, or a value is not valid");
    return ncclSuccess;
}

/* ---- birth */

NCCL_API(ncclResult_t, ncclGetUniqueId, ncclUniqueId *id)
{
    int fault = fake_fault("ncclGetUniqueId", NULL);
    struct place root = {0, 0};
    uint64_t nonce;

    fake_log("ncclGetUniqueId");
    if (fault != FAKE_NO_FAULT)
        return (ncclResult_t)fault;
    if (!id)
        return fake_error(ncclInvalidArgument, "ncclGetUniqueId: NULL");
    if (getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
        return ncclSystemError;
    memset(id, 0, sizeof *id);
    memcpy(id->internal, &nonce, sizeof nonce);
    if (fake_tcp()) {
        ncclResult_t r = fake_root_start(&root);
        memcpy(id->internal + sizeof nonce, &root, sizeof root);
        return r;
    }
    return ncclSuccess;
}

static ncclResult_t init(const char *name, ncclComm_t *out, int n, const ncclUniqueId *id, int rank, const ncclConfig_t *config)
{
    int fault = fake_fault(name, NULL);
    ncclResult_t r = check_config(config);
    struct ncclComm *comm;
    struct place root;
    uint64_t nonce;

    fake_log("%s rank=%d nranks=%d depth=%d", name, rank, n, fake_depth());
    if (fault != FAKE_NO_FAULT)
        return fake_group_fail((ncclResult_t)fault);
    if (!r && (!out || n < 1 || rank < 0 || rank >= n))
        r = fake_error(ncclInvalidArgument, "%s: rank %d of %d", name, rank, n);
    if (r)
        return fake_group_fail(r);
    comm = fake_comm_alloc(rank, n, !not_blocking(config, NULL));
    if (!comm)
        return fake_group_fail(ncclSystemError);
    *out = comm;
    memcpy(&nonce, id->internal, sizeof nonce);
    memcpy(&root, id->internal + sizeof nonce, sizeof root);
    return fake_submit_birth(fake_birth_new(comm, nonce, root));
}

NCCL_API(ncclResult_t, ncclCommInitRank, ncclComm_t *comm, int nranks, ncclUniqueId id, int rank)
{
    return init("ncclCommInitRank", comm, nranks, &id, rank, NULL);
}

NCCL_API(ncclResult_t, ncclCommInitRankConfig, ncclComm_t *comm, int nranks, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    return init("ncclCommInitRankConfig", comm, nranks, &id, rank, config);
}

/* Through the public names, as NCCL does it. */
NCCL_API(ncclResult_t, ncclCommInitAll, ncclComm_t *comms, int ndev, const int *devices)
{
    ncclResult_t r = ncclSuccess;
    ncclUniqueId id;
    int before;

    if (!comms || ndev < 1)
        return fake_error(ncclInvalidArgument, "ncclCommInitAll: %d devices", ndev);
    for (int i = 0; devices && i < ndev; i++)
        for (int k = 0; k < i; k++)
            if (devices[k] == devices[i])
                return fake_error(ncclInvalidUsage, "ncclCommInitAll: device %d twice", devices[i]);
    r = ncclGetUniqueId(&id);
    if (r)
        return r;
    cudaGetDevice(&before);
    pncclGroupStart();
    for (int i = 0; i < ndev && !r; i++) {
        if (cudaSetDevice(devices ? devices[i] : i) != 0)
            r = fake_group_fail(ncclUnhandledCudaError);
        else
            r = init("ncclCommInitAll", &comms[i], ndev, &id, i, NULL);
    }
    cudaSetDevice(before);
    ncclResult_t end = pncclGroupEnd();
    return r ? r : end;
}

NCCL_API(ncclResult_t, ncclCommSplit, ncclComm_t comm, int color, int key, ncclComm_t *newcomm, ncclConfig_t *config)
{
    int fault = fake_fault("ncclCommSplit", comm);
    ncclResult_t r = fake_check_comm(comm);

    fake_log("ncclCommSplit comm=%p color=%d key=%d depth=%d", (void *)comm, color, key, fake_depth());
    if (fault != FAKE_NO_FAULT)
        return fake_group_fail((ncclResult_t)fault);
    if (!r)
        r = check_config(config);
    if (!r && (!newcomm || (color < 0 && color != NCCL_SPLIT_NOCOLOR)))
        r = fake_error(ncclInvalidArgument, "ncclCommSplit: colour %d", color);
    if (r)
        return fake_group_fail(r);
    *newcomm = NULL;
    return fake_submit_birth(fake_birth_split(comm, newcomm, color, key, !not_blocking(config, comm)));
}

#ifndef FAKE_NCCL_OLD
NCCL_API(ncclResult_t, ncclCommInitRankScalable, ncclComm_t *comm, int nranks, int rank, int nids, ncclUniqueId *ids,
         ncclConfig_t *config)
{
    if (nids < 1 || nids > nranks || !ids)
        return fake_group_fail(fake_error(ncclInvalidArgument, "ncclCommInitRankScalable: %d ids", nids));
    return init("ncclCommInitRankScalable", comm, nranks, ids, rank, config);
}

NCCL_API(ncclResult_t, ncclCommShrink, ncclComm_t comm, int *exclude, int nexclude, ncclComm_t *newcomm, ncclConfig_t *config,
         int flags)
{
    int fault = fake_fault("ncclCommShrink", comm);
    ncclResult_t r = known(comm);

    fake_log("ncclCommShrink comm=%p exclude=%d depth=%d", (void *)comm, nexclude, fake_depth());
    if (fault != FAKE_NO_FAULT)
        return fake_group_fail((ncclResult_t)fault);
    if (!r)
        r = check_config(config);
    if (!r && (!newcomm || nexclude < 1 || nexclude >= comm->n || !exclude))
        r = fake_error(ncclInvalidArgument, "ncclCommShrink: %d of %d ranks excluded", nexclude, comm->n);
    for (int i = 0; i < nexclude && !r; i++)
        if (exclude[i] < 0 || exclude[i] >= comm->n || exclude[i] == comm->rank)
            r = fake_error(ncclInvalidArgument, "ncclCommShrink: rank %d excluded", exclude[i]);
    if (r)
        return fake_group_fail(r);
    if (flags & NCCL_SHRINK_ABORT)
        comm->revoked = 1;
    *newcomm = NULL;
    return fake_submit_birth(fake_birth_shrink(comm, newcomm, exclude, nexclude, !not_blocking(config, comm)));
}

ncclResult_t ncclCommGetUniqueId(ncclComm_t comm, ncclUniqueId *id);
NCCL_API(ncclResult_t, ncclCommGetUniqueId, ncclComm_t comm, ncclUniqueId *id)
{
    ncclResult_t r = fake_check_comm(comm);

    return r ? r : pncclGetUniqueId(id);
}

/* New ranks have no communicator yet and come up as in ncclCommInitRank; old ones keep their rank. */
NCCL_API(ncclResult_t, ncclCommGrow, ncclComm_t comm, int nranks, const ncclUniqueId *id, int rank, ncclComm_t *newcomm,
         ncclConfig_t *config)
{
    ncclResult_t r = comm ? fake_check_comm(comm) : ncclSuccess;
    uint64_t nonce = 0;

    if (!r && (!newcomm || (!comm && !id) || (comm && (rank != -1 || nranks <= comm->n))))
        r = fake_error(ncclInvalidArgument, "ncclCommGrow: rank %d of %d", rank, nranks);
    if (r)
        return fake_group_fail(r);
    if (!comm)
        return init("ncclCommGrow", newcomm, nranks, id, rank, config);
    if (id)
        memcpy(&nonce, id->internal, sizeof nonce);
    *newcomm = NULL;
    return fake_submit_birth(fake_birth_grow(comm, newcomm, nranks, id ? &nonce : NULL, !not_blocking(config, comm)));
}
#endif

/* ---- death */

/* Groups under way come to their end when the device has run them; somebody has to drive it. */
static ncclResult_t wait_for_groups(struct ncclComm *comm, const char *what)
{
    double since = fake_seconds();

    while (comm->outstanding) {
        if (!xp_cuemu_step(1))
            usleep(100);
        if (fake_broken(comm) && !comm->aborted && !comm->revoked)
            return (ncclResult_t)comm->state;
        if (fake_seconds() - since > PATIENCE) {
            fprintf(stderr, "fake nccl: rank %d: %s waits for %u groups that do not end\n", comm->rank, what, comm->outstanding);
            fflush(stderr);
            _exit(FAKE_EXIT_LOUD);
        }
    }
    return ncclSuccess;
}

static ncclResult_t finalize_now(void *arg)
{
    struct ncclComm *comm = arg;

    comm->finalized = 1;
    return wait_for_groups(comm, "ncclCommFinalize");
}

static ncclResult_t finalize(struct ncclComm *comm)
{
    return comm->blocking ? finalize_now(comm) : fake_in_background(comm, finalize_now, comm);
}

static ncclResult_t bury(struct ncclComm *comm, bool in_order)
{
    fake_wires_close(comm, in_order);
    if (comm->graphs)
        comm->magic = 0; /* captured groups still point here: the memory is not used again */
    else
        fake_comm_free(comm);
    return ncclSuccess;
}

/* Work of a background thread comes first. */
static void wait_until_ready(struct ncclComm *comm)
{
    for (double since = fake_seconds(); comm->state == ncclInProgress && fake_seconds() - since < PATIENCE;)
        usleep(100);
}

static ncclResult_t destroy(struct ncclComm *comm)
{
    ncclResult_t r;

    wait_until_ready(comm);
    r = finalize_now(comm);
    if (r && comm->outstanding) {
        comm->aborted = 1;
        wait_for_groups(comm, "ncclCommDestroy");
    }
    bury(comm, !r);
    return ncclSuccess;
}

static ncclResult_t abort_now(struct ncclComm *comm)
{
    comm->aborted = 1;
    wait_until_ready(comm);
    wait_for_groups(comm, "ncclCommAbort");
    return bury(comm, false);
}

/* NULL is accepted, a call in a group waits for the end of the group. */
static ncclResult_t end_of_life(const char *name, struct ncclComm *comm, ncclResult_t (*how)(struct ncclComm *comm))
{
    int fault = fake_fault(name, comm && comm->magic == COMM_MAGIC ? comm : NULL);
    ncclResult_t r;

    fake_log("%s comm=%p depth=%d", name, (void *)comm, fake_depth());
    if (fault != FAKE_NO_FAULT)
        return (ncclResult_t)fault;
    if (!comm)
        return ncclSuccess;
    r = known(comm);
    if (r)
        return r;
    return fake_defer(comm, how) ? ncclSuccess : how(comm);
}

NCCL_API(ncclResult_t, ncclCommFinalize, ncclComm_t comm)
{
    if (comm && comm->magic == COMM_MAGIC && comm->finalized)
        return fake_error(ncclInvalidArgument, "rank %d: finalized twice", comm->rank);
    return end_of_life("ncclCommFinalize", comm, finalize);
}

NCCL_API(ncclResult_t, ncclCommDestroy, ncclComm_t comm)
{
    return end_of_life("ncclCommDestroy", comm, destroy);
}

NCCL_API(ncclResult_t, ncclCommAbort, ncclComm_t comm)
{
    return end_of_life("ncclCommAbort", comm, abort_now);
}

#ifndef FAKE_NCCL_OLD
static ncclResult_t revoke_now(struct ncclComm *comm)
{
    comm->revoked = 1;
    return wait_for_groups(comm, "ncclCommRevoke");
}

NCCL_API(ncclResult_t, ncclCommRevoke, ncclComm_t comm, int flags)
{
    if (flags)
        return fake_error(ncclInvalidArgument, "ncclCommRevoke: flags %d", flags);
    return end_of_life("ncclCommRevoke", comm, revoke_now);
}

NCCL_API(ncclResult_t, ncclCommSuspend, ncclComm_t comm, int flags)
{
    return fake_check_comm(comm);
}

NCCL_API(ncclResult_t, ncclCommResume, ncclComm_t comm)
{
    return fake_check_comm(comm);
}
#endif

/* ---- what it tells */

NCCL_API(ncclResult_t, ncclCommGetAsyncError, ncclComm_t comm, ncclResult_t *error)
{
    int fault = fake_fault("ncclCommGetAsyncError", comm);
    ncclResult_t r = known(comm);

    if (fault != FAKE_NO_FAULT)
        return (ncclResult_t)fault;
    if (r || !error)
        return r ? r : fake_error(ncclInvalidArgument, "ncclCommGetAsyncError: NULL");
    if (comm->state == ncclSuccess)
        fake_wires_watch(comm);
    *error = (ncclResult_t)comm->state;
    return ncclSuccess;
}

static ncclResult_t tell(const char *name, const struct ncclComm *comm, int *out, int what)
{
    ncclResult_t r = fake_check_comm((struct ncclComm *)comm);

    if (!r && !out)
        r = fake_error(ncclInvalidArgument, "%s: NULL", name);
    if (!r)
        *out = what == 0 ? comm->n : what == 1 ? comm->rank : comm->device;
    return r;
}

NCCL_API(ncclResult_t, ncclCommCount, const ncclComm_t comm, int *count)
{
    return tell("ncclCommCount", comm, count, 0);
}

NCCL_API(ncclResult_t, ncclCommUserRank, const ncclComm_t comm, int *rank)
{
    return tell("ncclCommUserRank", comm, rank, 1);
}

NCCL_API(ncclResult_t, ncclCommCuDevice, const ncclComm_t comm, int *device)
{
    return tell("ncclCommCuDevice", comm, device, 2);
}
