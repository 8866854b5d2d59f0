/*
 * cluster.cu - bucket ids to stable clusters in one cooperative launch
 *
 * 1. Rows go into a hash table whose slots hold the lowest row of an id (a slot is its own key: the id of the row in it).
 * 2. Those lowest rows are numbered in their order: these are the clusters' numbers.
 * 3. Two passes of a stable radix sort put the rows in the order of their clusters' numbers.
 * Blocks own 1024 rows each; between the steps all of them meet (grid.cuh). What is atomic is a minimum or a compare-and-swap whose
 * winner does not matter, so the result is the same whatever the schedule.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/grid.cuh"

namespace
{

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / 32;
constexpr unsigned STRIPS = 4;                  /* rows of a thread */
constexpr unsigned TILE = THREADS * STRIPS;     /* rows of a block */
constexpr unsigned MOST_TILES = XP_CUDA_GROUP_ROWS / TILE;
constexpr unsigned DIGITS = 256;
constexpr uint32_t FREE = UINT32_MAX;

/* Scratch, in 32-bit words; see xp_cuda_group_scratch. */
struct Scratch {
    unsigned *counter;                  /* of the barrier */
    uint32_t *tile_firsts;              /* [MOST_TILES] rows of a tile that are the first of their cluster */
    uint32_t *histogram;                /* [MOST_TILES][DIGITS] */
    uint32_t *number;                   /* [rows] number of the cluster whose first row this is, else FREE */
    uint32_t *sorted;                   /* [rows] cluster << 16 | row, after the first pass */
    uint32_t *table;                    /* [slots] */
    uint32_t slot_mask, slot_shift;
};

struct Shared {
    uint32_t counts[WARPS][DIGITS];     /* digits seen by a warp, then by those before it */
    uint32_t base[DIGITS];              /* where the tile's rows of a digit begin */
    uint32_t sums[WARPS];
};

struct Clusters {
    uint32_t *of, *start, *order, *count;
};

/* Rows of a warp lie together, strip by strip, so that lanes and strips are in the order of the rows. */
static __device__ __forceinline__ uint32_t row_of(unsigned strip)
{
    return blockIdx.x * TILE + threadIdx.x / 32 * (32 * STRIPS) + strip * 32 + threadIdx.x % 32;
}

/* Sum over the threads before this one in the block; *total: over all. */
static __device__ __forceinline__ uint32_t scan_block(Shared &s, uint32_t v, uint32_t *total)
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
    for (unsigned w = 0; w < WARPS; w++) {
        before += w < warp ? s.sums[w] : 0;
        *total += s.sums[w];
    }
    return before + sum - v;
}

/* ---- 1: the lowest row of each id ---- */

static __device__ __forceinline__ uint32_t insert(const Scratch &x, const uint32_t *ids, uint32_t row)
{
    const uint32_t id = ids[row];
    uint32_t slot = id * 0x9E3779B1u >> x.slot_shift;

    for (;;) {
        const uint32_t there = atomicCAS(&x.table[slot], FREE, row);
        if (there == FREE)
            return slot;
        if (ids[there] == id) {
            atomicMin(&x.table[slot], row);
            return slot;
        }
        slot = (slot + 1) & x.slot_mask;
    }
}

/* ---- 2: their numbers ---- */

/* Bit s: the row of strip s is the first of its cluster. Leaves how many the tile has. */
static __device__ __forceinline__ unsigned find_firsts(const Scratch &x, Shared &s, const uint32_t (&slot)[STRIPS], uint32_t (&first)[STRIPS], uint32_t rows)
{
    unsigned flags = 0;
    uint32_t all;

#pragma unroll
    for (unsigned i = 0; i < STRIPS; i++) {
        first[i] = row_of(i) < rows ? x.table[slot[i]] : FREE;
        flags |= (unsigned)(first[i] == row_of(i)) << i;
    }
    scan_block(s, (uint32_t)__popc(flags), &all);
    if (threadIdx.x == 0)
        x.tile_firsts[blockIdx.x] = all;
    return flags;
}

/* Lanes of a warp have rows in turn, strip by strip. */
static __device__ __forceinline__ void number_firsts(const Scratch &x, Shared &s, unsigned flags, uint32_t rows, uint32_t *count)
{
    const unsigned lane = threadIdx.x % 32;
    const uint32_t theirs = threadIdx.x < gridDim.x ? x.tile_firsts[threadIdx.x] : 0;
    uint32_t all, in_tile, in_warp = 0;

    scan_block(s, threadIdx.x < blockIdx.x ? theirs : 0, &in_tile);
    scan_block(s, theirs, &all);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *count = all;
#pragma unroll
    for (unsigned i = 0; i < STRIPS; i++)
        in_warp += (uint32_t)__popc(__ballot_sync(XP_FULL_WARP, (int)(flags >> i & 1)));
    uint32_t at = in_tile + scan_block(s, lane == 0 ? in_warp : 0, &all);
    at = __shfl_sync(XP_FULL_WARP, at, 0);
#pragma unroll
    for (unsigned i = 0; i < STRIPS; i++) {
        const unsigned firsts = __ballot_sync(XP_FULL_WARP, (int)(flags >> i & 1));
        if (row_of(i) < rows)
            x.number[row_of(i)] = flags >> i & 1 ? at + (uint32_t)__popc(firsts & ((1u << lane) - 1)) : FREE;
        at += (uint32_t)__popc(firsts);
    }
}

/* ---- 3: a pass of the sort ---- */

/* How many rows of the tile's warp have the same digit and come before; leaves the tile's counts of all digits. */
static __device__ __forceinline__ void rank_digits(const Scratch &x, Shared &s, const uint32_t (&item)[STRIPS], unsigned shift, uint32_t rows, uint32_t (&rank)[STRIPS])
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t sum = 0;

    for (unsigned w = 0; w < WARPS; w++)
        s.counts[w][threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < STRIPS; i++) {
        const bool mine = row_of(i) < rows;
        const unsigned digit = mine ? item[i] >> shift & (DIGITS - 1) : DIGITS;
        const unsigned peers = __match_any_sync(XP_FULL_WARP, digit);
        rank[i] = mine ? s.counts[warp][digit] + (uint32_t)__popc(peers & ((1u << lane) - 1)) : 0;
        __syncwarp();
        if (mine && (unsigned)__ffs((int)peers) - 1 == lane)
            s.counts[warp][digit] += (uint32_t)__popc(peers);
        __syncwarp();
    }
    __syncthreads();
    for (unsigned w = 0; w < WARPS; w++) {
        const uint32_t here = s.counts[w][threadIdx.x];
        s.counts[w][threadIdx.x] = sum;
        sum += here;
    }
    x.histogram[blockIdx.x * DIGITS + threadIdx.x] = sum;
}

/* Where this tile's rows of each digit go, from the counts of all tiles. */
static __device__ __forceinline__ void place_digits(const Scratch &x, Shared &s)
{
    uint32_t before = 0, all = 0, total;

    for (unsigned t = 0; t < gridDim.x; t++) {
        const uint32_t here = x.histogram[t * DIGITS + threadIdx.x];
        before += t < blockIdx.x ? here : 0;
        all += here;
    }
    s.base[threadIdx.x] = scan_block(s, all, &total) + before;
    __syncthreads();
}

static __device__ __forceinline__ uint32_t position(const Shared &s, uint32_t item, unsigned shift, uint32_t rank)
{
    const unsigned digit = item >> shift & (DIGITS - 1);

    return s.base[digit] + s.counts[threadIdx.x / 32][digit] + rank;
}

__global__ void __launch_bounds__(THREADS, 2) group_kernel(const uint32_t *__restrict__ ids, uint32_t rows, Scratch x, Clusters c)
{
    XP_SHARED(Shared, s);
    xp_grid_barrier all = {x.counter, 0};
    uint32_t slot[STRIPS] = {}, first[STRIPS], item[STRIPS], rank[STRIPS];

    for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i <= x.slot_mask; i += gridDim.x * THREADS)
        x.table[i] = FREE;
    xp_grid_wait(all);
#pragma unroll
    for (unsigned i = 0; i < STRIPS; i++)
        if (row_of(i) < rows)
            slot[i] = insert(x, ids, row_of(i));
    xp_grid_wait(all);
    const unsigned flags = find_firsts(x, s, slot, first, rows);
    xp_grid_wait(all);
    number_firsts(x, s, flags, rows, c.count);
    xp_grid_wait(all);
#pragma unroll
    for (unsigned i = 0; i < STRIPS; i++)
        if (row_of(i) < rows) {
            const uint32_t number = x.number[first[i]];
            c.of[row_of(i)] = number;
            item[i] = number << 16 | row_of(i);
        }
    rank_digits(x, s, item, 16, rows, rank);
    xp_grid_wait(all);
    place_digits(x, s);
#pragma unroll
    for (unsigned i = 0; i < STRIPS; i++)
        if (row_of(i) < rows)
            x.sorted[position(s, item[i], 16, rank[i])] = item[i];
    xp_grid_wait(all);
#pragma unroll
    for (unsigned i = 0; i < STRIPS; i++)
        if (row_of(i) < rows)
            item[i] = x.sorted[row_of(i)];
    rank_digits(x, s, item, 24, rows, rank);
    xp_grid_wait(all);
    place_digits(x, s);
#pragma unroll
    for (unsigned i = 0; i < STRIPS; i++)
        if (row_of(i) < rows) {
            const uint32_t at = position(s, item[i], 24, rank[i]), row = item[i] & 0xffff;
            c.order[at] = row;
            if (x.number[row] != FREE)
                c.start[item[i] >> 16] = at;
        }
    if (blockIdx.x == 0 && threadIdx.x == 0)
        c.start[*c.count] = rows;
    xp_grid_leave(all);
}

constexpr size_t HEAD_WORDS = 64; /* the counter and the padding behind it */

uint32_t slots_for(size_t rows)
{
    uint32_t slots = 16;

    while (slots < 2 * rows)
        slots *= 2;
    return slots;
}

} // namespace

extern "C" size_t xp_cuda_group_scratch(size_t rows)
{
    return (HEAD_WORDS + MOST_TILES + MOST_TILES * DIGITS + 2 * rows + slots_for(rows)) * sizeof(uint32_t);
}

extern "C" int xp_cuda_group(const struct xp_gpu *g, const uint32_t *ids, size_t rows, void *scratch, uint32_t *of, uint32_t *start, uint32_t *order,
                             uint32_t *count)
{
    uint32_t *w = static_cast<uint32_t *>(scratch) + HEAD_WORDS;
    const uint32_t slots = slots_for(rows);
    const Scratch x = {static_cast<uint32_t *>(scratch), w, w + MOST_TILES, w + MOST_TILES + MOST_TILES * DIGITS,
                       w + MOST_TILES + MOST_TILES * DIGITS + rows, w + MOST_TILES + MOST_TILES * DIGITS + 2 * rows, slots - 1,
                       (uint32_t)__builtin_clz(slots) + 1};
    const unsigned tiles = rows ? (unsigned)xp_ceil_div(rows, TILE) : 1;
    const xp_shape shape = {dim3(tiles), dim3(THREADS), 0, true};

    if (rows > XP_CUDA_GROUP_ROWS)
        return 1; /* cudaErrorInvalidValue */
    return xp_launch("group", shape, g->stream, group_kernel, ids, (uint32_t)rows, x, Clusters{of, start, order, count});
}
