/*
 * real.h - the functions of the NCCL below us
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_REAL_H
#define XP_REAL_H

#include "lib/interpose/nccl_abi.h"

/* What the interposer itself calls, each at most a pointer away after its first use. */
#define XP_REAL_FUNCTIONS(F) \
    F(ncclGetVersion) F(ncclGetErrorString) F(ncclGetLastError) F(ncclCommInitRank) F(ncclCommInitRankConfig) \
    F(ncclCommInitRankScalable) F(ncclCommInitAll) F(ncclCommSplit) F(ncclCommShrink) F(ncclCommGrow) F(ncclCommFinalize) \
    F(ncclCommDestroy) F(ncclCommAbort) F(ncclCommRevoke) F(ncclCommSuspend) F(ncclCommGetAsyncError) F(ncclCommCount) \
    F(ncclCommCuDevice) F(ncclCommUserRank) F(ncclCommWindowRegister) F(ncclGroupStart) F(ncclGroupEnd) \
    F(ncclGroupSimulateEnd) F(ncclSend) F(ncclRecv) F(ncclAlltoAll) F(ncclAlltoAllConfig) F(ncclAllGather)

enum xp_real_fn {
#define F(name) XP_REAL_##name,
    XP_REAL_FUNCTIONS(F)
#undef F
    XP_REAL_COUNT
};

/* The real function, or NULL where the NCCL of this process does not have it (which is looked up again the next time). */
void *xp_real_find(enum xp_real_fn f);
#define XP_REAL(name) ((__typeof__(&name))xp_real_find(XP_REAL_##name))

/* The same by name, not kept. `name` begins with nccl or pnccl. */
void *xp_real_lookup(const char *name);

/* Where the real NCCL is: a path, or "" when none was found. */
void xp_real_path(char *path, size_t size);

#endif
