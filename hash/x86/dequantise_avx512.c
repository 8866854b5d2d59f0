/*
 * dequantise_avx512.c - the bytes of a row format to a row, with AVX-512
 *
 * A block of 128 codes becomes four vectors of int16, is rotated back in registers, and leaves as 32 values a store: the last butterfly
 * (v0) is VPMADDWD, whose even and odd results are the values of even and odd index, which is also how bf16 pairs are stored.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/bytes.h"
#include "hash/qblock.h"
#include "hash/variants.h"
#include "hash/x86/codes_avx512.h"
#include "hash/x86/rows_avx512.h"
#include "hash/x86/tail_avx2.h"

#include <string.h>

#define AHEAD 1024 /* bytes: lines of the output are fetched before they are written */

/* ---- values -------------------------------------------------------------------------------------------------------- */

struct output {
    const uint32_t *signs; /* of the block */
    const float *base;     /* of the block, or NULL */
    char *row;             /* where the block goes */
    __m512 step;
};

struct constants {
    __m512i plus, minus, zero; /* the last butterfly: words (1, 1) and (1, -1) */
    __m512i even_bit, odd_bit; /* which bit of 32 signs belongs to a lane */
    __m512i upper;             /* 0xffff0000 */
    __m512i one, half;         /* words 1 and 0x8000 */
    struct xp_bf16_constants512 bf16;
    struct xp_split_index512 split;
};

static inline struct constants constants(void)
{
    const __m512i pairs = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    struct constants k = {_mm512_set1_epi32(0x00010001), _mm512_set1_epi32((int)0xffff0001), _mm512_setzero_si512(),
                          _mm512_sllv_epi32(_mm512_set1_epi32(1), pairs), _mm512_sllv_epi32(_mm512_set1_epi32(2), pairs),
                          _mm512_set1_epi32((int)0xffff0000), _mm512_set1_epi16(1), _mm512_set1_epi16((short)0x8000),
                          xp_bf16_constants512(), xp_split_index512()};

    XP_KEEP(k.plus);
    XP_KEEP(k.minus);
    XP_KEEP(k.zero);
    XP_KEEP(k.even_bit);
    XP_KEEP(k.odd_bit);
    XP_KEEP(k.upper);
    XP_KEEP(k.one);
    XP_KEEP(k.half);
    return k;
}

/* 16 integers to f32: sign (where signs has the lane's bit: minus), times step, plus base. The product is exact, so the fused form gives the same. */
XP_INLINE __m512 value_of(__m512i h, __m512i signs, __m512i bit, __m512 step, const int has_base, __m512 base, const struct constants *k)
{
    const __m512i s = _mm512_mask_sub_epi32(h, _mm512_test_epi32_mask(signs, bit), k->zero, h);

    return has_base ? _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), step, base) : _mm512_mul_ps(_mm512_cvtepi32_ps(s), step);
}

/* 32 bf16 in order. The upper halves are the result, the lower ones, as words beside them, say which to round up: those above
 * one half, or equal to it beside an odd one. */
XP_INLINE __m512i round_pairs(struct xp_pair512 x, const struct constants *k)
{
    const __m512i even = _mm512_castps_si512(x.even), odd = _mm512_castps_si512(x.odd);
    const __m512i high = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(even, 16), odd);
    const __m512i low = _mm512_mask_blend_epi16(0xaaaaaaaa, even, _mm512_slli_epi32(odd, 16));
    const __m512i weight = _mm512_adds_epu16(low, _mm512_and_si512(high, k->one));

    return _mm512_mask_add_epi16(high, _mm512_cmpgt_epu16_mask(weight, k->half), high, k->one);
}

XP_INLINE void store_pair(char *p, const xp_dtype t, struct xp_pair512 x, const struct constants *k)
{
    __m512 a, b;

    if (t == XP_BF16) {
        _mm512_storeu_si512(p, round_pairs(x, k));
        return;
    }
    xp_join512(x, &a, &b);
    xp_store512(p, t, a, 16);
    xp_store512(p + 16 * (t == XP_F32 ? 4 : 2), t, b, 16);
}

/* Values 32 i .. 32 i + 31 of a block of rotated words. */
XP_INLINE struct xp_pair512 values_of(const __m512i w, int i, const struct output *o, const int has_base, const struct constants *k)
{
    const struct xp_pair512 none = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    const float *b = has_base ? o->base + 32 * i : NULL;
    const struct xp_pair512 base = has_base ? xp_split512(_mm512_loadu_ps(b), _mm512_loadu_ps(b + 16), &k->split) : none;
    const __m512i s = _mm512_set1_epi32((int)o->signs[i]);

    return (struct xp_pair512){value_of(_mm512_madd_epi16(w, k->plus), s, k->even_bit, o->step, has_base, base.even, k),
                               value_of(_mm512_madd_epi16(w, k->minus), s, k->odd_bit, o->step, has_base, base.odd, k)};
}

/* Rotated words in row order except for v0: finishes 128 values. */
XP_INLINE void finish(const __m512i w[4], const struct output *o, const xp_dtype t, const int has_base, const struct constants *k)
{
    XP_UNROLL
    for (int i = 0; i < 4; i++) {
        char *p = o->row + 32 * (size_t)i * (t == XP_F32 ? 4 : 2);
        __builtin_prefetch(p + AHEAD, 1, 3);
        store_pair(p, t, values_of(w[i], i, o, has_base, k), k);
    }
}

/* The same block of bf16, but compared with the row and not stored. */
XP_INLINE void compare(const __m512i w[4], const struct output *o, const int has_base, const struct constants *k, struct xp_pair512 *sum)
{
    XP_UNROLL
    for (int i = 0; i < 4; i++) {
        const struct xp_pair512 y = values_of(w[i], i, o, has_base, k);
        const __m512i x = _mm512_loadu_si512(o->row + 64 * (size_t)i);
        const __m512i even = _mm512_and_si512(xp_round_bf16_512(y.even, &k->bf16), k->upper);
        const __m512i odd = _mm512_and_si512(xp_round_bf16_512(y.odd, &k->bf16), k->upper);
        const __m512 x_odd = _mm512_castsi512_ps(_mm512_and_si512(x, k->upper));
        sum->even = xp_add_square512(sum->even, _mm512_sub_ps(xp_even_bf16_512(x), _mm512_castsi512_ps(even)));
        sum->odd = xp_add_square512(sum->odd, _mm512_sub_ps(x_odd, _mm512_castsi512_ps(odd)));
    }
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

/* A block that is not whole, or FP8. */
static void other_block(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *step, const uint8_t *codes, size_t first,
                        const float *base, xp_dtype t, char *row)
{
    const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first < n ? q->dim - first : n;
    float x[XP_QBLOCK];

    (f == XP_Q_FP8 ? xp_qblock_decode_avx512 : xp_qtail_decode_avx2)(f, q->signs + first / 32, step, codes, n, x);
    xp_restore_avx512(x, base ? base + first : NULL, have, t, row);
}

XP_INLINE void unpack_and_unrotate(const struct xp_qinfo *info, const int bits, const int paired, const uint8_t *codes, __m512i middle,
                                   __m512i w[4])
{
    if (paired)
        xp_get_pairs512(info, bits, codes, w);
    else
        xp_get_single512(bits, codes, w);
    xp_unrotate512(w);
    w[0] = _mm512_sub_epi16(w[0], middle);
}

/*
 * The whole blocks of a row; bits and paired are the format's, constants here. Returns the values done. Where sum is not NULL the
 * values are not stored but compared with those at row (bf16), into the partials of a row sum.
 * The rotation of a block is one long chain: it runs beside the output of the block before.
 */
XP_INLINE size_t whole_blocks(const struct xp_quantiser *q, enum xp_qformat f, const int bits, const int paired, const uint8_t *in,
                              const float *base, const int has_base, const xp_dtype t, char *row, struct xp_pair512 *sum)
{
    const struct constants k = constants();
    const struct xp_qinfo *info = &xp_qinfo[f];
    const size_t size = t == XP_F32 ? 4 : 2, bytes = (size_t)bits * (paired ? 8 : 16), blocks = q->dim / XP_QBLOCK;
    const uint8_t *codes = in + 2 * xp_qblocks(q->dim);
    /* The middle of the codes, 64 (levels - 1) in value 0: half of it in each word of the last butterfly. */
    const __m512i middle = _mm512_maskz_set1_epi16(3, (short)(32 * (info->levels - 1)));
    __m512i w[4], next[4];

    if (blocks == 0)
        return 0;
    unpack_and_unrotate(info, bits, paired, codes, middle, next);
    for (size_t b = 0; b < blocks; b++) {
        const size_t first = b * XP_QBLOCK, ahead = b + 1 < blocks ? b + 1 : b;
        const struct output o = {q->signs + first / 32, has_base ? base + first : NULL, row + first * size,
                                 _mm512_set1_ps(xp_qstep_value(xp_get16(in + 2 * b)))};
        memcpy(w, next, sizeof(w));
        unpack_and_unrotate(info, bits, paired, codes + ahead * bytes, middle, next);
        if (sum)
            compare(w, &o, has_base, &k, sum);
        else
            finish(w, &o, t, has_base, &k);
    }
    return blocks * XP_QBLOCK;
}

XP_INLINE size_t blocks_of_type(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base,
                                const int has_base, const xp_dtype t, char *row, struct xp_pair512 *sum)
{
    switch (f) {
    case XP_Q_INT2: return whole_blocks(q, f, 2, 0, in, base, has_base, t, row, sum);
    case XP_Q_INT25: return whole_blocks(q, f, 5, 1, in, base, has_base, t, row, sum);
    case XP_Q_INT3: return whole_blocks(q, f, 3, 0, in, base, has_base, t, row, sum);
    case XP_Q_INT35: return whole_blocks(q, f, 7, 1, in, base, has_base, t, row, sum);
    case XP_Q_INT4: return whole_blocks(q, f, 4, 0, in, base, has_base, t, row, sum);
    case XP_Q_INT45: return whole_blocks(q, f, 9, 1, in, base, has_base, t, row, sum);
    case XP_Q_INT5: return whole_blocks(q, f, 5, 0, in, base, has_base, t, row, sum);
    case XP_Q_INT55: return whole_blocks(q, f, 11, 1, in, base, has_base, t, row, sum);
    case XP_Q_INT6: return whole_blocks(q, f, 6, 0, in, base, has_base, t, row, sum);
    case XP_Q_INT65: return whole_blocks(q, f, 13, 1, in, base, has_base, t, row, sum);
    case XP_Q_INT7: return whole_blocks(q, f, 7, 0, in, base, has_base, t, row, sum);
    case XP_Q_INT75: return whole_blocks(q, f, 15, 1, in, base, has_base, t, row, sum);
    case XP_Q_INT8: return whole_blocks(q, f, 8, 0, in, base, has_base, t, row, sum);
    default: return 0;
    }
}

static size_t bf16_blocks(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, char *row)
{
    return base ? blocks_of_type(q, f, in, base, 1, XP_BF16, row, NULL) : blocks_of_type(q, f, in, base, 0, XP_BF16, row, NULL);
}

static size_t f16_blocks(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, char *row)
{
    return base ? blocks_of_type(q, f, in, base, 1, XP_F16, row, NULL) : blocks_of_type(q, f, in, base, 0, XP_F16, row, NULL);
}

static size_t f32_blocks(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, char *row)
{
    return base ? blocks_of_type(q, f, in, base, 1, XP_F32, row, NULL) : blocks_of_type(q, f, in, base, 0, XP_F32, row, NULL);
}

void xp_dequantise_avx512(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, void *row)
{
    const uint8_t *codes = in + 2 * xp_qblocks(q->dim);
    size_t first = t == XP_BF16 ? bf16_blocks(q, f, in, base, row)
                   : t == XP_F16 ? f16_blocks(q, f, in, base, row)
                                 : f32_blocks(q, f, in, base, row);

    for (; first < q->dim; first += XP_QBLOCK)
        other_block(q, f, in + first / XP_QBLOCK * 2, codes + first / XP_QBLOCK * xp_qblock_bytes(f, XP_QBLOCK), first, base, t,
                    (char *)row + first * (t == XP_F32 ? 4 : 2));
}

/* The rest of a row behind `first`, into the partials. */
static void compare_rest(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, const char *row, size_t first,
                         struct xp_pair512 *sum)
{
    const uint8_t *codes = in + 2 * xp_qblocks(q->dim);
    uint16_t x[XP_QBLOCK], y[XP_QBLOCK];

    for (; first < q->dim; first += XP_QBLOCK) {
        const size_t n = q->dim - first < XP_QBLOCK ? q->dim - first : XP_QBLOCK, block = first / XP_QBLOCK;
        memset(x, 0, sizeof(x));
        memset(y, 0, sizeof(y));
        memcpy(x, row + 2 * first, 2 * n);
        other_block(q, f, in + 2 * block, codes + block * xp_qblock_bytes(f, XP_QBLOCK), first, base, XP_BF16, (char *)y);
        for (size_t i = 0; i < XP_QBLOCK; i += 32) {
            const __m512i a = _mm512_loadu_si512(x + i), b = _mm512_loadu_si512(y + i);
            sum->even = xp_add_square512(sum->even, _mm512_sub_ps(xp_even_bf16_512(a), xp_even_bf16_512(b)));
            sum->odd = xp_add_square512(sum->odd, _mm512_sub_ps(xp_odd_bf16_512(a), xp_odd_bf16_512(b)));
        }
    }
}

float xp_deviation_avx512(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, const void *row,
                          void *scratch)
{
    struct xp_pair512 sum = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    size_t done;

    if (t != XP_BF16) {
        xp_dequantise_avx512(q, f, in, base, t, scratch);
        return xp_distance_avx512(row, scratch, t, q->dim);
    }
    done = base ? blocks_of_type(q, f, in, base, 1, XP_BF16, (char *)(uintptr_t)row, &sum)
                : blocks_of_type(q, f, in, base, 0, XP_BF16, (char *)(uintptr_t)row, &sum);
    compare_rest(q, f, in, base, row, done, &sum);
    return xp_fold_pairs512(sum.even, sum.odd);
}
