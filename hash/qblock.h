/*
 * qblock.h - one block of the quantisers: the table of row formats, the choice of the step, packing (FORMAT.md, "Quantised row")
 *
 * The C kernels (quantise.c) are made of these; the SIMD variants use the table and the choice of the step, and these functions
 * for FP8 (x86/tail_avx2.h has a tail block of the other formats).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_QBLOCK_H
#define XP_HASH_QBLOCK_H

#include "hash/half.h"
#include "hash/kernels.h"

#include <math.h>

#define XP_QFORMATS 16 /* enum xp_qformat is below this */

/*
 * A format has `levels` codes, u = 0 .. levels - 1, for the values (u - (levels - 1) / 2) * step.
 * Power-of-two levels: a code is `bits` bits. Others: codes u_i and u_(i + n/2) travel together as u_i * levels + u_(i + n/2) in
 * `bits` bits. xp_qinfo[f].bits is 0 where f is no block format.
 */
struct xp_qinfo {
    uint16_t levels;
    uint8_t bits, paired;
    uint8_t max_shift;  /* 15 - ceil(log2 levels) */
    uint8_t div_shift;  /* paired: w / levels = (w * div_mul) >> (16 + div_shift) for every w of `bits` bits */
    uint16_t div_mul;
    float rms_steps, max_steps; /* the step is min(rms_steps * rms, max_steps * largest) of the rotated block */
};
extern const struct xp_qinfo xp_qinfo[XP_QFORMATS];

/* Values in the block that starts at value `first`: XP_QBLOCK, or next_power_of_two(rest) >= 8 in the tail. */
static inline size_t xp_qblock_size(size_t dim, size_t first)
{
    const size_t rest = dim - first;
    size_t n = 8;

    while (n < rest && n < XP_QBLOCK)
        n *= 2;
    return n;
}

static inline size_t xp_qblocks(size_t dim)
{
    return (dim + XP_QBLOCK - 1) / XP_QBLOCK;
}

/*
 * Where the code of rotated value j stands in a whole block (integer formats; tail blocks and FP8 keep the natural order).
 * Position bits 0 .. 6 are bits 3 0 4 2 1 5 6 of j: with this order both directions of the rotation need no shuffle beyond those
 * of the butterflies on AVX2, and end in the order of the row.
 */
static inline size_t xp_qposition(size_t j)
{
    return (j >> 3 & 1) | (j & 1) << 1 | (j >> 4 & 1) << 2 | (j >> 2 & 1) << 3 | (j >> 1 & 1) << 4 | (j & 0x60);
}

/* Bytes of the codes of one block of n values. */
size_t xp_qblock_bytes(enum xp_qformat f, size_t n);

/* How integers are made of a block: round(x * scale), rotated; code = the integer / (16-bit steps), rounded. */
#define XP_QTARGET 32600.0f  /* sum of |x| after scaling: no butterfly leaves int16 */
#define XP_QMIN_L1 0x1p-100f /* blocks whose sum of |x| is below, or not <= XP_QMAX_L1, become zeros (step 0) */
#define XP_QMAX_L1 0x1p100f

/* A block after rotation. */
struct xp_qstats {
    float scale;     /* XP_QTARGET / sum |x|; 0: the block is zeros */
    int32_t energy;  /* sum of squares before the rotation = mean square after it */
    int32_t largest; /* largest |h| */
};

/* The step and the fixed-point form of its reciprocal. */
struct xp_qstep {
    uint16_t wire;   /* bf16: value of one code unit in the result of the (unnormalised) inverse rotation */
    int16_t recip;   /* 2^(15 + shift) / step */
    uint16_t shift;
};

/* The factor that bf16 `wire` stands for; 0 when it is not below 2^100 (the encoder writes no such step). */
static inline float xp_qstep_value(uint16_t wire)
{
    return (wire & 0x7f80) >= (127 + 100) << 7 ? 0.0f : xp_bf16_to_f32(wire);
}

/* Bits of a code's fraction that forecasts leave out, so that a sum of squares fits 32 bits wherever it means anything. */
static inline unsigned xp_qcut(unsigned shift)
{
    return shift > 10 ? shift - 10 : 0;
}

/* The squared error of a block of n values from the sum of its squared fractions, in units of 2^(cut - shift) steps. */
static inline float xp_qforecast(uint32_t sum, uint16_t wire, unsigned shift, size_t n)
{
    const float step = xp_bf16_to_f32(wire), unit = step * (1.0f / (float)(1u << (shift - xp_qcut(shift))));

    return (float)sum * (unit * unit) * (float)n;
}

/* Of the error of a tail block of n values, what the `have` values of the row have at least. It spreads over all n at random, so the
 * padding's part follows a beta distribution: mean p, and beyond six deviations less than once in 10^7 rows with the last term for its skew. */
static inline float xp_qshare(size_t n, size_t have)
{
    const float p = (float)(n - have) / (float)n;
    const float share = 1.0f - p - 6.0f * sqrtf(2.0f * p * (1.0f - p) / (float)(n + 2)) - 20.0f * (1.0f - 2.0f * p) / (float)n;

    return have == n ? 1.0f : share > 0.0f ? share : 0.0f;
}

/*
 * Of a block of n values; res is padded, signs are the block's sign bits in 32-bit words. choose: the step. rotate: the block as
 * integers h. code: h as bytes. encode: rotate and code. decode: bytes to values.
 * One set a variant (qblock_tmpl.c).
 */
#define XP_QBLOCK_FUNCTIONS(isa) \
    struct xp_qstep xp_qstep_choose_##isa(enum xp_qformat f, const struct xp_qstats *s, const int16_t *h, size_t n); \
    void xp_qblock_rotate_##isa(const uint32_t *signs, const float *res, size_t n, int16_t *h, struct xp_qstats *s); \
    void xp_qblock_code_##isa(enum xp_qformat f, const struct xp_qstats *s, const int16_t *h, size_t n, uint8_t *step, uint8_t *codes); \
    void xp_qblock_encode_##isa(enum xp_qformat f, const uint32_t *signs, const float *res, size_t n, uint8_t *step, uint8_t *codes); \
    void xp_qblock_decode_##isa(enum xp_qformat f, const uint32_t *signs, const uint8_t *step, const uint8_t *codes, size_t n, float *out);
XP_QBLOCK_FUNCTIONS(c)
XP_QBLOCK_FUNCTIONS(avx2)
XP_QBLOCK_FUNCTIONS(avx512)

/* As the kernel forecast, for such a block; the SIMD variants have their own. */
float xp_qblock_forecast_c(enum xp_qformat f, const struct xp_qstats *s, const int16_t *h, size_t n);

/* Block b of a rotated row. */
static inline int16_t *xp_qintegers(const struct xp_rotated *r, size_t b)
{
    return r->h + b * XP_QBLOCK;
}

static inline struct xp_qstats xp_qstats_get(const struct xp_rotated *r, size_t b)
{
    return (struct xp_qstats){r->scale[b], r->energy[b], r->largest[b]};
}

static inline void xp_qstats_put(const struct xp_rotated *r, size_t b, struct xp_qstats s)
{
    r->scale[b] = s.scale;
    r->energy[b] = s.energy;
    r->largest[b] = s.largest;
}

#endif
