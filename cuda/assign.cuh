/*
 * assign.cuh - nearest centroids of sketches, a warp for a few rows and a lane for every 32nd centroid
 *
 * |a - c|^2 = |a|^2 + |c|^2 + c . (-2 a), modulo 2^32 as kernels.h has it, whose order of additions does not matter.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_ASSIGN_CUH
#define XP_CUDA_ASSIGN_CUH

#include "cuda/port.cuh"

constexpr unsigned XP_ASSIGN_WARPS = 8;    /* of a block */
constexpr unsigned XP_ASSIGN_VALUES = 512; /* values that a warp has at hand: of one row, or of several shorter ones */

struct xp_assign_shared {
    alignas(16) int twice[XP_ASSIGN_WARPS][XP_ASSIGN_VALUES]; /* -2 times the sketches of a warp's rows, one behind the other */
};

struct xp_sketches {
    const int16_t *row, *centroid;
    uint32_t rows, centroids;
    unsigned s; /* values, a multiple of 32 */
};

/* Rows that a warp takes at a time. */
static __host__ __device__ inline unsigned xp_assign_rows(unsigned s)
{
    return 4 * s <= XP_ASSIGN_VALUES ? 4 : 1;
}

static __device__ __forceinline__ int xp_low16(unsigned v)
{
    return (int16_t)v;
}

static __device__ __forceinline__ int xp_high16(unsigned v)
{
    return (int)v >> 16;
}

/* Leaves -2 a of the ROWS rows from `first` on in twice, zeros for rows there are not; norm[r]: |a|^2 of each. */
template <unsigned ROWS>
static __device__ __forceinline__ void xp_assign_take(const xp_sketches &k, uint32_t first, unsigned lane, int *twice, uint32_t (&norm)[ROWS])
{
    __syncwarp(); /* the rows before these have been used */
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++) {
        const unsigned *a = reinterpret_cast<const unsigned *>(k.row + (size_t)(first + r) * k.s);

        norm[r] = 0;
        for (unsigned i = lane; i < k.s / 2; i += 32) {
            const unsigned both = first + r < k.rows ? a[i] : 0;
            const int low = xp_low16(both), high = xp_high16(both);
            norm[r] += (uint32_t)(low * low) + (uint32_t)(high * high);
            twice[r * k.s + 2 * i] = -2 * low;
            twice[r * k.s + 2 * i + 1] = -2 * high;
        }
        norm[r] = __reduce_add_sync(XP_FULL_WARP, norm[r]);
    }
    __syncwarp();
}

/* Distances of the rows at hand to centroid c, less |a|^2. */
template <unsigned ROWS>
static __device__ __forceinline__ void xp_assign_distances(const int16_t *c, const int *twice, unsigned s, uint32_t (&d)[ROWS])
{
    uint32_t norm = 0;

#pragma unroll
    for (unsigned r = 0; r < ROWS; r++)
        d[r] = 0;
#pragma unroll 1
    for (unsigned i = 0; i < s; i += 8) {
        const uint4 raw = *reinterpret_cast<const uint4 *>(c + i);
        const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (unsigned w = 0; w < 4; w += 2) {
            const int v[4] = {xp_low16(words[w]), xp_high16(words[w]), xp_low16(words[w + 1]), xp_high16(words[w + 1])};
            norm += (uint32_t)(v[0] * v[0]) + (uint32_t)(v[1] * v[1]) + (uint32_t)(v[2] * v[2]) + (uint32_t)(v[3] * v[3]);
#pragma unroll
            for (unsigned r = 0; r < ROWS; r++) {
                const uint4 t = *reinterpret_cast<const uint4 *>(twice + r * s + i + 2 * w);
                d[r] += (uint32_t)v[0] * t.x + (uint32_t)v[1] * t.y + (uint32_t)v[2] * t.z + (uint32_t)v[3] * t.w;
            }
        }
    }
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++)
        d[r] += norm;
}

/* Calls found(row, centroid) in one lane for each of the ROWS rows from `first` on: its nearest centroid, the lowest of equals. */
template <unsigned ROWS, class F>
static __device__ __forceinline__ void xp_assign_nearest(const xp_sketches &k, uint32_t first, unsigned lane, int *twice, F &&found)
{
    uint32_t norm[ROWS], least[ROWS], best[ROWS];

    xp_assign_take<ROWS>(k, first, lane, twice, norm);
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++) {
        least[r] = UINT32_MAX;
        best[r] = 0;
    }
    for (uint32_t c = lane; c < k.centroids; c += 32) {
        uint32_t d[ROWS];

        xp_assign_distances<ROWS>(k.centroid + (size_t)c * k.s, twice, k.s, d);
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++)
            if (d[r] + norm[r] < least[r]) {
                least[r] = d[r] + norm[r];
                best[r] = c;
            }
    }
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++) {
        const uint32_t distance = __reduce_min_sync(XP_FULL_WARP, least[r]);
        const uint32_t nearest = __reduce_min_sync(XP_FULL_WARP, least[r] == distance ? best[r] : UINT32_MAX);
        if (lane == r && first + r < k.rows)
            found(first + r, nearest);
    }
}

/* All rows, shared by the warps of `blocks` blocks. */
template <class F> static __device__ __forceinline__ void xp_assign_all(const xp_sketches &k, unsigned blocks, xp_assign_shared &s, F &&found)
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, each = xp_assign_rows(k.s);

    for (uint32_t first = (blockIdx.x * XP_ASSIGN_WARPS + warp) * each; first < k.rows; first += blocks * XP_ASSIGN_WARPS * each) {
        if (each == 4)
            xp_assign_nearest<4>(k, first, lane, s.twice[warp], found);
        else
            xp_assign_nearest<1>(k, first, lane, s.twice[warp], found);
    }
}

#endif
