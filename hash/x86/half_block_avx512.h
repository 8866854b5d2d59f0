/*
 * half_block_avx512.h - codes of half a block, the last 64 values of a row, to the bytes of a format
 *
 * Codes are words in turned order (x86/turned_avx512.h), where those that travel as a pair are neighbours. In the bytes they have the
 * order of the row.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HALF_BLOCK_AVX512_H
#define XP_HALF_BLOCK_AVX512_H

#include "hash/x86/qblock_avx512.h"

/* Where value i of a block lies, its lower byte, in two registers; the first 32 are also where pairs do. */
static const uint8_t xp_half_order[64] = {
    0, 4, 8, 12, 16, 20, 24, 28, 64, 68, 72, 76, 80, 84, 88, 92,
    32, 36, 40, 44, 48, 52, 56, 60, 96, 100, 104, 108, 112, 116, 120, 124,
    2, 6, 10, 14, 18, 22, 26, 30, 66, 70, 74, 78, 82, 86, 90, 94,
    34, 38, 42, 46, 50, 54, 58, 62, 98, 102, 106, 110, 114, 118, 122, 126};

XP_INLINE void xp_put_half_single512(const int bits, const __m512i w[2], uint8_t *p)
{
    const __m512i x = _mm512_permutex2var_epi8(w[0], _mm512_loadu_si512(xp_half_order), w[1]);
    int at = 0;

    if (bits == 8) {
        _mm512_storeu_si512(p, x);
        return;
    }
    if (bits & 4) {
        xp_put_nibbles64(p, xp_low_bits512(x, 4));
        p += 32;
        at = 4;
    }
    if (bits & 2) {
        xp_put_quads64(p, xp_low_bits512(_mm512_srli_epi16(x, (unsigned)at), 2));
        p += 16;
        at += 2;
    }
    if (bits & 1)
        xp_put_plane64(p, x, 1 << at);
}

/* 32 elements of an odd number of bits, below 8, from bytes. */
XP_INLINE void xp_put_half_part512(const int bits, __m256i x, uint8_t *p)
{
    int at = 0;

    if (bits & 4) {
        const __m256i low = _mm256_and_si256(x, _mm256_set1_epi8(15));
        _mm_storeu_si128((__m128i *)p, _mm_or_si128(_mm256_castsi256_si128(low), _mm_slli_epi16(_mm256_extracti128_si256(low, 1), 4)));
        p += 16;
        at = 4;
    }
    if (bits & 2) {
        const __m256i low = _mm256_and_si256(_mm256_srli_epi16(x, at), _mm256_set1_epi8(3));
        const __m256i y = _mm256_sllv_epi64(low, _mm256_setr_epi64x(0, 2, 4, 6));
        const __m128i z = _mm_or_si128(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
        _mm_storel_epi64((__m128i *)p, _mm_or_si128(z, _mm_unpackhi_epi64(z, z)));
        p += 8;
        at += 2;
    }
    const uint32_t plane = _cvtmask32_u32(_mm256_test_epi8_mask(x, _mm256_set1_epi8((char)(1 << at))));
    __builtin_memcpy(p, &plane, sizeof(plane));
}

XP_INLINE void xp_put_half_pairs512(const int levels, const int bits, const __m512i w[2], uint8_t *p)
{
    const __m512i factors = _mm512_set1_epi32(1 << 16 | levels), order = _mm512_loadu_si512(xp_half_order);
    const __m512i a = _mm512_madd_epi16(w[0], factors), b = _mm512_madd_epi16(w[1], factors);
    const __m256i low = _mm512_castsi512_si256(_mm512_permutex2var_epi8(a, order, b));

    if (bits < 8) {
        xp_put_half_part512(bits, low, p);
        return;
    }
    const __m512i upper = _mm512_add_epi8(order, _mm512_set1_epi8(1));
    _mm256_storeu_si256((__m256i *)p, low);
    xp_put_half_part512(bits & 7, _mm512_castsi512_si256(_mm512_permutex2var_epi8(a, upper, b)), p + 32);
}

#endif
