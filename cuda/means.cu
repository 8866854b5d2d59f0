/*
 * means.cu - the mean rows that codec quant codes its frames against, and which frames they pay for: a block for each frame
 *
 * Sums, choices and their order are those of hash/codec_quant.c. The rows are read twice: once to see which of them count, once
 * to add them up, each value by one thread; a few of them a third time, as probes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/row.cuh"
#include "hash/quant_frame.h"

namespace
{

constexpr unsigned WARPS = 16, THREADS = WARPS * 32;
constexpr unsigned AHEAD = 4; /* rows loaded before they are added */

struct Means {
    xp_dev_rows in;
    const struct xp_gpu_frame *frames;
    unsigned most; /* rows that a mean is taken over */
    bool wide;
    struct xp_gpu_means out;
};

/* What the threads of a block share. */
struct Block {
    unsigned order[XP_MEAN_ROWS];           /* rows that count, as numbers in the frame */
    unsigned counted[XP_MEAN_ROWS / 32];    /* which of the rows that were looked at do */
    float sums[XP_MEAN_PROBES][2];          /* of a probe: the row's energy, and what is left of it */
    unsigned rows;                          /* in order */
    bool pays;
};

static __device__ __forceinline__ float fold(float partial)
{
#pragma unroll
    for (unsigned half = 16; half > 0; half /= 2)
        partial = __fadd_rn(partial, __shfl_xor_sync(XP_FULL_WARP, partial, half));
    return partial;
}

template <class T> static __device__ __forceinline__ const typename T::word *row_of(const Means &m, const xp_gpu_frame &f, unsigned r)
{
    const size_t number = f.first + r, at = m.in.index ? m.in.index[number] : number;

    return reinterpret_cast<const typename T::word *>(m.in.data + at * m.in.row_bytes);
}

/* Which of the rows that are looked at count: those whose energy is no more than a mean can bear. */
template <class T> static __device__ __forceinline__ void look(const Means &m, const xp_gpu_frame &f, unsigned take, Block &b)
{
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    for (unsigned group = warp; group * 32 < take; group += WARPS) {
        unsigned counted = 0;
        for (unsigned i = group * 32; i < min(take, group * 32 + 32); i++) {
            const unsigned r = (2 * i + 1) * f.rows / (2 * take);
            const typename T::word *x = row_of<T>(m, f, r);
            float sum = 0;
            for (unsigned k = lane; k < m.in.dim; k += 32)
                sum = __fadd_rn(sum, __fmul_rn(T::load(x[k]), T::load(x[k])));
            counted |= (unsigned)(fold(sum) <= XP_MEAN_LARGEST) << i % 32;
        }
        if (lane == 0)
            b.counted[group] = counted;
    }
}

/* Lists the rows that count. One warp. */
static __device__ __forceinline__ void list(const xp_gpu_frame &f, unsigned take, Block &b)
{
    const unsigned lane = threadIdx.x % 32;
    unsigned n = 0;

    for (unsigned group = 0; group * 32 < take; group++) {
        const unsigned counted = b.counted[group], i = group * 32 + lane;
        if (counted >> lane & 1)
            b.order[n + __popc(counted & ((1u << lane) - 1))] = (2 * i + 1) * f.rows / (2 * take);
        n += __popc(counted);
    }
    if (lane == 0)
        b.rows = n;
}

/* Values [first, first + PER) of the mean, and as the receiver will have it. */
template <class T, unsigned PER> static __device__ __forceinline__ void add_up(const Means &m, const xp_gpu_frame &f, const Block &b, size_t first)
{
    typedef typename T::word word;
    float sum[PER] = {};

    for (unsigned at = 0; at < b.rows; at += AHEAD) {
        uint4 raw[AHEAD];
        word one[AHEAD];
#pragma unroll
        for (unsigned a = 0; a < AHEAD; a++) {
            const word *x = row_of<T>(m, f, b.order[min(at + a, b.rows - 1)]) + first;
            if constexpr (PER > 1)
                raw[a] = *reinterpret_cast<const uint4 *>(x);
            else
                one[a] = *x;
        }
#pragma unroll
        for (unsigned a = 0; a < AHEAD; a++)
#pragma unroll
            for (unsigned k = 0; k < PER; k++)
                if (at + a < b.rows)
                    sum[k] = __fadd_rn(sum[k], PER > 1 ? xp_value_of<T>(raw[a], k) : T::load(one[a]));
    }
    float *mean = m.out.rows + blockIdx.x * m.in.dim + first;
    word *typed = reinterpret_cast<word *>(m.out.typed + blockIdx.x * m.in.row_bytes) + first;
#pragma unroll
    for (unsigned k = 0; k < PER; k++) {
        typed[k] = T::store(__fdiv_rn(sum[k], (float)b.rows));
        mean[k] = T::load(typed[k]);
    }
}

/* What a few rows are, and what the mean leaves of them. */
template <class T> static __device__ __forceinline__ void probe(const Means &m, const xp_gpu_frame &f, unsigned probes, Block &b)
{
    const unsigned lane = threadIdx.x % 32;
    const float *mean = m.out.rows + blockIdx.x * m.in.dim;

    for (unsigned i = threadIdx.x / 32; i < probes; i += WARPS) {
        const typename T::word *x = row_of<T>(m, f, b.order[i * b.rows / probes]);
        float row = 0, rest = 0;
        for (unsigned k = lane; k < m.in.dim; k += 32) {
            const float v = T::load(x[k]), d = __fsub_rn(v, mean[k]);
            row = __fadd_rn(row, __fmul_rn(v, v));
            rest = __fadd_rn(rest, __fmul_rn(d, d));
        }
        row = fold(row);
        rest = fold(rest);
        if (lane == 0) {
            b.sums[i][0] = row;
            b.sums[i][1] = rest;
        }
    }
}

/* Does the mean row earn more than its own bytes? One thread. */
static __device__ __forceinline__ bool pays(const Block &b, unsigned probes, unsigned rows, size_t value_bytes)
{
    double bits = 0;

    for (unsigned i = 0; i < probes; i++)
        bits += xp_mean_saves(b.sums[i][0], b.sums[i][1]);
    return xp_mean_pays(bits / probes, b.rows, rows, value_bytes);
}

template <class T> __global__ void __launch_bounds__(THREADS, 2) means_kernel(const __grid_constant__ Means m)
{
    XP_SHARED(Block, b);
    const xp_gpu_frame f = m.frames[blockIdx.x];
    const unsigned take = min(f.rows, m.most);
    constexpr unsigned PER = xp_per_load<T>;

    if (threadIdx.x == 0)
        b.pays = false;
    if (f.rows >= XP_MEAN_LEAST_ROWS)
        look<T>(m, f, take, b);
    else if (threadIdx.x == 0)
        b.rows = 0;
    __syncthreads();
    if (threadIdx.x < 32 && f.rows >= XP_MEAN_LEAST_ROWS)
        list(f, take, b);
    __syncthreads();
    const bool has_mean = b.rows >= XP_MEAN_LEAST_ROWS;
    if (has_mean) {
        if (m.wide)
            for (size_t i = threadIdx.x * PER; i < m.in.dim; i += THREADS * PER)
                add_up<T, PER>(m, f, b, i);
        else
            for (size_t i = threadIdx.x; i < m.in.dim; i += THREADS)
                add_up<T, 1>(m, f, b, i);
        const unsigned probes = min(b.rows, (unsigned)XP_MEAN_PROBES);
        __syncthreads();
        probe<T>(m, f, probes, b);
        __syncthreads();
        if (threadIdx.x == 0)
            b.pays = pays(b, probes, f.rows, sizeof(typename T::word));
    }
    __syncthreads();
    for (unsigned r = threadIdx.x; r < f.rows; r += THREADS) {
        m.out.base_of[f.first + r] = b.pays ? blockIdx.x : XP_GPU_NO_ROW;
        if (m.out.reference_of)
            m.out.reference_of[f.first + r] = has_mean ? blockIdx.x : XP_GPU_NO_ROW;
    }
    if (threadIdx.x == 0)
        m.out.pays[blockIdx.x] = b.pays;
}

} // namespace

extern "C" int xp_cuda_means(const struct xp_gpu *g, const struct xp_rows *in, const struct xp_gpu_frame *frames, size_t count, const struct xp_gpu_means *out)
{
    Means m = {};

    m.in = xp_rows_for_device(in);
    m.frames = frames;
    m.most = out->reference_of ? XP_MEAN_ROWS : XP_MEAN_ROWS_UNREFERRED;
    m.wide = xp_rows_are_wide(in);
    m.out = *out;
    if (count == 0)
        return 0;
    const xp_shape shape = {dim3((unsigned)count), dim3(THREADS), 0, false};
    return xp_for_type(in->dtype, [&](auto t) { return xp_launch("means", shape, g->stream, means_kernel<decltype(t)>, m); });
}
