/*
 * hadamard_avx512.h - Hadamard stages on int16 and int32 values held in zmm registers
 *
 * Value i of a block lies in register i / lanes, lane i % lanes. A butterfly over a bit of the index needs that bit to
 * choose the register: bits of the register number are there already ("across"), bits of the lane are brought there by
 * exchanging them with a register bit ("lanes"). An exchange moves values, it computes nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_X86_HADAMARD_AVX512_H
#define XP_HASH_X86_HADAMARD_AVX512_H

#include "hash/x86/unroll.h"

#include <immintrin.h>

/* ---- int16: 32 lanes; lane bits 0 - 2 inside 128 bits, 3 and 4 choose the 128 bits ---- */

XP_INLINE void xp_butterfly_i16(__m512i *a, __m512i *b)
{
    const __m512i sum = _mm512_add_epi16(*a, *b);

    *b = _mm512_sub_epi16(*a, *b);
    *a = sum;
}

/* All register bits of `regs` registers that lie `step` apart. */
XP_INLINE void xp_across_i16(__m512i *r, const int regs)
{
    XP_UNROLL
    for (int half = 1; half < regs; half *= 2)
        XP_UNROLL
        for (int i = 0; i < regs; i++)
            if (!(i & half))
                xp_butterfly_i16(&r[i], &r[i + half]);
}

/* Register bit -> lane bit 0 -> 1 -> 2 -> register bit. */
XP_INLINE void xp_turn_words(__m512i *a, __m512i *b)
{
    const __m512i low = _mm512_unpacklo_epi16(*a, *b);

    *b = _mm512_unpackhi_epi16(*a, *b);
    *a = low;
}

/* Register bit -> lane bit 4 -> 3 -> register bit. */
XP_INLINE void xp_turn_quarters(__m512i *a, __m512i *b)
{
    const __m512i even = _mm512_shuffle_i32x4(*a, *b, 0x88);

    *b = _mm512_shuffle_i32x4(*a, *b, 0xDD);
    *a = even;
}

/* Register bit <-> upper bit of the number of the 128 bits. */
XP_INLINE void xp_swap_halves(__m512i *a, __m512i *b)
{
    const __m512i low = _mm512_shuffle_i32x4(*a, *b, 0x44);

    *b = _mm512_shuffle_i32x4(*a, *b, 0xEE);
    *a = low;
}

/* Register bit <-> lower bit of the number of the 128 bits. */
XP_INLINE void xp_swap_quarters(__m512i *a, __m512i *b)
{
    const __m512i even = _mm512_mask_shuffle_i64x2(*a, 0xCC, *b, *b, 0xA0);

    *b = _mm512_mask_shuffle_i64x2(*b, 0x33, *a, *a, 0xF5);
    *a = even;
}

/* The five lane bits; every value is back in its place afterwards. */
XP_INLINE void xp_lanes_i16(__m512i *r, const int regs)
{
    XP_UNROLL
    for (int i = 0; i < regs; i += 2) {
        __m512i a = r[i], b = r[i + 1];
        xp_turn_words(&a, &b);
        xp_butterfly_i16(&a, &b);
        xp_turn_words(&a, &b);
        xp_butterfly_i16(&a, &b);
        xp_turn_words(&a, &b);
        xp_butterfly_i16(&a, &b);
        xp_turn_quarters(&a, &b);
        xp_butterfly_i16(&a, &b);
        xp_turn_quarters(&a, &b);
        xp_butterfly_i16(&a, &b);
        xp_turn_quarters(&a, &b);
        xp_turn_words(&a, &b);
        r[i] = a;
        r[i + 1] = b;
    }
}

/* ---- int32: 16 lanes; lane bits 0 and 1 inside 128 bits, 2 and 3 choose the 128 bits ---- */

XP_INLINE void xp_butterfly_i32(__m512i *a, __m512i *b)
{
    const __m512i sum = _mm512_add_epi32(*a, *b);

    *b = _mm512_sub_epi32(*a, *b);
    *a = sum;
}

XP_INLINE void xp_across_i32(__m512i *r, const int regs)
{
    XP_UNROLL
    for (int half = 1; half < regs; half *= 2)
        XP_UNROLL
        for (int i = 0; i < regs; i++)
            if (!(i & half))
                xp_butterfly_i32(&r[i], &r[i + half]);
}

/* Register bit -> lane bit 0 -> 1 -> register bit. */
XP_INLINE void xp_turn_dwords(__m512i *a, __m512i *b)
{
    const __m512i low = _mm512_unpacklo_epi32(*a, *b);

    *b = _mm512_unpackhi_epi32(*a, *b);
    *a = low;
}

/* The four lane bits; every value is back in its place afterwards. */
XP_INLINE void xp_lanes_i32(__m512i *r, const int regs)
{
    XP_UNROLL
    for (int i = 0; i < regs; i += 2) {
        __m512i a = r[i], b = r[i + 1];
        xp_turn_dwords(&a, &b);
        xp_butterfly_i32(&a, &b);
        xp_turn_dwords(&a, &b);
        xp_butterfly_i32(&a, &b);
        xp_turn_quarters(&a, &b);
        xp_butterfly_i32(&a, &b);
        xp_turn_quarters(&a, &b);
        xp_butterfly_i32(&a, &b);
        xp_turn_quarters(&a, &b);
        xp_turn_dwords(&a, &b);
        r[i] = a;
        r[i + 1] = b;
    }
}

#endif
