/*
 * qblock_avx512.h - a block of 128 int16 in four registers: its rotation in both directions, and its codes as bytes
 *
 * Notation: v0 .. v6 are the bits of a value's index. A vector of words has lane bits w0 (within 32 bits), w1 w2 (within 128 bits),
 * l0 l1 (which 128 bits); registers hold the bits left. A shuffle trades the register bit of a pair (x, y) for a lane bit:
 *   unpack64        w2, register <- register, w2
 *   dwords even/odd w1, w2, register <- w2, register, w1
 *   quarters        l0, l1, register <- l1, register, l0
 * after which the butterfly of the new register bit needs no shuffle. In the order of the codes (xp_qposition) w0 = v0,
 * w1 w2 = v4 v2, l0 l1 = v1 v5, registers v3 and v6; in the order of the row w0 = v0, w1 w2 = v1 v2, l0 l1 = v3 v4, registers v5 v6.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_QBLOCK_AVX512_H
#define XP_QBLOCK_AVX512_H

#include "hash/x86/unroll.h"

#include <immintrin.h>
#include <stdint.h>

XP_INLINE void xp_butterfly512(__m512i *x, __m512i *y)
{
    const __m512i sum = _mm512_add_epi16(*x, *y);

    *y = _mm512_sub_epi16(*x, *y);
    *x = sum;
}

/* Two pairs of registers, each pair by itself. */
#define XP_PAIRS512(f, w) (f(&(w)[0], &(w)[1]), f(&(w)[2], &(w)[3]))

XP_INLINE void xp_trade_unpack64_512(__m512i *x, __m512i *y)
{
    const __m512i low = _mm512_unpacklo_epi64(*x, *y);

    *y = _mm512_unpackhi_epi64(*x, *y);
    *x = low;
}

XP_INLINE void xp_trade_dwords512(__m512i *x, __m512i *y)
{
    const __m512 a = _mm512_castsi512_ps(*x), b = _mm512_castsi512_ps(*y);

    *x = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88));
    *y = _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xdd));
}

XP_INLINE void xp_trade_quarters512(__m512i *x, __m512i *y)
{
    const __m512i low = _mm512_shuffle_i32x4(*x, *y, 0x88);

    *y = _mm512_shuffle_i32x4(*x, *y, 0xdd);
    *x = low;
}

/*
 * From codes to row order, the inverse rotation except for v0. w[0 .. 3]: registers (v3, v6) = (0, 0), (1, 0), (0, 1), (1, 1);
 * on return (v5, v6).
 */
XP_INLINE void xp_unrotate512(__m512i w[4])
{
    xp_butterfly512(&w[0], &w[1]);
    xp_butterfly512(&w[2], &w[3]);
    xp_butterfly512(&w[0], &w[2]);
    xp_butterfly512(&w[1], &w[3]);
    for (int i = 0; i < 4; i += 2) {
        xp_trade_quarters512(&w[i], &w[i + 1]); /* l0 l1 = v5 v3, register v1 */
        xp_butterfly512(&w[i], &w[i + 1]);
        xp_trade_unpack64_512(&w[i], &w[i + 1]); /* w1 w2 = v4 v1, register v2 */
        xp_butterfly512(&w[i], &w[i + 1]);
        xp_trade_dwords512(&w[i], &w[i + 1]); /* w1 w2 = v1 v2, register v4 */
        xp_butterfly512(&w[i], &w[i + 1]);
        xp_trade_quarters512(&w[i], &w[i + 1]); /* l0 l1 = v3 v4, register v5 */
        xp_butterfly512(&w[i], &w[i + 1]);
    }
}

/*
 * From packed row order (as two vectors of 16 f32 that differ in v4 pack: w1 w2 = v1 v4, l0 l1 = v2 v3, registers (v5, v6)) to
 * codes order, all of the rotation except for v0. On return registers (v3, v6) as above.
 */
XP_INLINE void xp_rotate512(__m512i w[4])
{
    /* Last trade: from w1 w2 = v5 v2, l0 l1 = v3 v1, register v4 to w1 w2 = v4 v2, l0 l1 = v1 v5, register v3. */
    const __m512i low = _mm512_setr_epi32(0, 16, 2, 18, 8, 24, 10, 26, 1, 17, 3, 19, 9, 25, 11, 27);
    const __m512i high = _mm512_setr_epi32(4, 20, 6, 22, 12, 28, 14, 30, 5, 21, 7, 23, 13, 29, 15, 31);

    xp_butterfly512(&w[0], &w[1]);
    xp_butterfly512(&w[2], &w[3]);
    xp_butterfly512(&w[0], &w[2]);
    xp_butterfly512(&w[1], &w[3]);
    for (int i = 0; i < 4; i += 2) {
        xp_trade_dwords512(&w[i], &w[i + 1]); /* w1 w2 = v4 v5, register v1 */
        xp_butterfly512(&w[i], &w[i + 1]);
        xp_trade_quarters512(&w[i], &w[i + 1]); /* l0 l1 = v3 v1, register v2 */
        xp_butterfly512(&w[i], &w[i + 1]);
        xp_trade_dwords512(&w[i], &w[i + 1]); /* w1 w2 = v5 v2, register v4 */
        xp_butterfly512(&w[i], &w[i + 1]);
        const __m512i x = _mm512_permutex2var_epi32(w[i], low, w[i + 1]);
        w[i + 1] = _mm512_permutex2var_epi32(w[i], high, w[i + 1]);
        w[i] = x;
        xp_butterfly512(&w[i], &w[i + 1]);
    }
}

/* ---- fields of the packed codes (FORMAT.md): 128 elements are two vectors of bytes, 64 elements one ---- */

struct xp_bytes512 {
    __m512i a, b; /* elements 0 .. 63 and 64 .. 127 */
};

XP_INLINE __m512i xp_low_bits512(__m512i x, int bits)
{
    return _mm512_and_si512(x, _mm512_set1_epi8((char)((1 << bits) - 1)));
}

/* 16-bit shift counts of the four 128-bit quarters. */
XP_INLINE __m512i xp_quarter_counts512(int a, int b, int c, int d)
{
    return _mm512_setr_epi64(a * 0x0001000100010001, a * 0x0001000100010001, b * 0x0001000100010001, b * 0x0001000100010001,
                             c * 0x0001000100010001, c * 0x0001000100010001, d * 0x0001000100010001, d * 0x0001000100010001);
}

XP_INLINE struct xp_bytes512 xp_get_nibbles128(const uint8_t *p)
{
    const __m512i x = _mm512_loadu_si512(p);

    return (struct xp_bytes512){xp_low_bits512(x, 4), xp_low_bits512(_mm512_srli_epi16(x, 4), 4)};
}

XP_INLINE struct xp_bytes512 xp_get_quads128(const uint8_t *p)
{
    const __m512i x = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p));

    return (struct xp_bytes512){xp_low_bits512(_mm512_srlv_epi16(x, xp_quarter_counts512(0, 0, 2, 2)), 2),
                                xp_low_bits512(_mm512_srlv_epi16(x, xp_quarter_counts512(4, 4, 6, 6)), 2)};
}

XP_INLINE __m512i xp_get_plane64(const uint8_t *p, int value)
{
    uint64_t bits;

    __builtin_memcpy(&bits, p, sizeof(bits));
    return _mm512_maskz_set1_epi8(_cvtu64_mask64(bits), (char)value);
}

XP_INLINE __m512i xp_get_nibbles64(const uint8_t *p)
{
    const __m512i x = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p));

    return xp_low_bits512(_mm512_srlv_epi16(x, xp_quarter_counts512(0, 0, 4, 4)), 4);
}

XP_INLINE __m512i xp_get_quads64(const uint8_t *p)
{
    const __m512i x = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));

    return xp_low_bits512(_mm512_srlv_epi16(x, xp_quarter_counts512(0, 2, 4, 6)), 2);
}

/* Bits of a where they are set in `of`, which repeats every 32 bits, and bits of b elsewhere. */
XP_INLINE __m512i xp_choose_bits512(unsigned of, __m512i a, __m512i b)
{
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32((int)of), a, b, 0xca);
}

XP_INLINE __m256i xp_choose_bits256(unsigned of, __m256i a, __m256i b)
{
    return _mm256_ternarylogic_epi32(_mm256_set1_epi32((int)of), a, b, 0xca);
}

/* Left shift of bytes whose bits all stay inside the byte. */
XP_INLINE __m512i xp_shift_up512(__m512i x, int by)
{
    return _mm512_slli_epi16(x, (unsigned)by);
}

/* The lowest 4 bits of bytes. */
XP_INLINE void xp_put_nibbles128(uint8_t *p, __m512i a, __m512i b)
{
    _mm512_storeu_si512(p, xp_choose_bits512(0x0f0f0f0f, a, xp_shift_up512(b, 4)));
}

XP_INLINE __m256i xp_upper256(__m512i x)
{
    return _mm512_extracti64x4_epi64(x, 1);
}

/* Bits `at` and at + 1 of bytes, at being 0 or 4. */
XP_INLINE void xp_put_quads128(uint8_t *p, const int at, __m512i a, __m512i b)
{
    const __m512i x = at ? xp_choose_bits512(0x03030303, _mm512_srli_epi16(a, 4), b) : xp_choose_bits512(0x03030303, a, xp_shift_up512(b, 4));
    const __m256i low = _mm512_castsi512_si256(x), high = _mm256_slli_epi16(xp_upper256(x), 2);

    _mm256_storeu_si256((__m256i *)p, xp_choose_bits256(0x33333333, low, high));
}

XP_INLINE void xp_put_plane64(uint8_t *p, __m512i x, int value)
{
    const uint64_t bits = _cvtmask64_u64(_mm512_test_epi8_mask(x, _mm512_set1_epi8((char)value)));

    __builtin_memcpy(p, &bits, sizeof(bits));
}

XP_INLINE void xp_put_nibbles64(uint8_t *p, __m512i x)
{
    _mm256_storeu_si256((__m256i *)p, _mm256_or_si256(_mm512_castsi512_si256(x), _mm256_slli_epi16(xp_upper256(x), 4)));
}

XP_INLINE void xp_put_quads64(uint8_t *p, __m512i x)
{
    const __m512i y = _mm512_sllv_epi16(x, xp_quarter_counts512(0, 2, 4, 6));
    const __m256i z = _mm256_or_si256(_mm512_castsi512_si256(y), xp_upper256(y));

    _mm_storeu_si128((__m128i *)p, _mm_or_si128(_mm256_castsi256_si128(z), _mm256_extracti128_si256(z, 1)));
}

/* 64 elements of fewer than 8 bits, from and to bytes. */
XP_INLINE __m512i xp_get_fields64(const int bits, const uint8_t *p)
{
    __m512i x = _mm512_setzero_si512();
    int at = 0;

    if (bits & 4) {
        x = xp_get_nibbles64(p);
        p += 32;
        at = 4;
    }
    if (bits & 2) {
        x = _mm512_or_si512(x, xp_shift_up512(xp_get_quads64(p), at));
        p += 16;
        at += 2;
    }
    return bits & 1 ? _mm512_or_si512(x, xp_get_plane64(p, 1 << at)) : x;
}

XP_INLINE void xp_put_fields64(const int bits, __m512i x, uint8_t *p)
{
    int at = 0;

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

#endif
