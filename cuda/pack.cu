/*
 * pack.cu - rows of their own lengths, back to back: where each begins, and the copy from slots to a payload
 *
 * One cooperative launch: every block sums the lengths of a stretch of rows, all blocks meet (grid.cuh), and each goes on from the sum
 * of those before it. A row passes through shared memory, because where it goes begins at any byte: 16-byte loads and stores on both sides.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/copy.cuh"
#include "cuda/grid.cuh"
#include "cuda/row.cuh"
#include "cuda/scan.cuh"
#include "cuda/shape.cuh"

namespace
{

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / 32;

struct Pack {
    const uint8_t *formats;   /* lengths follow from these, or */
    const uint32_t *lengths;  /* are given */
    uint32_t bytes[XP_ROW_FORMATS];
    const uint32_t *order;    /* row i of the payload is row order[i]; NULL: in order */
    size_t rows, each;        /* each: rows of a block */
    const unsigned char *slots; /* NULL: only where rows begin */
    size_t stride;
    unsigned char *payload;
    uint64_t *at;
    uint64_t *sums;           /* [blocks] */
    unsigned *counter;
};

struct Shared {
    xp_copy_room room[WARPS];
    uint64_t warp[WARPS];
    uint64_t start[THREADS];
    uint32_t row[THREADS], length[THREADS];
};

static __device__ __forceinline__ uint32_t length_of(const Pack &p, size_t i, uint32_t *row)
{
    *row = p.order ? p.order[i] : (uint32_t)i;
    if (p.lengths)
        return p.lengths[*row];
    const unsigned format = p.formats[*row];
    return format < XP_ROW_FORMATS ? p.bytes[format] : 0;
}

static __device__ __forceinline__ uint64_t sum_of(Shared &s, const Pack &p, size_t begin, size_t end)
{
    uint64_t mine = 0, all;
    uint32_t row;

    for (size_t i = begin + threadIdx.x; i < end; i += THREADS)
        mine += length_of(p, i, &row);
    xp_scan_block<WARPS>(s.warp, mine, &all);
    return all;
}

__global__ void __launch_bounds__(THREADS, 2) pack_kernel(const __grid_constant__ Pack p)
{
    XP_SHARED(Shared, s);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const size_t begin = min(p.rows, blockIdx.x * p.each), end = min(p.rows, begin + p.each);
    xp_grid_barrier all = {p.counter, 0};
    uint64_t next, ours;

    ours = sum_of(s, p, begin, end);
    if (threadIdx.x == 0)
        p.sums[blockIdx.x] = ours;
    xp_grid_wait(all);
    uint64_t before = 0;
    for (unsigned b = threadIdx.x; b < blockIdx.x; b += THREADS)
        before += p.sums[b];
    xp_scan_block<WARPS>(s.warp, before, &next);
    for (size_t first = begin; first < end; first += THREADS) {
        const size_t i = first + threadIdx.x;
        uint32_t row = 0;
        const uint32_t length = i < end ? length_of(p, i, &row) : 0;
        uint64_t taken;
        const uint64_t start = next + xp_scan_block<WARPS>(s.warp, length, &taken);
        if (i < end)
            p.at[i] = start;
        next += taken;
        if (!p.slots)
            continue;
        s.start[threadIdx.x] = start;
        s.row[threadIdx.x] = row;
        s.length[threadIdx.x] = length;
        __syncthreads();
        for (unsigned k = warp; k < min((size_t)THREADS, end - first); k += WARPS)
            xp_copy_bytes(s.room[warp], p.slots + s.row[k] * p.stride, p.payload + s.start[k], s.length[k], lane);
    } /* the next scan's barriers keep these rows until all have been copied */
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0)
        p.at[p.rows] = next;
    xp_grid_leave(all);
}

constexpr size_t HEAD_BYTES = 256; /* the counter and the padding behind it */

int launch_pack(const struct xp_gpu *g, Pack &p, void *scratch)
{
    const unsigned blocks = xp_blocks_together(g, xp_ceil_div(p.rows, 2 * WARPS));
    const xp_shape shape = {dim3(blocks), dim3(THREADS), 0, true};

    p.each = xp_ceil_div(p.rows, blocks);
    p.counter = static_cast<unsigned *>(scratch);
    p.sums = reinterpret_cast<uint64_t *>(static_cast<char *>(scratch) + HEAD_BYTES);
    return xp_launch("pack", shape, g->stream, pack_kernel, p);
}

} // namespace

extern "C" size_t xp_cuda_pack_scratch(const struct xp_gpu *g)
{
    return HEAD_BYTES + g->sms * sizeof(uint64_t);
}

extern "C" int xp_cuda_pack(const struct xp_gpu *g, const uint8_t *slots, size_t stride, const uint32_t *lengths, const uint32_t *order, size_t rows,
                            void *scratch, uint64_t *at, uint8_t *payload)
{
    Pack p = {};

    p.lengths = lengths;
    p.order = order;
    p.rows = rows;
    p.slots = slots;
    p.stride = stride;
    p.payload = payload;
    p.at = at;
    return launch_pack(g, p, scratch);
}

extern "C" int xp_cuda_row_places(const struct xp_gpu *g, const uint8_t *formats, size_t dim, xp_dtype t, size_t rows, void *scratch, uint64_t *at)
{
    Pack p = {};

    for (unsigned f = 1; f < XP_Q_BASE; f++)
        p.bytes[f] = (uint32_t)xp_qrow_bytes((enum xp_qformat)f, dim);
    p.bytes[XP_Q_RAW] = (uint32_t)(dim * xp_dtype_size(t));
    p.formats = formats;
    p.rows = rows;
    p.at = at;
    return launch_pack(g, p, scratch);
}
