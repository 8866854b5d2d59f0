/*
 * codes_avx512.h - the bytes of a block's codes to words, in the order of the codes
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CODES_AVX512_H
#define XP_CODES_AVX512_H

#include "hash/qblock.h"
#include "hash/x86/qblock_avx512.h"

/* Bytes in code order to words with registers (v3, v6). */
XP_INLINE void xp_widen512(struct xp_bytes512 u, __m512i w[4])
{
    const __m512i low = _mm512_set1_epi16(0xff);

    w[0] = _mm512_and_si512(u.a, low);
    w[1] = _mm512_srli_epi16(u.a, 8);
    w[2] = _mm512_and_si512(u.b, low);
    w[3] = _mm512_srli_epi16(u.b, 8);
}

XP_INLINE struct xp_bytes512 xp_add_planes512(struct xp_bytes512 u, const uint8_t *p, int value)
{
    return (struct xp_bytes512){_mm512_or_si512(u.a, xp_get_plane64(p, value)), _mm512_or_si512(u.b, xp_get_plane64(p + 8, value))};
}

/* Codes whose lowest 4 bits are nibbles and whose next 2 are quads behind them. */
XP_INLINE struct xp_bytes512 xp_get_sixes128(const uint8_t *p)
{
    const __m512i nibbles = _mm512_loadu_si512(p), quads = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(p + 64)));
    const __m512i low = _mm512_sllv_epi16(quads, xp_quarter_counts512(4, 4, 2, 2)), high = _mm512_srlv_epi16(quads, xp_quarter_counts512(0, 0, 2, 2));

    return (struct xp_bytes512){xp_low_bits512(xp_choose_bits512(0x0f0f0f0f, nibbles, low), 6),
                                xp_low_bits512(xp_choose_bits512(0x0f0f0f0f, _mm512_srli_epi16(nibbles, 4), high), 6)};
}

/* Codes of single elements as bytes. */
XP_INLINE struct xp_bytes512 xp_get_bytes512(const int bits, const uint8_t *p)
{
    const struct xp_bytes512 u = bits == 8  ? (struct xp_bytes512){_mm512_loadu_si512(p), _mm512_loadu_si512(p + 64)}
                                 : bits > 5 ? xp_get_sixes128(p)
                                 : bits > 3 ? xp_get_nibbles128(p)
                                            : xp_get_quads128(p);

    if (bits == 3)
        return xp_add_planes512(u, p + 32, 4);
    if (bits == 5)
        return xp_add_planes512(u, p + 64, 16);
    return bits == 7 ? xp_add_planes512(u, p + 96, 64) : u;
}

/* The same as words. */
XP_INLINE void xp_get_single512(const int bits, const uint8_t *p, __m512i w[4])
{
    xp_widen512(xp_get_bytes512(bits, p), w);
}

/* One word of pairs to its two codes. */
XP_INLINE void xp_divide512(__m512i pairs, __m512i levels, __m512i mul, __m128i shift, __m512i *first, __m512i *second)
{
    *first = _mm512_srl_epi16(_mm512_mulhi_epu16(pairs, mul), shift);
    *second = _mm512_sub_epi16(pairs, _mm512_mullo_epi16(*first, levels));
}

XP_INLINE void xp_get_pairs512(const struct xp_qinfo *q, const int bits, const uint8_t *p, __m512i w[4])
{
    const __m512i levels = _mm512_set1_epi16((short)q->levels), mul = _mm512_set1_epi16((short)q->div_mul);
    const __m512i low = _mm512_set1_epi16(0xff);
    const __m128i shift = _mm_cvtsi32_si128(q->div_shift);
    const __m512i bytes = bits >= 8 ? _mm512_loadu_si512(p) : xp_get_fields64(bits, p);
    __m512i even = _mm512_and_si512(bytes, low), odd = _mm512_srli_epi16(bytes, 8);

    if (bits >= 8) {
        const __m512i upper = xp_get_fields64(bits & 7, p + 64);
        even = _mm512_or_si512(even, _mm512_slli_epi16(upper, 8));
        odd = _mm512_or_si512(odd, _mm512_andnot_si512(low, upper));
    }
    xp_divide512(even, levels, mul, shift, &w[0], &w[2]);
    xp_divide512(odd, levels, mul, shift, &w[1], &w[3]);
}

#endif
