/*
 * hadamard_avx2.h - Hadamard stages on int16 and int32 values held in ymm registers
 *
 * The same words as in hadamard_avx512.h: "across" are bits of the register number, "lanes" bits of the lane, which are
 * exchanged with a register bit for their butterfly.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_X86_HADAMARD_AVX2_H
#define XP_HASH_X86_HADAMARD_AVX2_H

#include "hash/x86/unroll.h"

#include <immintrin.h>

/* Register bit <-> which 128 bits. */
XP_INLINE void xp_swap_halves(__m256i *a, __m256i *b)
{
    const __m256i low = _mm256_permute2x128_si256(*a, *b, 0x20);

    *b = _mm256_permute2x128_si256(*a, *b, 0x31);
    *a = low;
}

/* ---- int16: 16 lanes; lane bits 0 - 2 inside 128 bits, 3 chooses the 128 bits ---- */

XP_INLINE void xp_butterfly_i16(__m256i *a, __m256i *b)
{
    const __m256i sum = _mm256_add_epi16(*a, *b);

    *b = _mm256_sub_epi16(*a, *b);
    *a = sum;
}

XP_INLINE void xp_across_i16(__m256i *r, const int regs)
{
    XP_UNROLL
    for (int half = 1; half < regs; half *= 2)
        XP_UNROLL
        for (int i = 0; i < regs; i++)
            if (!(i & half))
                xp_butterfly_i16(&r[i], &r[i + half]);
}

/* Register bit -> lane bit 0 -> 1 -> 2 -> register bit. */
XP_INLINE void xp_turn_words(__m256i *a, __m256i *b)
{
    const __m256i low = _mm256_unpacklo_epi16(*a, *b);

    *b = _mm256_unpackhi_epi16(*a, *b);
    *a = low;
}

/* The four lane bits; every value is back in its place afterwards. */
XP_INLINE void xp_lanes_i16(__m256i *r, const int regs)
{
    XP_UNROLL
    for (int i = 0; i < regs; i += 2) {
        __m256i a = r[i], b = r[i + 1];
        xp_turn_words(&a, &b);
        xp_butterfly_i16(&a, &b);
        xp_turn_words(&a, &b);
        xp_butterfly_i16(&a, &b);
        xp_turn_words(&a, &b);
        xp_butterfly_i16(&a, &b);
        xp_swap_halves(&a, &b);
        xp_butterfly_i16(&a, &b);
        xp_swap_halves(&a, &b);
        xp_turn_words(&a, &b);
        r[i] = a;
        r[i + 1] = b;
    }
}

/* ---- int32: 8 lanes; lane bits 0 and 1 inside 128 bits, 2 chooses the 128 bits ---- */

XP_INLINE void xp_butterfly_i32(__m256i *a, __m256i *b)
{
    const __m256i sum = _mm256_add_epi32(*a, *b);

    *b = _mm256_sub_epi32(*a, *b);
    *a = sum;
}

XP_INLINE void xp_across_i32(__m256i *r, const int regs)
{
    XP_UNROLL
    for (int half = 1; half < regs; half *= 2)
        XP_UNROLL
        for (int i = 0; i < regs; i++)
            if (!(i & half))
                xp_butterfly_i32(&r[i], &r[i + half]);
}

/* Register bit -> lane bit 0 -> 1 -> register bit. */
XP_INLINE void xp_turn_dwords(__m256i *a, __m256i *b)
{
    const __m256i low = _mm256_unpacklo_epi32(*a, *b);

    *b = _mm256_unpackhi_epi32(*a, *b);
    *a = low;
}

/* The three lane bits; every value is back in its place afterwards. */
XP_INLINE void xp_lanes_i32(__m256i *r, const int regs)
{
    XP_UNROLL
    for (int i = 0; i < regs; i += 2) {
        __m256i a = r[i], b = r[i + 1];
        xp_turn_dwords(&a, &b);
        xp_butterfly_i32(&a, &b);
        xp_turn_dwords(&a, &b);
        xp_butterfly_i32(&a, &b);
        xp_swap_halves(&a, &b);
        xp_butterfly_i32(&a, &b);
        xp_swap_halves(&a, &b);
        xp_turn_dwords(&a, &b);
        r[i] = a;
        r[i + 1] = b;
    }
}

#endif
