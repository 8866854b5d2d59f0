/*
 * dequantise_avx2.c - the bytes of a row format to a row, with AVX2
 *
 * As dequantise_avx512.c, in eight registers of 16 words.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/bytes.h"
#include "hash/qblock.h"
#include "hash/variants.h"
#include "hash/x86/qblock_avx2.h"
#include "hash/x86/tail_avx2.h"
#include "hash/x86/values_avx2.h"

#include <string.h>

/* ---- codes ------------------------------------------------------------------------------------------------------- */

/* c[k] |= d[k] << by */
XP_INLINE void add_field(__m256i *c, const __m256i *d, const int by, const int count)
{
    XP_UNROLL
    for (int k = 0; k < count; k++)
        c[k] = xp_join256(c[k], d[k], by);
}

XP_INLINE void add_plane(__m256i *c, const uint8_t *p, const int value, const int count)
{
    XP_UNROLL
    for (int k = 0; k < count; k++)
        c[k] = _mm256_or_si256(c[k], xp_get_plane32(p + 4 * k, value));
}

XP_INLINE void get_single(const int bits, const uint8_t *p, __m256i w[8])
{
    __m256i c[4], d[4];

    if (bits == 8) {
        XP_UNROLL
        for (int k = 0; k < 4; k++)
            c[k] = _mm256_loadu_si256((const __m256i *)(p + 32 * k));
    } else if (bits >= 4) {
        xp_get_nibbles256(p, c);
    } else {
        xp_get_quads256(p, c);
    }
    if (bits == 6 || bits == 7) {
        xp_get_quads256(p + 64, d);
        add_field(c, d, 4, 4);
    }
    if (bits & 1)
        add_plane(c, p + 16 * (bits - 1), 1 << (bits - 1), 4);
    XP_UNROLL
    for (int k = 0; k < 4; k++) {
        w[2 * k] = _mm256_and_si256(c[k], _mm256_set1_epi16(0xff));
        w[2 * k + 1] = _mm256_srli_epi16(c[k], 8);
    }
}

/* The bits of pairs in a part of `bits` bits (odd, below 8), as bytes. */
XP_INLINE void get_pair_part(const int bits, const uint8_t *p, __m256i c[2])
{
    __m256i d[2];
    int at = 0;

    c[0] = c[1] = _mm256_setzero_si256();
    if (bits & 4) {
        xp_get_half_nibbles256(p, c);
        p += 32;
        at = 4;
    }
    if (bits & 2) {
        xp_get_half_quads256(p, d);
        add_field(c, d, at, 2);
        p += 16;
        at += 2;
    }
    add_plane(c, p, 1 << at, 2);
}

XP_INLINE void get_pairs(const struct xp_qinfo *q, const int bits, const uint8_t *p, __m256i w[8])
{
    const __m256i low = _mm256_set1_epi16(0xff);
    __m256i c[2], upper[2];

    if (bits < 8) {
        get_pair_part(bits, p, c);
    } else {
        c[0] = _mm256_loadu_si256((const __m256i *)p);
        c[1] = _mm256_loadu_si256((const __m256i *)(p + 32));
        get_pair_part(bits & 7, p + 64, upper);
    }
    XP_UNROLL
    for (int k = 0; k < 2; k++) {
        __m256i even = _mm256_and_si256(c[k], low), odd = _mm256_srli_epi16(c[k], 8);
        if (bits >= 8) {
            even = _mm256_or_si256(even, _mm256_slli_epi16(upper[k], 8));
            odd = _mm256_or_si256(odd, _mm256_andnot_si256(low, upper[k]));
        }
        xp_part_pairs256(even, q, &w[2 * k], &w[4 + 2 * k]);
        xp_part_pairs256(odd, q, &w[2 * k + 1], &w[5 + 2 * k]);
    }
}

/* ---- values -------------------------------------------------------------------------------------------------------- */

XP_INLINE void store_values(char *p, const xp_dtype t, __m256 even, __m256 odd)
{
    if (t == XP_BF16) {
        const __m256i e = _mm256_srli_epi32(xp_round_bf16_256(even), 16);
        _mm256_storeu_si256((__m256i *)p, _mm256_blend_epi16(e, xp_round_bf16_256(odd), 0xaa));
        return;
    }
    const __m256 low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    xp_store16_256(p, t, _mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

XP_INLINE void finish(const __m256i w[8], const uint32_t *signs, float step, const float *base, const int has_base, const xp_dtype t,
                      char *row)
{
    const __m256 steps = _mm256_set1_ps(step);

    XP_UNROLL
    for (int i = 0; i < 8; i++) {
        const struct xp_split256 v = xp_values256(w[i], signs[i / 2] >> (16 * (i & 1)), steps, has_base ? base + 16 * i : NULL, has_base);
        store_values(row + 16 * (size_t)i * (t == XP_F32 ? 4 : 2), t, v.even, v.odd);
    }
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

/* The whole blocks of a row; bits and paired are the format's, constants here. Returns the values done. */
XP_INLINE size_t whole_blocks(const struct xp_quantiser *q, enum xp_qformat f, const int bits, const int paired, const uint8_t *in,
                              const float *base, const int has_base, const xp_dtype t, char *row)
{
    const struct xp_qinfo *info = &xp_qinfo[f];
    const size_t size = t == XP_F32 ? 4 : 2, bytes = (size_t)bits * (paired ? 8 : 16), blocks = q->dim / XP_QBLOCK;
    const uint8_t *codes = in + 2 * xp_qblocks(q->dim);
    const __m256i middle = xp_middle256(info->levels);

    for (size_t b = 0; b < blocks; b++) {
        const size_t first = b * XP_QBLOCK;
        __m256i w[8];

        if (paired)
            get_pairs(info, bits, codes + b * bytes, w);
        else
            get_single(bits, codes + b * bytes, w);
        xp_unrotate256(w);
        w[0] = _mm256_sub_epi16(w[0], middle);
        finish(w, q->signs + first / 32, xp_qstep_value(xp_get16(in + 2 * b)), has_base ? base + first : NULL, has_base, t,
               row + first * size);
    }
    return blocks * XP_QBLOCK;
}

XP_INLINE size_t blocks_of_type(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base,
                                const int has_base, const xp_dtype t, char *row)
{
    switch (f) {
    case XP_Q_INT2: return whole_blocks(q, f, 2, 0, in, base, has_base, t, row);
    case XP_Q_INT25: return whole_blocks(q, f, 5, 1, in, base, has_base, t, row);
    case XP_Q_INT3: return whole_blocks(q, f, 3, 0, in, base, has_base, t, row);
    case XP_Q_INT35: return whole_blocks(q, f, 7, 1, in, base, has_base, t, row);
    case XP_Q_INT4: return whole_blocks(q, f, 4, 0, in, base, has_base, t, row);
    case XP_Q_INT45: return whole_blocks(q, f, 9, 1, in, base, has_base, t, row);
    case XP_Q_INT5: return whole_blocks(q, f, 5, 0, in, base, has_base, t, row);
    case XP_Q_INT55: return whole_blocks(q, f, 11, 1, in, base, has_base, t, row);
    case XP_Q_INT6: return whole_blocks(q, f, 6, 0, in, base, has_base, t, row);
    case XP_Q_INT65: return whole_blocks(q, f, 13, 1, in, base, has_base, t, row);
    case XP_Q_INT7: return whole_blocks(q, f, 7, 0, in, base, has_base, t, row);
    case XP_Q_INT75: return whole_blocks(q, f, 15, 1, in, base, has_base, t, row);
    case XP_Q_INT8: return whole_blocks(q, f, 8, 0, in, base, has_base, t, row);
    default: return 0;
    }
}

static size_t bf16_blocks(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, char *row)
{
    return base ? blocks_of_type(q, f, in, base, 1, XP_BF16, row) : blocks_of_type(q, f, in, base, 0, XP_BF16, row);
}

static size_t f16_blocks(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, char *row)
{
    return base ? blocks_of_type(q, f, in, base, 1, XP_F16, row) : blocks_of_type(q, f, in, base, 0, XP_F16, row);
}

static size_t f32_blocks(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, char *row)
{
    return base ? blocks_of_type(q, f, in, base, 1, XP_F32, row) : blocks_of_type(q, f, in, base, 0, XP_F32, row);
}

/* A block that is not whole, or FP8. */
static void other_block(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *step, const uint8_t *codes, size_t first,
                        const float *base, xp_dtype t, char *row)
{
    const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first < n ? q->dim - first : n;
    float x[XP_QBLOCK];

    xp_qtail_decode_avx2(f, q->signs + first / 32, step, codes, n, x);
    xp_restore_avx2(x, base ? base + first : NULL, have, t, row + first * (t == XP_F32 ? 4 : 2));
}

void xp_dequantise_avx2(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, void *row)
{
    const uint8_t *codes = in + 2 * xp_qblocks(q->dim);
    size_t first = t == XP_BF16  ? bf16_blocks(q, f, in, base, row)
                   : t == XP_F16 ? f16_blocks(q, f, in, base, row)
                                 : f32_blocks(q, f, in, base, row);

    for (; first < q->dim; first += XP_QBLOCK)
        other_block(q, f, in + first / XP_QBLOCK * 2, codes + first / XP_QBLOCK * xp_qblock_bytes(f, XP_QBLOCK), first, base, t, row);
}

float xp_deviation_avx2(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, const void *row,
                        void *scratch)
{
    xp_dequantise_avx2(q, f, in, base, t, scratch);
    return xp_distance_avx2(row, scratch, t, q->dim);
}
