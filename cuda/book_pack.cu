/*
 * book_pack.cu - coded rows and their numbers to book rows: columns as narrow as they can be, then the rows back to back
 *
 * One cooperative launch: every block finds the least and most of its rows' numbers and the sum of their lengths; all blocks meet; each
 * then writes the columns and the rows of its own. Blocks have multiples of 8 rows, whose numbers are whole bytes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/book.cuh"
#include "cuda/copy.cuh"
#include "cuda/grid.cuh"
#include "cuda/scan.cuh"
#include "cuda/shape.cuh"

namespace
{

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / 32;
constexpr unsigned RANGES = 3; /* of steps, offsets, lengths; in this order */

struct Range {
    uint32_t least, most;
};

/* What a block finds. */
struct Found {
    Range range[RANGES];
    uint64_t bytes;
};

struct Pack {
    const xp_book_numbers *numbers;
    const uint8_t *slots;
    size_t stride, rows, each; /* each: rows of a block */
    unsigned centroid_width;
    uint8_t *out;
    uint64_t *len;
    Found *found; /* [blocks] */
    unsigned *counter;
};

struct Columns {
    uint32_t least[RANGES], most[RANGES];
    unsigned width[4];
    uint64_t column[4], rows_at;
};

struct Shared {
    xp_copy_room room[WARPS];
    uint64_t sums[WARPS];
    Range range[RANGES][WARPS];
    uint64_t start[THREADS];
    Columns columns;
};

/* A row's numbers as columns hold them before their least is taken off: the step from 1. */
static __device__ __forceinline__ uint32_t number_of(const xp_book_numbers &n, unsigned range)
{
    return range == 0 ? (uint32_t)(n.step + XP_BOOK_LARGEST_STEP + 1) : range == 1 ? n.offset : n.length;
}

/* Bits that hold 0 .. count - 1. */
static __device__ __forceinline__ unsigned width_of(uint64_t count)
{
    unsigned width = 0;

    while (width < 32 && 1ull << width < count)
        width++;
    return width;
}

static __device__ __forceinline__ void join(Range &a, Range b)
{
    a.least = min(a.least, b.least);
    a.most = max(a.most, b.most);
}

static __device__ __forceinline__ Range over_block(Shared &s, unsigned range, Range mine)
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Range all = {UINT32_MAX, 0};

    mine.least = __reduce_min_sync(XP_FULL_WARP, mine.least);
    mine.most = __reduce_max_sync(XP_FULL_WARP, mine.most);
    if (lane == 0)
        s.range[range][warp] = mine;
    __syncthreads();
    for (unsigned w = 0; w < WARPS; w++)
        join(all, s.range[range][w]);
    return all;
}

/* Of the block's rows. */
static __device__ __forceinline__ Found look(const Pack &p, Shared &s, size_t begin, size_t end)
{
    Found f = {{{UINT32_MAX, 0}, {UINT32_MAX, 0}, {UINT32_MAX, 0}}, 0};
    uint64_t mine = 0;

    for (size_t r = begin + threadIdx.x; r < end; r += THREADS) {
        const xp_book_numbers n = p.numbers[r];
        mine += n.length;
        if (n.step == XP_BOOK_NO_STEP)
            continue;
#pragma unroll
        for (unsigned i = 0; i < RANGES; i++)
            join(f.range[i], {number_of(n, i), number_of(n, i)});
    }
    xp_scan_block<WARPS>(s.sums, mine, &f.bytes);
#pragma unroll
    for (unsigned i = 0; i < RANGES; i++)
        f.range[i] = over_block(s, i, f.range[i]);
    return f;
}

/* From what all blocks found, into s.columns; *before: bytes of the rows of the blocks before this one. */
static __device__ __forceinline__ void choose_columns(const Pack &p, Shared &s, uint64_t *before, uint64_t *bytes)
{
    Range all[RANGES] = {{UINT32_MAX, 0}, {UINT32_MAX, 0}, {UINT32_MAX, 0}};
    uint64_t earlier = 0, every = 0;
    Columns c = {};

    for (unsigned b = threadIdx.x; b < gridDim.x; b += THREADS) {
        const Found f = p.found[b];
        earlier += b < blockIdx.x ? f.bytes : 0;
        every += f.bytes;
#pragma unroll
        for (unsigned i = 0; i < RANGES; i++)
            join(all[i], f.range[i]);
    }
    xp_scan_block<WARPS>(s.sums, earlier, before);
    xp_scan_block<WARPS>(s.sums, every, bytes);
#pragma unroll
    for (unsigned i = 0; i < RANGES; i++) {
        const Range range = over_block(s, i, all[i]);
        c.least[i] = range.least > range.most ? 0 : range.least;
        c.most[i] = range.least > range.most ? 0 : range.most;
    }
    c.most[1] += c.most[1] == c.least[1]; /* the kind of a row without a step is 0 or 1 */
    c.width[XP_BOOK_STEP] = width_of((uint64_t)c.most[0] - c.least[0] + 2);
    c.width[XP_BOOK_OFFSET] = width_of((uint64_t)c.most[1] - c.least[1] + 1);
    c.width[XP_BOOK_LENGTH] = width_of((uint64_t)c.most[2] - c.least[2] + 1);
    c.width[XP_BOOK_CENTROID] = p.centroid_width;
    c.rows_at = xp_book_place_columns(c.width, p.rows, c.column);
    if (threadIdx.x == 0)
        s.columns = c;
    __syncthreads();
}

static __device__ __forceinline__ void write_head(uint8_t *out, const Columns &c)
{
    const int step = (int)c.least[0] - XP_BOOK_LARGEST_STEP - 1, offset = (int)c.least[1] - XP_BOOK_LARGEST_OFFSET;

    out[0] = (uint8_t)step;
    out[1] = (uint8_t)(step >> 8);
    out[2] = (uint8_t)c.width[XP_BOOK_STEP];
    out[3] = (uint8_t)offset;
    out[4] = (uint8_t)c.width[XP_BOOK_OFFSET];
    out[5] = (uint8_t)c.width[XP_BOOK_LENGTH];
    for (unsigned i = 0; i < 4; i++)
        out[6 + i] = (uint8_t)(c.least[2] >> (8 * i));
}

/* What a column has for a row. */
static __device__ __forceinline__ uint32_t entry_of(const xp_book_numbers &n, const Columns &c, unsigned column)
{
    const bool coded = n.step != XP_BOOK_NO_STEP;

    switch (column) {
    case XP_BOOK_STEP: return coded ? number_of(n, 0) - c.least[0] + 1 : 0;
    case XP_BOOK_OFFSET: return coded ? n.offset - c.least[1] : n.offset;
    case XP_BOOK_LENGTH: return coded ? n.length - c.least[2] : 0;
    default: return n.centroid;
    }
}

/* A thread has 8 rows of a column: as many bytes as a number has bits. */
static __device__ __forceinline__ void write_columns(const Pack &p, const Columns &c, size_t begin, size_t end)
{
    for (size_t first = begin + threadIdx.x / 4 * 8; first < end; first += THREADS / 4 * 8) {
        const unsigned column = threadIdx.x % 4, width = c.width[column];
        uint8_t *to = p.out + c.column[column] + first / 8 * width;
        uint64_t hold = 0;
        unsigned have = 0;

        for (size_t r = first; r < first + 8 && r < end; r++) {
            hold |= (uint64_t)entry_of(p.numbers[r], c, column) << have;
            for (have += width; have >= 8; have -= 8, hold >>= 8)
                *to++ = (uint8_t)hold;
        }
        if (have)
            *to = (uint8_t)hold;
    }
}

static __device__ __forceinline__ void write_rows(const Pack &p, Shared &s, uint64_t next, size_t begin, size_t end)
{
    for (size_t first = begin; first < end; first += THREADS) {
        const size_t r = first + threadIdx.x;
        uint64_t taken;

        s.start[threadIdx.x] = next + xp_scan_block<WARPS>(s.sums, r < end ? p.numbers[r].length : 0, &taken);
        next += taken;
        __syncthreads();
        for (unsigned k = threadIdx.x / 32; k < min((size_t)THREADS, end - first); k += WARPS)
            xp_copy_bytes(s.room[threadIdx.x / 32], p.slots + (first + k) * p.stride, p.out + s.start[k], p.numbers[first + k].length, threadIdx.x % 32);
        __syncthreads();
    }
}

__global__ void __launch_bounds__(THREADS, 2) book_pack_kernel(const __grid_constant__ Pack p)
{
    XP_SHARED(Shared, s);
    const size_t begin = min(p.rows, blockIdx.x * p.each), end = min(p.rows, begin + p.each);
    xp_grid_barrier all = {p.counter, 0};
    uint64_t before, bytes;

    const Found ours = look(p, s, begin, end);
    if (threadIdx.x == 0)
        p.found[blockIdx.x] = ours;
    xp_grid_wait(all);
    choose_columns(p, s, &before, &bytes);
    const Columns &c = s.columns;
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        write_head(p.out, c);
        *p.len = c.rows_at + bytes;
    }
    write_columns(p, c, begin, end);
    write_rows(p, s, c.rows_at + before, begin, end);
    xp_grid_leave(all);
}

constexpr size_t HEAD_BYTES = 256; /* the counter and the padding behind it */

size_t round16(size_t n)
{
    return xp_ceil_div(n, 16) * 16;
}

} // namespace

xp_book_scratch xp_book_scratch_at(const struct xp_gpu *g, const struct xp_rows *in, void *scratch)
{
    const size_t runs = xp_ceil_div(in->rows, XP_BOOK_RUN);
    unsigned char *p = static_cast<unsigned char *>(scratch);
    xp_book_scratch x = {};

    x.counter = reinterpret_cast<unsigned *>(p);
    p += HEAD_BYTES;
    x.found = p;
    p += round16(g->sms * sizeof(Found));
    x.above = reinterpret_cast<double *>(p);
    p += round16(runs * sizeof(double));
    x.leader = reinterpret_cast<uint32_t *>(p);
    p += round16(runs * sizeof(uint32_t));
    x.numbers = reinterpret_cast<xp_book_numbers *>(p);
    p += in->rows * sizeof(xp_book_numbers);
    x.slots = p;
    x.stride = round16(xp_row_bytes(in));
    x.bytes = (size_t)(p - static_cast<unsigned char *>(scratch)) + in->rows * x.stride;
    return x;
}

extern "C" size_t xp_cuda_book_encode_scratch(const struct xp_gpu *g, const struct xp_rows *in)
{
    return xp_book_scratch_at(g, in, nullptr).bytes;
}

int xp_cuda_book_pack(const struct xp_gpu *g, const struct xp_gpu_book *b, const xp_book_scratch &x, size_t rows, uint8_t *out, uint64_t *len)
{
    const unsigned blocks = xp_blocks_together(g, xp_ceil_div(rows, 2 * WARPS));
    Pack p = {};

    p.numbers = x.numbers;
    p.slots = x.slots;
    p.stride = x.stride;
    p.rows = rows;
    p.each = xp_ceil_div(xp_ceil_div(rows, blocks), 8) * 8;
    p.centroid_width = xp_bit_width(b->centroids);
    p.out = out;
    p.len = len;
    p.found = static_cast<Found *>(x.found);
    p.counter = x.counter;
    return xp_launch("book pack", {dim3(blocks), dim3(THREADS), 0, true}, g->stream, book_pack_kernel, p);
}
