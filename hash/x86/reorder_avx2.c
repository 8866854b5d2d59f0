/*
 * reorder_avx2.c - values of a row in another order, window by window, with AVX2: loads set the pace, so indices come eight at a time
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/bytes.h"
#include "hash/variants.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>

/* 8 values picked from a window. */
XP_INLINE __m128i pick(const uint8_t *window, uint64_t index)
{
    __m128i v = _mm_cvtsi32_si128(xp_get16(window + 2 * (index & 255)));

    v = _mm_insert_epi16(v, xp_get16(window + 2 * (index >> 8 & 255)), 1);
    v = _mm_insert_epi16(v, xp_get16(window + 2 * (index >> 16 & 255)), 2);
    v = _mm_insert_epi16(v, xp_get16(window + 2 * (index >> 24 & 255)), 3);
    v = _mm_insert_epi16(v, xp_get16(window + 2 * (index >> 32 & 255)), 4);
    v = _mm_insert_epi16(v, xp_get16(window + 2 * (index >> 40 & 255)), 5);
    v = _mm_insert_epi16(v, xp_get16(window + 2 * (index >> 48 & 255)), 6);
    return _mm_insert_epi16(v, xp_get16(window + 2 * (index >> 56)), 7);
}

static void window(const uint8_t *in, const uint8_t *index, size_t n, uint8_t *out)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(out + 2 * i), pick(in, xp_get64(index + i)));
    xp_reorder_c(in, index + i, n - i, 2, out + 2 * i);
}

void xp_reorder_avx2(const void *in, const uint8_t *index, size_t n, size_t size, void *out)
{
    if (size != 2) {
        xp_reorder_c(in, index, n, size, out);
        return;
    }
    for (size_t w = 0; w < n; w += XP_REORDER_WINDOW)
        window((const uint8_t *)in + 2 * w, index + w, n - w < XP_REORDER_WINDOW ? n - w : XP_REORDER_WINDOW, (uint8_t *)out + 2 * w);
}
