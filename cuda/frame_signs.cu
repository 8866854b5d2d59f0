/*
 * frame_signs.cu - the random signs of frames that have seeds of their own (codec quant with dither): a block a frame
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/checksum.cuh"
#include "cuda/philox.cuh"
#include "cuda/row.cuh"

namespace
{

constexpr unsigned THREADS = 256;

struct FrameSigns {
    xp_dev_rows in; /* rows 0: seeds are known */
    const xp_gpu_frame *frames;
    uint64_t seed;
    Key key;
    size_t dim, words;
    uint64_t *sums, *seeds;
    uint32_t *of, *signs;
};

struct Block {
    Key key;
    uint64_t sums[THREADS], seed;
};

static __device__ __forceinline__ const unsigned char *row_at(const xp_dev_rows &in, size_t r)
{
    return in.data + (in.index ? (size_t)in.index[r] : r) * in.row_bytes;
}

/* Checksums of the frame's rows, and whose they are. */
static __device__ __forceinline__ void sum_rows(const FrameSigns &s, const xp_gpu_frame &f, const Key &key)
{
    const unsigned lane = threadIdx.x % 32;

    for (unsigned r = threadIdx.x; r < f.rows; r += THREADS) {
        s.of[f.first + r] = blockIdx.x;
        if (s.in.row_bytes <= CHECKSUM_SHORT)
            s.sums[f.first + r] = checksum_of_short(row_at(s.in, f.first + r), (unsigned)s.in.row_bytes, key);
    }
    for (unsigned r = threadIdx.x / 32; s.in.row_bytes > CHECKSUM_SHORT && r < f.rows; r += THREADS / 32) {
        const uint64_t sum = checksum_of_long(row_at(s.in, f.first + r), s.in.row_bytes, key, lane);
        if (lane == 0)
            s.sums[f.first + r] = sum;
    }
}

/* The seed of a frame (hash/coder.c): its rows' checksums, one after the other. */
static __device__ __forceinline__ void mix_sums(const FrameSigns &s, const xp_gpu_frame &f, Block &b)
{
    uint64_t seed = s.seed;

    for (unsigned first = 0; first < f.rows; first += THREADS) {
        const unsigned n = min(THREADS, f.rows - first);

        __syncthreads(); /* sums are written; those before these have been mixed */
        if (threadIdx.x < n)
            b.sums[threadIdx.x] = s.sums[f.first + first + threadIdx.x];
        __syncthreads();
        for (unsigned i = 0; i < n && threadIdx.x == 0; i++)
            seed = (seed ^ b.sums[i]) * 0x9e3779b97f4a7c15;
    }
    if (threadIdx.x == 0)
        b.seed = s.seeds[blockIdx.x] = seed;
}

static __device__ __forceinline__ unsigned cut(unsigned bits, size_t w, size_t n)
{
    return w * 32 >= n ? 0 : n - w * 32 >= 32 ? bits : bits & ((1u << (n - w * 32)) - 1);
}

__global__ void __launch_bounds__(THREADS, 2) frame_signs_kernel(const __grid_constant__ FrameSigns s)
{
    XP_SHARED(Block, b);
    uint32_t *out = s.signs + blockIdx.x * s.words;

    if (s.in.rows) {
        const xp_gpu_frame f = s.frames[blockIdx.x];
        if (threadIdx.x < XP_CHECKSUM_KEY / 8)
            b.key.word[threadIdx.x] = s.key.word[threadIdx.x];
        __syncthreads();
        sum_rows(s, f, b.key);
        mix_sums(s, f, b);
    } else if (threadIdx.x == 0) {
        b.seed = s.seeds[blockIdx.x];
    }
    __syncthreads();
    for (size_t i = threadIdx.x; 4 * i < s.words; i += THREADS) {
        const uint4 r = xp_curand_block(b.seed, ((uint64_t)XP_SIGNS_QUANTISE << XP_SIGNS_STREAM_SHIFT) / 4 + i);
        xp_store16(out + 4 * i, make_uint4(cut(r.x, 4 * i, s.dim), cut(r.y, 4 * i + 1, s.dim), cut(r.z, 4 * i + 2, s.dim), cut(r.w, 4 * i + 3, s.dim)));
    }
}

int launch(const struct xp_gpu *g, FrameSigns &s, size_t count)
{
    s.words = xp_sign_words(s.dim);
    return count ? xp_launch("frame signs", xp_shape{dim3((unsigned)count), dim3(THREADS), 0, false}, g->stream, frame_signs_kernel, s) : 0;
}

} // namespace

extern "C" int xp_cuda_frame_signs(const struct xp_gpu *g, const struct xp_rows *in, const struct xp_gpu_frame *frames, size_t count, uint64_t seed,
                                   const struct xp_gpu_frame_signs *out)
{
    FrameSigns s = {};

    s.in = xp_rows_for_device(in);
    s.frames = frames;
    s.seed = seed;
    xp_checksum_key(reinterpret_cast<uint8_t *>(s.key.word));
    s.dim = in->dim;
    s.sums = out->sums;
    s.seeds = out->seeds;
    s.of = out->of;
    s.signs = out->signs;
    return launch(g, s, count);
}

extern "C" int xp_cuda_signs_of_seeds(const struct xp_gpu *g, const uint64_t *seeds, size_t count, size_t dim, uint32_t *signs)
{
    FrameSigns s = {};

    s.seeds = const_cast<uint64_t *>(seeds);
    s.dim = dim;
    s.signs = signs;
    return launch(g, s, count);
}
