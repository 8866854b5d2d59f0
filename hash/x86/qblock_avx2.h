/*
 * qblock_avx2.h - a block of 128 int16 in eight registers: its rotation in both directions, and its codes as bytes
 *
 * The method and the notation are those of qblock_avx512.h; a vector of words has lane bits w0, w1 w2 and l (which half). In the order
 * of the codes w0 = v0, w1 w2 = v4 v2, l = v1 and the registers are v3, v5, v6 (v3 + 2 v5 + 4 v6); in the order of the row
 * w0 = v0, w1 w2 = v1 v2, l = v3 and the registers are v4, v5, v6.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_QBLOCK_AVX2_H
#define XP_QBLOCK_AVX2_H

#include "hash/qblock.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>
#include <stdint.h>

XP_INLINE void xp_butterfly256(__m256i *x, __m256i *y)
{
    const __m256i sum = _mm256_add_epi16(*x, *y);

    *y = _mm256_sub_epi16(*x, *y);
    *x = sum;
}

/* w2, register <- register, w2 */
XP_INLINE void xp_trade_unpack64_256(__m256i *x, __m256i *y)
{
    const __m256i low = _mm256_unpacklo_epi64(*x, *y);

    *y = _mm256_unpackhi_epi64(*x, *y);
    *x = low;
}

/* w1, w2, register <- w2, register, w1 */
XP_INLINE void xp_trade_dwords256(__m256i *x, __m256i *y)
{
    const __m256 a = _mm256_castsi256_ps(*x), b = _mm256_castsi256_ps(*y);

    *x = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
    *y = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
}

/* l, register <- register, l */
XP_INLINE void xp_trade_halves256(__m256i *x, __m256i *y)
{
    const __m256i low = _mm256_permute2x128_si256(*x, *y, 0x20);

    *y = _mm256_permute2x128_si256(*x, *y, 0x31);
    *x = low;
}

/* The butterflies of the three register bits. */
XP_INLINE void xp_registers256(__m256i w[8])
{
    XP_UNROLL
    for (int bit = 1; bit < 8; bit *= 2)
        XP_UNROLL
        for (int i = 0; i < 8; i++)
            if (!(i & bit))
                xp_butterfly256(&w[i], &w[i | bit]);
}

/* From codes to row order, the inverse rotation except for v0. */
XP_INLINE void xp_unrotate256(__m256i w[8])
{
    xp_registers256(w);
    XP_UNROLL
    for (int i = 0; i < 8; i += 2) {
        xp_trade_halves256(&w[i], &w[i + 1]); /* l = v3, register v1 */
        xp_butterfly256(&w[i], &w[i + 1]);
        xp_trade_unpack64_256(&w[i], &w[i + 1]); /* w1 w2 = v4 v1, register v2 */
        xp_butterfly256(&w[i], &w[i + 1]);
        xp_trade_dwords256(&w[i], &w[i + 1]); /* w1 w2 = v1 v2, register v4 */
        xp_butterfly256(&w[i], &w[i + 1]);
    }
}

/* From packed row order (two vectors of 8 f32 pack: w1 w2 = v1 v3, l = v2, registers v4 v5 v6) to codes order, except for v0. */
XP_INLINE void xp_rotate256(__m256i w[8])
{
    xp_registers256(w);
    XP_UNROLL
    for (int i = 0; i < 8; i += 2) {
        xp_trade_dwords256(&w[i], &w[i + 1]); /* w1 w2 = v3 v4, register v1 */
        xp_butterfly256(&w[i], &w[i + 1]);
        xp_trade_halves256(&w[i], &w[i + 1]); /* l = v1, register v2 */
        xp_butterfly256(&w[i], &w[i + 1]);
        xp_trade_dwords256(&w[i], &w[i + 1]); /* w1 w2 = v4 v2, register v3 */
        xp_butterfly256(&w[i], &w[i + 1]);
    }
}

/* ---- fields of the packed codes (FORMAT.md), 32 elements to a vector of bytes ------------------------------------------ */

XP_INLINE __m256i xp_low_bits256(__m256i x, int bits)
{
    return _mm256_and_si256(x, _mm256_set1_epi8((char)((1 << bits) - 1)));
}

/* 32 bits to 32 bytes of 0 or value. */
XP_INLINE __m256i xp_get_plane32(const uint8_t *p, int value)
{
    const __m256i copy = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    int bits;

    __builtin_memcpy(&bits, p, sizeof(bits));
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), copy);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit), _mm256_set1_epi8((char)value));
}

/* 128 elements. */
XP_INLINE void xp_get_nibbles256(const uint8_t *p, __m256i c[4])
{
    const __m256i x = _mm256_loadu_si256((const __m256i *)p), y = _mm256_loadu_si256((const __m256i *)(p + 32));

    c[0] = xp_low_bits256(x, 4);
    c[1] = xp_low_bits256(y, 4);
    c[2] = xp_low_bits256(_mm256_srli_epi16(x, 4), 4);
    c[3] = xp_low_bits256(_mm256_srli_epi16(y, 4), 4);
}

XP_INLINE void xp_get_quads256(const uint8_t *p, __m256i c[4])
{
    const __m256i x = _mm256_loadu_si256((const __m256i *)p);

    XP_UNROLL
    for (int k = 0; k < 4; k++)
        c[k] = xp_low_bits256(_mm256_srli_epi16(x, 2 * k), 2);
}

/* 64 elements. */
XP_INLINE void xp_get_half_nibbles256(const uint8_t *p, __m256i c[2])
{
    const __m256i x = _mm256_loadu_si256((const __m256i *)p);

    c[0] = xp_low_bits256(x, 4);
    c[1] = xp_low_bits256(_mm256_srli_epi16(x, 4), 4);
}

XP_INLINE void xp_get_half_quads256(const uint8_t *p, __m256i c[2])
{
    const __m256i x = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));

    c[0] = xp_low_bits256(_mm256_srlv_epi32(x, _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2)), 2);
    c[1] = xp_low_bits256(_mm256_srlv_epi32(x, _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6)), 2);
}

/* Words of pairs to their two codes. */
XP_INLINE void xp_part_pairs256(__m256i pairs, const struct xp_qinfo *q, __m256i *first, __m256i *second)
{
    *first = _mm256_srl_epi16(_mm256_mulhi_epu16(pairs, _mm256_set1_epi16((short)q->div_mul)), _mm_cvtsi32_si128(q->div_shift));
    *second = _mm256_sub_epi16(pairs, _mm256_mullo_epi16(*first, _mm256_set1_epi16((short)q->levels)));
}

/* The reverse; the bytes hold nothing but the field, shifts stay inside them. */
XP_INLINE __m256i xp_join256(__m256i low, __m256i high, int by)
{
    return _mm256_or_si256(low, _mm256_slli_epi16(high, by));
}

XP_INLINE void xp_put_plane32(uint8_t *p, __m256i c, int at)
{
    const int bits = _mm256_movemask_epi8(_mm256_slli_epi16(c, 7 - at));

    __builtin_memcpy(p, &bits, sizeof(bits));
}

#endif
