/*
 * nccl.c - pieces of device memory by groups of NCCL's sends and receives, or by its all-to-all, on the caller's stream
 *
 * NCCL is loaded when it is needed. A communicator is made from an id of rank 0, which travels as this transport's address; or the
 * program's own is used. Send and recv are missing, for the reasons that transport.h gives with `exchange`.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/interpose/nccl_abi.h"
#include "lib/transport/transport.h"

#define FUNCTIONS(F) \
    F(ncclGetUniqueId) F(ncclCommInitRank) F(ncclCommDestroy) F(ncclCommAbort) F(ncclCommGetAsyncError) F(ncclCommCount) F(ncclCommUserRank) \
    F(ncclGroupStart) F(ncclGroupEnd) F(ncclSend) F(ncclRecv) F(ncclGetErrorString)

static struct nccl {
#define F(name) __typeof__(&name) name;
    FUNCTIONS(F)
#undef F
    __typeof__(&ncclAlltoAll) ncclAlltoAll; /* from 2.28 on */
} nccl;

struct xp_nccl {
    struct xp_transport base;
    struct xp_transport_env env;
    ncclComm_t comm;
    int given; /* the program's */
};

/* ---- the library --------------------------------------------------------------------------------------------------- */

/* The one that the program has loaded comes first: its communicators are that one's. Handles are never closed. */
static void *open_library(const char *path)
{
    void *handle = dlopen("libnccl.so.2", RTLD_LAZY | RTLD_NOLOAD);
    if (!handle && path && path[0])
        handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    return handle ? handle : dlopen("libnccl.so.2", RTLD_LAZY | RTLD_LOCAL);
}

/* Returns whether all functions are there. */
static int find_functions(const char *path, char *why, size_t why_size)
{
    void *handle = open_library(path);
    if (!handle) {
        const char *text = dlerror();
        snprintf(why, why_size, "%s", text ? text : "libnccl.so.2 cannot be loaded");
        return 0;
    }
#define F(name) \
    if (!(nccl.name = (__typeof__(&name))dlsym(handle, #name))) { \
        snprintf(why, why_size, "libnccl.so.2 has no %s", #name); \
        return 0; \
    }
    FUNCTIONS(F)
#undef F
    nccl.ncclAlltoAll = (__typeof__(&ncclAlltoAll))dlsym(handle, "ncclAlltoAll");
    return 1;
}

static int load(const char *path, char *why, size_t why_size)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int loaded;
    pthread_mutex_lock(&lock);
    loaded = loaded || find_functions(path, why, why_size);
    int there = loaded;
    pthread_mutex_unlock(&lock);
    return there;
}

static int nccl_available(char *why, size_t why_size)
{
    return load(NULL, why, why_size);
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

static xp_status failed(ncclResult_t r, const char *what, char *err, size_t err_size)
{
    snprintf(err, err_size, "%s: %s", what, nccl.ncclGetErrorString(r));
    return XP_ERR_SYSTEM;
}

/* A communicator of the program must have our ranks in our order. */
static xp_status adopt(struct xp_nccl *t, char *err, size_t err_size)
{
    int size = 0, rank = -1;
    ncclResult_t r = nccl.ncclCommCount(t->comm, &size);
    if (r == ncclSuccess)
        r = nccl.ncclCommUserRank(t->comm, &rank);
    if (r != ncclSuccess)
        return failed(r, "the NCCL communicator", err, err_size);
    if (size == t->env.size && rank == t->env.rank)
        return XP_OK;
    snprintf(err, err_size, "the NCCL communicator has rank %d of %d, not %d of %d", rank, size, t->env.rank, t->env.size);
    return XP_ERR_INVALID_ARG;
}

static xp_status nccl_open(struct xp_transport **out, const struct xp_transport_env *env, void *address, size_t *address_len, char *err,
                           size_t err_size)
{
    ncclUniqueId id;
    xp_status st = XP_OK;
    *address_len = 0;
    if (!load(env->nccl_path, err, err_size))
        return XP_ERR_UNSUPPORTED;
    struct xp_nccl *t = calloc(1, sizeof *t);
    if (!t) {
        snprintf(err, err_size, "out of memory");
        return XP_ERR_NO_MEMORY;
    }
    t->base.ops = &xp_transport_nccl;
    t->env = *env;
    t->comm = env->nccl_comm;
    t->given = env->nccl_comm != NULL;
    if (t->given) {
        st = adopt(t, err, err_size);
    } else if (env->rank == 0) {
        ncclResult_t r = nccl.ncclGetUniqueId(&id);
        if (r != ncclSuccess)
            st = failed(r, "ncclGetUniqueId", err, err_size);
        memcpy(address, &id, sizeof id);
        *address_len = sizeof id;
    }
    if (st != XP_OK)
        free(t);
    else
        *out = &t->base;
    return st;
}

/* Once, with the address of rank 0. */
static xp_status nccl_connect(struct xp_transport *base, int peer, const void *address, size_t address_len, char *err, size_t err_size)
{
    struct xp_nccl *t = (struct xp_nccl *)base;
    ncclUniqueId id;
    if (t->given)
        return XP_OK;
    if (peer != 0 || address_len < sizeof id) {
        snprintf(err, err_size, "rank %d has no id for a communicator", peer);
        return XP_ERR_INTERNAL;
    }
    memcpy(&id, address, sizeof id);
    ncclResult_t r = nccl.ncclCommInitRank(&t->comm, t->env.size, id, t->env.rank);
    return r == ncclSuccess ? XP_OK : failed(r, "ncclCommInitRank", err, err_size);
}

static void nccl_settled(struct xp_transport *base)
{
    (void)base;
}

static void abort_comm(struct xp_nccl *t)
{
    if (t->comm)
        nccl.ncclCommAbort(t->comm); /* also what waits for it on the device */
    t->comm = NULL;
}

static void nccl_fail(struct xp_transport *base, int peer)
{
    (void)peer;
    abort_comm((struct xp_nccl *)base);
}

static void nccl_close(struct xp_transport *base)
{
    struct xp_nccl *t = (struct xp_nccl *)base;
    if (t->comm && !t->given)
        nccl.ncclCommDestroy(t->comm);
    free(t);
}

/* ---- exchange ------------------------------------------------------------------------------------------------------ */

/* A communicator of the program may be non-blocking: what it has not done yet, check() tells. */
static int is_fine(ncclResult_t r)
{
    return r == ncclSuccess || r == ncclInProgress;
}

static ncclResult_t enqueue(struct xp_nccl *t, const struct xp_piece *send, size_t sends, const struct xp_piece *recv, size_t recvs,
                            cudaStream_t stream)
{
    ncclResult_t r = ncclSuccess;
    for (size_t i = 0; is_fine(r) && i < recvs; i++)
        if (recv[i].len)
            r = nccl.ncclRecv(recv[i].buf, recv[i].len, ncclUint8, recv[i].peer, t->comm, stream);
    for (size_t i = 0; is_fine(r) && i < sends; i++)
        if (send[i].len)
            r = nccl.ncclSend(send[i].buf, send[i].len, ncclUint8, send[i].peer, t->comm, stream);
    return r;
}

static xp_status aborted(char *err, size_t err_size)
{
    snprintf(err, err_size, "the NCCL communicator was aborted");
    return XP_ERR_STATE;
}

static xp_status nccl_exchange(struct xp_transport *base, const struct xp_piece *send, size_t sends, const struct xp_piece *recv, size_t recvs,
                               void *stream, char *err, size_t err_size)
{
    struct xp_nccl *t = (struct xp_nccl *)base;
    if (!t->comm)
        return aborted(err, err_size);
    ncclResult_t r = nccl.ncclGroupStart();
    if (r != ncclSuccess)
        return failed(r, "ncclGroupStart", err, err_size);
    ncclResult_t first = enqueue(t, send, sends, recv, recvs, stream);
    r = nccl.ncclGroupEnd(); /* also after an error: the group belongs to the thread */
    if (!is_fine(first))
        return failed(first, "ncclSend or ncclRecv", err, err_size);
    return is_fine(r) ? XP_OK : failed(r, "ncclGroupEnd", err, err_size);
}

static int nccl_can_alltoall(struct xp_transport *base)
{
    (void)base;
    return nccl.ncclAlltoAll != NULL;
}

static xp_status nccl_alltoall(struct xp_transport *base, const void *send, void *recv, size_t piece, void *stream, char *err, size_t err_size)
{
    struct xp_nccl *t = (struct xp_nccl *)base;
    if (!t->comm)
        return aborted(err, err_size);
    ncclResult_t r = nccl.ncclAlltoAll(send, recv, piece, ncclUint8, t->comm, stream);
    return is_fine(r) ? XP_OK : failed(r, "ncclAlltoAll", err, err_size);
}

static xp_status nccl_check(struct xp_transport *base, char *err, size_t err_size)
{
    struct xp_nccl *t = (struct xp_nccl *)base;
    ncclResult_t state = ncclSuccess;
    if (!t->comm)
        return aborted(err, err_size);
    ncclResult_t r = nccl.ncclCommGetAsyncError(t->comm, &state);
    if (r != ncclSuccess)
        return failed(r, "ncclCommGetAsyncError", err, err_size);
    if (state == ncclSuccess)
        return XP_OK;
    return state == ncclInProgress ? XP_IN_PROGRESS : failed(state, "the NCCL communicator", err, err_size);
}

const struct xp_transport_ops xp_transport_nccl = {
    .size = sizeof(struct xp_transport_ops),
    .name = "nccl",
    .about = "rows in device memory, between GPUs (loaded when needed)",
    .available = nccl_available,
    .open = nccl_open,
    .connect = nccl_connect,
    .settled = nccl_settled,
    .exchange = nccl_exchange,
    .can_alltoall = nccl_can_alltoall,
    .alltoall = nccl_alltoall,
    .check = nccl_check,
    .fail = nccl_fail,
    .close = nccl_close,
};
