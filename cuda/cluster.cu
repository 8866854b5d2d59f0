/*
 * cluster.cu - bucket ids to stable clusters in one cooperative launch
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/buckets.cuh"

namespace
{

constexpr unsigned THREADS = XP_GROUP_THREADS;

__global__ void __launch_bounds__(THREADS, 2) group_kernel(const uint32_t *__restrict__ ids, uint32_t rows, unsigned *counter, xp_buckets b, xp_group_sort x,
                                                        xp_dev_clusters c)
{
    XP_SHARED(xp_group_shared, s);
    xp_grid_barrier all = {counter, 0};

    xp_group_ids(b, x, s, all, ids, rows, c);
    xp_grid_leave(all);
}

constexpr size_t HEAD_WORDS = 64; /* the counter and the padding behind it */

} // namespace

extern "C" size_t xp_cuda_group_scratch(size_t rows)
{
    return (HEAD_WORDS + xp_group_sort_words(rows) + xp_bucket_slots(rows)) * sizeof(uint32_t);
}

extern "C" int xp_cuda_group(const struct xp_gpu *g, const uint32_t *ids, size_t rows, void *scratch, uint32_t *of, uint32_t *start, uint32_t *order,
                             uint32_t *count)
{
    uint32_t *w = static_cast<uint32_t *>(scratch) + HEAD_WORDS;
    const xp_buckets buckets = xp_buckets_at(w + xp_group_sort_words(rows), rows);
    const xp_shape shape = {dim3(xp_group_tiles(rows)), dim3(THREADS), 0, true};

    if (rows > XP_CUDA_GROUP_ROWS)
        return 1; /* cudaErrorInvalidValue */
    return xp_launch("group", shape, g->stream, group_kernel, ids, (uint32_t)rows, static_cast<unsigned *>(scratch), buckets, xp_group_sort_at(w, rows),
                     xp_dev_clusters{of, start, order, count});
}
