/*
 * distance.cu - energies of rows, and distances between rows, a warp a row
 *
 * The sum has 32 partials (kernels.h), one for each lane, so lanes load values that lie side by side, several ahead of their additions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/row.cuh"
#include "cuda/shape.cuh"

namespace
{

constexpr unsigned THREADS = 256;
constexpr unsigned BLOCKS_PER_SM = 8;
constexpr unsigned AHEAD = 8; /* values that a lane loads before they are added */

/* What one lane adds up of (a - b)^2; b NULL: of a^2. Behind the end of a row it adds zeros. */
template <class T> static __device__ __forceinline__ float partial_of(const typename T::word *a, const typename T::word *b, unsigned dim, unsigned lane)
{
    float partial = 0;

    for (unsigned first = lane; first < dim; first += 32 * AHEAD) {
        float x[AHEAD], y[AHEAD];
#pragma unroll
        for (unsigned k = 0; k < AHEAD; k++) {
            const unsigned i = first + 32 * k;
            x[k] = i < dim ? T::load(a[i]) : 0.0f;
            y[k] = b && i < dim ? T::load(b[i]) : 0.0f;
        }
#pragma unroll
        for (unsigned k = 0; k < AHEAD; k++) {
            const float d = __fsub_rn(x[k], y[k]);
            partial = __fadd_rn(partial, __fmul_rn(d, d));
        }
    }
    return partial;
}

template <class T>
__global__ void __launch_bounds__(THREADS, 4) distance_kernel(xp_dev_rows in, const unsigned char *__restrict__ other, const uint32_t *__restrict__ other_of,
                                                           float *__restrict__ out)
{
    typedef typename T::word word;
    const unsigned lane = threadIdx.x % 32;

    for (size_t r = blockIdx.x * (THREADS / 32) + threadIdx.x / 32; r < in.rows; r += gridDim.x * (THREADS / 32)) {
        const size_t row = in.index ? in.index[r] : r;
        const unsigned char *b = other ? other + (size_t)other_of[r] * in.row_bytes : nullptr;
        float sum = partial_of<T>(reinterpret_cast<const word *>(in.data + row * in.row_bytes), reinterpret_cast<const word *>(b), (unsigned)in.dim, lane);

        for (unsigned half = 16; half > 0; half /= 2)
            sum = __fadd_rn(sum, __shfl_down_sync(XP_FULL_WARP, sum, half));
        if (lane == 0)
            out[r] = sum;
    }
}

} // namespace

extern "C" int xp_cuda_row_distances(const struct xp_gpu *g, const struct xp_rows *in, const void *other, const uint32_t *other_of, float *out)
{
    const xp_shape shape = {xp_grid(xp_ceil_div(in->rows, THREADS / 32), (size_t)g->sms * BLOCKS_PER_SM), dim3(THREADS), 0, false};

    if (in->rows == 0)
        return 0;
    return xp_for_type(in->dtype, [&](auto t) {
        typedef decltype(t) T;
        return xp_launch("distance", shape, g->stream, distance_kernel<T>, xp_rows_for_device(in), static_cast<const unsigned char *>(other), other_of, out);
    });
}
