/*
 * scan.cuh - sums over the threads of a block
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_SCAN_CUH
#define XP_CUDA_SCAN_CUH

#include "cuda/port.cuh"

/* Sum over the threads before this one in a block of WARPS warps; *total: over all. sums: [WARPS], shared. */
template <unsigned WARPS> static __device__ __forceinline__ uint64_t xp_scan_block(uint64_t *sums, uint64_t v, uint64_t *total)
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned long long sum = v;
    uint64_t before = 0;

#pragma unroll
    for (unsigned d = 1; d < 32; d *= 2) {
        const unsigned long long other = __shfl_up_sync(XP_FULL_WARP, sum, d);
        sum += lane >= d ? other : 0;
    }
    __syncthreads(); /* the sums of a scan before this one have been read */
    if (lane == 31)
        sums[warp] = sum;
    __syncthreads();
    *total = 0;
    for (unsigned w = 0; w < WARPS; w++) {
        before += w < warp ? sums[w] : 0;
        *total += sums[w];
    }
    return before + sum - v;
}

#endif
