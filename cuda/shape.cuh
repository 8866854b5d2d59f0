/*
 * shape.cuh - how many blocks and warps a kernel is launched with
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_SHAPE_CUH
#define XP_CUDA_SHAPE_CUH

#include "cuda/port.cuh"

/* Blocks that loop over their work: as many as it has parts, at most as many as the device shall hold. */
static inline dim3 xp_grid(size_t wanted, size_t most)
{
    return dim3((unsigned)(wanted < most ? wanted : most));
}

/* Blocks that wait for one another in a cooperative launch: all must be on the device at once. */
static inline unsigned xp_blocks_together(const struct xp_gpu *g, size_t wanted)
{
    return (unsigned)(wanted < 1 ? 1 : wanted < g->sms ? wanted : g->sms);
}

/* Shared memory of a kernel whose warps have room of their own. */
struct xp_warp_room {
    size_t bytes;               /* that a block may take, */
    size_t before, each;        /* what it needs before its warps, and for each of them */
    unsigned warps, blocks;     /* most of a block, most of a multiprocessor */
};

/* As many warps as fit, as many blocks as a multiprocessor holds. */
static inline xp_shape xp_shape_of_warps(const struct xp_gpu *g, const xp_warp_room &room, size_t items, unsigned items_of_warp)
{
    const size_t fit = room.bytes > room.before ? (room.bytes - room.before) / room.each : 0;
    const size_t warps = fit < 1 ? 1 : fit < room.warps ? fit : room.warps, bytes = room.before + warps * room.each;
    const size_t per_sm = g->shared_bytes / (bytes + 1024), blocks = per_sm < 1 ? 1 : per_sm < room.blocks ? per_sm : room.blocks;

    return {xp_grid(xp_ceil_div(items, warps * items_of_warp), g->sms * blocks), dim3((unsigned)warps * 32), bytes, false};
}

#endif
