/*
 * planted.cu - kernels with one bug each, and their right forms: what the emulator's checker must and must not report
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "planted.h"
#include "cuda/port.cuh"

namespace
{

struct Words {
    unsigned v[64];
};

/* Neighbours exchange through shared memory. */
__global__ void exchange(bool barrier, unsigned *out)
{
    XP_SHARED(Words, s);

    s.v[threadIdx.x] = threadIdx.x;
    if (barrier)
        __syncthreads();
    out[blockIdx.x * 64 + threadIdx.x] = s.v[threadIdx.x ^ 33];
}

/* The same place is written again before everybody has read it. */
__global__ void rewrite(bool barrier, unsigned *out)
{
    XP_SHARED(Words, s);
    unsigned sum = 0;

    for (unsigned i = 0; i < 3; i++) {
        s.v[threadIdx.x] = i;
        __syncthreads();
        sum += s.v[63 - threadIdx.x];
        if (barrier)
            __syncthreads();
    }
    out[blockIdx.x * 64 + threadIdx.x] = sum;
}

__global__ void warp_exchange(bool sync, unsigned *out)
{
    XP_SHARED(Words, s);

    s.v[threadIdx.x] = threadIdx.x;
    if (sync)
        __syncwarp();
    out[blockIdx.x * 64 + threadIdx.x] = s.v[threadIdx.x ^ 1];
}

/* Blocks count in one word. */
__global__ void count(bool atomic, unsigned *out)
{
    if (threadIdx.x)
        return;
    if (atomic)
        atomicAdd(out, 1u);
    else
        *out = *out + 1;
}

/* The last block to finish adds up what all have left. */
__global__ void last_block(bool fenced, unsigned *part, unsigned *done, unsigned *out)
{
    XP_SHARED(Words, s);

    if (threadIdx.x == 0) {
        part[blockIdx.x] = blockIdx.x + 1;
        if (fenced)
            __threadfence();
        s.v[0] = atomicAdd(done, 1u) == gridDim.x - 1;
        if (fenced)
            __threadfence();
    }
    __syncthreads();
    if (s.v[0] && threadIdx.x == 0)
        for (unsigned i = 0; i < gridDim.x; i++)
            *out += part[i];
}

__global__ void overrun(unsigned n, const unsigned *in, unsigned *out)
{
    const unsigned i = blockIdx.x * 64 + threadIdx.x;

    if (i < n)
        out[i] = in[i];
}

__global__ void shared_overrun(unsigned by, unsigned *out)
{
    XP_SHARED(Words, s);

    s.v[threadIdx.x + by] = 1;
    __syncthreads();
    out[threadIdx.x] = s.v[threadIdx.x];
}

__global__ void half_written(unsigned written, unsigned *out)
{
    XP_SHARED(Words, s);

    if (threadIdx.x < written)
        s.v[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = s.v[63 - threadIdx.x];
}

/* Half of the lanes shuffle among themselves. */
__global__ void half_warp(unsigned mask, unsigned *out)
{
    unsigned v = threadIdx.x;

    if (threadIdx.x % 32 < 16)
        v = __shfl_xor_sync(mask, v, 1);
    out[threadIdx.x] = v;
}

__global__ void reads_outside(unsigned by, unsigned *out)
{
    unsigned v = threadIdx.x;

    if (threadIdx.x % 32 < 16)
        v = __shfl_xor_sync(0xffffu, v, by);
    out[threadIdx.x] = v;
}

__global__ void diverged(bool apart, unsigned *out)
{
    out[threadIdx.x] = 1;
    if (!apart) {
        __syncthreads();
        return;
    }
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}

/* A lane waits for one that never comes. */
__global__ void early_exit(bool uses_all, unsigned *out)
{
    const unsigned mask = uses_all ? 0xffffffffu : 0xffffu;

    if (threadIdx.x % 32 < 16)
        out[threadIdx.x] = __reduce_add_sync(mask, 1u);
    else if (uses_all)
        __syncthreads();
    else
        out[threadIdx.x] = 0;
}

__global__ void fill(unsigned value, unsigned *out)
{
    out[blockIdx.x * 64 + threadIdx.x] = value;
}

__global__ void add_one(const unsigned *in, unsigned *out)
{
    out[blockIdx.x * 64 + threadIdx.x] = in[blockIdx.x * 64 + threadIdx.x] + 1;
}

template <class... P, class... A> int go(unsigned blocks, void *stream, void (*kernel)(P...), A... args)
{
    return xp_launch("planted", xp_shape{dim3(blocks), dim3(64), 0, false}, stream, kernel, args...);
}

} // namespace

extern "C" int planted_launch(enum planted_bug bug, bool wrong, void *stream, unsigned *a, unsigned *b, unsigned *c)
{
    switch (bug) {
    case PLANTED_NO_BARRIER: return go(3, stream, exchange, !wrong, a);
    case PLANTED_NO_BARRIER_BEFORE_WRITE: return go(3, stream, rewrite, !wrong, a);
    case PLANTED_NO_SYNCWARP: return go(1, stream, warp_exchange, !wrong, a);
    case PLANTED_RACE: return go(4, stream, count, !wrong, b);
    case PLANTED_NO_FENCE: return go(4, stream, last_block, !wrong, a, b, b + 1);
    case PLANTED_OVERRUN: return go(3, stream, overrun, wrong ? 129u : 128u, c, a);
    case PLANTED_SHARED_OVERRUN: return go(1, stream, shared_overrun, wrong ? 1u : 0u, a);
    case PLANTED_HOST_POINTER: {
        static unsigned host[64];
        return go(1, stream, overrun, 64u, c, wrong ? host : a);
    }
    case PLANTED_UNWRITTEN: return go(1, stream, half_written, wrong ? 63u : 64u, a);
    case PLANTED_UNWRITTEN_GLOBAL: return go(1, stream, overrun, 64u, wrong ? a : c, b);
    case PLANTED_WRONG_MASK: return go(1, stream, half_warp, wrong ? 0xffff0000u : 0x0000ffffu, a);
    case PLANTED_ABSENT_LANE: return go(1, stream, reads_outside, wrong ? 16u : 15u, a);
    case PLANTED_DIVERGED_BARRIER: return go(1, stream, diverged, wrong, a);
    case PLANTED_DEADLOCK: return go(1, stream, early_exit, wrong, a);
    case PLANTED_FILL: return go(2, stream, fill, 7u, a);
    case PLANTED_ADD_ONE: return go(2, stream, add_one, a, b);
    default: return 1;
    }
}
