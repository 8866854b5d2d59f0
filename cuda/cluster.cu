/*
 * cluster.cu - bucket ids to stable clusters in one cooperative launch
 *
 * Rows go into a hash table whose slots hold the lowest row of an id (a slot is its own key: the id of the row in it); group.cuh does
 * the rest. What is atomic is a minimum or a compare-and-swap whose winner does not matter, so the result is the same whatever the
 * schedule.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/group.cuh"

namespace
{

constexpr unsigned THREADS = XP_GROUP_THREADS, STRIPS = XP_GROUP_STRIPS;

struct Table {
    uint32_t *slots;
    uint32_t mask, shift;
};

static __device__ __forceinline__ uint32_t insert(const Table &x, const uint32_t *ids, uint32_t row)
{
    const uint32_t id = ids[row];
    uint32_t slot = id * 0x9E3779B1u >> x.shift;

    for (;;) {
        const uint32_t there = atomicCAS(&x.slots[slot], XP_GROUP_NONE, row);
        if (there == XP_GROUP_NONE)
            return slot;
        if (ids[there] == id) {
            atomicMin(&x.slots[slot], row);
            return slot;
        }
        slot = (slot + 1) & x.mask;
    }
}

__global__ void __launch_bounds__(THREADS, 2) group_kernel(const uint32_t *__restrict__ ids, uint32_t rows, unsigned *counter, Table t, xp_group_sort x,
                                                        xp_dev_clusters c)
{
    XP_SHARED(xp_group_shared, s);
    xp_grid_barrier all = {counter, 0};
    uint32_t slot[STRIPS] = {}, first[STRIPS];

    for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i <= t.mask; i += gridDim.x * THREADS)
        t.slots[i] = XP_GROUP_NONE;
    xp_grid_wait(all);
#pragma unroll
    for (unsigned i = 0; i < STRIPS; i++)
        if (xp_group_row(i) < rows)
            slot[i] = insert(t, ids, xp_group_row(i));
    xp_grid_wait(all);
#pragma unroll
    for (unsigned i = 0; i < STRIPS; i++)
        first[i] = xp_group_row(i) < rows ? t.slots[slot[i]] : XP_GROUP_NONE;
    xp_group_clusters(x, s, all, first, rows, c);
    xp_grid_leave(all);
}

constexpr size_t HEAD_WORDS = 64; /* the counter and the padding behind it */

uint32_t slots_for(size_t rows)
{
    uint32_t slots = 16;

    while (slots < 2 * rows)
        slots *= 2;
    return slots;
}

} // namespace

extern "C" size_t xp_cuda_group_scratch(size_t rows)
{
    return (HEAD_WORDS + xp_group_sort_words(rows) + slots_for(rows)) * sizeof(uint32_t);
}

extern "C" int xp_cuda_group(const struct xp_gpu *g, const uint32_t *ids, size_t rows, void *scratch, uint32_t *of, uint32_t *start, uint32_t *order,
                             uint32_t *count)
{
    uint32_t *w = static_cast<uint32_t *>(scratch) + HEAD_WORDS;
    const uint32_t slots = slots_for(rows);
    const Table table = {w + xp_group_sort_words(rows), slots - 1, (uint32_t)__builtin_clz(slots) + 1};
    const xp_shape shape = {dim3(xp_group_tiles(rows)), dim3(THREADS), 0, true};

    if (rows > XP_CUDA_GROUP_ROWS)
        return 1; /* cudaErrorInvalidValue */
    return xp_launch("group", shape, g->stream, group_kernel, ids, (uint32_t)rows, static_cast<unsigned *>(scratch), table, xp_group_sort_at(w, rows),
                     xp_dev_clusters{of, start, order, count});
}
