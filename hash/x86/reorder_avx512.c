/*
 * reorder_avx512.c - values of a row in another order, window by window, with AVX-512: a window of 16-bit values is eight
 * registers, and a shuffle looks up in two of them
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>

/* 32 values picked from the window in w. */
XP_INLINE __m512i pick(const __m512i *w, __m512i index)
{
    const __mmask32 odd = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64)), high = _mm512_test_epi16_mask(index, _mm512_set1_epi16(128));
    const __m512i a = _mm512_permutex2var_epi16(w[0], index, w[1]), b = _mm512_permutex2var_epi16(w[2], index, w[3]);
    const __m512i c = _mm512_permutex2var_epi16(w[4], index, w[5]), d = _mm512_permutex2var_epi16(w[6], index, w[7]);

    return _mm512_mask_blend_epi16(high, _mm512_mask_blend_epi16(odd, a, b), _mm512_mask_blend_epi16(odd, c, d));
}

static void window(const uint16_t *in, const uint8_t *index, uint16_t *out)
{
    __m512i w[8];

    XP_UNROLL
    for (int i = 0; i < 8; i++)
        w[i] = _mm512_loadu_si512(in + 32 * i);
    XP_UNROLL
    for (int i = 0; i < 8; i++)
        _mm512_storeu_si512(out + 32 * i, pick(w, _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(index + 32 * i)))));
}

void xp_reorder_avx512(const void *in, const uint8_t *index, size_t n, size_t size, void *out)
{
    size_t w = 0;

    if (size == 2)
        for (; w + XP_REORDER_WINDOW <= n; w += XP_REORDER_WINDOW)
            window((const uint16_t *)in + w, index + w, (uint16_t *)out + w);
    xp_reorder_c((const char *)in + w * size, index + w, n - w, size, (char *)out + w * size);
}
