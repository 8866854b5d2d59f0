/*
 * data_calls.c - the calls of NCCL that move data: arguments are checked as NCCL does, then the call waits for its group
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/cuemu/runtime.h"
#include "tests/fake_nccl/fake_nccl.h"

/* Memory that a kernel could not reach would be a crash on a device. */
static ncclResult_t check_buffer(const char *name, const void *at, size_t bytes)
{
    struct xp_cuemu_range range;

    if (!bytes)
        return ncclSuccess;
    if (!at || !xp_cuemu_find(at, &range))
        return fake_error(ncclInvalidArgument, "%s: %p is no memory of a device", name, at);
    if ((uintptr_t)at + bytes > (uintptr_t)range.base + range.bytes)
        return fake_error(ncclInvalidArgument, "%s: %zu bytes at %p go beyond the end of the allocation", name, bytes, at);
    return ncclSuccess;
}

static ncclResult_t check(const char *name, const struct call *c, size_t send_parts, size_t recv_parts, bool rooted)
{
    ncclResult_t r = fake_check_comm(c->comm);
    size_t bytes = c->count * fake_type_bytes(c->type);

    if (r)
        return r;
    if (!fake_type_bytes(c->type))
        return fake_error(ncclInvalidArgument, "%s: data type %d is not known", name, c->type);
    if (rooted && (c->peer < 0 || c->peer >= c->comm->n))
        return fake_error(ncclInvalidArgument, "%s: rank %d is not one of %d", name, c->peer, c->comm->n);
    if (c->kind >= CALL_REDUCE)
        r = fake_reduce_check(c->comm, c->op, c->type);
    if (!r)
        r = check_buffer(name, c->send, bytes * send_parts);
    return r ? r : check_buffer(name, c->recv, bytes * recv_parts);
}

/* send_parts, recv_parts: how many times count each buffer has, 0 where it is not looked at; negative: as many as there are ranks */
static ncclResult_t take(const char *name, struct call c, int send_parts, int recv_parts, bool rooted)
{
    int fault = fake_fault(name, c.comm);
    size_t n = c.comm ? (size_t)c.comm->n : 1;
    ncclResult_t r;

    fake_log("%s comm=%p rank=%d peer=%d count=%zu type=%d stream=%p depth=%d", name, (void *)c.comm, c.comm ? c.comm->rank : -1,
             c.peer, c.count, c.type, (void *)c.stream, fake_depth());
    if (fault != FAKE_NO_FAULT)
        return fake_group_fail((ncclResult_t)fault);
    r = check(name, &c, send_parts < 0 ? n : (size_t)send_parts, recv_parts < 0 ? n : (size_t)recv_parts, rooted);
    return r ? fake_group_fail(r) : fake_submit(&c);
}

NCCL_API(ncclResult_t, ncclSend, const void *send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
         cudaStream_t stream)
{
    struct call c = {.kind = CALL_SEND, .comm = comm, .send = send, .count = count, .type = type, .peer = peer, .stream = stream};

    return take("ncclSend", c, 1, 0, true);
}

NCCL_API(ncclResult_t, ncclRecv, void *recv, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    struct call c = {.kind = CALL_RECV, .comm = comm, .recv = recv, .count = count, .type = type, .peer = peer, .stream = stream};

    return take("ncclRecv", c, 0, 1, true);
}

NCCL_API(ncclResult_t, ncclAllGather, const void *send, void *recv, size_t count, ncclDataType_t type, ncclComm_t comm,
         cudaStream_t stream)
{
    struct call c = {.kind = CALL_ALLGATHER, .comm = comm, .send = send, .recv = recv, .count = count, .type = type,
                     .stream = stream};

    return take("ncclAllGather", c, 1, -1, false);
}

NCCL_API(ncclResult_t, ncclAllReduce, const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
         ncclComm_t comm, cudaStream_t stream)
{
    struct call c = {.kind = CALL_ALLREDUCE, .comm = comm, .send = send, .recv = recv, .count = count, .type = type,
                     .op = (int)op, .stream = stream};

    return take("ncclAllReduce", c, 1, 1, false);
}

NCCL_API(ncclResult_t, ncclReduce, const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
         ncclComm_t comm, cudaStream_t stream)
{
    struct call c = {.kind = CALL_REDUCE, .comm = comm, .send = send, .recv = recv, .count = count, .type = type, .op = (int)op,
                     .peer = root, .stream = stream};

    return take("ncclReduce", c, 1, comm && comm->rank == root, true);
}

NCCL_API(ncclResult_t, ncclReduceScatter, const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
         ncclComm_t comm, cudaStream_t stream)
{
    struct call c = {.kind = CALL_REDUCE_SCATTER, .comm = comm, .send = send, .recv = recv, .count = count, .type = type,
                     .op = (int)op, .stream = stream};

    return take("ncclReduceScatter", c, -1, 1, false);
}

NCCL_API(ncclResult_t, ncclBroadcast, const void *send, void *recv, size_t count, ncclDataType_t type, int root,
         ncclComm_t comm, cudaStream_t stream)
{
    struct call c = {.kind = CALL_BROADCAST, .comm = comm, .send = send, .recv = recv, .count = count, .type = type,
                     .peer = root, .stream = stream};

    return take("ncclBroadcast", c, comm && comm->rank == root, 1, true);
}

/* Through the public name, as NCCL does: a preloaded ncclBroadcast sees this call. */
NCCL_API(ncclResult_t, ncclBcast, void *buffer, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
         cudaStream_t stream)
{
    return ncclBroadcast(buffer, buffer, count, type, root, comm, stream);
}

#ifndef FAKE_NCCL_OLD
NCCL_API(ncclResult_t, ncclAlltoAll, const void *send, void *recv, size_t count, ncclDataType_t type, ncclComm_t comm,
         cudaStream_t stream)
{
    struct call c = {.kind = CALL_ALLTOALL, .comm = comm, .send = send, .recv = recv, .count = count, .type = type,
                     .stream = stream};

    return take("ncclAlltoAll", c, -1, -1, false);
}

NCCL_API(ncclResult_t, ncclGather, const void *send, void *recv, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
         cudaStream_t stream)
{
    struct call c = {.kind = CALL_GATHER, .comm = comm, .send = send, .recv = recv, .count = count, .type = type, .peer = root,
                     .stream = stream};

    return take("ncclGather", c, 1, comm && comm->rank == root ? -1 : 0, true);
}

NCCL_API(ncclResult_t, ncclScatter, const void *send, void *recv, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
         cudaStream_t stream)
{
    struct call c = {.kind = CALL_SCATTER, .comm = comm, .send = send, .recv = recv, .count = count, .type = type, .peer = root,
                     .stream = stream};

    return take("ncclScatter", c, comm && comm->rank == root ? -1 : 0, 1, true);
}
#endif
