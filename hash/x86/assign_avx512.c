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

void xp_assign_listed_avx512(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t count,
                             uint32_t *out)
{
    assign_listed_rows(sketch, n, s, centroids, list, count, out);
}

void xp_distances_avx512(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *out)
{
    distances_rows(sketch, n, s, centroids, K, out);
}

/* ---- the closest of many -------------------------------------------------------------------------------------------------- */

/* The closest so far, 16 and 16, in order, with their numbers. */
struct closest {
    __m512i d[2], number[2];
};

/* Behind those that are not farther; the last one drops out. No branch could guess where. empty: places that nothing is in yet, of 32. */
XP_INLINE void insert(struct closest *c, uint32_t d, uint32_t number, uint32_t empty)
{
    const __m512i vd = _mm512_set1_epi32((int)d), vn = _mm512_set1_epi32((int)number);
    const __m512i d0 = _mm512_alignr_epi32(c->d[0], _mm512_setzero_si512(), 15), d1 = _mm512_alignr_epi32(c->d[1], c->d[0], 15);
    const __m512i n0 = _mm512_alignr_epi32(c->number[0], c->number[0], 15), n1 = _mm512_alignr_epi32(c->number[1], c->number[0], 15);
    const __mmask16 here0 = _mm512_cmplt_epu32_mask(vd, c->d[0]) | (__mmask16)empty;
    const __mmask16 here1 = _mm512_cmplt_epu32_mask(vd, c->d[1]) | (__mmask16)(empty >> 16);
    const __mmask16 before0 = _mm512_cmplt_epu32_mask(vd, d0) | (__mmask16)(empty << 1);
    const __mmask16 before1 = _mm512_cmplt_epu32_mask(vd, d1) | (__mmask16)(empty >> 15);

    c->number[0] = _mm512_mask_mov_epi32(_mm512_mask_mov_epi32(c->number[0], here0, vn), before0, n0);
    c->number[1] = _mm512_mask_mov_epi32(_mm512_mask_mov_epi32(c->number[1], here1, vn), before1, n1);
    c->d[0] = _mm512_max_epu32(d0, _mm512_min_epu32(c->d[0], vd));
    c->d[1] = _mm512_max_epu32(d1, _mm512_min_epu32(c->d[1], vd));
}

void xp_closest_avx512(const uint32_t *d, size_t n, unsigned most, uint16_t *out)
{
    const __m512i none = _mm512_set1_epi32(-1);
    const size_t got = n < most ? n : most;
    struct closest c = {{none, none}, {none, none}};
    size_t h = 0;

    for (; h < n && h < XP_MOST_CLOSEST; h++)
        insert(&c, d[h], (uint32_t)h, UINT32_MAX << h);
    for (; h < n; h += LANES) {
        const __mmask16 here = n - h < LANES ? (__mmask16)((1u << (n - h)) - 1) : 0xffff;
        const __m512i some = _mm512_maskz_loadu_epi32(here, d + h), last = _mm512_permutexvar_epi32(_mm512_set1_epi32(LANES - 1), c.d[1]);

        for (unsigned nearer = _mm512_mask_cmplt_epu32_mask(here, some, last); nearer; nearer &= nearer - 1) {
            const size_t at = h + (size_t)__builtin_ctz(nearer);
            insert(&c, d[at], (uint32_t)at, 0);
        }
    }
    uint16_t number[2 * LANES];
    _mm256_storeu_si256((__m256i *)number, _mm512_cvtepi32_epi16(c.number[0]));
    _mm256_storeu_si256((__m256i *)(number + LANES), _mm512_cvtepi32_epi16(c.number[1]));
    memcpy(out, number, got * sizeof(*out));
}
