/*
 * quantise_avx2.c - a row of f32 to the bytes of a row format, with AVX2
 *
 * As quantise_avx512.c: 8 blocks go through each step together.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/bytes.h"
#include "hash/qblock.h"
#include "hash/variants.h"
#include "hash/x86/prefetch.h"
#include "hash/x86/qblock_avx2.h"
#include "hash/x86/rows_avx2.h"

#include <string.h>

#define GROUP 8 /* blocks */

struct group {
    _Alignas(32) int16_t h[GROUP][XP_QBLOCK]; /* rotated, in the order of the codes: registers (v3, v5, v6) */
    _Alignas(32) float l1[GROUP], scale[GROUP];
    _Alignas(32) int32_t energy[GROUP], largest[GROUP];
    _Alignas(32) int32_t wire[GROUP], recip[GROUP], shift[GROUP];
};

/* ---- integers ---------------------------------------------------------------------------------------------------------- */

XP_INLINE __m256 magnitude(const float *x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(x));
}

static float sum_abs(const float *x)
{
    __m256 low = magnitude(x), high = magnitude(x + 8);

    XP_UNROLL
    for (int k = 1; k < 8; k++) {
        low = _mm256_add_ps(low, magnitude(x + 16 * k));
        high = _mm256_add_ps(high, magnitude(x + 16 * k + 8));
    }
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static void choose_scales(struct group *g)
{
    const __m256 l1 = _mm256_load_ps(g->l1);
    const __m256 ok = _mm256_and_ps(_mm256_cmp_ps(l1, _mm256_set1_ps(XP_QMIN_L1), _CMP_GE_OQ),
                                    _mm256_cmp_ps(l1, _mm256_set1_ps(XP_QMAX_L1), _CMP_LE_OQ));

    _mm256_store_ps(g->scale, _mm256_and_ps(ok, _mm256_div_ps(_mm256_set1_ps(XP_QTARGET), l1)));
}

XP_INLINE __m256i scaled(const float *x, __m256 scale)
{
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), scale));
}

/* Signs (16 bits in index order; words lie as v0 v1 v3, v2) and the butterfly of v0: (a, b) becomes (a + b, a - b). */
XP_INLINE __m256i sign_and_pair(__m256i x, uint32_t minus)
{
    const __m256i bit = _mm256_setr_epi16(1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 4, 1 << 5, 1 << 6,
                                          1 << 7, 1 << 12, 1 << 13, 1 << 14, (short)(1 << 15));
    const __m256i swap = _mm256_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9,
                                          14, 15, 12, 13);
    const __m256i mask = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16((short)minus), bit), bit);
    const __m256i a = _mm256_sign_epi16(x, _mm256_or_si256(mask, _mm256_set1_epi16(1)));
    const __m256i b = _mm256_sign_epi16(a, _mm256_set1_epi32((int)0xffff0001));

    return _mm256_add_epi16(_mm256_shuffle_epi8(a, swap), b);
}

static int32_t sum_of(__m256i x)
{
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));

    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

/* Largest of 16 unsigned words. */
static int32_t largest_of(__m256i x)
{
    const __m128i y = _mm_max_epu16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));

    return 0xffff - _mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(y, _mm_set1_epi32(-1))), 0);
}

static void rotate_block(struct group *g, size_t b, const float *x, const uint32_t *signs)
{
    const __m256 scale = _mm256_set1_ps(g->scale[b]);
    __m256i w[8], squares = _mm256_setzero_si256(), peak = squares;

    XP_UNROLL
    for (int i = 0; i < 8; i++) {
        w[i] = _mm256_packs_epi32(scaled(x + 16 * i, scale), scaled(x + 16 * i + 8, scale));
        squares = _mm256_add_epi32(squares, _mm256_madd_epi16(w[i], w[i]));
        w[i] = sign_and_pair(w[i], signs[i / 2] >> (16 * (i & 1)));
    }
    xp_rotate256(w);
    XP_UNROLL
    for (int i = 0; i < 8; i++) {
        peak = _mm256_max_epu16(peak, _mm256_abs_epi16(w[i]));
        _mm256_store_si256((__m256i *)(g->h[b] + 16 * i), w[i]);
    }
    g->energy[b] = sum_of(squares);
    g->largest[b] = largest_of(peak);
}

/* ---- steps: qblock.c's xp_qstep_choose for 8 blocks ---------------------------------------------------------------------- */

/* Bits of the blocks whose largest value says that they are not near Gaussian. */
static unsigned unusual(__m256i energy, __m256i largest)
{
    const __m256i peak = _mm256_mullo_epi32(largest, largest); /* below 2^30, as energy is */
    const __m256i few = _mm256_mullo_epi32(_mm256_min_epi32(energy, _mm256_set1_epi32(50000000)), _mm256_set1_epi32(25));
    const __m256i round = _mm256_cmpeq_epi32(peak, _mm256_max_epu32(peak, _mm256_mullo_epi32(energy, _mm256_set1_epi32(3))));
    const __m256i usual = _mm256_andnot_si256(_mm256_cmpgt_epi32(peak, few), round);

    return ~(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(usual));
}

static void search_step(struct group *g, size_t b, enum xp_qformat f)
{
    const struct xp_qstats s = {g->scale[b], g->energy[b], g->largest[b]};
    const struct xp_qstep step = xp_qstep_choose_avx2(f, &s, g->h[b], XP_QBLOCK);

    g->wire[b] = step.wire;
    g->recip[b] = step.recip;
    g->shift[b] = step.shift;
}

static void choose_steps(struct group *g, size_t count, enum xp_qformat f)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    const __m256i energy = _mm256_load_si256((const __m256i *)g->energy), largest = _mm256_load_si256((const __m256i *)g->largest);
    const __m256 scale = _mm256_load_ps(g->scale), per_unit = _mm256_mul_ps(scale, _mm256_set1_ps(XP_QBLOCK));
    const __m256 by_rms = _mm256_mul_ps(_mm256_set1_ps(q->rms_steps), _mm256_sqrt_ps(_mm256_cvtepi32_ps(energy)));
    const __m256 by_max = _mm256_mul_ps(_mm256_set1_ps(q->max_steps), _mm256_cvtepi32_ps(largest));
    const __m256 live = _mm256_cmp_ps(scale, _mm256_setzero_ps(), _CMP_NEQ_OQ);

    const __m256i rounded = _mm256_srli_epi32(xp_round_bf16_256(_mm256_div_ps(_mm256_min_ps(by_rms, by_max), per_unit)), 16);
    const __m256i wire = _mm256_and_si256(rounded, _mm256_castps_si256(live));
    const __m256 real = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(wire, 16)), per_unit);
    const __m256i exponent = _mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(real), 23), _mm256_set1_epi32(127));
    const __m256i shift = _mm256_min_epu32(exponent, _mm256_set1_epi32(q->max_shift));
    const __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(shift, _mm256_set1_epi32(15 + 127)), 23));
    const __m256i recip = _mm256_min_epi32(_mm256_cvtps_epi32(_mm256_div_ps(power, real)), _mm256_set1_epi32(32767));
    _mm256_store_si256((__m256i *)g->wire, wire);
    _mm256_store_si256((__m256i *)g->shift, shift);
    _mm256_store_si256((__m256i *)g->recip, recip);
    for (unsigned slow = unusual(energy, largest) & (unsigned)_mm256_movemask_ps(live) & ((1u << count) - 1); slow; slow &= slow - 1)
        search_step(g, (size_t)__builtin_ctz(slow), f);
}

/* ---- codes ----------------------------------------------------------------------------------------------------------------- */

XP_INLINE void store_bytes(uint8_t *p, __m256i x)
{
    _mm256_storeu_si256((__m256i *)p, x);
}

/* Bits at .. at + 1 of each byte. */
XP_INLINE __m256i quad_of(__m256i c, const int at)
{
    return xp_low_bits256(_mm256_srli_epi16(c, at), 2);
}

/* 128 elements. */
XP_INLINE void put_single(const int bits, const __m256i c[4], uint8_t *p)
{
    int at = 0;

    if (bits == 8) {
        XP_UNROLL
        for (int k = 0; k < 4; k++)
            store_bytes(p + 32 * k, c[k]);
        return;
    }
    if (bits & 4) {
        store_bytes(p, xp_join256(xp_low_bits256(c[0], 4), xp_low_bits256(c[2], 4), 4));
        store_bytes(p + 32, xp_join256(xp_low_bits256(c[1], 4), xp_low_bits256(c[3], 4), 4));
        p += 64;
        at = 4;
    }
    if (bits & 2) {
        store_bytes(p, xp_join256(xp_join256(quad_of(c[0], at), quad_of(c[1], at), 2),
                                  xp_join256(quad_of(c[2], at), quad_of(c[3], at), 2), 4));
        p += 32;
        at += 2;
    }
    if (bits & 1) {
        XP_UNROLL
        for (int k = 0; k < 4; k++)
            xp_put_plane32(p + 4 * k, c[k], at);
    }
}

/* 64 elements of an odd number of bits below 8. */
XP_INLINE void put_pair_part(const int bits, const __m256i c[2], uint8_t *p)
{
    int at = 0;

    if (bits & 4) {
        store_bytes(p, xp_join256(xp_low_bits256(c[0], 4), xp_low_bits256(c[1], 4), 4));
        p += 32;
        at = 4;
    }
    if (bits & 2) {
        const __m256i x = xp_join256(quad_of(c[0], at), quad_of(c[1], at), 4);
        const __m128i y = _mm_or_si128(_mm256_castsi256_si128(x), _mm_slli_epi16(_mm256_extracti128_si256(x, 1), 2));
        _mm_storeu_si128((__m128i *)p, y);
        p += 16;
        at += 2;
    }
    xp_put_plane32(p, c[0], at);
    xp_put_plane32(p + 4, c[1], at);
}

XP_INLINE void put_pairs(const int levels, const int bits, const __m256i w[8], uint8_t *p)
{
    const __m256i l = _mm256_set1_epi16((short)levels), low = _mm256_set1_epi16(0xff);
    __m256i lower[2], upper[2];

    XP_UNROLL
    for (int k = 0; k < 2; k++) {
        const __m256i even = _mm256_add_epi16(_mm256_mullo_epi16(w[2 * k], l), w[4 + 2 * k]);
        const __m256i odd = _mm256_add_epi16(_mm256_mullo_epi16(w[2 * k + 1], l), w[5 + 2 * k]);
        lower[k] = xp_join256(_mm256_and_si256(even, low), odd, 8);
        upper[k] = _mm256_or_si256(_mm256_srli_epi16(even, 8), _mm256_andnot_si256(low, odd));
    }
    if (bits < 8) {
        put_pair_part(bits, lower, p);
        return;
    }
    store_bytes(p, lower[0]);
    store_bytes(p + 32, lower[1]);
    put_pair_part(bits & 7, upper, p + 64);
}

XP_INLINE void put_codes(const struct group *g, size_t b, const int levels, const int bits, const int paired, uint8_t *p)
{
    const __m256i recip = _mm256_set1_epi16((short)g->recip[b]), middle = _mm256_set1_epi16((short)(levels << (g->shift[b] - 1)));
    const __m256i top = _mm256_set1_epi16((short)(levels - 1));
    const __m128i shift = _mm_cvtsi32_si128(g->shift[b]);
    __m256i w[8], c[4];

    XP_UNROLL
    for (int i = 0; i < 8; i++) {
        const __m256i h = _mm256_load_si256((const __m256i *)(g->h[b] + 16 * i));
        const __m256i u = _mm256_sra_epi16(_mm256_adds_epi16(_mm256_mulhrs_epi16(h, recip), middle), shift);
        w[i] = _mm256_min_epi16(_mm256_max_epi16(u, _mm256_setzero_si256()), top);
    }
    if (paired) {
        put_pairs(levels, bits, w, p);
        return;
    }
    XP_UNROLL
    for (int k = 0; k < 4; k++)
        c[k] = xp_join256(w[2 * k], w[2 * k + 1], 8);
    put_single(bits, c, p);
}

/* ---- rows -------------------------------------------------------------------------------------------------------------------- */

XP_INLINE void group_of_blocks(const float *x, const uint32_t *signs, size_t count, enum xp_qformat f, const int levels, const int bits,
                               const int paired, uint8_t *step, uint8_t *codes)
{
    const size_t bytes = (size_t)bits * (paired ? 8 : 16);
    struct group g;

    _mm256_store_ps(g.l1, _mm256_setzero_ps());
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

void xp_quantise_avx2(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out)
{
    const size_t bytes = xp_qblock_bytes(f, XP_QBLOCK);
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);
    float x[XP_QBLOCK];

    /* What is left: a block that is not whole; all blocks of FP8. */
    for (size_t b = blocks_of_format(q, f, res, out), first = b * XP_QBLOCK; first < q->dim; b++, first += XP_QBLOCK) {
        const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first < n ? q->dim - first : n;
        memcpy(x, res + first, have * sizeof(*x));
        memset(x + have, 0, (n - have) * sizeof(*x));
        xp_qblock_encode_avx2(f, q->signs + first / 32, x, n, out + 2 * b, codes + b * bytes);
    }
}

void xp_code_avx2(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_code_row *r, uint8_t *out, float sums[3])
{
    const size_t bytes = q->dim * xp_dtype_size(r->type);

    xp_prefetch_part(r->ahead, bytes, 0, 3); /* the kernels leave the memory idle */
    xp_residual_sums_avx2(r->row, r->type, r->base, q->dim, r->residual, sums);
    xp_prefetch_part(r->ahead, bytes, 1, 3);
    xp_quantise_avx2(q, f, r->residual, out);
    xp_prefetch_part(r->ahead, bytes, 2, 3);
    sums[2] = xp_deviation_avx2(q, f, out, r->base, r->type, r->row, r->scratch);
}
