/*
 * quantise_avx512.c - a row of f32 to the bytes of a row format, with AVX-512
 *
 * Up to 16 blocks go through each step together, so that the steps with one result a block (scales, steps) are done for all at
 * once and their latency does not show: sum |x|, scale; integers, rotation, statistics; steps; codes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/prefetch.h"
#include "hash/x86/quantise_avx512.h"
#include "hash/x86/tail_avx2.h"

#include <string.h>

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

/* Not _mm512_reduce_add_epi32: the compiler's header adds in int, where wrapping is undefined. */
static int32_t sum_of(__m512i x)
{
    const __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(x), xp_upper256(x));
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));

    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4E));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0xB1));
    return _mm_cvtsi128_si32(q);
}

/* Largest of 32 unsigned words. */
static int32_t largest_of(__m512i x)
{
    const __m256i y = _mm256_max_epu16(_mm512_castsi512_si256(x), xp_upper256(x));
    const __m128i z = _mm_max_epu16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));

    return 0xffff - _mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(z, _mm_set1_epi32(-1))), 0);
}

/* x and signs are the block's. */
static void rotate_block(const struct xp_rotated *to, size_t b, const float *x, const uint32_t *signs)
{
    const __m512 scale = _mm512_set1_ps(to->scale[b]);
    __m512i w[4], squares = _mm512_setzero_si512(), peak;

    XP_UNROLL
    for (int i = 0; i < 4; i++) {
        w[i] = _mm512_packs_epi32(scaled(x + 32 * i, scale), scaled(x + 32 * i + 16, scale));
        squares = _mm512_add_epi32(squares, _mm512_madd_epi16(w[i], w[i]));
        w[i] = sign_and_pair(w[i], packed_signs(signs[i]));
    }
    xp_rotate512(w);
    peak = _mm512_abs_epi16(w[0]);
    _mm512_storeu_si512(xp_qintegers(to, b), w[0]);
    XP_UNROLL
    for (int i = 1; i < 4; i++) {
        peak = _mm512_max_epu16(peak, _mm512_abs_epi16(w[i]));
        _mm512_storeu_si512(xp_qintegers(to, b) + 32 * i, w[i]);
    }
    to->energy[b] = sum_of(squares);
    to->largest[b] = largest_of(peak);
}

/* ---- rows -------------------------------------------------------------------------------------------------------------------- */

/* Up to 16 blocks from block b on; x and signs are theirs. */
static void rotate_group(const struct xp_rotated *to, size_t b, size_t count, const float *x, const uint32_t *signs)
{
    _Alignas(64) float l1[XP_QGROUP] = {0};

    for (size_t i = 0; i < count; i++)
        l1[i] = sum_abs(x + i * XP_QBLOCK);
    xp_choose_scales512(l1, to, b);
    for (size_t i = 0; i < count; i++)
        rotate_block(to, b + i, x + i * XP_QBLOCK, signs + i * (XP_QBLOCK / 32));
}

XP_INLINE void code_group(const struct xp_rotated *from, size_t b, size_t count, enum xp_qformat f, const int levels, const int bits,
                          const int paired, uint8_t *step, uint8_t *codes)
{
    const size_t bytes = (size_t)bits * (paired ? 8 : 16);
    struct xp_qsteps512 steps;
    __m512i w[4];

    xp_choose_steps512(from, b, count, 0, f, &steps);
    for (size_t i = 0; i < count; i++) {
        xp_put16(step + 2 * i, (uint16_t)steps.wire[i]);
        xp_codes512(xp_qintegers(from, b + i), &steps, i, levels, 4, w);
        xp_put_codes512(w, levels, bits, paired, 0, codes + i * bytes);
    }
}

/* Rotates and codes up to 16 blocks. */
XP_INLINE void group_of_blocks(const float *x, const uint32_t *signs, size_t count, enum xp_qformat f, const int levels, const int bits,
                               const int paired, uint8_t *step, uint8_t *codes)
{
    _Alignas(64) int16_t h[XP_QGROUP * XP_QBLOCK];
    _Alignas(64) float scale[XP_QGROUP];
    _Alignas(64) int32_t energy[XP_QGROUP], largest[XP_QGROUP];
    const struct xp_rotated r = {h, scale, energy, largest};

    rotate_group(&r, 0, count, x, signs);
    code_group(&r, 0, count, f, levels, bits, paired, step, codes);
}

/* The whole blocks of a row, from its residual, or rotated already (res NULL). */
XP_INLINE void whole_blocks(const struct xp_quantiser *q, enum xp_qformat f, const int levels, const int bits, const int paired,
                            const float *res, const struct xp_rotated *from, uint8_t *out)
{
    const size_t blocks = q->dim / XP_QBLOCK, bytes = (size_t)bits * (paired ? 8 : 16);
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);

    for (size_t b = 0; b < blocks; b += XP_QGROUP) {
        const size_t count = blocks - b < XP_QGROUP ? blocks - b : XP_QGROUP;
        if (res)
            group_of_blocks(res + b * XP_QBLOCK, q->signs + b * (XP_QBLOCK / 32), count, f, levels, bits, paired, out + 2 * b, codes + b * bytes);
        else
            code_group(from, b, count, f, levels, bits, paired, out + 2 * b, codes + b * bytes);
    }
}

/* Returns how many blocks that were. */
static size_t blocks_of_format(const struct xp_quantiser *q, enum xp_qformat f, const float *res, const struct xp_rotated *from, uint8_t *out)
{
    switch (f) {
    case XP_Q_INT2: whole_blocks(q, f, 4, 2, 0, res, from, out); break;
    case XP_Q_INT25: whole_blocks(q, f, 5, 5, 1, res, from, out); break;
    case XP_Q_INT3: whole_blocks(q, f, 8, 3, 0, res, from, out); break;
    case XP_Q_INT35: whole_blocks(q, f, 11, 7, 1, res, from, out); break;
    case XP_Q_INT4: whole_blocks(q, f, 16, 4, 0, res, from, out); break;
    case XP_Q_INT45: whole_blocks(q, f, 22, 9, 1, res, from, out); break;
    case XP_Q_INT5: whole_blocks(q, f, 32, 5, 0, res, from, out); break;
    case XP_Q_INT55: whole_blocks(q, f, 45, 11, 1, res, from, out); break;
    case XP_Q_INT6: whole_blocks(q, f, 64, 6, 0, res, from, out); break;
    case XP_Q_INT65: whole_blocks(q, f, 90, 13, 1, res, from, out); break;
    case XP_Q_INT7: whole_blocks(q, f, 128, 7, 0, res, from, out); break;
    case XP_Q_INT75: whole_blocks(q, f, 181, 15, 1, res, from, out); break;
    case XP_Q_INT8: whole_blocks(q, f, 256, 8, 0, res, from, out); break;
    default: return 0;
    }
    return q->dim / XP_QBLOCK;
}

void xp_quantise_avx512(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out)
{
    const size_t bytes = xp_qblock_bytes(f, XP_QBLOCK);
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);
    float x[XP_QBLOCK];

    /* What is left: a block that is not whole; all blocks of FP8. */
    for (size_t b = blocks_of_format(q, f, res, NULL, out), first = b * XP_QBLOCK; first < q->dim; b++, first += XP_QBLOCK) {
        const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first < n ? q->dim - first : n;
        memcpy(x, res + first, have * sizeof(*x));
        memset(x + have, 0, (n - have) * sizeof(*x));
        (f == XP_Q_FP8 ? xp_qblock_encode_avx512 : xp_qtail_encode_avx2)(f, q->signs + first / 32, x, n, out + 2 * b, codes + b * bytes);
    }
}

/* ---- a row that is rotated once ---------------------------------------------------------------------------------------- */

void xp_rotate_avx512(const struct xp_quantiser *q, const struct xp_code_row *r, const struct xp_rotated *to, float sums[2])
{
    const size_t bytes = q->dim * xp_dtype_size(r->type), blocks = q->dim / XP_QBLOCK, first = blocks * XP_QBLOCK;

    xp_prefetch_part(r->ahead, bytes, 0, 2); /* the kernels leave the memory idle */
    xp_residual_sums_avx512(r->row, r->type, r->base, q->dim, r->residual, sums);
    xp_prefetch_part(r->ahead, bytes, 1, 2);
    for (size_t b = 0; b < blocks; b += XP_QGROUP)
        rotate_group(to, b, blocks - b < XP_QGROUP ? blocks - b : XP_QGROUP, r->residual + b * XP_QBLOCK, q->signs + b * (XP_QBLOCK / 32));
    if (first < q->dim) {
        float x[XP_QBLOCK] = {0};
        struct xp_qstats s;
        memcpy(x, r->residual + first, (q->dim - first) * sizeof(*x));
        xp_qtail_rotate_avx2(q->signs + first / 32, x, xp_qblock_size(q->dim, first), xp_qintegers(to, blocks), &s);
        xp_qstats_put(to, blocks, s);
    }
}

static float forecast_block(const struct xp_rotated *from, size_t b, const struct xp_qsteps512 *s, size_t i, int levels)
{
    const struct rounding r = {_mm512_set1_epi16((short)s->recip[i]), _mm512_set1_epi16((short)s->middle[i]),
                               _mm512_set1_epi16((short)(levels - 1)), _mm_cvtsi32_si128(s->shift[i])};
    const __m512i middle = _mm512_set1_epi16((short)((levels - 1) << (s->shift[i] - 1)));
    const __m128i cut = _mm_cvtsi32_si128((int)xp_qcut((unsigned)s->shift[i]));
    __m512i sum = _mm512_setzero_si512();

    XP_UNROLL
    for (int k = 0; k < 4; k++) {
        const __m512i h = _mm512_loadu_si512(xp_qintegers(from, b) + 32 * k), v = _mm512_mulhrs_epi16(h, r.recip);
        const __m512i left = _mm512_sub_epi16(_mm512_add_epi16(v, middle), _mm512_sll_epi16(code_of(h, &r), r.shift));
        const __m512i part = _mm512_sra_epi16(left, cut);
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(part, part));
    }
    return from->scale[b] == 0.0f ? 0.0f : xp_qforecast((uint32_t)sum_of(sum), (uint16_t)s->wire[i], (unsigned)s->shift[i], XP_QBLOCK);
}

double xp_forecast_avx512(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from)
{
    const size_t blocks = q->dim / XP_QBLOCK, rest = q->dim % XP_QBLOCK;
    double error = 0;

    if (f == XP_Q_FP8)
        return 0;
    for (size_t b = 0; b < blocks; b += XP_QGROUP) {
        const size_t count = blocks - b < XP_QGROUP ? blocks - b : XP_QGROUP;
        struct xp_qsteps512 steps;
        xp_choose_steps512(from, b, count, 0, f, &steps);
        for (size_t i = 0; i < count; i++)
            error += forecast_block(from, b + i, &steps, i, xp_qinfo[f].levels);
    }
    if (rest) {
        const struct xp_qstats tail = xp_qstats_get(from, blocks);
        const size_t n = xp_qblock_size(q->dim, q->dim - rest);
        error += xp_qtail_forecast_avx2(f, &tail, xp_qintegers(from, blocks), n) * xp_qshare(n, rest);
    }
    return error;
}

/* How far the bytes at out are from the row. */
static float measure(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_code_row *r, const uint8_t *out)
{
    if (!r->decoded)
        return xp_deviation_avx512(q, f, out, r->base, r->type, r->row, r->scratch);
    xp_dequantise_avx512(q, f, out, r->base, r->type, r->decoded);
    return xp_distance_avx512(r->row, r->decoded, r->type, q->dim);
}

float xp_code_avx512(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r,
                     uint8_t *out)
{
    const size_t bytes = xp_qblock_bytes(f, XP_QBLOCK);
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);

    if (f == XP_Q_FP8) { /* its codes have another order than the integers */
        xp_residual_avx512(r->row, r->type, r->base, q->dim, r->residual);
        xp_quantise_avx512(q, f, r->residual, out);
        return measure(q, f, r, out);
    }
    for (size_t b = blocks_of_format(q, f, NULL, from, out); b < xp_qblocks(q->dim); b++) {
        const struct xp_qstats s = xp_qstats_get(from, b);
        xp_qtail_code_avx2(f, &s, xp_qintegers(from, b), xp_qblock_size(q->dim, b * XP_QBLOCK), out + 2 * b, codes + b * bytes);
    }
    return measure(q, f, r, out);
}
