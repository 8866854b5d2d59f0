/*
 * buckets.cuh - bucket ids to the first row of every bucket
 *
 * Rows go into a hash table whose slots hold the lowest row of an id (a slot is its own key: the id of the row in it). What is
 * atomic is a minimum or a compare-and-swap whose winner does not matter, so the result is the same whatever the schedule.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_BUCKETS_CUH
#define XP_CUDA_BUCKETS_CUH

#include "cuda/group.cuh"

struct xp_buckets {
    uint32_t *slots;
    uint32_t mask, shift;
};

static inline uint32_t xp_bucket_slots(size_t rows)
{
    uint32_t slots = 16;

    while (slots < 2 * rows)
        slots *= 2;
    return slots;
}

static inline xp_buckets xp_buckets_at(uint32_t *w, size_t rows)
{
    const uint32_t slots = xp_bucket_slots(rows);

    return {w, slots - 1, (uint32_t)__builtin_clz(slots) + 1};
}

static __device__ __forceinline__ uint32_t xp_bucket_insert(const xp_buckets &b, const uint32_t *ids, uint32_t row)
{
    const uint32_t id = ids[row];
    uint32_t slot = id * 0x9E3779B1u >> b.shift;

    for (;;) {
        const uint32_t there = atomicCAS(&b.slots[slot], XP_GROUP_NONE, row);
        if (there == XP_GROUP_NONE)
            return slot;
        if (ids[there] == id) {
            atomicMin(&b.slots[slot], row);
            return slot;
        }
        slot = (slot + 1) & b.mask;
    }
}

/* The clusters of rows with equal ids. What is written is not seen by other blocks before the next barrier. */
static __device__ __forceinline__ void xp_group_ids(const xp_buckets &b, const xp_group_sort &x, xp_group_shared &s, xp_grid_barrier &all,
                                                    const uint32_t *ids, uint32_t rows, const xp_dev_clusters &c)
{
    uint32_t slot[XP_GROUP_STRIPS] = {}, first[XP_GROUP_STRIPS];

    for (uint32_t i = blockIdx.x * XP_GROUP_THREADS + threadIdx.x; i <= b.mask; i += gridDim.x * XP_GROUP_THREADS)
        b.slots[i] = XP_GROUP_NONE;
    xp_grid_wait(all);
#pragma unroll
    for (unsigned i = 0; i < XP_GROUP_STRIPS; i++)
        if (xp_group_row(i) < rows)
            slot[i] = xp_bucket_insert(b, ids, xp_group_row(i));
    xp_grid_wait(all);
#pragma unroll
    for (unsigned i = 0; i < XP_GROUP_STRIPS; i++)
        first[i] = xp_group_row(i) < rows ? b.slots[slot[i]] : XP_GROUP_NONE;
    xp_group_clusters(x, s, all, first, rows, c);
}

#endif
