/*
 * grid.cuh - a barrier for all blocks of a cooperative launch
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_GRID_CUH
#define XP_CUDA_GRID_CUH

#include "cuda/port.cuh"

/* counter: one word of device memory, zero before the launch; zero again when the last block has called xp_grid_leave. */
struct xp_grid_barrier {
    unsigned *counter;
    unsigned passed; /* barriers */
};

/* What any thread wrote before, every thread sees behind it. */
static __device__ __forceinline__ void xp_grid_wait(xp_grid_barrier &b)
{
    b.passed++;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(b.counter, 1u);
        while (xp_load_acquire(b.counter) < b.passed * gridDim.x) {
        }
        __threadfence();
    }
    __syncthreads();
}

/* In place of a last barrier. */
static __device__ __forceinline__ void xp_grid_leave(xp_grid_barrier &b)
{
    __syncthreads();
    if (threadIdx.x == 0 && atomicAdd(b.counter, 1u) == (b.passed + 1) * gridDim.x - 1)
        atomicExch(b.counter, 0u);
}

#endif
