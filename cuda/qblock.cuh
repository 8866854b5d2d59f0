/*
 * qblock.cuh - one block of the quantisers in a warp: scale, rotate, choose the step, code; and back
 *
 * Lane l holds values l, l + 32, l + 64, l + 96 of a block, so that the sums over a row (kernels.h, "row sum") are a lane's own. The
 * order of codes in a whole block is then a permutation of the lanes (xp_qposition moves bits 0 .. 4 among themselves), and what
 * shares a byte is in one lane. Tail blocks go through shared memory in the natural order.
 *
 * Rotation in pairs (fht.cuh): the scale bounds the sum of a block's |integers| by 32767, and no format has codes that add up to more.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_QBLOCK_CUH
#define XP_CUDA_QBLOCK_CUH

#include "cuda/fht.cuh"

#define XP_QLANE 4 /* values of a lane in a whole block */

/* What the warp works in: shared memory of its own. */
struct xp_qwarp {
    unsigned lane;
    const uint32_t *signs;  /* of the row */
    uint16_t *stage;        /* [XP_QBLOCK], tail blocks */
};

/* Is value 32 m + lane in a block of n? */
static __device__ __forceinline__ bool xp_q_has(unsigned n, unsigned m, unsigned lane)
{
    return n == XP_QBLOCK || 32 * m + lane < n;
}

static __device__ __forceinline__ unsigned xp_q_sign(const xp_qwarp &w, unsigned b, unsigned m)
{
    return w.signs[4 * b + m] >> w.lane & 1;
}

/* ---- rotation ---- */

/* p: value pairs (0, 1), (2, 3) as sums and differences are to be taken. */
static __device__ __forceinline__ void xp_q_rotate(unsigned n, unsigned lane, int (&h)[XP_QLANE], uint32_t (&p)[2])
{
    p[0] = n >= 64 ? xp_pair(h[0] + h[1], h[0] - h[1]) : xp_pair(h[0], 0);
    p[1] = n == XP_QBLOCK ? xp_pair(h[2] + h[3], h[2] - h[3]) : 0;
    if (n == XP_QBLOCK)
        xp_fht_registers(p);
    xp_fht_lanes(p, lane, n);
}

static __device__ __forceinline__ void xp_q_unpack(const uint32_t (&p)[2], int (&h)[XP_QLANE])
{
    h[0] = xp_pair_low(p[0]);
    h[1] = xp_pair_high(p[0]);
    h[2] = xp_pair_low(p[1]);
    h[3] = xp_pair_high(p[1]);
}

/* ---- integers of a block ---- */

/* sum |x| in the order of qblock_tmpl.c: partial i % 16 alternates between lanes p and p + 16. */
static __device__ __forceinline__ float xp_q_sum_abs(unsigned lane, const float (&x)[XP_QLANE])
{
    float sum = 0;

#pragma unroll
    for (unsigned m = 0; m < XP_QLANE; m++) {
        const float mine = fabsf(x[m]), other = __shfl_xor_sync(XP_FULL_WARP, mine, 16);
        sum = __fadd_rn(sum, lane < 16 ? mine : other);
        sum = __fadd_rn(sum, lane < 16 ? other : mine);
    }
#pragma unroll
    for (unsigned half = 8; half > 0; half /= 2)
        sum = __fadd_rn(sum, __shfl_xor_sync(XP_FULL_WARP, sum, half));
    return sum;
}

static __device__ __forceinline__ float xp_q_scale(float sum_abs)
{
    return sum_abs >= XP_QMIN_L1 && sum_abs <= XP_QMAX_L1 ? __fdiv_rn(XP_QTARGET, sum_abs) : 0.0f;
}

/* Rotated integers as pairs; the same statistics on every lane. */
static __device__ __forceinline__ void xp_q_integers(const xp_qwarp &w, unsigned b, unsigned n, const float (&x)[XP_QLANE], float scale, uint32_t (&p)[2],
                                                     struct xp_qstats *s)
{
    int h[XP_QLANE], energy = 0, largest = 0;

#pragma unroll
    for (unsigned m = 0; m < XP_QLANE; m++) {
        const int v = xp_q_has(n, m, w.lane) ? __float2int_rn(__fmul_rn(x[m], scale)) : 0;
        energy += v * v;
        h[m] = xp_q_has(n, m, w.lane) && xp_q_sign(w, b, m) ? -v : v;
    }
    xp_q_rotate(n, w.lane, h, p);
    xp_q_unpack(p, h);
#pragma unroll
    for (unsigned m = 0; m < XP_QLANE; m++)
        largest = max(largest, h[m] < 0 ? -h[m] : h[m]);
    s->scale = scale;
    s->energy = __reduce_add_sync(XP_FULL_WARP, energy);
    s->largest = __reduce_max_sync(XP_FULL_WARP, largest);
}

/* ---- the step ---- */

static __device__ __forceinline__ float xp_q_wire_value(uint32_t wire)
{
    return __uint_as_float(wire << 16);
}

static __device__ __forceinline__ struct xp_qstep xp_q_step_round(const struct xp_qinfo &q, float step, float per_unit, float *real)
{
    struct xp_qstep r;

    r.wire = xp_dev_f32_to_bf16(__fdiv_rn(step, per_unit));
    *real = __fmul_rn(xp_q_wire_value(r.wire), per_unit);
    const unsigned exponent = (__float_as_uint(*real) >> 23) - 127;
    r.shift = (uint16_t)min(exponent, (unsigned)q.max_shift);
    const float recip = rintf(__fdiv_rn((float)(1u << (15 + r.shift)), *real));
    r.recip = (int16_t)(recip > 32767.0f ? 32767.0f : recip);
    return r;
}

/* The step of a block that looks Gaussian; *odd: it does not, a search is due. One lane a block. */
static __device__ __forceinline__ struct xp_qstep xp_q_step_guess(const struct xp_qinfo &q, const struct xp_qstats &s, unsigned n, bool *odd)
{
    const float by_rms = __fmul_rn(q.rms_steps, __fsqrt_rn((float)s.energy)), by_max = __fmul_rn(q.max_steps, (float)s.largest);
    const float per_unit = __fmul_rn((float)n, s.scale);
    const int64_t peak = (int64_t)s.largest * s.largest;
    float real;

    *odd = peak < 3 * (int64_t)s.energy || peak > (n < XP_QBLOCK ? 12 : 25) * (int64_t)s.energy;
    return xp_q_step_round(q, by_rms < by_max ? by_rms : by_max, per_unit, &real);
}

static __device__ __forceinline__ unsigned xp_q_code(unsigned levels, int recip, unsigned shift, int h)
{
    int v = (h * recip + (1 << 14)) >> 15;

    v = min(v + (int)(levels << (shift - 1)), 32767) >> shift;
    return (unsigned)min(max(v, 0), (int)levels - 1);
}

static __device__ __forceinline__ int64_t xp_q_integer_error(const struct xp_qinfo &q, const struct xp_qstep &s, float real, unsigned n, unsigned lane,
                                                             const int (&h)[XP_QLANE])
{
    int64_t sum = 0;

#pragma unroll
    for (unsigned m = 0; m < XP_QLANE; m++)
        if (xp_q_has(n, m, lane)) {
            const int twice = 2 * (int)xp_q_code(q.levels, s.recip, s.shift, h[m]) - (q.levels - 1);
            const int d = h[m] - __float2int_rn(__fmul_rn((float)twice, __fmul_rn(0.5f, real)));
            sum += (int64_t)d * d;
        }
#pragma unroll
    for (unsigned half = 16; half > 0; half /= 2)
        sum += (int64_t)__shfl_xor_sync(XP_FULL_WARP, (unsigned long long)sum, half);
    return sum;
}

/* Tries a few steps against the integers of the block; the whole warp for one block. */
static __device__ inline struct xp_qstep xp_q_step_search(const struct xp_qinfo &q, struct xp_qstep best, const struct xp_qstats &s, unsigned n, unsigned lane,
                                                   const int (&h)[XP_QLANE])
{
    const float per_unit = __fmul_rn((float)n, s.scale);
    const float widest = __fdiv_rn(__fmul_rn(2.0f, (float)s.largest), (float)(q.levels - 1));
    float real = __fmul_rn(xp_q_wire_value(best.wire), per_unit);
    int64_t least = xp_q_integer_error(q, best, real, n, lane, h);

    for (unsigned k = 0; k < 8; k++) {
        const float fraction = k == 0 ? 1.0f : k == 1 ? 0.94f : k == 2 ? 0.88f : k == 3 ? 0.82f : k == 4 ? 0.76f : k == 5 ? 0.7f : k == 6 ? 0.6f : 0.5f;
        const struct xp_qstep step = xp_q_step_round(q, __fmul_rn(widest, fraction), per_unit, &real);
        const int64_t e = xp_q_integer_error(q, step, real, n, lane, h);
        if (e < least) {
            least = e;
            best = step;
        }
    }
    return best;
}

/* ---- codes of a whole block to bytes and back ---- */

/* Bit l of the result's index: where bit l of a position comes from (xp_qposition, bits 0 .. 4). */
static __device__ __forceinline__ unsigned xp_q_lane_at(unsigned position)
{
    return (position & 1) << 3 | (position >> 1 & 1) | (position >> 2 & 1) << 4 | (position >> 3 & 1) << 2 | (position >> 4 & 1) << 1;
}

static __device__ __forceinline__ unsigned xp_q_position_of(unsigned lane)
{
    return (lane >> 3 & 1) | (lane & 1) << 1 | (lane >> 4 & 1) << 2 | (lane >> 2 & 1) << 3 | (lane >> 1 & 1) << 4;
}

/* Four codes of up to 8 bits move to another lane as one register. */
static __device__ __forceinline__ void xp_q_move(unsigned from, unsigned (&u)[XP_QLANE])
{
    const uint32_t all = __shfl_sync(XP_FULL_WARP, u[0] | u[1] << 8 | u[2] << 16 | u[3] << 24, from);

#pragma unroll
    for (unsigned m = 0; m < XP_QLANE; m++)
        u[m] = all >> (8 * m) & 255;
}

/* The lowest bits of `count` elements of a lane (element 32 m + lane), then the next ones: 8, 4, 2, 1 at a time (qblock_tmpl.c). */
template <unsigned COUNT> static __device__ __forceinline__ void xp_q_pack(unsigned lane, const unsigned (&e)[XP_QLANE], unsigned bits, uint8_t *out)
{
    unsigned at = 0;

    if (bits & 8) {
#pragma unroll
        for (unsigned m = 0; m < COUNT; m++)
            out[32 * m + lane] = (uint8_t)e[m];
        out += 32 * COUNT;
        at = 8;
    }
    if (bits & 4) {
#pragma unroll
        for (unsigned m = 0; m < COUNT / 2; m++)
            out[32 * m + lane] = (uint8_t)((e[m] >> at & 15) | (e[m + COUNT / 2] >> at & 15) << 4);
        out += 16 * COUNT;
        at += 4;
    }
    if (bits & 2) {
        if (COUNT == 4) {
            out[lane] = (uint8_t)((e[0] >> at & 3) | (e[1] >> at & 3) << 2 | (e[2] >> at & 3) << 4 | (e[3] >> at & 3) << 6);
        } else { /* elements 16 apart share a byte */
            const unsigned mine = (e[0] >> at & 3) | (e[1] >> at & 3) << 4, other = __shfl_xor_sync(XP_FULL_WARP, mine, 16);
            if (lane < 16)
                out[lane] = (uint8_t)(mine | other << 2);
        }
        out += 8 * COUNT;
        at += 2;
    }
    if (bits & 1) {
#pragma unroll
        for (unsigned m = 0; m < COUNT; m++) {
            const unsigned word = __ballot_sync(XP_FULL_WARP, (int)(e[m] >> at & 1));
            if (lane < 4)
                out[4 * m + lane] = (uint8_t)(word >> (8 * lane));
        }
    }
}

template <unsigned COUNT> static __device__ __forceinline__ void xp_q_unpack_bytes(unsigned lane, const uint8_t *in, unsigned bits, unsigned (&e)[XP_QLANE])
{
    unsigned at = 0;

#pragma unroll
    for (unsigned m = 0; m < XP_QLANE; m++)
        e[m] = 0;
    if (bits & 8) {
#pragma unroll
        for (unsigned m = 0; m < COUNT; m++)
            e[m] = in[32 * m + lane];
        in += 32 * COUNT;
        at = 8;
    }
    if (bits & 4) {
#pragma unroll
        for (unsigned m = 0; m < COUNT / 2; m++) {
            const unsigned byte = in[32 * m + lane];
            e[m] |= (byte & 15) << at;
            e[m + COUNT / 2] |= (byte >> 4) << at;
        }
        in += 16 * COUNT;
        at += 4;
    }
    if (bits & 2) {
        const unsigned byte = in[COUNT == 4 ? lane : lane & 15], shift = COUNT == 4 ? 0 : lane >> 4 << 1;
#pragma unroll
        for (unsigned m = 0; m < COUNT; m++)
            e[m] |= (byte >> (shift + m * (8 / COUNT)) & 3) << at;
        in += 8 * COUNT;
        at += 2;
    }
    if (bits & 1) {
#pragma unroll
        for (unsigned m = 0; m < COUNT; m++)
            e[m] |= (unsigned)(in[4 * m + lane / 8] >> (lane & 7) & 1) << at;
    }
}

/* ---- tail blocks: as qblock_tmpl.c does it, elements in w.stage ---- */

static __device__ __forceinline__ void xp_q_pack_tail(const xp_qwarp &w, unsigned elements, unsigned bits, uint8_t *out)
{
    unsigned at = 0;

    for (unsigned width = 8; width > 0; width /= 2) {
        if (!(bits & width))
            continue;
        const unsigned bytes = (elements * width + 7) / 8;
        for (unsigned i = w.lane; i < bytes; i += 32) {
            unsigned byte = 0;
            for (unsigned k = 0; k < 8 / width; k++) {
                const unsigned from = width == 1 ? 8 * i + k : i + k * bytes;
                if (from < elements)
                    byte |= (w.stage[from] >> at & ((1u << width) - 1)) << (k * width);
            }
            out[i] = (uint8_t)byte;
        }
        out += bytes;
        at += width;
    }
}

static __device__ __forceinline__ void xp_q_unpack_tail(const xp_qwarp &w, const uint8_t *in, unsigned elements, unsigned bits)
{
    for (unsigned i = w.lane; i < elements; i += 32) {
        const uint8_t *plane = in;
        unsigned at = 0, e = 0;
        for (unsigned width = 8; width > 0; width /= 2) {
            if (!(bits & width))
                continue;
            const unsigned bytes = (elements * width + 7) / 8;
            const unsigned byte = width == 1 ? i / 8 : i % bytes, shift = width == 1 ? i % 8 : i / bytes * width;
            e |= (plane[byte] >> shift & ((1u << width) - 1)) << at;
            plane += bytes;
            at += width;
        }
        w.stage[i] = (uint16_t)e;
    }
}

/* ---- codes of any block ---- */

/* u: codes of this lane's values, of which a tail block has fewer. */
static __device__ __forceinline__ void xp_q_write(const xp_qwarp &w, const struct xp_qinfo &q, unsigned n, unsigned (&u)[XP_QLANE], uint8_t *out)
{
    if (n == XP_QBLOCK) {
        xp_q_move(xp_q_lane_at(w.lane), u);
        if (q.paired) {
            u[0] = u[0] * q.levels + u[2];
            u[1] = u[1] * q.levels + u[3];
            xp_q_pack<2>(w.lane, u, q.bits, out);
        } else {
            xp_q_pack<4>(w.lane, u, q.bits, out);
        }
        return;
    }
    for (unsigned m = 0; m < XP_QLANE; m++)
        if (xp_q_has(n, m, w.lane))
            w.stage[32 * m + w.lane] = (uint16_t)u[m];
    __syncwarp();
    if (q.paired) {
        unsigned e[2] = {0, 0};
        for (unsigned m = 0; m < 2; m++)
            if (32 * m + w.lane < n / 2)
                e[m] = w.stage[32 * m + w.lane] * q.levels + w.stage[32 * m + w.lane + n / 2];
        __syncwarp();
        for (unsigned m = 0; m < 2; m++)
            if (32 * m + w.lane < n / 2)
                w.stage[32 * m + w.lane] = (uint16_t)e[m];
        __syncwarp();
    }
    xp_q_pack_tail(w, q.paired ? n / 2 : n, q.bits, out);
    __syncwarp();
}

static __device__ __forceinline__ void xp_q_split(const struct xp_qinfo &q, unsigned e, unsigned *first, unsigned *second)
{
    *first = e * q.div_mul >> (16 + q.div_shift);
    *second = e - *first * q.levels;
}

static __device__ __forceinline__ void xp_q_read(const xp_qwarp &w, const struct xp_qinfo &q, unsigned n, const uint8_t *in, unsigned (&u)[XP_QLANE])
{
    if (n == XP_QBLOCK) {
        if (q.paired) {
            xp_q_unpack_bytes<2>(w.lane, in, q.bits, u);
            xp_q_split(q, u[1], &u[1], &u[3]);
            xp_q_split(q, u[0], &u[0], &u[2]);
        } else {
            xp_q_unpack_bytes<4>(w.lane, in, q.bits, u);
        }
        xp_q_move(xp_q_position_of(w.lane), u);
        return;
    }
    xp_q_unpack_tail(w, in, q.paired ? n / 2 : n, q.bits);
    __syncwarp();
    for (unsigned m = 0; m < XP_QLANE; m++) {
        const unsigned i = 32 * m + w.lane;
        unsigned first, second;
        u[m] = 0;
        if (i >= n)
            continue;
        if (q.paired) {
            xp_q_split(q, w.stage[i < n / 2 ? i : i - n / 2], &first, &second);
            u[m] = i < n / 2 ? first : second;
        } else {
            u[m] = w.stage[i];
        }
    }
    __syncwarp();
}

/* ---- FP8 e4m3 ---- */

static __device__ __forceinline__ unsigned xp_q_fp8_code(float t)
{
    const uint32_t bits = __float_as_uint(t), rest = bits & 0x7fffffffu;
    const uint32_t normal = ((rest + 0x7ffff + (rest >> 20 & 1)) >> 20) - (120u << 3);
    const bool is_small = rest < 0x3c800000u;
    const uint32_t small = (uint32_t)__float2int_rn(__fmul_rn(is_small ? fabsf(t) : 0.0f, 512.0f));

    return (bits >> 24 & 0x80) | (is_small ? small : min(normal, 0x7eu));
}

static __device__ __forceinline__ int xp_q_fp8_units(unsigned c)
{
    const int e = c >> 3 & 15, m = c & 7, v = e ? ((8 + m) << e) >> 1 : m;

    return c & 0x80 ? -v : v;
}

/* What codes count in, and what they are multiplied by: wire in bits 0 .. 15 of the result. */
static __device__ __forceinline__ uint32_t xp_q_fp8_step(const struct xp_qstats &s, unsigned n, float *inverse)
{
    const float per_unit = __fmul_rn((float)n, s.scale);
    const uint32_t wire = xp_dev_f32_to_bf16(__fdiv_rn(__fdiv_rn((float)s.largest, 448.0f * 512.0f), per_unit));

    *inverse = __fdiv_rn(1.0f, __fmul_rn(__fmul_rn(xp_q_wire_value(wire), 512.0f), per_unit));
    return wire;
}

/* ---- what codes stand for ---- */

static __device__ __forceinline__ float xp_q_step_of_wire(uint32_t wire)
{
    return (wire & 0x7f80) >= (127 + 100) << 7 ? 0.0f : xp_q_wire_value(wire);
}

/* Values of a block of integer codes. */
static __device__ __forceinline__ void xp_q_values(const xp_qwarp &w, unsigned levels, unsigned b, unsigned n, const unsigned (&u)[XP_QLANE], float step,
                                                   float (&out)[XP_QLANE])
{
    int h[XP_QLANE];
    uint32_t p[2];

#pragma unroll
    for (unsigned m = 0; m < XP_QLANE; m++)
        h[m] = (int)u[m];
    xp_q_rotate(n, w.lane, h, p);
    xp_q_unpack(p, h);
    h[0] -= w.lane == 0 ? (int)(n * (levels - 1)) / 2 : 0;
#pragma unroll
    for (unsigned m = 0; m < XP_QLANE; m++)
        out[m] = __fmul_rn((float)(xp_q_has(n, m, w.lane) && xp_q_sign(w, b, m) ? -h[m] : h[m]), step);
}

/* The same of FP8 codes; 32-bit sums. */
static __device__ __forceinline__ void xp_q_fp8_values(const xp_qwarp &w, unsigned b, unsigned n, const unsigned (&u)[XP_QLANE], float step,
                                                       float (&out)[XP_QLANE])
{
    uint32_t h[XP_QLANE];

#pragma unroll
    for (unsigned m = 0; m < XP_QLANE; m++)
        h[m] = xp_q_has(n, m, w.lane) ? (uint32_t)xp_q_fp8_units(u[m]) : 0;
    if (n >= 64) {
        const uint32_t sum = h[0] + h[1], difference = h[0] - h[1];
        h[0] = sum;
        h[1] = difference;
    }
    if (n == XP_QBLOCK) {
        const uint32_t sum = h[2] + h[3], difference = h[2] - h[3];
        h[2] = h[0] - sum;
        h[3] = h[1] - difference;
        h[0] += sum;
        h[1] += difference;
    }
    xp_fht_lanes(h, w.lane, n);
#pragma unroll
    for (unsigned m = 0; m < XP_QLANE; m++)
        out[m] = __fmul_rn((float)((int)h[m] * (xp_q_has(n, m, w.lane) && xp_q_sign(w, b, m) ? -1 : 1)), step);
}

#endif
