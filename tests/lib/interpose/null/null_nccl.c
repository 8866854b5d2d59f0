/*
 * null_nccl.c - an NCCL whose calls do nothing but count, to time what stands before them
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/interpose/nccl_abi.h"

#define RANKS 64
#define BOTH(type, name, args) \
    __attribute__((visibility("default"))) type p##name args; \
    __attribute__((visibility("default"), weak, alias("p" #name))) type name args; \
    type p##name args

__attribute__((visibility("default"))) unsigned long null_nccl_calls;

BOTH(ncclResult_t, ncclSend, (const void *send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream))
{
    null_nccl_calls++;
    return comm && peer < RANKS ? ncclSuccess : ncclInvalidArgument;
}

BOTH(ncclResult_t, ncclRecv, (void *recv, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream))
{
    null_nccl_calls++;
    return comm && peer < RANKS ? ncclSuccess : ncclInvalidArgument;
}

BOTH(ncclResult_t, ncclGroupStart, (void))
{
    return ncclSuccess;
}

BOTH(ncclResult_t, ncclGroupEnd, (void))
{
    return ncclSuccess;
}

BOTH(ncclResult_t, ncclCommCount, (const ncclComm_t comm, int *count))
{
    *count = RANKS;
    return ncclSuccess;
}

BOTH(ncclResult_t, ncclCommUserRank, (const ncclComm_t comm, int *rank))
{
    *rank = 3;
    return ncclSuccess;
}

BOTH(ncclResult_t, ncclCommCuDevice, (const ncclComm_t comm, int *device))
{
    *device = 0;
    return ncclSuccess;
}
