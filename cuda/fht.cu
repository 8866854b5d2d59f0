/*
 * fht.cu - fast Hadamard transform of many vectors in device memory, in wrapping integers
 *
 * A block takes a vector of up to 2^14 values into shared memory and does the butterflies there, one barrier a stage. The codecs'
 * own transforms (polytope.cu, quantise.cu) stay in registers (fht.cuh); this one serves vectors of any length.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/port.cuh"

namespace
{

constexpr unsigned THREADS = 256;
constexpr unsigned BLOCKS_PER_SM = 4;
constexpr unsigned MOST_LOG2 = 14;

/* Moves a vector between device and shared memory, 16 bytes a thread where it is as long. */
template <class T> static __device__ __forceinline__ void move(T *to, const T *from, size_t n)
{
    constexpr size_t PER_MOVE = 16 / sizeof(T);

    if (n >= PER_MOVE)
        for (size_t i = threadIdx.x; i < n / PER_MOVE; i += THREADS)
            reinterpret_cast<uint4 *>(to)[i] = reinterpret_cast<const uint4 *>(from)[i];
    else if (threadIdx.x < n)
        to[threadIdx.x] = from[threadIdx.x];
}

/* U: the unsigned type of the same width; sums wrap. */
template <class U> __global__ void __launch_bounds__(THREADS, 4) fht_kernel(U *x, unsigned log2n, size_t nrows)
{
    XP_DYNAMIC_SHARED(memory);
    U *v = reinterpret_cast<U *>(memory);
    const size_t n = (size_t)1 << log2n;

    for (size_t row = blockIdx.x; row < nrows; row += gridDim.x) {
        move(v, x + row * n, n);
        __syncthreads();
        for (unsigned half = 1; half < n; half *= 2) {
            for (unsigned i = threadIdx.x; i < n / 2; i += THREADS) {
                const unsigned j = (i & ~(half - 1)) * 2 + (i & (half - 1));
                const U a = v[j], b = v[j + half];
                v[j] = (U)(a + b);
                v[j + half] = (U)(a - b);
            }
            __syncthreads();
        }
        move(x + row * n, v, n); /* every thread then fills the places that it has read */
    }
}

template <class U> int launch_fht(const struct xp_gpu *g, U *x, unsigned log2n, size_t nrows)
{
    const size_t most = (size_t)g->sms * BLOCKS_PER_SM;

    if (log2n > MOST_LOG2)
        return 1; /* cudaErrorInvalidValue */
    if (nrows == 0)
        return 0;
    const xp_shape shape = {dim3((unsigned)(nrows < most ? nrows : most)), dim3(THREADS), sizeof(U) << log2n, false};
    return xp_launch("fht", shape, g->stream, fht_kernel<U>, x, log2n, nrows);
}

} // namespace

extern "C" int xp_cuda_fht_i16(const struct xp_gpu *g, int16_t *x, unsigned log2n, size_t nrows)
{
    return launch_fht(g, reinterpret_cast<uint16_t *>(x), log2n, nrows);
}

extern "C" int xp_cuda_fht_i32(const struct xp_gpu *g, int32_t *x, unsigned log2n, size_t nrows)
{
    return launch_fht(g, reinterpret_cast<uint32_t *>(x), log2n, nrows);
}
