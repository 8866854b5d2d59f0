/*
 * minpos.h - argmax over few int16 values by VPHMINPOSUW, which returns the lowest index of the least word
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_X86_MINPOS_H
#define XP_HASH_X86_MINPOS_H

#include "hash/x86/unroll.h"

#include <immintrin.h>
#include <stdint.h>

/* Largest of 8 values in 0 .. 32767. */
XP_INLINE int xp_max_of_8(__m128i v)
{
    const __m128i below = _mm_sub_epi16(_mm_set1_epi16(32767), v);

    return 32767 - _mm_extract_epi16(_mm_minpos_epu16(below), 0);
}

/* Index of the largest |r| among w = 4 .. 16 values; lowest index wins. */
XP_INLINE unsigned xp_argmax_narrow(const int16_t *r, unsigned w)
{
    const __m128i top = _mm_set1_epi16(32767);
    uint32_t best = UINT32_MAX; /* (32767 - |r|) << 16 | index */

    for (unsigned i = 0; i < w; i += 8) {
        const __m128i v = w == 4 ? _mm_loadl_epi64((const __m128i *)r) : _mm_loadu_si128((const __m128i *)(r + i));
        const uint32_t found = (uint32_t)_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_sub_epi16(top, _mm_abs_epi16(v))));
        const uint32_t key = found << 16 | (i + (found >> 16));
        best = key < best ? key : best;
    }
    return best & 0xffff;
}

#endif
