/*
 * qrow.cuh - what the coder and the decoder of quantised rows share: formats, blocks of a row, shared memory, the shape of a launch
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_QROW_CUH
#define XP_CUDA_QROW_CUH

#include "cuda/qblock.cuh"
#include "cuda/row.cuh"
#include "cuda/shape.cuh"

namespace
{

constexpr unsigned MOST_WARPS = 16; /* of a block */

/* Everything that rows of a launch have in common. */
struct Formats {
    struct xp_qinfo info[XP_QFORMATS];
    uint32_t bytes[XP_ROW_FORMATS]; /* of a row */
};

/* Where things lie in shared memory; bytes, all multiples of 16. */
struct Memory {
    size_t signs, base, reference;                       /* of a block; base and reference may be one, or absent (0 bytes) */
    size_t row, pairs, codes, states, stage, own_base, own_signs; /* of a warp */
    size_t before_warps, each_warp;
};

static __device__ __forceinline__ unsigned block_size(unsigned dim, unsigned b)
{
    const unsigned rest = dim - b * XP_QBLOCK;

    return rest >= XP_QBLOCK ? XP_QBLOCK : rest <= 8 ? 8 : 1u << (32 - __clz((int)rest - 1));
}

static __device__ __forceinline__ unsigned block_bytes(const struct xp_qinfo &q, unsigned n)
{
    const unsigned elements = q.paired ? n / 2 : n;

    return elements * (q.bits / 2) / 4 + (q.bits & 1 ? (elements + 7) / 8 : 0);
}

/* What the warps of a block share: signs, base row, mean row. */
static __device__ __forceinline__ void copy_shared(unsigned char *to, const void *from, size_t bytes)
{
    for (size_t i = threadIdx.x; i < bytes / 4; i += blockDim.x)
        reinterpret_cast<uint32_t *>(to)[i] = static_cast<const uint32_t *>(from)[i];
}

/* Bytes between shared and device memory: 16 at a time, or words; the room behind them up to a multiple of 16 becomes zeros. */
template <class W> static __device__ __forceinline__ void fetch(unsigned char *to, const unsigned char *from, size_t bytes, bool wide, unsigned lane)
{
    if (wide)
        for (size_t i = lane * 16; i < bytes; i += 32 * 16)
            *reinterpret_cast<uint4 *>(to + i) = *reinterpret_cast<const uint4 *>(from + i);
    else
        for (size_t i = lane; i < xp_ceil_div(bytes, 16) * (16 / sizeof(W)); i += 32)
            reinterpret_cast<W *>(to)[i] = i < bytes / sizeof(W) ? reinterpret_cast<const W *>(from)[i] : (W)0;
}

/* Bytes at any alignment to shared memory with the same alignment within 16 bytes; nothing outside them is read. */
static __device__ __forceinline__ unsigned char *fetch_bytes(unsigned char *room, const unsigned char *from, unsigned bytes, unsigned lane)
{
    unsigned char *to = room + (uintptr_t)from % 16;
    const unsigned head = min(bytes, (unsigned)(0 - (uintptr_t)from) % 16), middle = (bytes - head) / 16 * 16;

    if (lane < head)
        to[lane] = from[lane];
    for (unsigned i = lane * 16; i < middle; i += 32 * 16)
        *reinterpret_cast<uint4 *>(to + head + i) = *reinterpret_cast<const uint4 *>(from + head + i);
    if (head + middle + lane < bytes)
        to[head + middle + lane] = from[head + middle + lane];
    return to;
}

/* Values of block b from its codes. */
static __device__ __forceinline__ void decode_block(const struct xp_qinfo &q, bool fp8, const xp_qwarp &w, unsigned b, unsigned n, float step,
                                                    const unsigned char *codes, float (&v)[XP_QLANE])
{
    unsigned u[XP_QLANE];

    if (fp8) {
#pragma unroll
        for (unsigned m = 0; m < XP_QLANE; m++)
            u[m] = xp_q_has(n, m, w.lane) ? codes[32 * m + w.lane] : 0;
        xp_q_fp8_values(w, b, n, u, step, v);
    } else {
        xp_q_read(w, q, n, codes, u);
        xp_q_values(w, q.levels, b, n, u, step, v);
    }
}

static inline size_t round16(size_t n)
{
    return (n + 15) / 16 * 16;
}

static inline Formats formats_of(size_t dim, size_t row_bytes)
{
    Formats f = {};

    for (unsigned i = 0; i < XP_QFORMATS; i++) {
        f.info[i] = xp_qinfo[i];
        f.bytes[i] = (uint32_t)xp_qrow_bytes((enum xp_qformat)i, dim);
    }
    f.bytes[XP_Q_RAW] = (uint32_t)row_bytes;
    return f;
}

static inline uint32_t longest_code(const Formats &f)
{
    uint32_t most = 0;

    for (unsigned i = XP_Q_RAW + 1; i < XP_QFORMATS; i++)
        most = f.bytes[i] > most ? f.bytes[i] : most;
    return most;
}

static inline xp_shape shape_for(const struct xp_gpu *g, const Memory &m, size_t rows)
{
    return xp_shape_of_warps(g, {g->shared_bytes, m.before_warps, m.each_warp, MOST_WARPS, 4}, rows, 1);
}

} // namespace

#endif
