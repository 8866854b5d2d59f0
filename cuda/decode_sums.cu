/*
 * decode_sums.cu - sums of rows, coded or not, decoded where they are added: a warp for each 512 values of a sum
 *
 * What dequantise.cu and the sums of moe.cu do one after the other, without the decoded rows in between. A block of 128 values is decoded in
 * registers and rounded to the rows' type, as if it were stored, before it is weighted; every value is the work of one lane, terms in order.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/qrow.cuh"

namespace
{

constexpr unsigned WARPS = 8; /* of a block */
constexpr unsigned PIECE = 512, PIECE_BLOCKS = PIECE / XP_QBLOCK, PIECE_WORDS = PIECE / 32;

struct Sums {
    Formats f;
    Memory m;
    size_t sums, dim, row_bytes;
    struct xp_gpu_coded_rows rows;
    struct xp_gpu_terms terms;
    const uint32_t *signs;
    bool wide, wide_out; /* plain rows, results */
    unsigned char *out;
};

/* Every lane knows one of up to 32 terms, and all of them what is common to the one that is added. */
struct Term {
    uint32_t row;
    float weight;
    unsigned how, format;
};

/* Of a coded row. */
struct Coded {
    const unsigned char *bytes;
    const float *base; /* NULL: none */
    size_t signs;      /* table */
};

static __device__ __forceinline__ Term load_term(const Sums &d, uint32_t i)
{
    Term t;

    t.row = d.terms.row[i];
    t.weight = d.terms.weight ? d.terms.weight[i] : 1.0f;
    t.how = d.terms.how[i];
    t.format = d.rows.formats[t.row];
    return t;
}

static __device__ __forceinline__ Term term_of(const Term &t, unsigned lane)
{
    const unsigned both = __shfl_sync(XP_FULL_WARP, t.how << 8 | t.format, lane);

    return {__shfl_sync(XP_FULL_WARP, t.row, lane), __shfl_sync(XP_FULL_WARP, t.weight, lane), both >> 8, both & 0xff};
}

static __device__ __forceinline__ Coded coded_of(const Sums &d, uint32_t row, unsigned lane)
{
    uint64_t known = 0;

    if (lane == 0)
        known = d.rows.at[row];
    if (lane == 1)
        known = d.rows.bases.of[row];
    if (lane == 2 && d.rows.bases.signs_of)
        known = d.rows.bases.signs_of[row];
    const uint32_t base = (uint32_t)__shfl_sync(XP_FULL_WARP, known, 1);
    return {d.rows.bytes + __shfl_sync(XP_FULL_WARP, known, 0), d.rows.bases.rows && base != XP_GPU_NO_ROW ? d.rows.bases.rows + base * d.dim : nullptr,
            (size_t)__shfl_sync(XP_FULL_WARP, known, 2)};
}

/* The shared memory of a warp, and which values it has: [first, first + count). */
template <class T> struct Piece {
    const Sums &d;
    unsigned lane;
    float *all, *part;   /* [PIECE] each value is one lane's */
    unsigned char *room; /* what a term brings; at last the sum */
    uint32_t *own_signs; /* [PIECE_WORDS] */
    uint16_t *stage;
    const uint32_t *shared_signs;
    unsigned first, count;

    /* Adds value k of a term, in this lane. */
    __device__ __forceinline__ void add(const Term &t, unsigned k, float x)
    {
        const float sum = __fadd_rn(part[k], __fmul_rn(t.weight, x));
        const bool last = t.how & XP_GPU_TERM_LAST;

        if (last)
            all[k] = __fadd_rn(all[k], sum);
        part[k] = last ? 0.0f : sum;
    }

    /* A row in its own type, in the payload or not. */
    __device__ __forceinline__ void add_typed(const Term &t, const Coded &row)
    {
        typedef typename T::word word;
        const size_t bytes = count * sizeof(word), before = first * sizeof(word);
        const word *x = reinterpret_cast<const word *>(room);

        if (t.format == XP_GPU_PLAIN)
            fetch<word>(room, static_cast<const unsigned char *>(d.rows.plain) + t.row * d.row_bytes + before, bytes, d.wide, lane);
        else
            for (size_t i = lane; i < bytes; i += 32)
                room[i] = row.bytes[before + i];
        __syncwarp();
        for (unsigned k = lane; k < count; k += 32)
            add(t, k, T::load(x[k]));
    }

    __device__ __forceinline__ void add_coded(const Term &t, const Coded &row)
    {
        const struct xp_qinfo &q = d.f.info[t.format];
        const unsigned blocks = (unsigned)xp_ceil_div(d.dim, XP_QBLOCK), at = first / XP_QBLOCK, here = min(blocks - at, PIECE_BLOCKS), last = at + here - 1;
        const unsigned full = block_bytes(q, XP_QBLOCK), bytes = (here - 1) * full + block_bytes(q, block_size((unsigned)d.dim, last));
        const unsigned steps = lane < 2 * here ? row.bytes[2 * at + lane] : 0;
        const unsigned char *codes = fetch_bytes(room, row.bytes + 2 * blocks + at * full, bytes, lane);
        const xp_qwarp w = {lane, d.rows.bases.signs_of ? own_signs : shared_signs + first / 32, stage};

        if (d.rows.bases.signs_of && lane < PIECE_WORDS)
            own_signs[lane] = d.signs[row.signs * xp_ceil_div(d.dim, PIECE) * PIECE_WORDS + first / 32 + lane];
        __syncwarp();
        for (unsigned b = 0; b < here; b++) {
            const unsigned low = __shfl_sync(XP_FULL_WARP, steps, 2 * b), high = __shfl_sync(XP_FULL_WARP, steps, 2 * b + 1);
            float v[XP_QLANE];
            decode_block(q, t.format == XP_Q_FP8, w, b, block_size((unsigned)d.dim, at + b), xp_q_step_of_wire(low | high << 8), codes + b * full, v);
#pragma unroll
            for (unsigned m = 0; m < XP_QLANE; m++) {
                const unsigned k = b * XP_QBLOCK + 32 * m + lane;
                if (k < count)
                    add(t, k, T::load(T::store(row.base ? __fadd_rn(v[m], row.base[first + k]) : v[m])));
            }
        }
    }

    __device__ __forceinline__ void add_term(const Term &t)
    {
        const Coded row = t.format == XP_GPU_PLAIN ? Coded{} : coded_of(d, t.row, lane);

        __syncwarp(); /* what the term before brought has been read */
        if (t.format == XP_GPU_PLAIN || t.format == XP_Q_RAW)
            add_typed(t, row);
        else if (t.format < XP_QFORMATS && d.f.info[t.format].bits)
            add_coded(t, row);
        else
            for (unsigned k = lane; k < count; k += 32)
                add(t, k, t.format == XP_Q_BASE && row.base ? T::load(T::store(row.base[first + k])) : 0.0f);
    }

    __device__ __forceinline__ void sum_up(uint32_t begin, uint32_t end)
    {
        for (unsigned k = lane; k < PIECE; k += 32)
            all[k] = part[k] = 0.0f;
        for (uint32_t i = begin; i < end; i += 32) {
            const unsigned some = min(end - i, 32u);
            const Term mine = lane < some ? load_term(d, i + lane) : Term{};
            for (unsigned k = 0; k < some; k++)
                add_term(term_of(mine, k));
        }
    }

    __device__ __forceinline__ void store(size_t sum)
    {
        typedef typename T::word word;
        unsigned char *to = d.out + sum * d.row_bytes + first * sizeof(word);
        word *x = reinterpret_cast<word *>(room);

        __syncwarp();
        for (unsigned k = lane; k < count; k += 32)
            x[k] = T::store(all[k]);
        __syncwarp();
        if (d.wide_out)
            for (size_t i = lane * 16; i < count * sizeof(word); i += 32 * 16)
                xp_store16(to + i, *reinterpret_cast<const uint4 *>(room + i));
        else
            for (unsigned k = lane; k < count; k += 32)
                reinterpret_cast<word *>(to)[k] = x[k];
        __syncwarp();
    }
};

template <class T> __global__ void __launch_bounds__(WARPS * 32, 2) decodesums_kernel(const __grid_constant__ Sums d, size_t items)
{
    XP_DYNAMIC_SHARED(memory);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const unsigned pieces = (unsigned)xp_ceil_div(d.dim, PIECE);
    unsigned char *own = memory + d.m.before_warps + warp * d.m.each_warp, *room = own + 2 * PIECE * sizeof(float);
    Piece<T> p = {d,
                  lane,
                  reinterpret_cast<float *>(own),
                  reinterpret_cast<float *>(own) + PIECE,
                  room,
                  reinterpret_cast<uint32_t *>(room + d.m.row),
                  reinterpret_cast<uint16_t *>(room + d.m.row + d.m.own_signs),
                  reinterpret_cast<const uint32_t *>(memory),
                  0,
                  0};

    if (d.m.signs)
        copy_shared(memory, d.signs, d.m.signs);
    __syncthreads();
    for (size_t i = (size_t)blockIdx.x * warps + warp; i < items; i += (size_t)gridDim.x * warps) {
        const unsigned sum = (unsigned)i / pieces; /* 32 bits: a wider division is a call */
        p.first = ((unsigned)i - sum * pieces) * PIECE;
        p.count = min((unsigned)d.dim - p.first, PIECE);
        const uint32_t end = lane < 2 ? d.terms.first[sum + lane] : 0;
        p.sum_up(__shfl_sync(XP_FULL_WARP, end, 0), __shfl_sync(XP_FULL_WARP, end, 1));
        p.store(sum);
    }
}

} // namespace

extern "C" int xp_cuda_decode_sums(const struct xp_gpu *g, const struct xp_quantiser *q, const struct xp_gpu_coded_rows *rows, xp_dtype t,
                                   const struct xp_gpu_terms *terms, size_t sums, void *out)
{
    const struct xp_rows plain = {rows->plain, nullptr, sums, q->dim, t}, to = {out, nullptr, sums, q->dim, t};
    const size_t items = sums * xp_ceil_div(q->dim, PIECE);
    Sums d = {};
    Memory &m = d.m;

    d.sums = sums;
    d.dim = q->dim;
    d.row_bytes = q->dim * xp_dtype_size(t);
    d.f = formats_of(d.dim, d.row_bytes);
    d.rows = *rows;
    d.terms = *terms;
    d.signs = q->signs;
    d.wide = xp_rows_are_wide(&plain);
    d.wide_out = xp_rows_are_wide(&to);
    d.out = static_cast<unsigned char *>(out);
    m.signs = rows->bases.signs_of ? 0 : xp_sign_words(d.dim) * sizeof(uint32_t);
    m.own_signs = PIECE_WORDS * sizeof(uint32_t);
    m.row = PIECE * xp_dtype_size(t) + 16; /* codes have at most 8 bits, and begin anywhere within 16 bytes */
    m.stage = XP_QBLOCK * sizeof(uint16_t);
    m.before_warps = m.signs;
    m.each_warp = 2 * PIECE * sizeof(float) + m.row + m.own_signs + m.stage;
    const xp_shape shape = xp_shape_of_warps(g, {g->shared_bytes, m.before_warps, m.each_warp, WARPS, 2}, items, 1);
    if (items == 0)
        return 0;
    if (items >> 31)
        return 1; /* cudaErrorInvalidValue */
    return xp_for_type(t, [&](auto tag) { return xp_launch("decode sums", shape, g->stream, decodesums_kernel<decltype(tag)>, d, items); });
}
