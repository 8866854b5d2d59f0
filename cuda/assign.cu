/*
 * assign.cu - nearest centroids of sketches
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/assign.cuh"
#include "cuda/shape.cuh"

namespace
{

constexpr unsigned THREADS = XP_ASSIGN_WARPS * 32;

__global__ void __launch_bounds__(THREADS, 2) assign_kernel(xp_sketches k, uint32_t *__restrict__ of)
{
    XP_SHARED(xp_assign_shared, s);

    xp_assign_all(k, gridDim.x, s, [&](uint32_t row, uint32_t centroid) { of[row] = centroid; });
}

} // namespace

extern "C" int xp_cuda_assign(const struct xp_gpu *g, const int16_t *sketch, size_t rows, unsigned s, const int16_t *centroids, size_t count, uint32_t *of)
{
    const size_t wanted = xp_ceil_div(rows, XP_ASSIGN_WARPS * xp_assign_rows(s)), fill = (size_t)g->sms * 4;
    const xp_shape shape = {xp_grid(wanted, fill), dim3(THREADS), 0, false};

    if (rows == 0)
        return 0;
    if (s % 32 || s > XP_HASH_MAX_WIDTH || rows >> 31 || count >> 31)
        return 1; /* cudaErrorInvalidValue */
    return xp_launch("assign", shape, g->stream, assign_kernel, xp_sketches{sketch, centroids, (uint32_t)rows, (uint32_t)count, s}, of);
}
