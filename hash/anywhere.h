/*
 * anywhere.h - functions that are compiled for the host and for a GPU
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_ANYWHERE_H
#define XP_HASH_ANYWHERE_H

#ifdef __CUDACC__
#define XP_ANYWHERE static __host__ __device__ inline
#else
#define XP_ANYWHERE static inline
#endif

#endif
