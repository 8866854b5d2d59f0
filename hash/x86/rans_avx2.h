/*
 * rans_avx2.h - what the entropy coder's AVX2 files share: integers to symbols and low bits, and back
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_RANS_AVX2_H
#define XP_RANS_AVX2_H

#include "hash/bytes.h"
#include "hash/rans.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>
#include <string.h>

/* The highest bits of 16 words. */
XP_INLINE unsigned xp_word_signs(__m256i x)
{
    return (unsigned)_mm_movemask_epi8(_mm_packs_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
}

/* 16 bits to 16 words of 0 or value. */
XP_INLINE __m256i xp_spread_bits(unsigned bits, __m256i value)
{
    const __m256i each = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, (short)0x8000);

    return _mm256_and_si256(_mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16((short)bits), each), each), value);
}

/* The words before word n. */
XP_INLINE __m256i xp_first_words(size_t n)
{
    return _mm256_cmpgt_epi16(_mm256_set1_epi16((short)n), _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

XP_INLINE __m256i xp_load_words(const int16_t *q, size_t n)
{
    int16_t last[XP_RANS_GROUP] = {0};

    if (n >= XP_RANS_GROUP)
        return _mm256_loadu_si256((const __m256i *)(const void *)q);
    memcpy(last, q, n * sizeof(*q));
    return _mm256_loadu_si256((const __m256i *)(const void *)last);
}

static inline struct xp_rans_parts xp_rans_split_avx2(const int16_t *q, size_t n, const uint8_t *classes, const struct xp_rans_work *w)
{
    uint8_t *plane = w->planes, *escape = w->escapes;

    for (size_t g = 0; g < (n + 15) / 16; g++) {
        const struct xp_rans_table *t = xp_rans_table(classes[g]);
        const unsigned low = xp_rans_low_bits(classes[g]);
        const __m256i v = xp_load_words(q + 16 * g, n - 16 * g);
        __m256i u = _mm256_add_epi16(v, _mm256_set1_epi16((short)(low ? 1 << (low - 1) : 0)));
        __m256i s = _mm256_add_epi16(_mm256_sra_epi16(u, _mm_cvtsi32_si128((int)low)), _mm256_set1_epi16(16));
        const __m256i outside = _mm256_or_si256(_mm256_cmpgt_epi16(_mm256_set1_epi16(t->first), s),
                                                _mm256_cmpgt_epi16(s, _mm256_set1_epi16(t->last)));

        if (!_mm256_testz_si256(outside, outside)) {
            s = _mm256_andnot_si256(outside, s);
            u = _mm256_andnot_si256(outside, u);
            for (unsigned m = xp_word_signs(outside); m; m &= m - 1, escape += 2)
                xp_put16(escape, (uint16_t)q[16 * g + (unsigned)__builtin_ctz(m)]);
        }
        s = _mm256_or_si256(_mm256_srli_epi16(s, 1), _mm256_and_si256(_mm256_slli_epi16(s, 4), _mm256_set1_epi16(16)));
        _mm_storeu_si128((__m128i *)(void *)(w->place + 16 * g),
                         _mm_packus_epi16(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1)));
        for (unsigned b = 0; b < low; b++, plane += 2)
            xp_put16(plane, (uint16_t)xp_word_signs(_mm256_sll_epi16(u, _mm_cvtsi32_si128(15 - (int)b))));
    }
    return (struct xp_rans_parts){ (size_t)(plane - w->planes), (size_t)(escape - w->escapes) };
}

/* s->q holds symbols and becomes integers. 0 when the escapes do not end where the row does. */
static inline int xp_rans_join_avx2(const struct xp_rans_stream *s, size_t n, const uint8_t *planes, const uint8_t *escapes)
{
    const uint8_t *end = s->in + s->len;

    for (size_t g = 0; g < (n + 15) / 16; g++) {
        const unsigned low = xp_rans_low_bits(s->classes[g]);
        const __m256i live = xp_first_words(n - 16 * g < 16 ? n - 16 * g : 16);
        int16_t *q = s->q + 16 * g;
        const __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)q);
        const __m256i outside = _mm256_and_si256(_mm256_cmpeq_epi16(v, _mm256_setzero_si256()), live);
        __m256i u = _mm256_sll_epi16(_mm256_sub_epi16(v, _mm256_set1_epi16(16)), _mm_cvtsi32_si128((int)low));

        for (unsigned b = 0; b < low; b++, planes += 2)
            u = _mm256_add_epi16(u, xp_spread_bits(xp_get16(planes), _mm256_set1_epi16((short)(1 << b))));
        u = _mm256_sub_epi16(u, _mm256_set1_epi16((short)(low ? 1 << (low - 1) : 0)));
        _mm256_storeu_si256((__m256i *)(void *)q, _mm256_and_si256(u, live));
        if (_mm256_testz_si256(outside, outside))
            continue;
        for (unsigned m = xp_word_signs(outside); m; m &= m - 1, escapes += 2) {
            if (end - escapes < 2)
                return 0;
            q[__builtin_ctz(m)] = (int16_t)xp_get16(escapes);
        }
    }
    return escapes == end;
}

#endif
