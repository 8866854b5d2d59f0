/*
 * dequantise_avx512bf16.c - codes of up to 4 bits to a row of bf16 without a base, with AVX-512, its BF16 and its VNNI
 *
 * The rotation goes through bytes and words as in x86/code_avx512bf16.c. Rows with a step that is not positive, or so small or large
 * that a product with it is not exact, take the general path.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/bytes.h"
#include "hash/qblock.h"
#include "hash/variants.h"
#include "hash/x86/hadamard_avx512.h"
#include "hash/x86/narrow_avx512.h"

#define AHEAD 1024 /* bytes: lines of the output are fetched before they are written */

#define LEAST_STEP ((127 - 100) << 7) /* bf16: 2^-100 and 2^100 */
#define MOST_STEP ((127 + 100) << 7)

struct constants {
    __m512i less;                   /* 8, and what makes the sums unsigned (x86/narrow_avx512.h) */
    __m512i plus, minus;            /* of the last butterfly: words (1, 1) and (1, -1) */
    __m512i bytes_plus, bytes_minus;
    __m512i magic, twice;           /* XP_MAGIC, and what a value is taken from to negate it */
    __m512i third[2], fourth[2];    /* trades of words */
    __m512i middle, excess;         /* of registers (v4, v5) = (0, 0) and (0, 1) */
};

static inline struct constants constants(const int levels)
{
    static const uint16_t third[32] = {
            0, 32, 2, 34, 4, 36, 6, 38, 8, 40, 10, 42, 12, 44, 14, 46,
            16, 48, 18, 50, 20, 52, 22, 54, 24, 56, 26, 58, 28, 60, 30, 62};
    static const uint16_t fourth[32] = {
            0, 4, 32, 36, 1, 5, 33, 37, 16, 20, 48, 52, 17, 21, 49, 53,
            2, 6, 34, 38, 3, 7, 35, 39, 18, 22, 50, 54, 19, 23, 51, 55};
    const __m512i magic = _mm512_castps_si512(_mm512_set1_ps(XP_MAGIC)), excess = _mm512_maskz_set1_epi16(0xffff, 512);
    struct constants k = {_mm512_mask_set1_epi8(_mm512_set1_epi8(8), 0x33, 8 - 128),
                          _mm512_set1_epi32(0x00010001), _mm512_set1_epi32((int)0xffff0001),
                          _mm512_set1_epi8(1), _mm512_set1_epi16((short)0xff01),
                          magic, _mm512_add_epi32(magic, magic),
                          {_mm512_loadu_si512(third), _mm512_add_epi16(_mm512_loadu_si512(third), _mm512_set1_epi16(1))},
                          {_mm512_loadu_si512(fourth), _mm512_add_epi16(_mm512_loadu_si512(fourth), _mm512_set1_epi16(8))},
                          _mm512_mask_set1_epi16(excess, 3, (short)(32 * (levels - 1))), excess};

    XP_KEEP(k.less);
    XP_KEEP(k.plus);
    XP_KEEP(k.minus);
    XP_KEEP(k.bytes_plus);
    XP_KEEP(k.bytes_minus);
    XP_KEEP(k.magic);
    XP_KEEP(k.twice);
    return k;
}

/* Bytes in the order of the codes: bits 0 .. 5 of the byte's number v3 v0 v4 v2 v1 v5, register v6. */
XP_INLINE void get_codes(const int bits, const uint8_t *p, __m512i u[2])
{
    const struct xp_bytes512 low = bits == 4 ? xp_get_nibbles128(p) : xp_get_quads128(p);

    u[0] = bits == 3 ? _mm512_or_si512(low.a, xp_get_plane64(p + 32, 4)) : low.a;
    u[1] = bits == 3 ? _mm512_or_si512(low.b, xp_get_plane64(p + 40, 4)) : low.b;
}

/* To words with w0 = v6, w1 w2 = v0 v1, l0 l1 = v2 v3, registers (v4, v5): all of the rotation but v6. */
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

/* 16 values: the last butterfly, the signs, the step. Exact, so the fused form gives what a product would. */
XP_INLINE __m512 values(__m512i w, __m512i butterfly, uint32_t signs, __m512 step, __m512 offset, const struct constants *k)
{
    const __m512i x = _mm512_dpwssd_epi32(k->magic, w, butterfly);

    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_mask_sub_epi32(x, (__mmask16)signs, k->twice, x)), step, offset);
}

XP_INLINE void put_block(const __m512i w[4], uint32_t wire, const uint32_t *signs, char *row, const struct constants *k)
{
    const __m512 step = _mm512_castsi512_ps(_mm512_set1_epi32((int)(wire << 16)));
    const __m512 offset = _mm512_mul_ps(step, _mm512_set1_ps(-XP_MAGIC));

    XP_UNROLL
    for (int i = 0; i < 4; i++) {
        const __m512i *pair = w + i % 2 * 2, butterfly = i < 2 ? k->plus : k->minus;
        const __m512 low = values(pair[0], butterfly, signs[i], step, offset, k);
        const __m512 high = values(pair[1], butterfly, signs[i] >> 16, step, offset, k);
        __builtin_prefetch(row + 64 * i + AHEAD, 1, 3);
        _mm512_storeu_si512(row + 64 * i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* One or two blocks, side by side. */
XP_INLINE void put_blocks(const int blocks, const int bits, const uint8_t *steps, const uint8_t *codes, const uint32_t *signs, char *row,
                          const struct constants *k)
{
    __m512i u[4], w[8];

    XP_UNROLL
    for (int i = 0; i < blocks; i++)
        get_codes(bits, codes + 16 * bits * i, u + 2 * i);
    unrotate(u, w, blocks, k);
    XP_UNROLL
    for (int i = 0; i < blocks; i++)
        put_block(w + 4 * i, xp_get16(steps + 2 * i), signs + 4 * i, row + 256 * i, k);
}

XP_INLINE void whole_blocks(const struct xp_quantiser *q, const int bits, const uint8_t *in, char *row)
{
    const struct constants k = constants(1 << bits);
    const uint8_t *codes = in + 2 * xp_qblocks(q->dim);
    const size_t blocks = q->dim / XP_QBLOCK;
    size_t b = 0;

    for (; b + 2 <= blocks; b += 2)
        put_blocks(2, bits, in + 2 * b, codes + 16 * bits * b, q->signs + 4 * b, row + 256 * b, &k);
    if (b < blocks)
        put_blocks(1, bits, in + 2 * b, codes + 16 * bits * b, q->signs + 4 * b, row + 256 * b, &k);
}

static int steps_are_usual(const uint8_t *steps, size_t n)
{
    const __m512i least = _mm512_set1_epi16(LEAST_STEP), span = _mm512_set1_epi16(MOST_STEP - LEAST_STEP);
    uint32_t unusual = 0;

    for (size_t i = 0; i < n; i += 32) {
        const __mmask32 these = n - i < 32 ? (1u << (n - i)) - 1 : ~0u;
        const __m512i s = _mm512_maskz_loadu_epi16(these, steps + 2 * i);
        unusual |= _mm512_mask_cmpgt_epu16_mask(these, _mm512_sub_epi16(s, least), span);
    }
    return !unusual;
}

void xp_dequantise_avx512bf16(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, void *row)
{
    if (t != XP_BF16 || base || q->dim % XP_QBLOCK || !steps_are_usual(in, q->dim / XP_QBLOCK)) {
        xp_dequantise_avx512(q, f, in, base, t, row);
        return;
    }
    switch (f) {
    case XP_Q_INT2: whole_blocks(q, 2, in, row); break;
    case XP_Q_INT3: whole_blocks(q, 3, in, row); break;
    case XP_Q_INT4: whole_blocks(q, 4, in, row); break;
    default: xp_dequantise_avx512(q, f, in, NULL, t, row); break;
    }
}
