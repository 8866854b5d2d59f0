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

XP_INLINE struct xp_bytes512 xp_add_quads512(struct xp_bytes512 u, const uint8_t *p)
{
    const struct xp_bytes512 q = xp_get_quads128(p);

    return (struct xp_bytes512){_mm512_or_si512(u.a, xp_shift_up512(q.a, 4)), _mm512_or_si512(u.b, xp_shift_up512(q.b, 4))};
}

XP_INLINE void xp_get_single512(const int bits, const uint8_t *p, __m512i w[4])
{
    struct xp_bytes512 u;

    if (bits == 8)
        u = (struct xp_bytes512){_mm512_loadu_si512(p), _mm512_loadu_si512(p + 64)};
    else if (bits >= 4)
        u = xp_get_nibbles128(p);
    else
        u = xp_get_quads128(p);
    if (bits == 6 || bits == 7)
        u = xp_add_quads512(u, p + 64);
    if (bits == 3)
        u = xp_add_planes512(u, p + 32, 4);
    if (bits == 5)
        u = xp_add_planes512(u, p + 64, 16);
    if (bits == 7)
        u = xp_add_planes512(u, p + 96, 64);
    xp_widen512(u, w);
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
