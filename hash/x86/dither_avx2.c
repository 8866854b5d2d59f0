/*
 * dither_avx2.c - Philox of eight groups side by side, with AVX2
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/signs.h"
#include "hash/variants.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>

/* Both halves of the products of all lanes. */
XP_INLINE void multiply(__m256i a, __m256i m, __m256i *high, __m256i *low)
{
    const __m256i even = _mm256_mul_epu32(a, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);

    *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

XP_INLINE void philox(__m256i c[4], uint64_t key)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);

    XP_UNROLL
    for (int r = 0; r < XP_PHILOX_ROUNDS; r++) {
        __m256i high[2], low[2];

        multiply(c[0], _mm256_set1_epi32((int)XP_PHILOX_M0), &high[0], &low[0]);
        multiply(c[2], _mm256_set1_epi32((int)XP_PHILOX_M1), &high[1], &low[1]);
        c[0] = _mm256_xor_si256(_mm256_xor_si256(high[1], c[1]), _mm256_set1_epi32((int)k0));
        c[1] = low[1];
        c[2] = _mm256_xor_si256(_mm256_xor_si256(high[0], c[3]), _mm256_set1_epi32((int)k1));
        c[3] = low[0];
        k0 += XP_PHILOX_W0;
        k1 += XP_PHILOX_W1;
    }
}

/* A group's 16 bytes to its 16 values. */
XP_INLINE void spread(__m128i bytes, float *out)
{
    for (int h = 0; h < 2; h++) {
        const __m256 v = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(h ? _mm_unpackhi_epi64(bytes, bytes) : bytes));
        _mm256_storeu_ps(out + 8 * h, _mm256_sub_ps(_mm256_mul_ps(v, _mm256_set1_ps(0x1p-8f)), _mm256_set1_ps(255.0f / 512)));
    }
}

void xp_uniform_dither_avx2(uint64_t key, uint64_t row, size_t groups, float *out)
{
    for (size_t g = 0; g < groups; g += 8) {
        __m256i c[4] = { _mm256_add_epi32(_mm256_set1_epi32((int)g), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
                         _mm256_set1_epi32((int)row), _mm256_set1_epi32((int)(row >> 32)), _mm256_set1_epi32(1) };
        __m256i pair[4], four[4]; /* words 0 1 and 2 3 of groups; all four words of groups i and i + 4 */

        philox(c, key);
        pair[0] = _mm256_unpacklo_epi32(c[0], c[1]);
        pair[1] = _mm256_unpackhi_epi32(c[0], c[1]);
        pair[2] = _mm256_unpacklo_epi32(c[2], c[3]);
        pair[3] = _mm256_unpackhi_epi32(c[2], c[3]);
        for (int i = 0; i < 2; i++) {
            four[2 * i] = _mm256_unpacklo_epi64(pair[i], pair[i + 2]);
            four[2 * i + 1] = _mm256_unpackhi_epi64(pair[i], pair[i + 2]);
        }
        for (int i = 0; i < 4; i++) {
            spread(_mm256_castsi256_si128(four[i]), out + 16 * (g + (size_t)i));
            spread(_mm256_extracti128_si256(four[i], 1), out + 16 * (g + (size_t)i + 4));
        }
    }
}
