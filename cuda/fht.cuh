/*
 * fht.cuh - Hadamard transforms in the registers of a warp
 *
 * Two 16-bit values travel as the one integer hi * 2^16 + lo: sums and differences of such integers are those of the values as long
 * as none leaves 16 bits, so one 32-bit addition and one shuffle do two butterflies. Every caller says why its values stay inside.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_FHT_CUH
#define XP_CUDA_FHT_CUH

#include "cuda/port.cuh"

static __device__ __forceinline__ uint32_t xp_pair(int lo, int hi)
{
    return ((uint32_t)hi << 16) + (uint32_t)lo;
}

static __device__ __forceinline__ int xp_pair_low(uint32_t p)
{
    return (int16_t)p;
}

static __device__ __forceinline__ int xp_pair_high(uint32_t p)
{
    return (int)(p - (uint32_t)(int)(int16_t)p) >> 16;
}

/* As two int16 lie in memory. */
static __device__ __forceinline__ uint32_t xp_int16_words(int lo, int hi)
{
    return (uint32_t)lo % 65536 | (uint32_t)hi << 16;
}

/* Butterflies between the registers of a lane: over all bits of the index. */
template <unsigned N> static __device__ __forceinline__ void xp_fht_registers(uint32_t (&p)[N])
{
#pragma unroll
    for (unsigned half = 1; half < N; half *= 2)
#pragma unroll
        for (unsigned i = 0; i < N; i++)
            if (!(i & half)) {
                const uint32_t a = p[i], b = p[i + half];
                p[i] = a + b;
                p[i + half] = a - b;
            }
}

/* Butterflies between lanes, over the bits of the lane number below `lanes`. All lanes of the warp take part. */
template <unsigned N> static __device__ __forceinline__ void xp_fht_lanes(uint32_t (&p)[N], unsigned lane, unsigned lanes)
{
#pragma unroll
    for (unsigned half = 1; half < 32; half *= 2) {
        if (half >= lanes)
            break;
        const uint32_t factor = lane & half ? ~0u : 1u;
#pragma unroll
        for (unsigned i = 0; i < N; i++)
            p[i] = p[i] * factor + __shfl_xor_sync(XP_FULL_WARP, p[i], half);
    }
}

#endif
