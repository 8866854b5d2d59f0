/*
 * centroid.cu - mean rows of clusters, in f32 or as rows, a warp for each 512 bytes of a cluster's rows
 *
 * Every value is the work of one thread, which adds the rows in their order: the order is what the contract fixes. Speed comes from
 * rows that are loaded ahead of their additions and from all the values side by side.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/columns.cuh"
#include "cuda/shape.cuh"

namespace
{

constexpr unsigned THREADS = 256;
constexpr unsigned BLOCKS_PER_SM = 8;
constexpr uint32_t RUN = 4096; /* rows summed before the sum joins the total */
constexpr unsigned AHEAD = 8;  /* rows loaded before they are added */

/* Row numbers of a cluster, 32 at a time, one in each lane. */
struct RowNumbers {
    const uint32_t *order;
    uint32_t first, end; /* in order */
};

template <class T, bool WIDE>
static __device__ __forceinline__ void sum_rows(const xp_dev_rows &in, const RowNumbers &n, size_t first, unsigned lane, float (&sum)[xp_per_load<T>])
{
    for (uint32_t at = n.first; at < n.end; at += 32) {
        const uint32_t mine = lane < n.end - at ? n.order[at + lane] : 0;
        const uint32_t number = in.index && lane < n.end - at ? in.index[mine] : mine;
        const uint32_t rows = min(32u, n.end - at);
        for (uint32_t r = 0; r < rows; r += AHEAD) {
            xp_columns<T, WIDE> c[AHEAD];
#pragma unroll
            for (unsigned a = 0; a < AHEAD; a++) {
                const size_t row = __shfl_sync(XP_FULL_WARP, number, r + a);
                c[a].load(in.data + row * in.row_bytes, first, in.dim, lane, r + a < rows);
            }
#pragma unroll
            for (unsigned a = 0; a < AHEAD; a++)
#pragma unroll
                for (unsigned k = 0; k < xp_per_load<T>; k++)
                    sum[k] = __fadd_rn(sum[k], c[a].value(k));
        }
    }
}

template <class T, bool WIDE>
static __device__ __forceinline__ void store(float *out, size_t first, size_t dim, unsigned lane, const float (&v)[xp_per_load<T>])
{
    constexpr unsigned PER = xp_per_load<T>;

    if constexpr (WIDE) {
        if (first + lane * PER < dim) {
#pragma unroll
            for (unsigned k = 0; k < PER; k += 4)
                xp_store16(out + first + lane * PER + k,
                           make_uint4(__float_as_uint(v[k]), __float_as_uint(v[k + 1]), __float_as_uint(v[k + 2]), __float_as_uint(v[k + 3])));
        }
    } else {
#pragma unroll
        for (unsigned k = 0; k < PER; k++)
            if (first + k * 32 + lane < dim)
                out[first + k * 32 + lane] = v[k];
    }
}

/* One 512 bytes of a mean. */
template <class T, bool WIDE>
static __device__ __forceinline__ void mean_of(const xp_dev_rows &in, const RowNumbers &n, size_t first, unsigned lane, float (&total)[xp_per_load<T>])
{
    constexpr unsigned PER = xp_per_load<T>;

#pragma unroll
    for (unsigned v = 0; v < PER; v++)
        total[v] = 0;
    for (uint32_t at = n.first; at < n.end; at += RUN) {
        float sum[PER] = {};
        sum_rows<T, WIDE>(in, {n.order, at, n.end - at < RUN ? n.end : at + RUN}, first, lane, sum);
#pragma unroll
        for (unsigned v = 0; v < PER; v++)
            total[v] = __fadd_rn(total[v], sum[v]);
    }
#pragma unroll
    for (unsigned v = 0; v < PER; v++)
        total[v] = n.end > n.first ? __fdiv_rn(total[v], (float)(n.end - n.first)) : 0.0f;
}

/* Which rows cluster k has. */
static __device__ __forceinline__ RowNumbers rows_of(const uint32_t *order, const uint32_t *start, unsigned k, unsigned lane)
{
    const uint32_t edge = lane < 2 ? start[k + lane] : 0;

    return {order, __shfl_sync(XP_FULL_WARP, edge, 0), __shfl_sync(XP_FULL_WARP, edge, 1)};
}

template <class T, bool WIDE>
__global__ void __launch_bounds__(THREADS, 2) centroid_kernel(xp_dev_rows in, const uint32_t *__restrict__ order, const uint32_t *__restrict__ start,
                                                           const uint32_t *count, uint32_t most, float *__restrict__ out)
{
    constexpr unsigned PER = xp_per_load<T>;
    const unsigned lane = threadIdx.x % 32;
    const unsigned tiles = (unsigned)xp_ceil_div(in.dim, 32 * PER), warps = gridDim.x * (THREADS / 32);
    uint32_t clusters = count && lane == 0 ? *count : most;

    clusters = __shfl_sync(XP_FULL_WARP, clusters, 0);
    for (unsigned item = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; item < clusters * tiles; item += warps) {
        const unsigned k = item / tiles; /* 32 bits: a wider division is a call, which spills */
        const size_t first = (size_t)(item - k * tiles) * 32 * PER;
        float mean[PER];

        mean_of<T, WIDE>(in, rows_of(order, start, k, lane), first, lane, mean);
        store<T, WIDE>(out + (size_t)k * in.dim, first, in.dim, lane, mean);
    }
}

/* The same as rows; of a single row that row. */
template <class T, bool WIDE>
__global__ void __launch_bounds__(THREADS, 2) mean_rows_kernel(xp_dev_rows in, const uint32_t *__restrict__ order, const uint32_t *__restrict__ start, uint32_t clusters,
                                                            unsigned char *__restrict__ out)
{
    constexpr unsigned PER = xp_per_load<T>;
    const unsigned lane = threadIdx.x % 32;
    const unsigned tiles = (unsigned)xp_ceil_div(in.dim, 32 * PER), warps = gridDim.x * (THREADS / 32);

    for (unsigned item = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; item < clusters * tiles; item += warps) {
        const unsigned k = item / tiles;
        const size_t first = (size_t)(item - k * tiles) * 32 * PER;
        const RowNumbers n = rows_of(order, start, k, lane);
        unsigned char *row = out + (size_t)k * in.row_bytes;

        if (n.end - n.first == 1) {
            xp_columns<T, WIDE> c;
            c.load(in.data + (size_t)order[n.first] * in.row_bytes, first, in.dim, lane, true);
            c.store_as_loaded(row, first, in.dim, lane);
        } else {
            float mean[PER];
            mean_of<T, WIDE>(in, n, first, lane, mean);
            xp_columns<T, WIDE>::store(row, first, in.dim, lane, mean);
        }
    }
}

/* cudaErrorInvalidValue where there are more items than kernels can count. */
template <class T, class K, class... A> int launch_clusters(const struct xp_gpu *g, const char *name, K *kernel, uint32_t clusters, const xp_dev_rows &in, A... rest)
{
    const size_t items = (size_t)clusters * xp_ceil_div(in.dim, 32 * xp_per_load<T>), wanted = xp_ceil_div(items, THREADS / 32);
    const xp_shape shape = {xp_grid(wanted, (size_t)g->sms * BLOCKS_PER_SM), dim3(THREADS), 0, false};

    if (items >> 31)
        return 1;
    return items ? xp_launch(name, shape, g->stream, kernel, in, rest...) : 0;
}

} // namespace

extern "C" int xp_cuda_centroid(const struct xp_gpu *g, const struct xp_rows *in, const uint32_t *order, const uint32_t *start, const uint32_t *count,
                                uint32_t most, float *out)
{
    const bool wide = xp_rows_are_wide(in);

    return xp_for_type(in->dtype, [&](auto t) {
        typedef decltype(t) T;
        return launch_clusters<T>(g, "centroid", wide ? centroid_kernel<T, true> : centroid_kernel<T, false>, most, xp_rows_for_device(in), order, start, count, most,
                                  out);
    });
}

extern "C" int xp_cuda_mean_rows(const struct xp_gpu *g, const struct xp_rows *in, const uint32_t *order, const uint32_t *start, uint32_t clusters, void *out)
{
    const bool wide = xp_rows_are_wide(in) && (uintptr_t)out % 16 == 0;

    return xp_for_type(in->dtype, [&](auto t) {
        typedef decltype(t) T;
        return launch_clusters<T>(g, "mean rows", wide ? mean_rows_kernel<T, true> : mean_rows_kernel<T, false>, clusters, xp_rows_for_device(in), order, start, clusters,
                                  static_cast<unsigned char *>(out));
    });
}
