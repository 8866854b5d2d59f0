/*
 * real_path.h - opens the real libnccl.so.2 by its path
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_REAL_PATH_H
#define XP_REAL_PATH_H

/* A handle, or NULL. `own` is the load address of this library, which is never taken for the real one. */
void *xp_real_open(const void *own);

#endif
