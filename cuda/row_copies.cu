/*
 * row_copies.cu - which rows are copies of others, exactly: two rounds of a table and a comparison; a warp a row
 *
 * As on the host (hash/dedup.c) rows are told apart by their samples, so rows of which none is a copy are hardly read. Rows with the same
 * key claim one slot of the table, where the first of them is found; the others are compared with it byte by byte. Those that
 * differ from it go through both steps once more, with keys made of the whole row. What then still differs is not a copy.
 *
 * Rows are looked at byte by byte where they may lie at any address: samples are short, and whole rows are seldom hashed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/row.cuh"
#include "cuda/shape.cuh"

namespace
{

constexpr unsigned THREADS = 256;
constexpr unsigned BLOCKS_PER_SM = 8;
constexpr unsigned SAMPLE = 32; /* bytes, from the front and from the middle of a row */
constexpr unsigned AHEAD = 4;   /* 16-byte pieces that a lane loads before it compares them */
constexpr uint32_t NOTHING = XP_GPU_NO_ROW;
constexpr uint64_t FACTOR = 0x9e3779b97f4a7c15, SPREAD = 0xd6e8feb86659fd93;

typedef unsigned long long Word; /* what atomics take */

struct Copies {
    const unsigned char *data;
    size_t rows, row_bytes;
    const xp_gpu_frame *frames;
    unsigned count;
    bool whole;        /* keys are made of whole rows, of those that differed from the first one with their sample */
    size_t mask;       /* of slots */
    Word *key;         /* [slots] 0: free */
    uint32_t *first;   /* [slots] the first row with this key, as its complement: 0 is none */
    uint32_t *slot;    /* [rows] of a row; NOTHING: it is settled */
    unsigned *differ;  /* rows that differed from the first one with their sample */
    uint32_t *copy_of; /* [rows] */
};

/* The frame that a row is in, or NOTHING. */
static __device__ __forceinline__ uint32_t frame_of(const Copies &d, size_t row)
{
    uint32_t low = 0, high = d.count;

    while (low < high) {
        const uint32_t middle = (low + high) / 2;

        if (d.frames[middle].first <= row)
            low = middle + 1;
        else
            high = middle;
    }
    return low && row - d.frames[low - 1].first < d.frames[low - 1].rows ? low - 1 : NOTHING;
}

/* ---- keys ---- */

static __device__ __forceinline__ uint64_t mixed(uint64_t h)
{
    h = (h ^ h >> 32) * SPREAD;
    h = (h ^ h >> 32) * SPREAD;
    return h ^ h >> 32;
}

/* Of two times 32 bytes; all there is of a short row. */
static __device__ __forceinline__ uint64_t of_sample(const unsigned char *row, size_t bytes, unsigned lane)
{
    const size_t second = (bytes <= 2 * SAMPLE ? SAMPLE : bytes / 2 - SAMPLE / 2) + lane;
    const unsigned front = lane < bytes ? row[lane] : 0, middle = second < bytes ? row[second] : 0;

    return mixed((front | middle << 8) + (lane + 1) * FACTOR);
}

static __device__ __forceinline__ uint64_t of_whole(const unsigned char *row, size_t bytes, unsigned lane)
{
    uint64_t h = (lane + 1) * FACTOR;

    for (size_t i = lane; i < bytes; i += 32)
        h = (h ^ row[i]) * FACTOR;
    return mixed(h);
}

/* What rows of one frame that are equal have in common; the same in all lanes, never 0. */
static __device__ __forceinline__ uint64_t key_of(const Copies &d, size_t row, uint32_t frame, unsigned lane)
{
    const unsigned char *p = d.data + row * d.row_bytes;
    uint64_t sum = d.whole ? of_whole(p, d.row_bytes, lane) : of_sample(p, d.row_bytes, lane);

#pragma unroll
    for (unsigned distance = 16; distance; distance /= 2)
        sum += __shfl_xor_sync(XP_FULL_WARP, (Word)sum, distance);
    return mixed(sum + frame * FACTOR) | 1;
}

/* Linear probing; the table is at most half full, for a row with a second key had its first one in common with another row. */
static __device__ __forceinline__ uint32_t claim(const Copies &d, uint64_t key, size_t row)
{
    size_t at = key >> 1 & d.mask;

    for (;; at = (at + 1) & d.mask) {
        const Word before = atomicCAS(&d.key[at], (Word)0, (Word)key);
        if (before == 0 || before == key)
            break;
    }
    atomicMax(&d.first[at], ~(uint32_t)row);
    return (uint32_t)at;
}

__global__ void __launch_bounds__(THREADS, 4) mark_kernel(const __grid_constant__ Copies d)
{
    const unsigned lane = threadIdx.x % 32;

    if (d.whole && *d.differ == 0)
        return;
    for (size_t row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; row < d.rows; row += gridDim.x * (THREADS / 32)) {
        const uint32_t frame = frame_of(d, row);

        if (frame == NOTHING || (d.whole && d.slot[row] == NOTHING))
            continue;
        const uint64_t key = key_of(d, row, frame, lane);
        __syncwarp(); /* the slot has been read by all */
        if (lane == 0)
            d.slot[row] = claim(d, key, row);
    }
}

/* ---- comparison ---- */

/* Whether two rows are equal; the same in all lanes. */
template <bool WIDE> static __device__ __forceinline__ bool are_equal(const unsigned char *a, const unsigned char *b, size_t bytes, unsigned lane)
{
    unsigned differ = 0;

    if constexpr (WIDE) {
        for (size_t first = 16 * lane; first < bytes; first += AHEAD * 512) {
            uint4 x[AHEAD], y[AHEAD];
#pragma unroll
            for (unsigned k = 0; k < AHEAD; k++) {
                const size_t i = first + 512 * k;
                x[k] = i < bytes ? *reinterpret_cast<const uint4 *>(a + i) : make_uint4(0, 0, 0, 0);
                y[k] = i < bytes ? *reinterpret_cast<const uint4 *>(b + i) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
            for (unsigned k = 0; k < AHEAD; k++)
                differ |= (x[k].x ^ y[k].x) | (x[k].y ^ y[k].y) | (x[k].z ^ y[k].z) | (x[k].w ^ y[k].w);
        }
    } else {
        for (size_t i = lane; i < bytes; i += 32)
            differ |= a[i] ^ b[i];
    }
    return !__any_sync(XP_FULL_WARP, differ);
}

template <bool WIDE> __global__ void __launch_bounds__(THREADS, 4) compare_kernel(const __grid_constant__ Copies d)
{
    const unsigned lane = threadIdx.x % 32;

    if (d.whole && *d.differ == 0)
        return;
    for (size_t row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; row < d.rows; row += gridDim.x * (THREADS / 32)) {
        const uint32_t frame = frame_of(d, row), slot = frame == NOTHING ? NOTHING : d.slot[row];

        if (slot == NOTHING)
            continue;
        const uint32_t first = ~d.first[slot];
        /* Keys may collide: the first one may be of another frame. */
        const bool equal = first == row || (first >= d.frames[frame].first && are_equal<WIDE>(d.data + row * d.row_bytes, d.data + first * d.row_bytes, d.row_bytes, lane));
        __syncwarp(); /* the slot has been read by all */
        if (lane)
            continue;
        d.copy_of[row] = equal ? first : (uint32_t)row;
        if (equal)
            d.slot[row] = NOTHING;
        else if (!d.whole)
            atomicAdd(d.differ, 1u);
    }
}

/* ---- launches ---- */

size_t slots_of(size_t rows)
{
    size_t slots = 2;

    while (slots < 2 * rows)
        slots *= 2;
    return slots;
}

int launch_round(const struct xp_gpu *g, const Copies &d, bool wide)
{
    const xp_shape shape = {xp_grid(xp_ceil_div(d.rows, THREADS / 32), (size_t)g->sms * BLOCKS_PER_SM), dim3(THREADS), 0, false};
    const int e = xp_launch("mark copies", shape, g->stream, mark_kernel, d);

    return e ? e : xp_launch("compare copies", shape, g->stream, wide ? compare_kernel<true> : compare_kernel<false>, d);
}

} // namespace

extern "C" size_t xp_cuda_row_copies_scratch(size_t rows)
{
    return slots_of(rows) * (sizeof(Word) + sizeof(uint32_t)) + (rows + 1) * sizeof(uint32_t);
}

extern "C" int xp_cuda_row_copies(const struct xp_gpu *g, const struct xp_rows *in, const struct xp_gpu_frame *frames, size_t count, void *scratch, uint32_t *copy_of)
{
    const size_t slots = slots_of(in->rows);
    Copies d = {};

    if (!in->rows || !count)
        return 0;
    d.data = static_cast<const unsigned char *>(in->data);
    d.rows = in->rows;
    d.row_bytes = in->dim * xp_dtype_size(in->dtype);
    d.frames = frames;
    d.count = (unsigned)count;
    d.mask = slots - 1;
    d.key = static_cast<Word *>(scratch);
    d.first = reinterpret_cast<uint32_t *>(d.key + slots);
    d.slot = d.first + slots;
    d.differ = d.slot + in->rows;
    d.copy_of = copy_of;
    const int e = launch_round(g, d, xp_rows_are_wide(in));
    if (e || d.row_bytes <= 2 * SAMPLE) /* samples are whole rows */
        return e;
    d.whole = true;
    return launch_round(g, d, xp_rows_are_wide(in));
}
