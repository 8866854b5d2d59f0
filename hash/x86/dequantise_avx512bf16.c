/*
 * dequantise_avx512bf16.c - codes to a row of bf16, with AVX-512, its BF16 and its VNNI
 *
 * Codes of up to 6 bits go through bytes and words as in x86/code_avx512bf16.c, wider ones and pairs through words. Rows with a step that
 * is not positive, or so small or large that a product with it is not exact, take the general path; so do those with a base that may have
 * values close to the denormal numbers, which VCVTNE2PS2BF16 takes for zeros. (Where the base has none, values are multiples of 2^-123.)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/bytes.h"
#include "hash/qblock.h"
#include "hash/variants.h"
#include "hash/x86/codes_avx512.h"
#include "hash/x86/hadamard_avx512.h"
#include "hash/x86/half_block_avx512.h"
#include "hash/x86/narrow_avx512.h"
#include "hash/x86/tail_avx2.h"
#include "hash/x86/turned_avx512.h"

struct constants {
    __m512i less;                   /* half of what the bits can say, and what makes the sums unsigned (x86/narrow_avx512.h) */
    __m512i plus, minus;            /* of the last butterfly: words (1, 1) and (1, -1) */
    __m512i bytes_plus, bytes_minus;
    __m512i magic, twice;           /* XP_MAGIC, and what a value is taken from to negate it */
    __m512i third[2], fourth[2];    /* trades of words */
    __m512i wide[2];                /* that of unrotate_wide */
    __m512i sixes[2];               /* of bytes, that of unrotate_sixes */
    __m512i middle, excess;         /* of registers (v4, v5) = (0, 0) and (0, 1) */
    __m512i middle_of_sixes;        /* with the excess */
    __m512i middle_of_wide, middle_of_half; /* of the codes, in value 0 */
};

/* How codes are rotated back: four stages of bytes, two, or none. */
enum path { NARROW, SIXES, WIDE };

XP_INLINE enum path path_of(const int bits, const int paired)
{
    return paired || bits > 6 ? WIDE : bits > 4 ? SIXES : NARROW;
}

static inline struct constants constants(const int levels, const int bits, const int paired)
{
    static const uint8_t sixes[64] = {
        0, 32, 8, 40, 4, 36, 12, 44, 2, 34, 10, 42, 6, 38, 14, 46,
        16, 48, 24, 56, 20, 52, 28, 60, 18, 50, 26, 58, 22, 54, 30, 62,
        64, 96, 72, 104, 68, 100, 76, 108, 66, 98, 74, 106, 70, 102, 78, 110,
        80, 112, 88, 120, 84, 116, 92, 124, 82, 114, 90, 122, 86, 118, 94, 126};
    static const uint16_t third[32] = {
            0, 32, 2, 34, 4, 36, 6, 38, 8, 40, 10, 42, 12, 44, 14, 46,
            16, 48, 18, 50, 20, 52, 22, 54, 24, 56, 26, 58, 28, 60, 30, 62};
    static const uint16_t fourth[32] = {
            0, 4, 32, 36, 1, 5, 33, 37, 16, 20, 48, 52, 17, 21, 49, 53,
            2, 6, 34, 38, 3, 7, 35, 39, 18, 22, 50, 54, 19, 23, 51, 55};
    static const uint16_t wide[32] = {
            0, 8, 32, 40, 2, 10, 34, 42, 16, 24, 48, 56, 18, 26, 50, 58,
            4, 12, 36, 44, 6, 14, 38, 46, 20, 28, 52, 60, 22, 30, 54, 62};
    const __m512i magic = _mm512_castps_si512(_mm512_set1_ps(XP_MAGIC)), excess = _mm512_maskz_set1_epi16(0xffff, 512);
    const int is_six = path_of(bits, paired) == SIXES, half = is_six ? 1 << (bits - 1) : 8;
    const __m512i sums = _mm512_maskz_set1_epi32(0x1111, 2048 * 0x00010001);
    struct constants k = {_mm512_mask_set1_epi8(_mm512_set1_epi8((char)half), is_six ? 0x0055005500550055 : 0x33, (char)(half - 128)),
                          _mm512_set1_epi32(0x00010001), _mm512_set1_epi32((int)0xffff0001),
                          _mm512_set1_epi8(1), _mm512_set1_epi16((short)0xff01),
                          magic, _mm512_add_epi32(magic, magic),
                          {_mm512_loadu_si512(third), _mm512_add_epi16(_mm512_loadu_si512(third), _mm512_set1_epi16(1))},
                          {_mm512_loadu_si512(fourth), _mm512_add_epi16(_mm512_loadu_si512(fourth), _mm512_set1_epi16(8))},
                          {_mm512_loadu_si512(wide), _mm512_add_epi16(_mm512_loadu_si512(wide), _mm512_set1_epi16(1))},
                          {_mm512_loadu_si512(sixes), _mm512_add_epi8(_mm512_loadu_si512(sixes), _mm512_set1_epi8(1))},
                          _mm512_mask_set1_epi16(excess, 3, (short)(32 * (levels - 1))), excess,
                          _mm512_mask_add_epi16(sums, 3, sums, _mm512_set1_epi16((short)(32 * (levels - 1) - 64 * half))),
                          _mm512_maskz_set1_epi16(3, (short)(32 * (levels - 1))), _mm512_maskz_set1_epi16(3, (short)(16 * (levels - 1)))};

    XP_KEEP(k.less);
    XP_KEEP(k.plus);
    XP_KEEP(k.minus);
    XP_KEEP(k.bytes_plus);
    XP_KEEP(k.bytes_minus);
    XP_KEEP(k.magic);
    XP_KEEP(k.twice);
    return k;
}

XP_INLINE void get_codes(const int bits, const uint8_t *p, __m512i u[2])
{
    const struct xp_bytes512 b = xp_get_bytes512(bits, p);

    u[0] = b.a;
    u[1] = b.b;
}

/*
 * Bytes in the order of the codes, bits 0 .. 5 of the byte's number v3 v0 v4 v2 v1 v5, register v6, to words with w0 = v6, w1 w2 = v0 v1,
 * l0 l1 = v2 v3, registers (v4, v5): all of the rotation but v6.
 */
XP_INLINE void unrotate(__m512i *u, __m512i *w, const int blocks, const struct constants *k)
{
    XP_UNROLL
    for (int i = 0; i < 2 * blocks; i++)
        u[i] = _mm512_sub_epi8(u[i], k->less);
    XP_EACH_PAIR(u, 2 * blocks, xp_trade_unpack64_512); /* bits 3 .. 5: v6 v1 v5, register v2 */
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_EACH_PAIR(u, 2 * blocks, xp_trade_quarters512); /* bits 4 5: v5 v2, register v1 */
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_UNROLL
    for (int i = 0; i < 2 * blocks; i += 2)
        xp_trade_words(&u[i], &u[i + 1], k->third); /* bits 1 .. 5: v1 v4 v6 v5 v2, register v0 */
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_UNROLL
    for (int i = 0; i < 2 * blocks; i += 2)
        xp_trade_words(&u[i], &u[i + 1], k->fourth); /* bits 1 .. 5: v6 v0 v1 v2 v4, register v5 */
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_UNROLL
    for (int i = 0; i < 2 * blocks; i++) { /* registers (v3, v5) */
        w[2 * i] = _mm512_maddubs_epi16(u[i], k->bytes_plus);
        w[2 * i + 1] = _mm512_maddubs_epi16(u[i], k->bytes_minus);
    }
    XP_EACH_PAIR(w, 4 * blocks, xp_swap_halves); /* l1 = v3, register v4 */
    XP_EACH_PAIR(w, 4 * blocks, xp_butterfly512);
    XP_UNROLL
    for (int i = 0; i < 4 * blocks; i += 4) {
        w[i] = _mm512_sub_epi16(w[i], k->middle);
        w[i + 2] = _mm512_sub_epi16(w[i + 2], k->excess);
    }
}

/* The same of codes of 5 or 6 bits. */
XP_INLINE void unrotate_sixes(__m512i *u, __m512i *w, const int blocks, const struct constants *k)
{
    enum { regs = 4 };

    XP_UNROLL
    for (int i = 0; i < 2 * blocks; i++)
        u[i] = _mm512_sub_epi8(u[i], k->less);
    XP_EACH_PAIR(u, 2 * blocks, xp_trade_unpack64_512); /* bits 3 .. 5: v6 v1 v5, register v2 */
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_UNROLL
    for (int i = 0; i < 2 * blocks; i += 2)
        xp_trade_bytes(&u[i], &u[i + 1], k->sixes); /* v5 v6 v4 v0 v1 v2, register v3 */
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_EACH_PAIR(u, 2 * blocks, xp_trade_quarters512); /* bits 4 5: v2 v3, register v1 */
    XP_UNROLL
    for (int i = 0; i < blocks; i++) { /* registers (v1, v5) */
        w[4 * i] = _mm512_maddubs_epi16(u[2 * i], k->bytes_plus);
        w[4 * i + 1] = _mm512_maddubs_epi16(u[2 * i + 1], k->bytes_plus);
        w[4 * i + 2] = _mm512_maddubs_epi16(u[2 * i], k->bytes_minus);
        w[4 * i + 3] = _mm512_maddubs_epi16(u[2 * i + 1], k->bytes_minus);
    }
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_PAIRS(xp_turn_dwords); /* w1 w2 = v1 v4, register v0 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_PAIRS(xp_turn_dwords); /* w1 w2 = v0 v1, register v4 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_BLOCKS(w[4 * i] = _mm512_sub_epi16(w[4 * i], k->middle_of_sixes));
}

/*
 * Words in the order of the codes, with registers (v3, v6), to w0 = v5, w1 w2 = v0 v1, l0 l1 = v2 v3, registers (v4, v6): all of the
 * rotation but v5.
 */
XP_INLINE void unrotate_wide(__m512i *w, const int blocks, const struct constants *k)
{
    enum { regs = 4 };

    XP_ALL_BLOCKS(xp_across_i16(w + 4 * i, 4));
    XP_ALL_PAIRS(xp_trade_unpack64_512); /* w2 = v3, register v2 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_PAIRS(xp_trade_quarters512); /* l0 l1 = v5 v2, register v1 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_UNROLL
    for (int i = 0; i < 4 * blocks; i += 2)
        xp_trade_words(&w[i], &w[i + 1], k->wide); /* w0 w1 w2 = v5 v1 v4, l0 l1 = v2 v3, register v0 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_PAIRS(xp_turn_dwords); /* w1 w2 = v0 v1, register v4 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_UNROLL
    for (int i = 0; i < blocks; i++)
        w[4 * i] = _mm512_sub_epi16(w[4 * i], k->middle_of_wide);
}

/* Half a block, as x86/half_block_avx512.h gives it, to the same without v6. */
XP_INLINE void unrotate_half(__m512i w[2], const struct constants *k)
{
    xp_butterfly512(&w[0], &w[1]);
    xp_trade_quarters512(&w[0], &w[1]); /* l0 l1 = v0 v2, register v1 */
    xp_butterfly512(&w[0], &w[1]);
    xp_turn_dwords(&w[0], &w[1]); /* w1 w2 = v1 v4, register v3 */
    xp_butterfly512(&w[0], &w[1]);
    xp_trade_quarters512(&w[0], &w[1]); /* l0 l1 = v2 v3, register v0 */
    xp_butterfly512(&w[0], &w[1]);
    xp_turn_dwords(&w[0], &w[1]); /* w1 w2 = v0 v1, register v4 */
    xp_butterfly512(&w[0], &w[1]);
    w[0] = _mm512_sub_epi16(w[0], k->middle_of_half);
}

/* Where values go, and what is added to them. */
struct output {
    char *row;
    const float *base;
    const uint32_t *signs;
};

XP_INLINE struct output output_at(struct output o, const int has_base, size_t b)
{
    return (struct output){o.row + 256 * b, has_base ? o.base + XP_QBLOCK * b : NULL, o.signs + 4 * b};
}

struct scale {
    __m512 step, offset; /* offset: -XP_MAGIC steps */
};

XP_INLINE struct scale scale_of(const uint8_t *wire)
{
    const __m512 step = _mm512_castsi512_ps(_mm512_set1_epi32((int)((uint32_t)xp_get16(wire) << 16)));

    return (struct scale){step, _mm512_mul_ps(step, _mm512_set1_ps(-XP_MAGIC))};
}

/* 16 values: the last butterfly, the signs, the step. Exact, so the fused form gives what a product would. */
XP_INLINE __m512 values(__m512i w, __m512i butterfly, uint32_t signs, struct scale s, const float *base, const int has_base,
                        const struct constants *k)
{
    const __m512i x = _mm512_dpwssd_epi32(k->magic, w, butterfly);
    const __m512 y = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_mask_sub_epi32(x, (__mmask16)signs, k->twice, x)), s.step, s.offset);

    return has_base ? _mm512_add_ps(y, _mm512_loadu_ps(base)) : y;
}

/* Values 32 i .. 32 i + 31 of a block. */
XP_INLINE void put_values(const __m512i pair[2], __m512i butterfly, struct scale s, struct output o, const int has_base, const int i,
                          const struct constants *k)
{
    const float *base = has_base ? o.base + 32 * i : NULL;
    const __m512 low = values(pair[0], butterfly, o.signs[i], s, base, has_base, k);
    const __m512 high = values(pair[1], butterfly, o.signs[i] >> 16, s, has_base ? base + 16 : NULL, has_base, k);

    _mm512_storeu_si512(o.row + 64 * i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/* w: with registers (v4, v5) and v6 still to be rotated, or, wide, (v4, v6) and v5. */
XP_INLINE void put_block(const __m512i w[4], const enum path path, struct scale s, struct output o, const int has_base, const struct constants *k)
{
    const int wide = path == WIDE, second = wide ? 0 : 2, third = 2 - second;

    put_values(w, k->plus, s, o, has_base, 0, k);
    put_values(w + second, wide ? k->minus : k->plus, s, o, has_base, 1, k);
    put_values(w + third, wide ? k->plus : k->minus, s, o, has_base, 2, k);
    put_values(w + 2, k->minus, s, o, has_base, 3, k);
}

/* One or two blocks, side by side. */
XP_INLINE void put_blocks(const int blocks, const struct xp_qinfo *q, const int bits, const int paired, const uint8_t *steps, const uint8_t *codes,
                          struct output o, const int has_base, const struct constants *k)
{
    const enum path path = path_of(bits, paired);
    const int bytes = bits * (paired ? 8 : 16);
    __m512i u[4], w[8];

    XP_UNROLL
    for (int i = 0; i < blocks; i++) {
        if (paired)
            xp_get_pairs512(q, bits, codes + bytes * i, w + 4 * i);
        else if (path == WIDE)
            xp_get_single512(bits, codes + bytes * i, w + 4 * i);
        else
            get_codes(bits, codes + bytes * i, u + 2 * i);
    }
    if (path == WIDE)
        unrotate_wide(w, blocks, k);
    else if (path == SIXES)
        unrotate_sixes(u, w, blocks, k);
    else
        unrotate(u, w, blocks, k);
    XP_UNROLL
    for (int i = 0; i < blocks; i++)
        put_block(w + 4 * i, path, scale_of(steps + 2 * i), output_at(o, has_base, (size_t)i), has_base, k);
}

XP_INLINE void put_half(const struct xp_qinfo *q, const int bits, const int paired, const uint8_t *step, const uint8_t *codes, struct output o,
                        const int has_base, const struct constants *k)
{
    const struct scale s = scale_of(step);
    __m512i w[2];

    if (paired)
        xp_get_half_pairs512(q, bits, codes, w);
    else
        xp_get_half_single512(bits, codes, w);
    unrotate_half(w, k);
    put_values(w, k->plus, s, o, has_base, 0, k);
    put_values(w, k->minus, s, o, has_base, 1, k);
}

/* A block that is neither whole nor half. */
static void put_tail(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *step, const uint8_t *codes, struct output o, size_t have)
{
    const size_t n = xp_qblock_size(have, 0);
    float x[XP_QBLOCK];

    xp_qtail_decode_avx2(f, o.signs, step, codes, n, x);
    xp_restore_avx512(x, o.base, have, XP_BF16, o.row);
}

XP_INLINE void put_row(const struct xp_quantiser *q, enum xp_qformat f, const int levels, const int bits, const int paired, const uint8_t *in,
                       struct output o, const int has_base)
{
    const size_t blocks = q->dim / XP_QBLOCK, rest = q->dim % XP_QBLOCK, bytes = (size_t)bits * (paired ? 8 : 16);
    const uint8_t *codes = in + 2 * xp_qblocks(q->dim);
    const struct xp_qinfo *info = &xp_qinfo[f];
    const struct constants k = constants(levels, bits, paired);
    size_t b = 0;

    for (; b + 2 <= blocks; b += 2)
        put_blocks(2, info, bits, paired, in + 2 * b, codes + bytes * b, output_at(o, has_base, b), has_base, &k);
    if (b < blocks)
        put_blocks(1, info, bits, paired, in + 2 * b, codes + bytes * b, output_at(o, has_base, b), has_base, &k);
    if (rest == XP_QBLOCK / 2)
        put_half(info, bits, paired, in + 2 * blocks, codes + bytes * blocks, output_at(o, has_base, blocks), has_base, &k);
    else if (rest)
        put_tail(q, f, in + 2 * blocks, codes + bytes * blocks, output_at(o, has_base, blocks), rest);
}

XP_INLINE void put_format(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, struct output o, const int has_base)
{
    switch (f) {
    case XP_Q_INT2: put_row(q, f, 4, 2, 0, in, o, has_base); break;
    case XP_Q_INT25: put_row(q, f, 5, 5, 1, in, o, has_base); break;
    case XP_Q_INT3: put_row(q, f, 8, 3, 0, in, o, has_base); break;
    case XP_Q_INT35: put_row(q, f, 11, 7, 1, in, o, has_base); break;
    case XP_Q_INT4: put_row(q, f, 16, 4, 0, in, o, has_base); break;
    case XP_Q_INT45: put_row(q, f, 22, 9, 1, in, o, has_base); break;
    case XP_Q_INT5: put_row(q, f, 32, 5, 0, in, o, has_base); break;
    case XP_Q_INT55: put_row(q, f, 45, 11, 1, in, o, has_base); break;
    case XP_Q_INT6: put_row(q, f, 64, 6, 0, in, o, has_base); break;
    case XP_Q_INT65: put_row(q, f, 90, 13, 1, in, o, has_base); break;
    case XP_Q_INT7: put_row(q, f, 128, 7, 0, in, o, has_base); break;
    case XP_Q_INT75: put_row(q, f, 181, 15, 1, in, o, has_base); break;
    default: put_row(q, f, 256, 8, 0, in, o, has_base); break;
    }
}

static void put_alone(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, struct output o)
{
    put_format(q, f, in, o, 0);
}

static void put_with_base(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, struct output o)
{
    put_format(q, f, in, o, 1);
}

void xp_dequantise_avx512bf16(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, void *row)
{
    const struct output o = {row, base, q->signs};

    if (t != XP_BF16 || f == XP_Q_FP8 || (base && !q->base_is_usual) || !xp_steps_are_usual(in, xp_qblocks(q->dim)))
        xp_dequantise_avx512(q, f, in, base, t, row);
    else
        (base ? put_with_base : put_alone)(q, f, in, o);
}
