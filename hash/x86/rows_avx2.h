/*
 * rows_avx2.h - typed rows in registers
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_ROWS_AVX2_H
#define XP_ROWS_AVX2_H

#include "crosspress/crosspress.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>

/* 8 consecutive values of a row. */
XP_INLINE __m256 xp_load256(const void *p, const xp_dtype t)
{
    if (t == XP_F32)
        return _mm256_loadu_ps(p);
    const __m128i w = _mm_loadu_si128(p);
    return t == XP_BF16 ? _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(w), 16)) : _mm256_cvtph_ps(w);
}

/* bf16 of x in the upper half of each lane, garbage below it; x is no NaN. */
XP_INLINE __m256i xp_round_bf16_256(__m256 x)
{
    const __m256i u = _mm256_castps_si256(x), lsb = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));

    return _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), lsb);
}

/* The same for any x: a NaN stays one. */
XP_INLINE __m256i xp_round_bf16_any256(__m256 x)
{
    const __m256i quiet = _mm256_or_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x400000));
    const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);

    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(xp_round_bf16_256(x)), _mm256_castsi256_ps(quiet), nan));
}

/* Stores 16 consecutive values. */
XP_INLINE void xp_store16_256(void *p, const xp_dtype t, __m256 a, __m256 b)
{
    if (t == XP_F32) {
        _mm256_storeu_ps(p, a);
        _mm256_storeu_ps((float *)p + 8, b);
    } else if (t == XP_F16) {
        _mm_storeu_si128(p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
        _mm_storeu_si128((__m128i *)p + 1, _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT));
    } else {
        const __m256i x = _mm256_srli_epi32(xp_round_bf16_any256(a), 16), y = _mm256_srli_epi32(xp_round_bf16_any256(b), 16);
        _mm256_storeu_si256(p, _mm256_permute4x64_epi64(_mm256_packus_epi32(x, y), 0xd8));
    }
}

#endif
