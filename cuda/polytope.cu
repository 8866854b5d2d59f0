/*
 * polytope.cu - cross-polytope hash of a batch of rows, a warp for each row
 *
 * The row is read once, 16 bytes a lane, and folded in registers; rotations never leave them. Lane l holds values
 * GROUP * l + k of every stretch of GROUP * LANES, so a lane's sign bits are one byte and its part of the sketch is one store.
 * The tables lie in shared memory, once for all rows of a block; the signs of 16-bit rows as masks, which flip two values at a time.
 *
 * Rotation in pairs (fht.cuh): step 2 of the contract bounds every partial sum of a row that has a direction by 32767.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/fht.cuh"
#include "cuda/row.cuh"
#include "cuda/shape.cuh"

#include <float.h>

namespace
{

constexpr unsigned WARPS = 8;         /* of a block */
constexpr unsigned BLOCKS_PER_SM = 4; /* launched; what fits, runs */
constexpr unsigned MOST_ROWS = 8;     /* that a warp takes at a time: their ids are stored together */
constexpr size_t MOST_WIDE = 65536;   /* values of a row whose masks fit shared memory */
constexpr unsigned LOADS = 8;         /* 16-byte loads of a lane under way at a time */

/* A hasher as kernels get it. */
struct Hasher {
    unsigned k, w, rounds, sketch, combine;
    float target;
    const uint32_t *fold_signs;
    const int16_t *round_scale;
    const float *fold_mean;
};

/* Where a warp of N-value rotations keeps what. */
template <unsigned N> struct Layout {
    static constexpr unsigned V = N >= 64 ? N / 32 : 2; /* values of a lane */
    static constexpr unsigned LANES = N / V;
    static constexpr unsigned GROUP = V < 8 ? V : 8; /* consecutive ones */
    static constexpr unsigned GROUPS = V / GROUP;
    static __device__ __forceinline__ unsigned first(unsigned g, unsigned lane) { return g * GROUP * LANES + GROUP * lane; }
};

/* The tables of a block. */
template <unsigned N> struct Tables {
    const uint32_t *signs;  /* bits, or */
    const uint4 *flips;     /* 0x8000 or 0 for each of 8 values */
    const int16_t *scale;
    const float *mean;
    float *squares; /* N of this warp */
};

/* ---- fold ---- */

template <unsigned N> static __device__ __forceinline__ unsigned sign_bits(const Tables<N> &t, size_t i)
{
    typedef Layout<N> L;

    if (L::GROUP == 8)
        return reinterpret_cast<const uint8_t *>(t.signs)[i / 8];
    return t.signs[i / 32] >> i % 32;
}

static __device__ __forceinline__ float with_sign(float x, unsigned bits, unsigned k)
{
    return __uint_as_float(__float_as_uint(x) ^ (bits << (31 - k) & 0x80000000u));
}

/* The masks of 8 values from their bits: x * 0x40008000 has bit 0 of x at bit 15 and bit 1 at bit 31. */
static __device__ __forceinline__ uint4 flips_of(unsigned bits)
{
    uint32_t w[4];

#pragma unroll
    for (unsigned i = 0; i < 4; i++)
        w[i] = (bits >> (2 * i) & 3) * 0x40008000u & 0x80008000u;
    return make_uint4(w[0], w[1], w[2], w[3]);
}

/* Adds the values of a group, with their signs, to what has been folded. i: the first one's place in the row. */
template <class T, unsigned N>
static __device__ __forceinline__ void add_group(const uint4 *raw, const Tables<N> &t, unsigned i, float *f)
{
    if constexpr (sizeof(typename T::word) == 2) {
        const uint4 m = t.flips[i / 8], x = make_uint4(raw->x ^ m.x, raw->y ^ m.y, raw->z ^ m.z, raw->w ^ m.w);
#pragma unroll
        for (unsigned k = 0; k < 8; k++)
            f[k] = __fadd_rn(f[k], xp_value_of<T>(x, k));
    } else {
        const unsigned bits = sign_bits<N>(t, i);
#pragma unroll
        for (unsigned k = 0; k < 8; k++)
            f[k] = __fadd_rn(f[k], with_sign(xp_value_of<T>(raw[k / 4], k % 4), bits, k));
    }
}

/* The values of a few stretches from value `at` on; END: the row may end among them. */
template <class T, unsigned N, bool END>
static __device__ __forceinline__ void fold_stretches(const unsigned char *row, unsigned at, unsigned dim, const Tables<N> &t, unsigned lane,
                                                      float (&f)[Layout<N>::V])
{
    typedef Layout<N> L;
    constexpr unsigned PER_GROUP = 8 / xp_per_load<T>; /* 16-byte loads of 8 values */
    constexpr unsigned STRETCHES = LOADS / (PER_GROUP * L::GROUPS);
    const unsigned char *from = row + (size_t)at * sizeof(typename T::word);
    uint4 raw[STRETCHES][L::GROUPS][PER_GROUP];

#pragma unroll
    for (unsigned s = 0; s < STRETCHES; s++)
#pragma unroll
        for (unsigned g = 0; g < L::GROUPS; g++)
#pragma unroll
            for (unsigned l = 0; l < PER_GROUP; l++) {
                const unsigned i = s * N + L::first(g, lane) + l * xp_per_load<T>;
                raw[s][g][l] = !END || at + i < dim ? *reinterpret_cast<const uint4 *>(from + i * sizeof(typename T::word)) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
    for (unsigned s = 0; s < STRETCHES; s++)
#pragma unroll
        for (unsigned g = 0; g < L::GROUPS; g++) {
            const unsigned i = at + s * N + L::first(g, lane);
            if (!END || i < dim) /* zeros behind the end of the row change nothing, the sums are never -0 */
                add_group<T, N>(raw[s][g], t, i, f + g * L::GROUP);
        }
}

template <class T, unsigned N>
static __device__ __forceinline__ void fold_wide(const unsigned char *row, unsigned dim, const Tables<N> &t, unsigned lane, float (&f)[Layout<N>::V])
{
    constexpr unsigned STEP = LOADS * xp_per_load<T> * 32; /* values that a warp loads at a time */
    unsigned at = 0;

    for (; at + STEP <= dim; at += STEP)
        fold_stretches<T, N, false>(row, at, dim, t, lane, f);
    if (at < dim)
        fold_stretches<T, N, true>(row, at, dim, t, lane, f);
}

template <class T, unsigned N>
static __device__ __forceinline__ void fold_narrow(const unsigned char *row, size_t dim, const Tables<N> &t, unsigned lane, float (&f)[Layout<N>::V])
{
    typedef Layout<N> L;
    const typename T::word *values = reinterpret_cast<const typename T::word *>(row);

    for (size_t at = 0; at < dim; at += N)
#pragma unroll
        for (unsigned g = 0; g < L::GROUPS; g++) {
            const size_t i = at + L::first(g, lane);
            if (i >= dim || L::first(g, lane) >= N)
                continue;
            const unsigned bits = sign_bits<N>(t, i);
#pragma unroll
            for (unsigned k = 0; k < L::GROUP; k++)
                if (i + k < dim)
                    f[g * L::GROUP + k] = __fadd_rn(f[g * L::GROUP + k], with_sign(T::load(values[i + k]), bits, k));
        }
}

/* ---- scale ---- */

/* The lane sum of the squares, on every lane: through shared memory, because each partial takes its terms from many lanes. */
template <unsigned N> static __device__ __forceinline__ float lane_sum(const Tables<N> &t, unsigned lane, const float (&f)[Layout<N>::V])
{
    typedef Layout<N> L;
    const unsigned p = lane % 16;
    float sum = 0;

#pragma unroll
    for (unsigned g = 0; g < L::GROUPS; g++)
        if (L::first(g, lane) < N) {
#pragma unroll
            for (unsigned k = 0; k < L::GROUP; k++)
                t.squares[L::first(g, lane) + k] = __fmul_rn(f[g * L::GROUP + k], f[g * L::GROUP + k]);
        }
    __syncwarp();
#pragma unroll
    for (unsigned i = 0; i < N; i += 32) {
        sum = __fadd_rn(sum, t.squares[i + 2 * p]);
        sum = __fadd_rn(sum, t.squares[i + 2 * p + 1]);
    }
    __syncwarp();
#pragma unroll
    for (unsigned half = 8; half > 0; half /= 2)
        sum = __fadd_rn(sum, __shfl_xor_sync(XP_FULL_WARP, sum, half));
    return sum;
}

/* ---- rotate ---- */

template <unsigned N> static __device__ __forceinline__ void rotate(unsigned lane, int (&r)[Layout<N>::V])
{
    typedef Layout<N> L;
    uint32_t p[L::V / 2];

#pragma unroll
    for (unsigned i = 0; i < L::V / 2; i++)
        p[i] = xp_pair(r[2 * i] + r[2 * i + 1], r[2 * i] - r[2 * i + 1]);
    xp_fht_registers(p);
    xp_fht_lanes(p, lane, L::LANES);
#pragma unroll
    for (unsigned i = 0; i < L::V / 2; i++) {
        r[2 * i] = xp_pair_low(p[i]);
        r[2 * i + 1] = xp_pair_high(p[i]);
    }
}

template <unsigned N> static __device__ __forceinline__ void rescale(const int16_t *scale, unsigned lane, int (&r)[Layout<N>::V])
{
    typedef Layout<N> L;

#pragma unroll
    for (unsigned g = 0; g < L::GROUPS; g++)
        if (L::first(g, lane) < N) {
#pragma unroll
            for (unsigned k = 0; k < L::GROUP; k++)
                r[g * L::GROUP + k] = (r[g * L::GROUP + k] * scale[L::first(g, lane) + k] + (1 << 14)) >> 15;
        }
}

/* ---- argmax ---- */

/* Magnitude first, then lowest code: the largest key of a block has its code. Codes have at most 10 bits. */
static __device__ __forceinline__ unsigned key_of(int r, unsigned index)
{
    return (unsigned)(r < 0 ? -r : r) << 10 | (1023 - (2 * index + (r < 0)));
}

template <unsigned N> static __device__ __forceinline__ uint32_t bucket_id(const Hasher &h, unsigned lane, const int (&r)[Layout<N>::V])
{
    typedef Layout<N> L;
    constexpr unsigned RUN = L::GROUP < 4 ? L::GROUP : 4; /* values that surely lie in one block */
    unsigned key[L::V / RUN], block[L::V / RUN];
    uint32_t id = 0;

#pragma unroll
    for (unsigned run = 0; run < L::V / RUN; run++) {
        const unsigned i = run * RUN, j = L::first(i / L::GROUP, lane) + i % L::GROUP;
        block[run] = j / h.w;
        key[run] = 0;
#pragma unroll
        for (unsigned k = 0; k < RUN; k++)
            key[run] = max(key[run], key_of(r[i + k], (j + k) & (h.w - 1)));
    }
    for (unsigned b = 0; b < h.k; b++) {
        unsigned best = 0;
#pragma unroll
        for (unsigned run = 0; run < L::V / RUN; run++)
            best = max(best, block[run] == b ? key[run] : 0u);
        id = id * h.combine + 1023 - (__reduce_max_sync(XP_FULL_WARP, best) & 1023);
    }
    return id;
}

/* ---- a row ---- */

template <unsigned N> static __device__ __forceinline__ void store_sketch(int16_t *out, unsigned values, unsigned lane, const int (&r)[Layout<N>::V])
{
    typedef Layout<N> L;

#pragma unroll
    for (unsigned g = 0; g < L::GROUPS; g++) {
        uint32_t w[L::GROUP / 2];
#pragma unroll
        for (unsigned k = 0; k < L::GROUP / 2; k++)
            w[k] = xp_int16_words(r[g * L::GROUP + 2 * k], r[g * L::GROUP + 2 * k + 1]);
        if (L::first(g, lane) >= values)
            continue;
        uint32_t *to = reinterpret_cast<uint32_t *>(out + L::first(g, lane));
        if (L::GROUP == 8)
            xp_store16(to, make_uint4(w[0], w[1 % (L::GROUP / 2)], w[2 % (L::GROUP / 2)], w[3 % (L::GROUP / 2)]));
        else
#pragma unroll
            for (unsigned k = 0; k < L::GROUP / 2; k++)
                to[k] = w[k];
    }
}

/* Returns the id; r is the rotated row. */
template <class T, unsigned N, bool WIDE>
static __device__ __forceinline__ uint32_t hash_row(const Hasher &h, const Tables<N> &t, const unsigned char *row, size_t dim, unsigned lane, int (&r)[Layout<N>::V])
{
    typedef Layout<N> L;
    float f[L::V] = {};

    if (WIDE)
        fold_wide<T, N>(row, (unsigned)dim, t, lane, f);
    else
        fold_narrow<T, N>(row, dim, t, lane, f);
#pragma unroll
    for (unsigned i = 0; i < L::V; i++) {
        const unsigned j = L::first(i / L::GROUP, lane) + i % L::GROUP;
        f[i] = j < N ? __fsub_rn(f[i], t.mean[j]) : 0.0f;
    }
    const float e = __fdiv_rn(lane_sum<N>(t, lane, f), (float)N);
    if (!(e >= FLT_MIN && e <= FLT_MAX)) {
#pragma unroll
        for (unsigned i = 0; i < L::V; i++)
            r[i] = 0;
        return XP_HASH_NONE;
    }
    const float s = __fdiv_rn(h.target, __fsqrt_rn(e));
#pragma unroll
    for (unsigned i = 0; i < L::V; i++)
        r[i] = __float2int_rn(__fmul_rn(f[i], s));
    rotate<N>(lane, r);
    for (unsigned round = 0; round + 1 < h.rounds; round++) {
        rescale<N>(t.scale + round * N, lane, r);
        rotate<N>(lane, r);
    }
    return bucket_id<N>(h, lane, r);
}

/* ---- the kernel ---- */

template <class T, unsigned N, bool WIDE> static __host__ __device__ size_t sign_room(size_t dim)
{
    return xp_ceil_div(dim, 512) * (WIDE && sizeof(typename T::word) == 2 ? 1024 : 64);
}

template <class T, unsigned N, bool WIDE> size_t shared_bytes(size_t dim)
{
    return sign_room<T, N, WIDE>(dim) + (XP_HASH_MAX_ROUNDS - 1) * N * sizeof(int16_t) + N * sizeof(float) + WARPS * N * sizeof(float);
}

static __device__ __forceinline__ void copy_table(void *to, const void *from, size_t bytes)
{
    for (size_t i = threadIdx.x; i < bytes / 16; i += blockDim.x)
        static_cast<uint4 *>(to)[i] = static_cast<const uint4 *>(from)[i];
}

/* 16 bytes of sign bits become the masks of 128 values. */
static __device__ __forceinline__ void spread_signs(uint4 *flips, const uint32_t *signs, size_t bytes)
{
    for (size_t i = threadIdx.x; i < bytes / 16; i += blockDim.x) {
        const uint4 bits = reinterpret_cast<const uint4 *>(signs)[i];
        const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (unsigned k = 0; k < 16; k++)
            flips[16 * i + k] = flips_of(words[k / 4] >> (k % 4 * 8) & 255);
    }
}

template <class T, unsigned N, bool WIDE>
__global__ void __launch_bounds__(WARPS * 32, 2) hash_kernel(Hasher h, xp_dev_rows in, unsigned chunk, uint32_t *__restrict__ ids, int16_t *__restrict__ sketch)
{
    typedef Layout<N> L;
    XP_DYNAMIC_SHARED(memory);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const size_t sign_bytes = xp_ceil_div(in.dim, 512) * 64;
    uint32_t *signs = reinterpret_cast<uint32_t *>(memory);
    uint4 *flips = reinterpret_cast<uint4 *>(memory);
    int16_t *scale = reinterpret_cast<int16_t *>(memory + sign_room<T, N, WIDE>(in.dim));
    float *mean = reinterpret_cast<float *>(scale + (XP_HASH_MAX_ROUNDS - 1) * N);

    if constexpr (WIDE && sizeof(typename T::word) == 2)
        spread_signs(flips, h.fold_signs, sign_bytes);
    else
        copy_table(signs, h.fold_signs, sign_bytes);
    copy_table(scale, h.round_scale, (h.rounds - 1) * N * sizeof(*scale));
    copy_table(mean, h.fold_mean, N * sizeof(*mean));
    __syncthreads();
    const Tables<N> t = {signs, flips, scale, mean, mean + N + warp * N};
    const size_t warps = (size_t)gridDim.x * WARPS;
    for (size_t first = ((size_t)blockIdx.x * WARPS + warp) * chunk; first < in.rows; first += warps * chunk) {
        const unsigned rows = (unsigned)min((size_t)chunk, in.rows - first);
        uint32_t number = 0, id = 0;

        if (in.index && lane < rows)
            number = in.index[first + lane];
        for (unsigned i = 0; i < rows; i++) {
            const size_t from = in.index ? __shfl_sync(XP_FULL_WARP, number, i) : first + i;
            int r[L::V];
            const uint32_t one = hash_row<T, N, WIDE>(h, t, in.data + from * in.row_bytes, in.dim, lane, r);
            id = lane == i ? one : id;
            if (sketch)
                store_sketch<N>(sketch + (first + i) * h.sketch, h.sketch, lane, r);
        }
        if (lane < rows)
            ids[first + lane] = id;
    }
}

template <class T, unsigned N, bool WIDE>
int launch_hash(const struct xp_gpu *g, const Hasher &h, const xp_dev_rows &in, uint32_t *ids, int16_t *sketch)
{
    const size_t most = (size_t)g->sms * BLOCKS_PER_SM, each = in.rows / (most * WARPS);
    const unsigned chunk = each < 1 ? 1 : each < MOST_ROWS ? (unsigned)each : MOST_ROWS;
    const size_t wanted = xp_ceil_div(in.rows, WARPS * chunk);
    const xp_shape shape = {xp_grid(wanted, most), dim3(WARPS * 32), shared_bytes<T, N, WIDE>(in.dim), false};

    return xp_launch("hash", shape, g->stream, hash_kernel<T, N, WIDE>, h, in, chunk, ids, sketch);
}

/* Narrow rotations have no wide loads: their rows have at most 256 values. */
template <class T> int launch_width(const struct xp_gpu *g, unsigned n, bool wide, const Hasher &h, const xp_dev_rows &in, uint32_t *ids, int16_t *sketch)
{
    switch (n) {
    case 32: return launch_hash<T, 32, false>(g, h, in, ids, sketch);
    case 64: return launch_hash<T, 64, false>(g, h, in, ids, sketch);
    case 128: return launch_hash<T, 128, false>(g, h, in, ids, sketch);
    case 256: return wide ? launch_hash<T, 256, true>(g, h, in, ids, sketch) : launch_hash<T, 256, false>(g, h, in, ids, sketch);
    case 512: return wide ? launch_hash<T, 512, true>(g, h, in, ids, sketch) : launch_hash<T, 512, false>(g, h, in, ids, sketch);
    default: return 1; /* cudaErrorInvalidValue */
    }
}

} // namespace

extern "C" int xp_cuda_hash(const struct xp_gpu *g, const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch)
{
    const Hasher hasher = {h->k, h->w, h->rounds, h->sketch, h->combine, h->target, h->fold_signs, h->round_scale, h->fold_mean};

    if (in->rows == 0)
        return 0;
    return xp_for_type(in->dtype, [&](auto t) {
        return launch_width<decltype(t)>(g, h->n, xp_rows_are_wide(in) && in->dim <= MOST_WIDE, hasher, xp_rows_for_device(in), ids, h->sketch ? sketch : nullptr);
    });
}

static size_t table_end(const struct xp_hasher *h)
{
    return (size_t)((const char *)(h->fold_mean + h->n) - (const char *)h->memory);
}

extern "C" size_t xp_cuda_hasher_bytes(const struct xp_hasher *h)
{
    return xp_ceil_div(table_end(h), 16) * 16;
}

extern "C" void xp_cuda_hasher(const struct xp_hasher *h, void *memory, struct xp_hasher *device)
{
    const ptrdiff_t move = (char *)memory - (char *)h->memory;

    *device = *h;
    device->memory = memory;
    device->fold_signs = (uint32_t *)((char *)h->fold_signs + move);
    device->fold_flips = (uint16_t *)((char *)h->fold_flips + move);
    device->round_scale = (int16_t *)((char *)h->round_scale + move);
    device->fold_mean = (float *)((char *)h->fold_mean + move);
}
