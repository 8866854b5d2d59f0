/*
 * group.cuh - rows that know the first row of their cluster, to stable clusters: the part that grouping and refinement share
 *
 * The first rows are numbered in their order: these are the clusters' numbers. Two passes of a stable radix sort put the rows in the
 * order of their clusters' numbers. The first xp_group_tiles(rows) blocks own 1024 rows each; between the steps all blocks meet.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_GROUP_CUH
#define XP_CUDA_GROUP_CUH

#include "cuda/grid.cuh"

constexpr unsigned XP_GROUP_THREADS = 256;
constexpr unsigned XP_GROUP_WARPS = XP_GROUP_THREADS / 32;
constexpr unsigned XP_GROUP_STRIPS = 4;                                 /* rows of a thread */
constexpr unsigned XP_GROUP_TILE = XP_GROUP_THREADS * XP_GROUP_STRIPS;  /* rows of a block */
constexpr unsigned XP_GROUP_MOST_TILES = XP_CUDA_GROUP_ROWS / XP_GROUP_TILE;
constexpr unsigned XP_GROUP_DIGITS = 256;
constexpr uint32_t XP_GROUP_NONE = UINT32_MAX;

/* Scratch of the sort, in device memory. */
struct xp_group_sort {
    uint32_t *tile_firsts; /* [MOST_TILES] rows of a tile that are the first of their cluster */
    uint32_t *histogram;   /* [MOST_TILES][DIGITS] */
    uint32_t *number;      /* [rows] number of the cluster whose first row this is, else XP_GROUP_NONE */
    uint32_t *sorted;      /* [rows] cluster << 16 | row, after the first pass */
};

static inline size_t xp_group_sort_words(size_t rows)
{
    return XP_GROUP_MOST_TILES + XP_GROUP_MOST_TILES * XP_GROUP_DIGITS + 2 * rows;
}

static inline xp_group_sort xp_group_sort_at(uint32_t *w, size_t rows)
{
    uint32_t *histogram = w + XP_GROUP_MOST_TILES, *number = histogram + XP_GROUP_MOST_TILES * XP_GROUP_DIGITS;

    return {w, histogram, number, number + rows};
}

struct xp_group_shared {
    uint32_t counts[XP_GROUP_WARPS][XP_GROUP_DIGITS]; /* digits seen by a warp, then by those before it */
    uint32_t base[XP_GROUP_DIGITS];                   /* where the tile's rows of a digit begin */
    uint32_t sums[XP_GROUP_WARPS];
};

struct xp_dev_clusters {
    uint32_t *of, *start, *order, *count;
};

static __host__ __device__ inline unsigned xp_group_tiles(size_t rows)
{
    return rows ? (unsigned)xp_ceil_div(rows, XP_GROUP_TILE) : 1;
}

/* Rows of a warp lie together, strip by strip, so that lanes and strips are in the order of the rows. */
static __device__ __forceinline__ uint32_t xp_group_row(unsigned strip)
{
    return blockIdx.x * XP_GROUP_TILE + threadIdx.x / 32 * (32 * XP_GROUP_STRIPS) + strip * 32 + threadIdx.x % 32;
}

/* Sum over the threads before this one in the block; *total: over all. */
static __device__ __forceinline__ uint32_t xp_group_scan(xp_group_shared &s, uint32_t v, uint32_t *total)
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t sum = v, before = 0;

#pragma unroll
    for (unsigned d = 1; d < 32; d *= 2) {
        const uint32_t other = __shfl_up_sync(XP_FULL_WARP, sum, d);
        sum += lane >= d ? other : 0;
    }
    __syncthreads(); /* the sums of a scan before this one have been read */
    if (lane == 31)
        s.sums[warp] = sum;
    __syncthreads();
    *total = 0;
    for (unsigned w = 0; w < XP_GROUP_WARPS; w++) {
        before += w < warp ? s.sums[w] : 0;
        *total += s.sums[w];
    }
    return before + sum - v;
}

/* ---- numbers of clusters ---- */

/* Bit s: the row of strip s is the first of its cluster. Leaves how many the tile has. */
static __device__ __forceinline__ unsigned xp_group_firsts(const xp_group_sort &x, xp_group_shared &s, const uint32_t (&first)[XP_GROUP_STRIPS])
{
    unsigned flags = 0;
    uint32_t all;

#pragma unroll
    for (unsigned i = 0; i < XP_GROUP_STRIPS; i++)
        flags |= (unsigned)(first[i] == xp_group_row(i)) << i;
    xp_group_scan(s, (uint32_t)__popc(flags), &all);
    if (threadIdx.x == 0)
        x.tile_firsts[blockIdx.x] = all;
    return flags;
}

/* Lanes of a warp have rows in turn, strip by strip. */
static __device__ __forceinline__ void xp_group_number(const xp_group_sort &x, xp_group_shared &s, unsigned flags, uint32_t rows, uint32_t *count)
{
    const unsigned lane = threadIdx.x % 32;
    const uint32_t theirs = threadIdx.x < xp_group_tiles(rows) ? x.tile_firsts[threadIdx.x] : 0;
    uint32_t all, in_tile, in_warp = 0;

    xp_group_scan(s, threadIdx.x < blockIdx.x ? theirs : 0, &in_tile);
    xp_group_scan(s, theirs, &all);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *count = all;
#pragma unroll
    for (unsigned i = 0; i < XP_GROUP_STRIPS; i++)
        in_warp += (uint32_t)__popc(__ballot_sync(XP_FULL_WARP, (int)(flags >> i & 1)));
    uint32_t at = in_tile + xp_group_scan(s, lane == 0 ? in_warp : 0, &all);
    at = __shfl_sync(XP_FULL_WARP, at, 0);
#pragma unroll
    for (unsigned i = 0; i < XP_GROUP_STRIPS; i++) {
        const unsigned firsts = __ballot_sync(XP_FULL_WARP, (int)(flags >> i & 1));
        if (xp_group_row(i) < rows)
            x.number[xp_group_row(i)] = flags >> i & 1 ? at + (uint32_t)__popc(firsts & ((1u << lane) - 1)) : XP_GROUP_NONE;
        at += (uint32_t)__popc(firsts);
    }
}

/* ---- a pass of the sort ---- */

/* How many rows of the tile's warp have the same digit and come before; leaves the tile's counts of all digits. */
static __device__ __forceinline__ void xp_group_rank(const xp_group_sort &x, xp_group_shared &s, const uint32_t (&item)[XP_GROUP_STRIPS], unsigned shift,
                                                     uint32_t rows, uint32_t (&rank)[XP_GROUP_STRIPS])
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t sum = 0;

    for (unsigned w = 0; w < XP_GROUP_WARPS; w++)
        s.counts[w][threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < XP_GROUP_STRIPS; i++) {
        const bool mine = xp_group_row(i) < rows;
        const unsigned digit = mine ? item[i] >> shift & (XP_GROUP_DIGITS - 1) : XP_GROUP_DIGITS;
        const unsigned peers = __match_any_sync(XP_FULL_WARP, digit);
        rank[i] = mine ? s.counts[warp][digit] + (uint32_t)__popc(peers & ((1u << lane) - 1)) : 0;
        __syncwarp();
        if (mine && (unsigned)__ffs((int)peers) - 1 == lane)
            s.counts[warp][digit] += (uint32_t)__popc(peers);
        __syncwarp();
    }
    __syncthreads();
    for (unsigned w = 0; w < XP_GROUP_WARPS; w++) {
        const uint32_t here = s.counts[w][threadIdx.x];
        s.counts[w][threadIdx.x] = sum;
        sum += here;
    }
    x.histogram[blockIdx.x * XP_GROUP_DIGITS + threadIdx.x] = sum;
}

/* Where this tile's rows of each digit go, from the counts of all tiles. */
static __device__ __forceinline__ void xp_group_place(const xp_group_sort &x, xp_group_shared &s, uint32_t rows)
{
    uint32_t before = 0, all = 0, total;

    for (unsigned t = 0; t < xp_group_tiles(rows); t++) {
        const uint32_t here = x.histogram[t * XP_GROUP_DIGITS + threadIdx.x];
        before += t < blockIdx.x ? here : 0;
        all += here;
    }
    s.base[threadIdx.x] = xp_group_scan(s, all, &total) + before;
    __syncthreads();
}

static __device__ __forceinline__ uint32_t xp_group_position(const xp_group_shared &s, uint32_t item, unsigned shift, uint32_t rank)
{
    const unsigned digit = item >> shift & (XP_GROUP_DIGITS - 1);

    return s.base[digit] + s.counts[threadIdx.x / 32][digit] + rank;
}

/* ---- all of it ---- */

/* first: of each row of the thread, the first row of its cluster, all written before the last barrier; XP_GROUP_NONE behind the last
 * row. What is written to c is not seen by other blocks before the next barrier. */
static __device__ __forceinline__ void xp_group_clusters(const xp_group_sort &x, xp_group_shared &s, xp_grid_barrier &all,
                                                         const uint32_t (&first)[XP_GROUP_STRIPS], uint32_t rows, const xp_dev_clusters &c)
{
    const bool mine = blockIdx.x < xp_group_tiles(rows);
    uint32_t item[XP_GROUP_STRIPS], rank[XP_GROUP_STRIPS];
    unsigned flags = 0;

    if (mine)
        flags = xp_group_firsts(x, s, first);
    xp_grid_wait(all);
    if (mine)
        xp_group_number(x, s, flags, rows, c.count);
    xp_grid_wait(all);
    if (mine) {
#pragma unroll
        for (unsigned i = 0; i < XP_GROUP_STRIPS; i++)
            if (xp_group_row(i) < rows) {
                const uint32_t number = x.number[first[i]];
                c.of[xp_group_row(i)] = number;
                item[i] = number << 16 | xp_group_row(i);
            }
        xp_group_rank(x, s, item, 16, rows, rank);
    }
    xp_grid_wait(all);
    if (mine) {
        xp_group_place(x, s, rows);
#pragma unroll
        for (unsigned i = 0; i < XP_GROUP_STRIPS; i++)
            if (xp_group_row(i) < rows)
                x.sorted[xp_group_position(s, item[i], 16, rank[i])] = item[i];
    }
    xp_grid_wait(all);
    if (mine) {
#pragma unroll
        for (unsigned i = 0; i < XP_GROUP_STRIPS; i++)
            if (xp_group_row(i) < rows)
                item[i] = x.sorted[xp_group_row(i)];
        xp_group_rank(x, s, item, 24, rows, rank);
    }
    xp_grid_wait(all);
    if (mine) {
        xp_group_place(x, s, rows);
#pragma unroll
        for (unsigned i = 0; i < XP_GROUP_STRIPS; i++)
            if (xp_group_row(i) < rows) {
                const uint32_t at = xp_group_position(s, item[i], 24, rank[i]), row = item[i] & 0xffff;
                c.order[at] = row;
                if (x.number[row] != XP_GROUP_NONE)
                    c.start[item[i] >> 16] = at;
            }
    }
    if (blockIdx.x == 0 && threadIdx.x == 0)
        c.start[*c.count] = rows;
}

#endif
