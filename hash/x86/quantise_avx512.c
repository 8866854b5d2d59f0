/*
 * quantise_avx512.c - a row of f32 to the bytes of a row format, with AVX-512
 *
 * Up to 16 blocks go through each step together, so that the steps with one result a block (scales, steps) are done for all at
 * once and their latency does not show: sum |x|, scale; integers, rotation, statistics; steps; codes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/bytes.h"
#include "hash/qblock.h"
#include "hash/variants.h"
#include "hash/x86/qblock_avx512.h"
#include "hash/x86/rows_avx512.h"

#include <string.h>

#define GROUP 16 /* blocks */

struct group {
    _Alignas(64) int16_t h[GROUP][XP_QBLOCK]; /* rotated, in the order of the codes: registers (v3, v6) */
    _Alignas(64) float l1[GROUP], scale[GROUP];
    _Alignas(64) int32_t energy[GROUP], largest[GROUP];
    _Alignas(64) int32_t wire[GROUP], recip[GROUP], shift[GROUP];
};

/* ---- integers ---------------------------------------------------------------------------------------------------------- */

static float sum_abs(const float *x)
{
    __m512 acc = _mm512_abs_ps(_mm512_loadu_ps(x));

    XP_UNROLL
    for (int k = 1; k < 8; k++)
        acc = _mm512_add_ps(acc, _mm512_abs_ps(_mm512_loadu_ps(x + 16 * k)));
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(acc), _mm512_extractf32x8_ps(acc, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static void choose_scales(struct group *g)
{
    const __m512 l1 = _mm512_load_ps(g->l1);
    const __mmask16 ok = _mm512_cmp_ps_mask(l1, _mm512_set1_ps(XP_QMIN_L1), _CMP_GE_OQ) &
                         _mm512_cmp_ps_mask(l1, _mm512_set1_ps(XP_QMAX_L1), _CMP_LE_OQ);

    _mm512_store_ps(g->scale, _mm512_maskz_div_ps(ok, _mm512_set1_ps(XP_QTARGET), l1));
}

XP_INLINE __m512i scaled(const float *x, __m512 scale)
{
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), scale));
}

/* 32 sign bits in index order to the order of two packed vectors: w0 w1 w2 = v0 v1 v4, l0 l1 = v2 v3. */
static uint32_t packed_signs(uint32_t s)
{
    return _pdep_u32(s, 0x0f0f0f0f) | _pdep_u32(s >> 16, 0xf0f0f0f0);
}

/* Signs and the butterfly of v0: (a, b) in a lane of 32 bits becomes (a + b, a - b). */
XP_INLINE __m512i sign_and_pair(__m512i x, uint32_t minus)
{
    const __m512i zero = _mm512_setzero_si512();
    const __m512i a = _mm512_mask_sub_epi16(x, minus, zero, x), b = _mm512_mask_sub_epi16(x, minus ^ 0xaaaaaaaa, zero, x);

    return _mm512_add_epi16(_mm512_rol_epi32(a, 16), b);
}

static int32_t sum_of(__m512i x)
{
    return _mm512_reduce_add_epi32(x);
}

/* Largest of 32 unsigned words. */
static int32_t largest_of(__m512i x)
{
    const __m256i y = _mm256_max_epu16(_mm512_castsi512_si256(x), xp_upper256(x));
    const __m128i z = _mm_max_epu16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));

    return 0xffff - _mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(z, _mm_set1_epi32(-1))), 0);
}

static void rotate_block(struct group *g, size_t b, const float *x, const uint32_t *signs)
{
    const __m512 scale = _mm512_set1_ps(g->scale[b]);
    __m512i w[4], squares = _mm512_setzero_si512(), peak;

    XP_UNROLL
    for (int i = 0; i < 4; i++) {
        w[i] = _mm512_packs_epi32(scaled(x + 32 * i, scale), scaled(x + 32 * i + 16, scale));
        squares = _mm512_add_epi32(squares, _mm512_madd_epi16(w[i], w[i]));
        w[i] = sign_and_pair(w[i], packed_signs(signs[i]));
    }
    xp_rotate512(w);
    peak = _mm512_abs_epi16(w[0]);
    _mm512_store_si512(g->h[b], w[0]);
    XP_UNROLL
    for (int i = 1; i < 4; i++) {
        peak = _mm512_max_epu16(peak, _mm512_abs_epi16(w[i]));
        _mm512_store_si512(g->h[b] + 32 * i, w[i]);
    }
    g->energy[b] = sum_of(squares);
    g->largest[b] = largest_of(peak);
}

/* ---- steps: qblock.c's xp_qstep_choose for 16 blocks ------------------------------------------------------------------- */

/* Blocks whose largest value says that they are not near Gaussian. */
static __mmask16 unusual(__m512i energy, __m512i largest)
{
    const __m512i peak = _mm512_mullo_epi32(largest, largest); /* below 2^30, as energy is */
    const __m512i few = _mm512_min_epi32(energy, _mm512_set1_epi32(50000000));

    return _mm512_cmplt_epu32_mask(peak, _mm512_mullo_epi32(energy, _mm512_set1_epi32(3))) |
           _mm512_cmpgt_epi32_mask(peak, _mm512_mullo_epi32(few, _mm512_set1_epi32(25)));
}

static void search_step(struct group *g, size_t b, enum xp_qformat f)
{
    const struct xp_qstats s = {g->scale[b], g->energy[b], g->largest[b]};
    const struct xp_qstep step = xp_qstep_choose_avx512(f, &s, g->h[b], XP_QBLOCK);

    g->wire[b] = step.wire;
    g->recip[b] = step.recip;
    g->shift[b] = step.shift;
}

static void choose_steps(struct group *g, size_t count, enum xp_qformat f)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    const __m512i energy = _mm512_load_si512(g->energy), largest = _mm512_load_si512(g->largest);
    const __m512 scale = _mm512_load_ps(g->scale), per_unit = _mm512_mul_ps(scale, _mm512_set1_ps(XP_QBLOCK));
    const __m512 by_rms = _mm512_mul_ps(_mm512_set1_ps(q->rms_steps), _mm512_sqrt_ps(_mm512_cvtepi32_ps(energy)));
    const __m512 by_max = _mm512_mul_ps(_mm512_set1_ps(q->max_steps), _mm512_cvtepi32_ps(largest));
    const __mmask16 dead = _mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_EQ_OQ);

    const struct xp_bf16_constants512 k = xp_bf16_constants512();
    const __m512 ideal = _mm512_div_ps(_mm512_min_ps(by_rms, by_max), per_unit);
    const __m512i wire = _mm512_maskz_srli_epi32((__mmask16)~dead, xp_round_bf16_512(ideal, &k), 16);
    const __m512 real = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(wire, 16)), per_unit);
    const __m512i exponent = _mm512_sub_epi32(_mm512_srli_epi32(_mm512_castps_si512(real), 23), _mm512_set1_epi32(127));
    const __m512i shift = _mm512_min_epu32(exponent, _mm512_set1_epi32(q->max_shift));
    const __m512 power = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(shift, _mm512_set1_epi32(15 + 127)), 23));
    const __m512i recip = _mm512_min_epi32(_mm512_cvtps_epi32(_mm512_div_ps(power, real)), _mm512_set1_epi32(32767));
    _mm512_store_si512(g->wire, wire);
    _mm512_store_si512(g->shift, shift);
    _mm512_store_si512(g->recip, recip);
    for (unsigned slow = unusual(energy, largest) & (unsigned)~dead & ((1u << count) - 1); slow; slow &= slow - 1)
        search_step(g, (size_t)__builtin_ctz(slow), f);
}

/* ---- codes ----------------------------------------------------------------------------------------------------------------- */

struct rounding {
    __m512i recip, middle, top;
    __m128i shift;
};

XP_INLINE __m512i code_of(__m512i h, const struct rounding *r)
{
    const __m512i fixed = _mm512_adds_epi16(_mm512_mulhrs_epi16(h, r->recip), r->middle);
    const __m512i u = _mm512_sra_epi16(fixed, r->shift);

    return _mm512_min_epi16(_mm512_max_epi16(u, _mm512_setzero_si512()), r->top);
}

XP_INLINE void put_single(const int bits, const __m512i w[4], uint8_t *p)
{
    const __m512i a = _mm512_or_si512(w[0], _mm512_slli_epi16(w[1], 8)), b = _mm512_or_si512(w[2], _mm512_slli_epi16(w[3], 8));

    if (bits == 8) {
        _mm512_storeu_si512(p, a);
        _mm512_storeu_si512(p + 64, b);
        return;
    }
    int at = 0;
    if (bits & 4) {
        xp_put_nibbles128(p, xp_low_bits512(a, 4), xp_low_bits512(b, 4));
        p += 64;
        at = 4;
    }
    if (bits & 2) {
        xp_put_quads128(p, xp_low_bits512(_mm512_srli_epi16(a, (unsigned)at), 2), xp_low_bits512(_mm512_srli_epi16(b, (unsigned)at), 2));
        p += 32;
        at += 2;
    }
    if (bits & 1) {
        xp_put_plane64(p, a, 1 << at);
        xp_put_plane64(p + 8, b, 1 << at);
    }
}

XP_INLINE void put_pair_part(const int bits, __m512i x, uint8_t *p)
{
    int at = 0;

    if (bits & 4) {
        xp_put_nibbles64(p, xp_low_bits512(x, 4));
        p += 32;
        at = 4;
    }
    if (bits & 2) {
        xp_put_quads64(p, xp_low_bits512(_mm512_srli_epi16(x, (unsigned)at), 2));
        p += 16;
        at += 2;
    }
    xp_put_plane64(p, x, 1 << at);
}

XP_INLINE void put_pairs(const int levels, const int bits, const __m512i w[4], uint8_t *p)
{
    const __m512i l = _mm512_set1_epi16((short)levels), low = _mm512_set1_epi16(0xff);
    const __m512i even = _mm512_add_epi16(_mm512_mullo_epi16(w[0], l), w[2]), odd = _mm512_add_epi16(_mm512_mullo_epi16(w[1], l), w[3]);
    const __m512i lower = _mm512_or_si512(_mm512_and_si512(even, low), _mm512_slli_epi16(odd, 8));

    if (bits < 8) {
        put_pair_part(bits, lower, p);
        return;
    }
    _mm512_storeu_si512(p, lower);
    put_pair_part(bits & 7, _mm512_or_si512(_mm512_srli_epi16(even, 8), _mm512_andnot_si512(low, odd)), p + 64);
}

XP_INLINE void put_codes(const struct group *g, size_t b, const int levels, const int bits, const int paired, uint8_t *p)
{
    const int shift = g->shift[b];
    const struct rounding r = {_mm512_set1_epi16((short)g->recip[b]), _mm512_set1_epi16((short)(levels << (shift - 1))),
                               _mm512_set1_epi16((short)(levels - 1)), _mm_cvtsi32_si128(shift)};
    __m512i w[4];

    XP_UNROLL
    for (int i = 0; i < 4; i++)
        w[i] = code_of(_mm512_load_si512(g->h[b] + 32 * i), &r);
    if (paired)
        put_pairs(levels, bits, w, p);
    else
        put_single(bits, w, p);
}

/* ---- rows -------------------------------------------------------------------------------------------------------------------- */

XP_INLINE void group_of_blocks(const float *x, const uint32_t *signs, size_t count, enum xp_qformat f, const int levels, const int bits,
                               const int paired, uint8_t *step, uint8_t *codes)
{
    const size_t bytes = (size_t)bits * (paired ? 8 : 16);
    struct group g;

    _mm512_store_ps(g.l1, _mm512_setzero_ps());
    for (size_t b = 0; b < count; b++)
        g.l1[b] = sum_abs(x + b * XP_QBLOCK);
    choose_scales(&g);
    for (size_t b = 0; b < count; b++)
        rotate_block(&g, b, x + b * XP_QBLOCK, signs + b * (XP_QBLOCK / 32));
    choose_steps(&g, count, f);
    for (size_t b = 0; b < count; b++) {
        xp_put16(step + 2 * b, (uint16_t)g.wire[b]);
        if (g.scale[b] == 0.0f)
            memset(codes + b * bytes, 0, bytes);
        else
            put_codes(&g, b, levels, bits, paired, codes + b * bytes);
    }
}

XP_INLINE size_t whole_blocks(const struct xp_quantiser *q, enum xp_qformat f, const int levels, const int bits, const int paired,
                              const float *res, uint8_t *out)
{
    const size_t blocks = q->dim / XP_QBLOCK, bytes = (size_t)bits * (paired ? 8 : 16);
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);

    for (size_t b = 0; b < blocks; b += GROUP) {
        const size_t count = blocks - b < GROUP ? blocks - b : GROUP;
        group_of_blocks(res + b * XP_QBLOCK, q->signs + b * (XP_QBLOCK / 32), count, f, levels, bits, paired, out + 2 * b, codes + b * bytes);
    }
    return blocks;
}

static size_t blocks_of_format(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out)
{
    switch (f) {
    case XP_Q_INT2: return whole_blocks(q, f, 4, 2, 0, res, out);
    case XP_Q_INT25: return whole_blocks(q, f, 5, 5, 1, res, out);
    case XP_Q_INT3: return whole_blocks(q, f, 8, 3, 0, res, out);
    case XP_Q_INT35: return whole_blocks(q, f, 11, 7, 1, res, out);
    case XP_Q_INT4: return whole_blocks(q, f, 16, 4, 0, res, out);
    case XP_Q_INT45: return whole_blocks(q, f, 22, 9, 1, res, out);
    case XP_Q_INT5: return whole_blocks(q, f, 32, 5, 0, res, out);
    case XP_Q_INT55: return whole_blocks(q, f, 45, 11, 1, res, out);
    case XP_Q_INT6: return whole_blocks(q, f, 64, 6, 0, res, out);
    case XP_Q_INT65: return whole_blocks(q, f, 90, 13, 1, res, out);
    case XP_Q_INT7: return whole_blocks(q, f, 128, 7, 0, res, out);
    case XP_Q_INT75: return whole_blocks(q, f, 181, 15, 1, res, out);
    case XP_Q_INT8: return whole_blocks(q, f, 256, 8, 0, res, out);
    default: return 0;
    }
}

void xp_quantise_avx512(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out)
{
    const size_t bytes = xp_qblock_bytes(f, XP_QBLOCK);
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);
    float x[XP_QBLOCK];

    /* What is left: a block that is not whole; all blocks of FP8. */
    for (size_t b = blocks_of_format(q, f, res, out), first = b * XP_QBLOCK; first < q->dim; b++, first += XP_QBLOCK) {
        const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first < n ? q->dim - first : n;
        memcpy(x, res + first, have * sizeof(*x));
        memset(x + have, 0, (n - have) * sizeof(*x));
        xp_qblock_encode_avx512(f, q->signs + first / 32, x, n, out + 2 * b, codes + b * bytes);
    }
}
