/*
 * quantise.cu - rows to the fewest bits that keep the promise: a warp for each row
 *
 * The row is read once into shared memory. Its blocks are rotated once; every format that is tried takes the integers from there,
 * codes them, decodes them again in registers and measures the error, so that what is promised is what the receiver will have. The
 * scalar work of a block (scale, step) is done for 32 blocks at a time, one in each lane. Choices and sums are those of hash/quant_rows.c
 * in the same order and precision; only the bound that saves the C code a pass is not needed here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/qrow.cuh"

#include <float.h>
#include <math.h>

namespace
{

struct Plan {
    uint8_t order[XP_ROW_FORMATS];
    unsigned count;
    double eps2, margin, least, rounding, optimism;
    float expected[XP_ROW_FORMATS];
};

/* What is known of a block before and after a step has been chosen. */
struct BlockState {
    struct xp_qstats stats;
    float inverse;       /* FP8: codes = integers * this */
    struct xp_qstep step;
    uint16_t unused;
};

/* ---- the row of a warp ---- */

template <class T> struct Row {
    const typename T::word *x;
    const float *base; /* NULL: none */
    unsigned dim;

    __device__ __forceinline__ float value(unsigned i) const { return T::load(x[i]); }
    __device__ __forceinline__ float residual(unsigned i) const { return base ? __fsub_rn(value(i), base[i]) : value(i); }
    /* As it will be decoded from the residual v. */
    __device__ __forceinline__ typename T::word restored(unsigned i, float v) const { return T::store(base ? __fadd_rn(v, base[i]) : v); }
    /* The residual's values of block b in this lane, zeros behind the row. */
    __device__ __forceinline__ void block(unsigned b, unsigned lane, float (&v)[XP_QLANE]) const
    {
#pragma unroll
        for (unsigned m = 0; m < XP_QLANE; m++) {
            const unsigned i = b * XP_QBLOCK + 32 * m + lane;
            v[m] = i < dim ? residual(i) : 0.0f;
        }
    }
};

/* One warp sums: 32 partials, one in each lane. */
static __device__ __forceinline__ float fold(float partial)
{
#pragma unroll
    for (unsigned half = 16; half > 0; half /= 2)
        partial = __fadd_rn(partial, __shfl_xor_sync(XP_FULL_WARP, partial, half));
    return partial;
}

/* ---- coding ---- */

struct Encode {
    Formats f;
    Plan plan;
    Memory m;
    xp_dev_rows in;
    const uint32_t *signs;
    const float *base, *reference;
    const uint32_t *of, *reference_of, *signs_of;
    size_t base_bytes; /* of one row of base or reference */
    bool wide, wide_base;
    unsigned forced;   /* the format of all rows; XP_Q_RAW: the one that is chosen */
    unsigned char *slots;
    size_t stride;
    uint8_t *formats;
    uint32_t *lengths;
    float *errors;
};

/* The shared memory of a warp, and its row. */
template <class T> struct Coder {
    const Encode &e;
    xp_qwarp w;
    Row<T> row;
    uint32_t *pairs;
    unsigned char *codes, *spare; /* of the best format so far; of one that is tried */
    BlockState *states;
    unsigned blocks;

    /* Scales and rotates all blocks. */
    __device__ __forceinline__ void rotate_blocks()
    {
        for (unsigned first = 0; first < blocks; first += 32) {
            const unsigned end = min(blocks, first + 32);
            float x[XP_QLANE], sum_abs = 0;
            for (unsigned b = first; b < end; b++) {
                row.block(b, w.lane, x);
                const float sum = xp_q_sum_abs(w.lane, x);
                sum_abs = w.lane == b - first ? sum : sum_abs;
            }
            const float scales = xp_q_scale(sum_abs);
            for (unsigned b = first; b < end; b++) {
                const float scale = __shfl_sync(XP_FULL_WARP, scales, b - first);
                struct xp_qstats s;
                uint32_t p[2];
                row.block(b, w.lane, x);
                xp_q_integers(w, b, block_size(row.dim, b), x, scale, p, &s);
                pairs[b * 64 + w.lane] = p[0];
                pairs[b * 64 + 32 + w.lane] = p[1];
                if (w.lane == 0)
                    states[b] = {s, 0.0f, {0, 0, 1}, 0};
            }
        }
    }

    __device__ __forceinline__ void integers_of(unsigned b, int (&h)[XP_QLANE]) const
    {
        const uint32_t p[2] = {pairs[b * 64 + w.lane], pairs[b * 64 + 32 + w.lane]};

        xp_q_unpack(p, h);
    }

    /* Chooses the steps of all blocks and writes them at the head of `spare`. */
    __device__ __forceinline__ void choose_steps(unsigned format)
    {
        const struct xp_qinfo &q = e.f.info[format];

        __syncwarp(); /* the blocks' integers are written, another format's steps have been read */
        for (unsigned first = 0; first < blocks; first += 32) {
            const unsigned b = first + w.lane;
            const bool mine = b < blocks && states[b].stats.scale != 0.0f;
            bool odd = false;
            struct xp_qstep step = {0, 0, 1};
            const struct xp_qstats known = mine ? states[b].stats : xp_qstats{0, 0, 0};
            if (mine && format == XP_Q_FP8)
                step.wire = (uint16_t)xp_q_fp8_step(known, block_size(row.dim, b), &states[b].inverse);
            else if (mine)
                step = xp_q_step_guess(q, known, block_size(row.dim, b), &odd);
            if (b < blocks)
                states[b].step = step;
            unsigned left = __ballot_sync(XP_FULL_WARP, odd);
            while (left) {
                const unsigned which = first + (unsigned)__ffs((int)left) - 1;
                int h[XP_QLANE];
                integers_of(which, h);
                __syncwarp();
                const BlockState s = states[which];
                step = xp_q_step_search(q, s.step, s.stats, block_size(row.dim, which), w.lane, h);
                __syncwarp();
                if (w.lane == 0)
                    states[which].step = step;
                left &= left - 1;
            }
            __syncwarp();
            if (b < blocks)
                reinterpret_cast<uint16_t *>(spare)[b] = states[b].step.wire;
        }
    }

    /* Codes all blocks at `spare`; returns the squared error of what they decode to. */
    __device__ __forceinline__ float code_blocks(unsigned format)
    {
        const struct xp_qinfo &q = e.f.info[format];
        unsigned char *out = spare + 2 * blocks;
        float error = 0;

        for (unsigned b = 0; b < blocks; b++) {
            const unsigned n = block_size(row.dim, b);
            const BlockState s = states[b];
            const float step = xp_q_step_of_wire(s.step.wire);
            float v[XP_QLANE];
            unsigned u[XP_QLANE];
            int h[XP_QLANE];
            integers_of(b, h);
            if (format == XP_Q_FP8) {
#pragma unroll
                for (unsigned m = 0; m < XP_QLANE; m++) {
                    u[m] = s.stats.scale != 0.0f ? xp_q_fp8_code(__fmul_rn((float)h[m], s.inverse)) : 0;
                    if (xp_q_has(n, m, w.lane))
                        out[32 * m + w.lane] = (uint8_t)u[m];
                }
                xp_q_fp8_values(w, b, n, u, step, v);
            } else {
                unsigned moved[XP_QLANE];
#pragma unroll
                for (unsigned m = 0; m < XP_QLANE; m++)
                    moved[m] = u[m] = s.stats.scale != 0.0f && xp_q_has(n, m, w.lane) ? xp_q_code(q.levels, s.step.recip, s.step.shift, h[m]) : 0;
                xp_q_write(w, q, n, moved, out);
                xp_q_values(w, q.levels, b, n, u, step, v);
            }
            out += block_bytes(q, n);
#pragma unroll
            for (unsigned m = 0; m < XP_QLANE; m++) {
                const unsigned i = b * XP_QBLOCK + 32 * m + w.lane;
                if (i < row.dim) {
                    const float d = __fsub_rn(row.value(i), T::load(row.restored(i, v[m])));
                    error = __fadd_rn(error, __fmul_rn(d, d));
                }
            }
        }
        return fold(error);
    }

    __device__ __forceinline__ float try_format(unsigned format)
    {
        choose_steps(format);
        return code_blocks(format);
    }

    /* What was tried is the best so far. */
    __device__ __forceinline__ void keep()
    {
        unsigned char *t = codes;

        codes = spare;
        spare = t;
    }

    /* ---- the choice of a format (quant_rows.c) ---- */

    __device__ __forceinline__ unsigned search(double energy, double residual, double allowed, float *error)
    {
        const Plan &p = e.plan;
        unsigned first = 0, i;

        while (first + 1 < p.count && !(p.expected[p.order[first]] * residual + p.rounding * energy <= p.optimism * allowed))
            first++;
        for (i = first; i < p.count; i++) {
            *error = try_format(p.order[i]);
            keep();
            if (*error <= allowed)
                break;
        }
        if (i >= p.count)
            return XP_Q_RAW;
        for (; i == first && i > 0; first = --i) {
            const unsigned narrower = p.order[i - 1];
            if (!((double)*error * __fdiv_rn(p.expected[narrower], p.expected[p.order[i]]) <= allowed))
                break;
            const float tried = try_format(narrower);
            if (!(tried <= allowed))
                break;
            keep();
            *error = tried;
        }
        return p.order[i];
    }

    __device__ __forceinline__ bool base_is_enough(double residual, double allowed, float *error) const
    {
        float sum = 0;

        if (!row.base || !(residual <= 2 * allowed))
            return false;
        for (unsigned i = w.lane; i < row.dim; i += 32) {
            const float d = __fsub_rn(row.value(i), T::load(T::store(row.base[i])));
            sum = __fadd_rn(sum, __fmul_rn(d, d));
        }
        *error = fold(sum);
        return *error <= allowed;
    }

    __device__ __forceinline__ bool all_zero() const
    {
        unsigned any = 0;

        for (unsigned i = w.lane; i < row.dim; i += 32)
            any |= row.x[i] & (typename T::word)(sizeof(typename T::word) == 2 ? 0x7fff : 0x7fffffff);
        return __reduce_or_sync(XP_FULL_WARP, any) == 0;
    }

    /* reference: the mean row that eps refers to, or NULL. */
    __device__ __forceinline__ unsigned choose(const float *reference, float *error)
    {
        float sum = 0, to_base = 0, to_mean = 0;

        for (unsigned i = w.lane; i < row.dim; i += 32) {
            const float x = row.value(i), r = row.residual(i), d = reference ? __fsub_rn(x, reference[i]) : 0.0f;
            sum = __fadd_rn(sum, __fmul_rn(x, x));
            to_base = __fadd_rn(to_base, __fmul_rn(r, r));
            to_mean = __fadd_rn(to_mean, __fmul_rn(d, d));
        }
        const double energy = fold(sum), residual = fold(to_base), apart = fold(to_mean);
        const double least = reference ? fmax(fmin(energy, apart), energy * 0x1p-16) : fmax(energy, energy * 0x1p-16);
        const double allowed = e.plan.eps2 * least * (1 - e.plan.margin) / (1 + e.plan.margin);

        *error = 0;
        if (!(energy <= FLT_MAX) || !(residual <= FLT_MAX) || !(allowed >= e.plan.least))
            return all_zero() ? XP_Q_ZERO : XP_Q_RAW;
        if (base_is_enough(residual, allowed, error))
            return XP_Q_BASE;
        rotate_blocks();
        return search(energy, residual, allowed, error);
    }
};

/* Copies the row's bytes to its slot. */
static __device__ __forceinline__ void store_slot(unsigned char *slot, unsigned char *bytes, unsigned count, unsigned lane)
{
    if (count + lane < (count + 15) / 16 * 16)
        bytes[count + lane] = 0;
    __syncwarp();
    for (unsigned i = lane * 16; i < count; i += 32 * 16)
        xp_store16(slot + i, *reinterpret_cast<const uint4 *>(bytes + i));
}

template <class T> static __device__ __forceinline__ void encode_row(Coder<T> &c, const float *reference, size_t r)
{
    const Encode &e = c.e;
    unsigned format = e.forced;
    float error = 0;

    if (format == XP_Q_RAW) {
        format = c.choose(reference, &error);
    } else {
        c.rotate_blocks();
        c.try_format(format);
        c.keep();
    }
    const unsigned bytes = e.f.bytes[format];
    unsigned char *from = format == XP_Q_RAW ? reinterpret_cast<unsigned char *>(const_cast<typename T::word *>(c.row.x)) : c.codes;
    store_slot(e.slots + r * e.stride, from, bytes, c.w.lane);
    if (c.w.lane == 0 && e.formats) {
        e.formats[r] = (uint8_t)format;
        e.lengths[r] = bytes;
        e.errors[r] = format == XP_Q_RAW ? 0.0f : error;
    }
}

template <class T> __global__ void __launch_bounds__(MOST_WARPS * 32, 1) encode_kernel(const __grid_constant__ Encode e)
{
    XP_DYNAMIC_SHARED(memory);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const bool one_base = e.base && !e.of;
    float *base = reinterpret_cast<float *>(memory + e.m.signs), *reference = reinterpret_cast<float *>(memory + e.m.signs + e.m.base);
    unsigned char *own = memory + e.m.before_warps + warp * e.m.each_warp;
    unsigned char *own_base = own + e.m.row + e.m.pairs + 2 * e.m.codes + e.m.states + e.m.stage;
    const float *own_base_row = reinterpret_cast<float *>(own_base);

    if (!e.signs_of)
        copy_shared(memory, e.signs, e.m.signs);
    if (one_base)
        copy_shared(reinterpret_cast<unsigned char *>(base), e.base, e.base_bytes);
    if (e.m.reference)
        copy_shared(reinterpret_cast<unsigned char *>(reference), e.reference, e.base_bytes);
    __syncthreads();
    unsigned char *own_signs = own_base + e.m.own_base;
    Coder<T> c = {e,
                  {lane, reinterpret_cast<uint32_t *>(e.signs_of ? own_signs : memory), reinterpret_cast<uint16_t *>(own + e.m.row + e.m.pairs + 2 * e.m.codes + e.m.states)},
                  {reinterpret_cast<typename T::word *>(own), one_base ? base : nullptr, (unsigned)e.in.dim},
                  reinterpret_cast<uint32_t *>(own + e.m.row),
                  own + e.m.row + e.m.pairs,
                  own + e.m.row + e.m.pairs + e.m.codes,
                  reinterpret_cast<BlockState *>(own + e.m.row + e.m.pairs + 2 * e.m.codes),
                  (unsigned)xp_ceil_div(e.in.dim, XP_QBLOCK)};
    for (size_t r = (size_t)blockIdx.x * warps + warp; r < e.in.rows; r += (size_t)gridDim.x * warps) {
        uint32_t number = 0;
        if (e.in.index && lane == 0)
            number = e.in.index[r];
        if (e.of && lane == 1)
            number = e.of[r];
        if (e.reference_of && lane == 2)
            number = e.reference_of[r];
        if (e.signs_of && lane == 3)
            number = e.signs_of[r];
        const size_t from = e.in.index ? __shfl_sync(XP_FULL_WARP, number, 0) : r;
        const uint32_t own_number = __shfl_sync(XP_FULL_WARP, number, 1), referred = __shfl_sync(XP_FULL_WARP, number, 2);
        const bool has_own = e.of && own_number != XP_GPU_NO_ROW, refers = e.reference_of && referred != XP_GPU_NO_ROW;
        const size_t table = __shfl_sync(XP_FULL_WARP, number, 3);
        __syncwarp();
        if (e.signs_of)
            fetch<uint32_t>(own_signs, reinterpret_cast<const unsigned char *>(e.signs) + table * e.m.own_signs, e.m.own_signs, true, lane);
        fetch<typename T::word>(own, e.in.data + from * e.in.row_bytes, e.in.row_bytes, e.wide, lane);
        if (has_own || refers)
            fetch<uint32_t>(own_base, reinterpret_cast<const unsigned char *>(e.base + (size_t)(has_own ? own_number : referred) * e.in.dim), e.base_bytes,
                            e.wide_base, lane);
        __syncwarp();
        if (e.of)
            c.row.base = has_own ? own_base_row : nullptr;
        encode_row<T>(c, refers ? own_base_row : e.m.reference ? reference : e.reference ? base : nullptr, r);
    }
}

/* ---- launches ---- */

int launch_encode(const struct xp_gpu *g, xp_dtype t, Encode &e)
{
    const size_t blocks = xp_ceil_div(e.in.dim, XP_QBLOCK);
    Memory &m = e.m;

    m.own_signs = e.signs_of ? xp_sign_words(e.in.dim) * sizeof(uint32_t) : 0;
    m.signs = e.signs_of ? 0 : xp_sign_words(e.in.dim) * sizeof(uint32_t);
    e.base_bytes = e.in.dim * sizeof(float);
    m.base = e.base && !e.of ? round16(e.base_bytes) : 0;
    m.reference = e.reference && !e.reference_of && (e.of || e.reference != e.base) ? round16(e.base_bytes) : 0;
    m.row = round16(e.in.row_bytes);
    m.pairs = blocks * 64 * sizeof(uint32_t);
    m.codes = round16(longest_code(e.f));
    m.states = round16(blocks * sizeof(BlockState));
    m.stage = XP_QBLOCK * sizeof(uint16_t);
    m.own_base = e.of ? round16(e.base_bytes) : 0;
    m.before_warps = m.signs + m.base + m.reference;
    m.each_warp = m.row + m.pairs + 2 * m.codes + m.states + m.stage + m.own_base + m.own_signs;
    e.wide_base = e.in.dim % 4 == 0 && (uintptr_t)e.base % 16 == 0;
    if (e.in.rows == 0)
        return 0;
    if (e.in.dim >> 28 || e.stride % 16)
        return 1; /* cudaErrorInvalidValue */
    return xp_for_type(t, [&](auto tag) { return xp_launch("encode", shape_for(g, m, e.in.rows), g->stream, encode_kernel<decltype(tag)>, e); });
}

} // namespace

extern "C" int xp_cuda_quantise(const struct xp_gpu *g, const struct xp_quantiser *q, enum xp_qformat f, const float *res, size_t rows, uint8_t *out, size_t stride)
{
    const struct xp_rows in = {res, nullptr, rows, q->dim, XP_F32};
    Encode e = {};

    e.f = formats_of(q->dim, q->dim * sizeof(float));
    e.in = xp_rows_for_device(&in);
    e.signs = q->signs;
    e.wide = xp_rows_are_wide(&in);
    e.forced = f;
    e.slots = out;
    e.stride = stride;
    return e.f.info[(unsigned)f % XP_QFORMATS].bits ? launch_encode(g, XP_F32, e) : 1;
}

extern "C" int xp_cuda_row_encode(const struct xp_gpu *g, const struct xp_row_plan *p, const struct xp_quantiser *q, const struct xp_rows *in,
                                  const struct xp_gpu_bases *bases, uint8_t *slots, size_t stride, uint8_t *formats, uint32_t *lengths, float *errors)
{
    struct xp_row_prediction predict;
    Encode e = {};

    xp_row_predict(in->dtype, &predict);
    e.f = formats_of(in->dim, in->dim * xp_dtype_size(in->dtype));
    e.plan.count = p->count;
    e.plan.eps2 = p->eps2;
    e.plan.margin = p->margin;
    e.plan.least = p->least;
    e.plan.rounding = predict.rounding;
    e.plan.optimism = predict.optimism;
    for (unsigned i = 0; i < XP_ROW_FORMATS; i++) {
        e.plan.order[i] = p->order[i];
        e.plan.expected[i] = predict.expected[i];
    }
    e.in = xp_rows_for_device(in);
    e.signs = q->signs;
    e.base = bases->rows;
    e.of = bases->rows ? bases->of : nullptr;
    e.reference_of = e.of ? bases->reference_of : nullptr;
    e.signs_of = bases->signs_of;
    e.reference = p->reference;
    e.wide = xp_rows_are_wide(in);
    e.forced = XP_Q_RAW;
    e.slots = slots;
    e.stride = stride;
    e.formats = formats;
    e.lengths = lengths;
    e.errors = errors;
    return launch_encode(g, in->dtype, e);
}
