/*
 * dequantise.cu - quantised rows back to rows: a warp for each row
 *
 * A row's bytes begin anywhere in the payload; they come to shared memory 16 at a time, with the same place within 16. The row is put
 * together there, and leaves 16 bytes at a time, to one place or to many, times a weight.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/columns.cuh"
#include "cuda/qrow.cuh"

namespace
{

struct Decode {
    Formats f;
    Memory m;
    size_t rows, dim, row_bytes, stride;
    const uint32_t *signs;
    const float *base;
    const uint32_t *of, *signs_of;
    const unsigned char *in;
    const uint8_t *formats;
    const uint64_t *at;
    unsigned format;
    bool wide, wide_plain;
    const unsigned char *plain;  /* rows of format XP_GPU_PLAIN; NULL: there are none */
    struct xp_gpu_places places; /* first NULL: row r is row r of out */
    unsigned char *out;
};

template <class T> static __device__ __forceinline__ void decode_blocks(const Decode &d, const xp_qwarp &w, unsigned format, const unsigned char *in,
                                                                        const float *base, typename T::word *x)
{
    const struct xp_qinfo &q = d.f.info[format];
    const unsigned blocks = (unsigned)xp_ceil_div(d.dim, XP_QBLOCK);
    const unsigned char *codes = in + 2 * blocks;

    for (unsigned b = 0; b < blocks; b++) {
        const unsigned n = block_size((unsigned)d.dim, b);
        const float step = xp_q_step_of_wire(in[2 * b] | (uint32_t)in[2 * b + 1] << 8);
        float v[XP_QLANE];
        decode_block(q, format == XP_Q_FP8, w, b, n, step, codes, v);
        codes += block_bytes(q, n);
#pragma unroll
        for (unsigned m = 0; m < XP_QLANE; m++) {
            const unsigned i = b * XP_QBLOCK + 32 * m + w.lane;
            if (i < d.dim)
                x[i] = T::store(base ? __fadd_rn(v[m], base[i]) : v[m]);
        }
    }
}

/* The row in shared memory. */
template <class T> static __device__ __forceinline__ void decode_row(const Decode &d, const xp_qwarp &w, unsigned format, const unsigned char *from,
                                                                     unsigned char *room, const float *base, typename T::word *x)
{
    if (format == XP_Q_RAW) {
        for (size_t i = w.lane; i < d.row_bytes; i += 32)
            reinterpret_cast<unsigned char *>(x)[i] = from[i];
    } else if (format < XP_QFORMATS && d.f.info[format].bits) {
        const unsigned char *in = fetch_bytes(room, from, d.f.bytes[format], w.lane);
        __syncwarp();
        decode_blocks<T>(d, w, format, in, base, x);
    } else {
        for (unsigned i = w.lane; i < d.dim; i += 32)
            x[i] = format == XP_Q_BASE && base ? T::store(base[i]) : (typename T::word)0;
    }
}

/* The row to its place in out. */
template <class T> static __device__ __forceinline__ void store_row(const Decode &d, const unsigned char *row, size_t place, unsigned lane)
{
    typedef typename T::word word;
    unsigned char *to = d.out + place * d.row_bytes;

    if (d.wide)
        for (size_t i = lane * 16; i < d.row_bytes; i += 32 * 16)
            xp_store16(to + i, *reinterpret_cast<const uint4 *>(row + i));
    else
        for (size_t i = lane; i < d.dim; i += 32)
            reinterpret_cast<word *>(to)[i] = reinterpret_cast<const word *>(row)[i];
}

/* Times a weight. */
template <class T, bool WIDE> static __device__ __forceinline__ void store_weighted(const Decode &d, const unsigned char *row, size_t place, float weight, unsigned lane)
{
    constexpr unsigned PER = xp_per_load<T>;
    xp_columns<T, WIDE> x;

    for (size_t first = 0; first < d.dim; first += 32 * PER) {
        float v[PER];
        x.load(row, first, d.dim, lane, true);
#pragma unroll
        for (unsigned k = 0; k < PER; k++)
            v[k] = __fmul_rn(weight, x.value(k));
        x.store(d.out + place * d.row_bytes, first, d.dim, lane, v);
    }
}

template <class T> static __device__ __forceinline__ void spread_row(const Decode &d, const unsigned char *row, uint64_t begin, uint64_t end, unsigned lane)
{
    for (uint64_t p = begin; p < end; p++) {
        uint32_t known = 0; /* lane 0: where; 1: the weight */
        if (lane == 0)
            known = d.places.place[p];
        if (lane == 1 && d.places.weight)
            known = __float_as_uint(d.places.weight[p]);
        const uint32_t place = __shfl_sync(XP_FULL_WARP, known, 0);
        const float weight = __uint_as_float(__shfl_sync(XP_FULL_WARP, known, 1));
        if (!d.places.weight)
            store_row<T>(d, row, place, lane);
        else if (d.wide)
            store_weighted<T, true>(d, row, place, weight, lane);
        else
            store_weighted<T, false>(d, row, place, weight, lane);
    }
}

template <class T> __global__ void __launch_bounds__(MOST_WARPS * 32, 1) decode_kernel(const __grid_constant__ Decode d)
{
    XP_DYNAMIC_SHARED(memory);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const bool one_base = d.base && !d.of;
    float *shared_base = reinterpret_cast<float *>(memory + d.m.signs);
    unsigned char *own = memory + d.m.before_warps + warp * d.m.each_warp;
    typename T::word *x = reinterpret_cast<typename T::word *>(own);
    unsigned char *own_signs = own + d.m.row + d.m.codes + d.m.stage;
    const xp_qwarp w = {lane, reinterpret_cast<uint32_t *>(d.signs_of ? own_signs : memory), reinterpret_cast<uint16_t *>(own + d.m.row + d.m.codes)};

    if (!d.signs_of)
        copy_shared(memory, d.signs, d.m.signs);
    if (one_base)
        copy_shared(reinterpret_cast<unsigned char *>(shared_base), d.base, d.dim * sizeof(float));
    __syncthreads();
    for (size_t r = (size_t)blockIdx.x * warps + warp; r < d.rows; r += (size_t)gridDim.x * warps) {
        uint64_t known = 0; /* lane 0: where; 1: the format; 2: the base; 3: the signs; 4, 5: its places */
        if (lane == 0)
            known = d.at ? d.at[r] : r * d.stride;
        if (lane == 1)
            known = d.formats ? d.formats[r] : d.format;
        if (lane == 2 && d.of)
            known = d.of[r];
        if (lane == 3 && d.signs_of)
            known = d.signs_of[r];
        if ((lane == 4 || lane == 5) && d.places.first)
            known = d.places.first[r + lane - 4];
        const uint64_t at = __shfl_sync(XP_FULL_WARP, known, 0), which = __shfl_sync(XP_FULL_WARP, known, 2);
        const unsigned format = (unsigned)__shfl_sync(XP_FULL_WARP, known, 1);
        const size_t table = __shfl_sync(XP_FULL_WARP, known, 3);
        __syncwarp();
        if (d.plain && format == XP_GPU_PLAIN) {
            fetch<typename T::word>(own, d.plain + r * d.row_bytes, d.row_bytes, d.wide_plain, lane);
        } else {
            fetch<uint32_t>(own_signs, reinterpret_cast<const unsigned char *>(d.signs) + table * d.m.own_signs, d.m.own_signs, true, lane);
            __syncwarp();
            decode_row<T>(d, w, format, d.in + at, own + d.m.row, d.of && which != XP_GPU_NO_ROW ? d.base + which * d.dim : one_base ? shared_base : nullptr, x);
        }
        __syncwarp();
        if (d.places.first)
            spread_row<T>(d, own, __shfl_sync(XP_FULL_WARP, known, 4), __shfl_sync(XP_FULL_WARP, known, 5), lane);
        else
            store_row<T>(d, own, r, lane);
    }
}

/* ---- launches ---- */

int launch_decode(const struct xp_gpu *g, const struct xp_quantiser *q, const struct xp_gpu_bases *bases, xp_dtype t, size_t rows, void *out, Decode &d)
{
    const struct xp_rows to = {out, nullptr, rows, q->dim, t}, plain = {d.plain, nullptr, rows, q->dim, t};
    Memory &m = d.m;

    d.rows = rows;
    d.dim = q->dim;
    d.row_bytes = q->dim * xp_dtype_size(t);
    d.f = formats_of(d.dim, d.row_bytes);
    d.signs = q->signs;
    d.base = bases->rows;
    d.of = bases->rows ? bases->of : nullptr;
    d.signs_of = bases->signs_of;
    d.wide = xp_rows_are_wide(&to);
    d.wide_plain = xp_rows_are_wide(&plain);
    d.out = static_cast<unsigned char *>(out);
    m.own_signs = d.signs_of ? xp_sign_words(d.dim) * sizeof(uint32_t) : 0;
    m.signs = d.signs_of ? 0 : xp_sign_words(d.dim) * sizeof(uint32_t);
    m.base = d.base && !d.of ? round16(d.dim * sizeof(float)) : 0;
    m.row = round16(d.row_bytes);
    m.codes = round16(longest_code(d.f) + 16);
    m.stage = XP_QBLOCK * sizeof(uint16_t);
    m.before_warps = m.signs + m.base;
    m.each_warp = m.row + m.codes + m.stage + m.own_signs;
    if (rows == 0)
        return 0;
    if (d.dim >> 28)
        return 1; /* cudaErrorInvalidValue */
    return xp_for_type(t, [&](auto tag) { return xp_launch("decode", shape_for(g, m, rows), g->stream, decode_kernel<decltype(tag)>, d); });
}

} // namespace

extern "C" int xp_cuda_row_decode(const struct xp_gpu *g, const struct xp_quantiser *q, const uint8_t *formats, enum xp_qformat f, const uint8_t *in,
                                  const uint64_t *at, size_t stride, const struct xp_gpu_bases *bases, xp_dtype t, size_t rows, void *out)
{
    Decode d = {};

    d.stride = stride;
    d.in = in;
    d.formats = formats;
    d.at = at;
    d.format = f;
    return launch_decode(g, q, bases, t, rows, out, d);
}

extern "C" int xp_cuda_row_spread(const struct xp_gpu *g, const struct xp_quantiser *q, const struct xp_gpu_coded_rows *rows, xp_dtype t, size_t count,
                                  const struct xp_gpu_places *places, void *out)
{
    Decode d = {};

    d.in = rows->bytes;
    d.formats = rows->formats;
    d.at = rows->at;
    d.plain = static_cast<const unsigned char *>(rows->plain);
    d.places = *places;
    return launch_decode(g, q, &rows->bases, t, count, out, d);
}
