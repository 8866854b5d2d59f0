/*
 * signs.cu - random signs, drawn on the device by cuRAND's own Philox: the words of hash/signs.c
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/philox.cuh"
#include "cuda/shape.cuh"

namespace
{

constexpr unsigned THREADS = 256;

/* Word w of n signs: bits behind the last are 0. */
static __device__ __forceinline__ unsigned cut(unsigned bits, size_t w, size_t n)
{
    return w * 32 >= n ? 0 : n - w * 32 >= 32 ? bits : bits & ((1u << (n - w * 32)) - 1);
}

__global__ void __launch_bounds__(THREADS, 4) signs_kernel(uint64_t seed, uint64_t first, size_t n, size_t blocks, uint32_t *__restrict__ words)
{
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < blocks; i += (size_t)gridDim.x * THREADS) {
        const uint4 r = xp_curand_block(seed, first + i);
        xp_store16(words + 4 * i, make_uint4(cut(r.x, 4 * i, n), cut(r.y, 4 * i + 1, n), cut(r.z, 4 * i + 2, n), cut(r.w, 4 * i + 3, n)));
    }
}

} // namespace

extern "C" int xp_cuda_signs(const struct xp_gpu *g, uint64_t seed, uint32_t stream, size_t n, uint32_t *words)
{
    const size_t blocks = xp_sign_words(n) / 4, wanted = xp_ceil_div(blocks, THREADS), most = (size_t)g->sms * 4;
    const xp_shape shape = {xp_grid(wanted, most), dim3(THREADS), 0, false};

    if (n == 0)
        return 0;
    return xp_launch("signs", shape, g->stream, signs_kernel, seed, ((uint64_t)stream << XP_SIGNS_STREAM_SHIFT) / 4, n, blocks, words);
}
