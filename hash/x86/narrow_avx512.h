/*
 * narrow_avx512.h - codes rotated back as bytes: of up to 4 bits for four of the seven stages, of 5 or 6 for two
 *
 * Less 8, codes of up to 4 bits lie in -8 .. 7, and sums and differences of 16 such fit a byte; less 32, of 4 such those of 6 bits do. The next
 * stage is VPMADDUBSW, which makes words and wants its bytes unsigned: 128 on all of them there is 128 on one byte in 16, or 4, before.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_NARROW_AVX512_H
#define XP_NARROW_AVX512_H

#include "hash/x86/qblock_avx512.h"

#define XP_MAGIC 0x1.8p23f /* its bits plus an integer are those of XP_MAGIC + the integer */

#define XP_EACH_PAIR(w, count, f)               \
    do {                                        \
        XP_UNROLL                               \
        for (int i_ = 0; i_ < (count); i_ += 2) \
            f(&(w)[i_], &(w)[i_ + 1]);          \
    } while (0)

XP_INLINE void xp_butterfly_bytes(__m512i *x, __m512i *y)
{
    const __m512i sum = _mm512_add_epi8(*x, *y);

    *y = _mm512_sub_epi8(*x, *y);
    *x = sum;
}

/* from: the words of either result, those of y from 32 on. */
XP_INLINE void xp_trade_words(__m512i *x, __m512i *y, const __m512i from[2])
{
    const __m512i low = _mm512_permutex2var_epi16(*x, from[0], *y);

    *y = _mm512_permutex2var_epi16(*x, from[1], *y);
    *x = low;
}

/* The same of bytes; those of y from 64 on. */
XP_INLINE void xp_trade_bytes(__m512i *x, __m512i *y, const __m512i from[2])
{
    const __m512i low = _mm512_permutex2var_epi8(*x, from[0], *y);

    *y = _mm512_permutex2var_epi8(*x, from[1], *y);
    *x = low;
}

#endif
