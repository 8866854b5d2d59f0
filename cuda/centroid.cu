/*
 * centroid.cu - mean rows of clusters, a warp for each 512 bytes of a cluster's rows
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
        const uint32_t edge = lane < 2 ? start[k + lane] : 0;
        const uint32_t begin = __shfl_sync(XP_FULL_WARP, edge, 0), end = __shfl_sync(XP_FULL_WARP, edge, 1);
        float total[PER] = {};

        for (uint32_t at = begin; at < end; at += RUN) {
            float sum[PER] = {};
            sum_rows<T, WIDE>(in, {order, at, end - at < RUN ? end : at + RUN}, first, lane, sum);
#pragma unroll
            for (unsigned v = 0; v < PER; v++)
                total[v] = __fadd_rn(total[v], sum[v]);
        }
#pragma unroll
        for (unsigned v = 0; v < PER; v++)
            total[v] = end > begin ? __fdiv_rn(total[v], (float)(end - begin)) : 0.0f;
        store<T, WIDE>(out + (size_t)k * in.dim, first, in.dim, lane, total);
    }
}

template <class T, bool WIDE>
int launch_centroid(const struct xp_gpu *g, const xp_dev_rows &in, const uint32_t *order, const uint32_t *start, const uint32_t *count, uint32_t most, float *out)
{
    const size_t items = (size_t)most * xp_ceil_div(in.dim, 32 * xp_per_load<T>), wanted = xp_ceil_div(items, THREADS / 32);
    const size_t fill = (size_t)g->sms * BLOCKS_PER_SM;
    const xp_shape shape = {xp_grid(wanted, fill), dim3(THREADS), 0, false};

    if (items >> 31)
        return 1; /* cudaErrorInvalidValue */

    return xp_launch("centroid", shape, g->stream, centroid_kernel<T, WIDE>, in, order, start, count, most, out);
}

} // namespace

extern "C" int xp_cuda_centroid(const struct xp_gpu *g, const struct xp_rows *in, const uint32_t *order, const uint32_t *start, const uint32_t *count,
                                uint32_t most, float *out)
{
    const bool wide = xp_rows_are_wide(in);

    if (most == 0)
        return 0;
    return xp_for_type(in->dtype, [&](auto t) {
        typedef decltype(t) T;
        return wide ? launch_centroid<T, true>(g, xp_rows_for_device(in), order, start, count, most, out)
                    : launch_centroid<T, false>(g, xp_rows_for_device(in), order, start, count, most, out);
    });
}
