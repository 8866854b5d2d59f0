/*
 * assign_avx512.c - nearest centroid of a sketch, and the closest of many, with AVX-512
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <immintrin.h>

#define ADD_PRODUCTS(sum, a, b) _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))
#include "hash/x86/assign_avx512.h"

void xp_assign_avx512(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *out)
{
    assign_rows(sketch, n, s, centroids, K, out);
}

/* ---- the closest of many -------------------------------------------------------------------------------------------------- */

/* The closest so far, 16 and 16, in order, with their numbers. */
struct closest {
    __m512i d[2], number[2];
};

/* Behind those that are not farther; the last one drops out. */
XP_INLINE void insert(struct closest *c, uint32_t d, uint32_t number, __mmask16 filled[2])
{
    const __m512i vd = _mm512_set1_epi32((int)d), vn = _mm512_set1_epi32((int)number);
    const __mmask16 before = _mm512_mask_cmple_epu32_mask(filled[0], c->d[0], vd), before1 = _mm512_mask_cmple_epu32_mask(filled[1], c->d[1], vd);

    if (before == 0xffff) {
        const __mmask16 others = (__mmask16)~(before1 + 1u); /* all but the first that is farther */
        c->d[1] = _mm512_mask_expand_epi32(vd, others, c->d[1]);
        c->number[1] = _mm512_mask_expand_epi32(vn, others, c->number[1]);
    } else {
        const __mmask16 others = (__mmask16)~(before + 1u);
        c->d[1] = _mm512_alignr_epi32(c->d[1], c->d[0], 15);
        c->number[1] = _mm512_alignr_epi32(c->number[1], c->number[0], 15);
        c->d[0] = _mm512_mask_expand_epi32(vd, others, c->d[0]);
        c->number[0] = _mm512_mask_expand_epi32(vn, others, c->number[0]);
    }
    filled[1] = (__mmask16)(filled[1] << 1 | filled[0] >> 15);
    filled[0] = (__mmask16)(filled[0] << 1 | 1);
}

void xp_closest_avx512(const uint32_t *d, size_t n, unsigned most, uint16_t *out)
{
    const size_t got = n < most ? n : most;
    struct closest c = {{_mm512_setzero_si512(), _mm512_setzero_si512()}, {_mm512_setzero_si512(), _mm512_setzero_si512()}};
    __mmask16 filled[2] = {0, 0};
    uint32_t farthest[LANES];
    size_t h = 0;

    for (; h < n && h < XP_MOST_CLOSEST; h++)
        insert(&c, d[h], (uint32_t)h, filled);
    for (; h < n; h += LANES) {
        const __mmask16 here = n - h < LANES ? (__mmask16)((1u << (n - h)) - 1) : 0xffff;
        const __m512i some = _mm512_maskz_loadu_epi32(here, d + h), last = _mm512_permutexvar_epi32(_mm512_set1_epi32(LANES - 1), c.d[1]);
        unsigned nearer = _mm512_mask_cmplt_epu32_mask(here, some, last);

        for (; nearer; nearer &= nearer - 1) {
            const size_t at = h + (size_t)__builtin_ctz(nearer);
            _mm512_storeu_si512(farthest, c.d[1]);
            if (d[at] < farthest[LANES - 1])
                insert(&c, d[at], (uint32_t)at, filled);
        }
    }
    uint16_t number[2 * LANES];
    _mm256_storeu_si256((__m256i *)number, _mm512_cvtepi32_epi16(c.number[0]));
    _mm256_storeu_si256((__m256i *)(number + LANES), _mm512_cvtepi32_epi16(c.number[1]));
    memcpy(out, number, got * sizeof(*out));
}
