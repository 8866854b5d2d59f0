/*
 * book_places.cu - the columns in front of book rows: their numbers, and where each row begins, in one cooperative launch
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/book.cuh"
#include "cuda/grid.cuh"
#include "cuda/scan.cuh"
#include "cuda/shape.cuh"

namespace
{

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / 32;

struct Sums {
    uint64_t warp[WARPS];
};

struct Places {
    const uint8_t *in;
    uint64_t len;
    size_t rows, each; /* each: rows of a block */
    uint32_t row_bytes, bound, centroids, centroid_width;
    uint64_t *at;      /* [rows] from `in` */
    xp_book_numbers *numbers;
    uint32_t *status;
    uint64_t *sums;    /* [blocks] */
    unsigned *counter;
};

/* The head of the columns. */
struct Head {
    int step_least, offset_least;
    uint32_t length_least;
    unsigned width[4];
    uint64_t column[4], rows_at; /* from `in` */
    bool fine;
};

static __device__ __forceinline__ Head read_head(const Places &p)
{
    Head h = {};

    if (p.len < XP_BOOK_COLUMNS_HEAD)
        return h;
    h.step_least = (int16_t)xp_dev_get16(p.in);
    h.offset_least = (int8_t)p.in[3];
    h.length_least = xp_dev_get16(p.in + 6) | xp_dev_get16(p.in + 8) << 16;
    h.width[XP_BOOK_STEP] = p.in[2];
    h.width[XP_BOOK_OFFSET] = p.in[4];
    h.width[XP_BOOK_LENGTH] = p.in[5];
    h.width[XP_BOOK_CENTROID] = p.centroid_width;
    h.rows_at = xp_book_place_columns(h.width, p.rows, h.column);
    h.fine = h.width[XP_BOOK_STEP] <= 14 && h.width[XP_BOOK_OFFSET] <= 7 && h.width[XP_BOOK_LENGTH] <= 32 && h.rows_at <= p.len;
    return h;
}

/* Number r of a column; no byte behind it is read. */
static __device__ __forceinline__ uint32_t read_number(const uint8_t *column, unsigned width, size_t r)
{
    const uint64_t bit = (uint64_t)r * width;
    const unsigned shift = bit % 8, bytes = (shift + width + 7) / 8;
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)column[bit / 8 + i] << (8 * i);
    return (uint32_t)(v >> shift & ((1ull << width) - 1));
}

static __device__ __forceinline__ xp_book_numbers read_row(const Places &p, const Head &h, size_t r)
{
    const uint32_t step = read_number(p.in + h.column[XP_BOOK_STEP], h.width[XP_BOOK_STEP], r);
    const uint32_t offset = read_number(p.in + h.column[XP_BOOK_OFFSET], h.width[XP_BOOK_OFFSET], r);
    const uint32_t centroid = read_number(p.in + h.column[XP_BOOK_CENTROID], h.width[XP_BOOK_CENTROID], r);
    const uint32_t length = read_number(p.in + h.column[XP_BOOK_LENGTH], h.width[XP_BOOK_LENGTH], r) + h.length_least;
    const int s = h.step_least + (int)step - 1, o = h.offset_least + (int)offset;

    if (step == 0)
        return {XP_BOOK_NO_STEP, min(offset, XP_BOOK_KIND_BAD), 0, offset == XP_BOOK_KIND_RAW ? p.row_bytes : 0};
    if (length < h.length_least || length == 0 || length > p.bound || s < -XP_BOOK_LARGEST_STEP || s > XP_BOOK_LARGEST_STEP ||
        o < -XP_BOOK_LARGEST_OFFSET || o > XP_BOOK_LARGEST_OFFSET || (centroid && centroid >= p.centroids))
        return {XP_BOOK_NO_STEP, XP_BOOK_KIND_BAD, 0, 0};
    return {s, (uint32_t)(o + XP_BOOK_LARGEST_OFFSET), centroid, length};
}

/* Writes the numbers of rows [begin, end); returns the sum of their lengths. */
static __device__ __forceinline__ uint64_t read_rows(const Places &p, const Head &h, uint64_t *sums, size_t begin, size_t end)
{
    uint64_t mine = 0, all;
    bool bad = false;

    for (size_t r = begin + threadIdx.x; r < end; r += THREADS) {
        xp_book_numbers n = {XP_BOOK_NO_STEP, XP_BOOK_KIND_BAD, 0, 0};
        if (h.fine)
            n = read_row(p, h, r);
        bad |= n.step == XP_BOOK_NO_STEP && n.offset == XP_BOOK_KIND_BAD;
        mine += n.length;
        p.numbers[r] = n;
    }
    if (bad && h.fine)
        atomicOr(p.status, (uint32_t)XP_CUDA_BOOK_NUMBERS);
    xp_scan_block<WARPS>(sums, mine, &all);
    return all;
}

__global__ void __launch_bounds__(THREADS, 2) places_kernel(const __grid_constant__ Places p)
{
    XP_SHARED(Sums, sums);
    const size_t begin = min(p.rows, blockIdx.x * p.each), end = min(p.rows, begin + p.each);
    const bool first = blockIdx.x == 0 && threadIdx.x == 0;
    xp_grid_barrier all = {p.counter, 0};
    uint64_t next, before = 0;
    Head h = {};

    if (first)
        *p.status = 0;
    xp_grid_wait(all);
    h = read_head(p);
    const uint64_t ours = read_rows(p, h, sums.warp, begin, end);
    if (threadIdx.x == 0)
        p.sums[blockIdx.x] = ours;
    xp_grid_wait(all);
    for (unsigned b = threadIdx.x; b < blockIdx.x; b += THREADS)
        before += p.sums[b];
    xp_scan_block<WARPS>(sums.warp, before, &next);
    next += h.rows_at;
    for (size_t i = begin; i < end; i += THREADS) {
        const size_t r = i + threadIdx.x;
        uint64_t taken;
        const uint64_t start = next + xp_scan_block<WARPS>(sums.warp, r < end ? p.numbers[r].length : 0, &taken);
        if (r < end)
            p.at[r] = start;
        next += taken;
    }
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0 && (!h.fine || next != p.len))
        atomicOr(p.status, (uint32_t)(h.fine ? XP_CUDA_BOOK_LENGTHS : XP_CUDA_BOOK_SHORT));
    xp_grid_leave(all);
}

constexpr size_t HEAD_BYTES = 256; /* the counter and the padding behind it */

size_t sums_bytes(const struct xp_gpu *g)
{
    return xp_ceil_div(g->sms, 2) * 16;
}

} // namespace

extern "C" size_t xp_cuda_book_scratch(const struct xp_gpu *g, size_t rows)
{
    return HEAD_BYTES + sums_bytes(g) + rows * (sizeof(xp_book_numbers) + sizeof(uint64_t));
}

int xp_cuda_book_places(const struct xp_gpu *g, const struct xp_gpu_book *b, const xp_book_source &from, void *scratch, const xp_book_numbers **numbers,
                        const uint64_t **at)
{
    const unsigned blocks = xp_blocks_together(g, xp_ceil_div(from.rows, THREADS));
    unsigned char *m = static_cast<unsigned char *>(scratch);
    Places p = {};

    p.in = from.in;
    p.len = from.len;
    p.rows = from.rows;
    p.each = xp_ceil_div(from.rows, blocks);
    p.row_bytes = (uint32_t)from.row_bytes;
    p.bound = (uint32_t)xp_rans_bound(xp_book_integers(*b));
    p.centroids = b->centroids;
    p.centroid_width = xp_bit_width(b->centroids);
    p.status = from.status;
    p.counter = reinterpret_cast<unsigned *>(m);
    p.sums = reinterpret_cast<uint64_t *>(m + HEAD_BYTES);
    p.numbers = reinterpret_cast<xp_book_numbers *>(m + HEAD_BYTES + sums_bytes(g));
    p.at = reinterpret_cast<uint64_t *>(p.numbers + from.rows);
    *numbers = p.numbers;
    *at = p.at;
    return xp_launch("book places", {dim3(blocks), dim3(THREADS), 0, true}, g->stream, places_kernel, p);
}
