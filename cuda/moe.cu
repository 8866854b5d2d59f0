/*
 * moe.cu - rows of a MoE layer on their way: gathered, weighted, summed, multiplied (collectives/dispatch.c, combine.c)
 *
 * A warp for each 512 bytes of a row; every value is the work of one thread, terms in order.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/columns.cuh"
#include "cuda/shape.cuh"

namespace
{

constexpr unsigned THREADS = 256;
constexpr unsigned BLOCKS_PER_SM = 8;
constexpr unsigned AHEAD = 4;    /* rows loaded before they are added */
constexpr unsigned PARTIALS = 8; /* of a product */

/* Rows that are only moved. */
struct xp_row_byte {
    typedef uint8_t word;
};

struct Rows {
    const unsigned char *from;
    unsigned char *to;
    size_t rows, dim, row_bytes;
    const uint32_t *first, *index; /* first NULL: row i is made of row index[i] alone */
    const float *weight;           /* NULL: all 1 */
    const uint8_t *how;
};

/* Which 512 bytes of which row a warp has: items are walked by all warps of the grid. */
struct Item {
    size_t row, first; /* first: value */
};

template <class T> static __device__ __forceinline__ Item item_of(const Rows &d, size_t item)
{
    const unsigned tiles = (unsigned)((d.dim + 32 * xp_per_load<T> - 1) / (32 * xp_per_load<T>));
    const unsigned row = (unsigned)item / tiles; /* 32 bits: a wider division is a call */

    return {row, (size_t)((unsigned)item - row * tiles) * 32 * xp_per_load<T>};
}

/* ---- rows as they are, or times a weight ---- */

template <class T, bool WIDE> static __device__ __forceinline__ void store_weighted(const Rows &d, const Item &at, const xp_columns<T, WIDE> &x, unsigned lane)
{
    const float weight = d.weight[at.row];
    float v[xp_per_load<T>];

#pragma unroll
    for (unsigned k = 0; k < xp_per_load<T>; k++)
        v[k] = __fmul_rn(weight, x.value(k));
    x.store(d.to + at.row * d.row_bytes, at.first, d.dim, lane, v);
}

template <class T, bool WIDE> __global__ void __launch_bounds__(THREADS, 4) gather_kernel(const __grid_constant__ Rows d, size_t items)
{
    const unsigned lane = threadIdx.x % 32;

    for (size_t i = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; i < items; i += gridDim.x * (THREADS / 32)) {
        const Item at = item_of<T>(d, i);
        xp_columns<T, WIDE> x;

        x.load(d.from + (size_t)d.index[at.row] * d.row_bytes, at.first, d.dim, lane, true);
        if constexpr (sizeof(typename T::word) > 1)
            if (d.weight) {
                store_weighted(d, at, x, lane);
                continue;
            }
        x.store_as_loaded(d.to + at.row * d.row_bytes, at.first, d.dim, lane);
    }
}

/* ---- sums ---- */

/* One 512 bytes of a sum of parts, each a sum of terms. */
template <class T, bool WIDE> static __device__ __forceinline__ void sum_terms(const Rows &d, const Item &at, uint32_t begin, uint32_t end, unsigned lane)
{
    constexpr unsigned PER = xp_per_load<T>;
    float all[PER] = {}, part[PER] = {};

    for (uint32_t m = begin; m < end; m += AHEAD) {
        xp_columns<T, WIDE> x[AHEAD];
#pragma unroll
        for (unsigned a = 0; a < AHEAD; a++)
            x[a].load(d.from + (size_t)(m + a < end ? d.index[m + a] : 0) * d.row_bytes, at.first, d.dim, lane, m + a < end);
#pragma unroll
        for (unsigned a = 0; a < AHEAD; a++) {
            if (m + a >= end)
                break;
            const float weight = d.weight ? d.weight[m + a] : 1.0f;
            const bool last = d.how[m + a] & XP_GPU_TERM_LAST;
#pragma unroll
            for (unsigned k = 0; k < PER; k++) {
                part[k] = __fadd_rn(part[k], __fmul_rn(weight, x[a].value(k)));
                all[k] = last ? __fadd_rn(all[k], part[k]) : all[k];
                part[k] = last ? 0.0f : part[k];
            }
        }
    }
    xp_columns<T, WIDE>::store(d.to + at.row * d.row_bytes, at.first, d.dim, lane, all);
}

template <class T, bool WIDE> __global__ void __launch_bounds__(THREADS, 3) sums_kernel(const __grid_constant__ Rows d, size_t items)
{
    const unsigned lane = threadIdx.x % 32;

    for (size_t i = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; i < items; i += gridDim.x * (THREADS / 32)) {
        const Item at = item_of<T>(d, i);
        const uint32_t begin = d.first[at.row], end = d.first[at.row + 1];

        if (begin < end && d.how[begin] & XP_GPU_TERM_COPY) {
            xp_columns<T, WIDE> x;
            x.load(d.from + (size_t)d.index[begin] * d.row_bytes, at.first, d.dim, lane, true);
            x.store_as_loaded(d.to + at.row * d.row_bytes, at.first, d.dim, lane);
        } else {
            sum_terms<T, WIDE>(d, at, begin, end, lane);
        }
    }
}

/* ---- products ---- */

/* Eight lanes a row, one for each partial of the product in f64. */
template <class T> __global__ void __launch_bounds__(THREADS, 4) dots_kernel(const __grid_constant__ Rows d, const unsigned char *__restrict__ other, float *dots)
{
    typedef typename T::word word;
    const unsigned lane = threadIdx.x % PARTIALS;
    const size_t per_grid = gridDim.x * (size_t)(THREADS / PARTIALS);

    for (size_t first = 0; first < d.rows; first += per_grid) {
        const size_t row = first + blockIdx.x * (THREADS / PARTIALS) + threadIdx.x / PARTIALS;
        const unsigned dim = row < d.rows ? (unsigned)d.dim : 0;
        const word *a = reinterpret_cast<const word *>(d.from + (size_t)(dim ? d.index[row] : 0) * d.row_bytes);
        const word *b = reinterpret_cast<const word *>(other + (dim ? row : 0) * d.row_bytes);
        double partial = 0, sum = 0;

        for (unsigned i = lane; i < dim; i += PARTIALS)
            partial += (double)T::load(a[i]) * (double)T::load(b[i]);
        for (unsigned p = 0; p < PARTIALS; p++)
            sum += __shfl_sync(XP_FULL_WARP, partial, threadIdx.x % 32 / PARTIALS * PARTIALS + p);
        if (lane == 0 && dim)
            dots[row] = (float)sum;
    }
}

/* ---- launches ---- */

Rows rows_of(const struct xp_rows *in, void *out)
{
    Rows d = {};

    d.from = static_cast<const unsigned char *>(in->data);
    d.to = static_cast<unsigned char *>(out);
    d.rows = in->rows;
    d.dim = in->dim;
    d.row_bytes = in->dim * xp_dtype_size(in->dtype);
    d.index = in->index;
    return d;
}

bool is_wide(const Rows &d)
{
    return ((uintptr_t)d.from | (uintptr_t)d.to | d.row_bytes) % 16 == 0;
}

template <class T, class K> int launch_items(const struct xp_gpu *g, const char *name, K *kernel, const Rows &d)
{
    const size_t items = d.rows * xp_ceil_div(d.dim, 32 * xp_per_load<T>), wanted = xp_ceil_div(items, THREADS / 32);
    const xp_shape shape = {xp_grid(wanted, (size_t)g->sms * BLOCKS_PER_SM), dim3(THREADS), 0, false};

    if (items >> 31)
        return 1; /* cudaErrorInvalidValue */
    return items ? xp_launch(name, shape, g->stream, kernel, d, items) : 0;
}

} // namespace

extern "C" int xp_cuda_rows_gather(const struct xp_gpu *g, const struct xp_rows *in, const float *weight, void *out)
{
    Rows d = rows_of(in, out);
    const auto launch = [&](auto t) {
        typedef decltype(t) T;
        return launch_items<T>(g, "gather", is_wide(d) ? gather_kernel<T, true> : gather_kernel<T, false>, d);
    };

    d.weight = weight;
    return in->dtype == XP_BYTE ? launch(xp_row_byte()) : xp_for_type(in->dtype, launch);
}

extern "C" int xp_cuda_rows_sums(const struct xp_gpu *g, const struct xp_rows *in, const struct xp_gpu_terms *terms, void *out)
{
    Rows d = rows_of(in, out);

    d.first = terms->first;
    d.index = terms->row;
    d.weight = terms->weight;
    d.how = terms->how;
    return xp_for_type(in->dtype, [&](auto t) {
        typedef decltype(t) T;
        return launch_items<T>(g, "sums", is_wide(d) ? sums_kernel<T, true> : sums_kernel<T, false>, d);
    });
}

extern "C" int xp_cuda_rows_dots(const struct xp_gpu *g, const struct xp_rows *in, const void *other, float *dots)
{
    const Rows d = rows_of(in, nullptr);
    const xp_shape shape = {xp_grid(xp_ceil_div(d.rows, THREADS / PARTIALS), (size_t)g->sms * BLOCKS_PER_SM), dim3(THREADS), 0, false};

    if (d.rows == 0)
        return 0;
    return xp_for_type(in->dtype, [&](auto t) {
        typedef decltype(t) T;
        return xp_launch("dots", shape, g->stream, dots_kernel<T>, d, static_cast<const unsigned char *>(other), dots);
    });
}
