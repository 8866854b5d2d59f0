/*
 * half_block_avx512.h - codes of half a block, the last 64 values of a row, to the bytes of a format and back
 *
 * Codes to be put are words in turned order (x86/turned_avx512.h); those that are got have w0 w1 w2 = v5 v4 v3, l0 l1 = v1 v0, register v2.
 * In either those that travel as a pair are neighbours. In the bytes they have the order of the row.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HALF_BLOCK_AVX512_H
#define XP_HALF_BLOCK_AVX512_H

#include "hash/qblock.h"
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

    if (bits == 8)
        _mm512_storeu_si512(p, x);
    else
        xp_put_fields64(bits, x, p);
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

/* Which value a word of the first register is of; those of the second are 4 further on. */
static const uint8_t xp_half_words[64] = { /* and 0 in its upper byte */
    0, 0, 32, 0, 16, 0, 48, 0, 8, 0, 40, 0, 24, 0, 56, 0,
    2, 0, 34, 0, 18, 0, 50, 0, 10, 0, 42, 0, 26, 0, 58, 0,
    1, 0, 33, 0, 17, 0, 49, 0, 9, 0, 41, 0, 25, 0, 57, 0,
    3, 0, 35, 0, 19, 0, 51, 0, 11, 0, 43, 0, 27, 0, 59, 0};

XP_INLINE void xp_get_half_single512(const int bits, const uint8_t *p, __m512i w[2])
{
    const __m512i from = _mm512_loadu_si512(xp_half_words), then = _mm512_add_epi8(from, _mm512_set1_epi8(4));
    const __m512i x = bits == 8 ? _mm512_loadu_si512(p) : xp_get_fields64(bits, p);

    w[0] = _mm512_maskz_permutexvar_epi8(0x5555555555555555, from, x);
    w[1] = _mm512_maskz_permutexvar_epi8(0x5555555555555555, then, x);
}

/* 32 elements of an odd number of bits, below 8, as bytes. */
XP_INLINE __m256i xp_get_half_part512(const int bits, const uint8_t *p)
{
    __m256i x = _mm256_setzero_si256();
    uint32_t plane;
    int at = 0;

    if (bits & 4) {
        const __m128i nibbles = _mm_loadu_si128((const __m128i *)p);
        x = _mm256_and_si256(_mm256_inserti128_si256(_mm256_castsi128_si256(nibbles), _mm_srli_epi16(nibbles, 4), 1), _mm256_set1_epi8(15));
        p += 16;
        at = 4;
    }
    if (bits & 2) {
        const __m256i quads = _mm256_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)p));
        const __m256i y = _mm256_and_si256(_mm256_srlv_epi64(quads, _mm256_setr_epi64x(0, 2, 4, 6)), _mm256_set1_epi8(3));
        x = _mm256_or_si256(x, _mm256_slli_epi16(y, at));
        p += 8;
        at += 2;
    }
    __builtin_memcpy(&plane, p, sizeof(plane));
    return _mm256_or_si256(x, _mm256_maskz_set1_epi8(_cvtu32_mask32(plane), (char)(1 << at)));
}

/* Elements, one in 32 bits, to their two codes. */
XP_INLINE __m512i xp_part_half_pairs512(const struct xp_qinfo *q, __m512i x)
{
    const __m512i product = _mm512_mulhi_epu16(x, _mm512_set1_epi16((short)q->div_mul));
    const __m512i first = _mm512_srl_epi16(product, _mm_cvtsi32_si128(q->div_shift));
    const __m512i second = _mm512_sub_epi16(x, _mm512_mullo_epi16(first, _mm512_set1_epi16((short)q->levels)));

    return _mm512_or_si512(first, _mm512_slli_epi32(second, 16));
}

XP_INLINE void xp_get_half_pairs512(const struct xp_qinfo *q, const int bits, const uint8_t *p, __m512i w[2])
{
    const __m512i from = _mm512_loadu_si512(xp_half_words);
    const __m256i low = bits < 8 ? xp_get_half_part512(bits, p) : _mm256_loadu_si256((const __m256i *)p);
    const __m256i upper = bits < 8 ? _mm256_setzero_si256() : xp_get_half_part512(bits & 7, p + 32);
    const __m512i x = _mm512_inserti64x4(_mm512_castsi256_si512(low), upper, 1); /* element e: bytes e and 32 + e */
    /* Words v5 = 0 are of the elements; their upper bytes are those 32 further on, which is where words v5 = 1 are from. */
    const __m512i pairs = _mm512_or_si512(_mm512_maskz_mov_epi8(0x1111111111111111, from), _mm512_maskz_mov_epi8(0x2222222222222222,
                                          _mm512_srli_epi32(from, 8)));

    w[0] = xp_part_half_pairs512(q, _mm512_maskz_permutexvar_epi8(0x3333333333333333, pairs, x));
    w[1] = xp_part_half_pairs512(q, _mm512_maskz_permutexvar_epi8(0x3333333333333333, _mm512_add_epi8(pairs, _mm512_set1_epi8(4)), x));
}

#endif
