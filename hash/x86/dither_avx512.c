/*
 * dither_avx512.c - Philox of sixteen groups side by side, with AVX-512
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/signs.h"
#include "hash/variants.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>

/* Both halves of the products of all lanes. */
XP_INLINE void multiply(__m512i a, __m512i m, __m512i *high, __m512i *low)
{
    const __m512i even = _mm512_mul_epu32(a, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), m);

    *low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
    *high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}

XP_INLINE void philox(__m512i c[4], uint64_t key)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);

    XP_UNROLL
    for (int r = 0; r < XP_PHILOX_ROUNDS; r++) {
        __m512i high[2], low[2];

        multiply(c[0], _mm512_set1_epi32((int)XP_PHILOX_M0), &high[0], &low[0]);
        multiply(c[2], _mm512_set1_epi32((int)XP_PHILOX_M1), &high[1], &low[1]);
        c[0] = _mm512_xor_si512(_mm512_xor_si512(high[1], c[1]), _mm512_set1_epi32((int)k0));
        c[1] = low[1];
        c[2] = _mm512_xor_si512(_mm512_xor_si512(high[0], c[3]), _mm512_set1_epi32((int)k1));
        c[3] = low[0];
        k0 += XP_PHILOX_W0;
        k1 += XP_PHILOX_W1;
    }
}

/* The bytes of four groups, i apart by four, to their values. */
XP_INLINE void spread(__m512i bytes, float *out)
{
    const __m128i group[4] = { _mm512_castsi512_si128(bytes), _mm512_extracti32x4_epi32(bytes, 1), _mm512_extracti32x4_epi32(bytes, 2),
                               _mm512_extracti32x4_epi32(bytes, 3) };

    for (int i = 0; i < 4; i++) {
        const __m512 v = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(group[i]));
        _mm512_storeu_ps(out + 64 * i, _mm512_sub_ps(_mm512_mul_ps(v, _mm512_set1_ps(0x1p-8f)), _mm512_set1_ps(255.0f / 512)));
    }
}

void xp_uniform_dither_avx512(uint64_t key, uint64_t row, size_t groups, float *out)
{
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);

    for (size_t g = 0; g < groups; g += 16) {
        __m512i c[4] = { _mm512_add_epi32(_mm512_set1_epi32((int)g), lanes), _mm512_set1_epi32((int)row),
                         _mm512_set1_epi32((int)(row >> 32)), _mm512_set1_epi32(1) };
        __m512i pair[4]; /* words 0 1 and 2 3 of groups */

        philox(c, key);
        pair[0] = _mm512_unpacklo_epi32(c[0], c[1]);
        pair[1] = _mm512_unpackhi_epi32(c[0], c[1]);
        pair[2] = _mm512_unpacklo_epi32(c[2], c[3]);
        pair[3] = _mm512_unpackhi_epi32(c[2], c[3]);
        for (int i = 0; i < 2; i++) {
            spread(_mm512_unpacklo_epi64(pair[i], pair[i + 2]), out + 16 * (g + 2 * (size_t)i));
            spread(_mm512_unpackhi_epi64(pair[i], pair[i + 2]), out + 16 * (g + 2 * (size_t)i + 1));
        }
    }
}
