/*
 * rans_avx2.h - what the entropy coder's AVX2 files share: integers to symbols and low bits, symbols to states, and back
 *
 * 16 states are two vectors of 8. A table does not fit a register here, so entries are picked out of several by permutations,
 * which take less time than gathers.
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

/* rans_side_avx2.c: rows of fewer than 16 states, several rows to a pair of vectors. */
void xp_rans_encode_side_avx2(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes);
void xp_rans_decode_side_avx2(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes);

/* ---- symbols to states ------------------------------------------------------------------------------------------------ */

/* Words of a table, by 16 words of `at`: twice their number, and one more in the upper byte. Bits that a table is too short for are
 * not looked at. */
XP_INLINE __m256i xp_words_of_8(const uint16_t *table, __m256i at)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table)), at);
}

XP_INLINE __m256i xp_words_of_16(const uint16_t *table, __m256i at)
{
    return _mm256_blendv_epi8(xp_words_of_8(table, at), xp_words_of_8(table + 8, at), _mm256_slli_epi16(at, 3));
}

XP_INLINE __m256i xp_words_of_32(const uint16_t *table, __m256i at)
{
    return _mm256_blendv_epi8(xp_words_of_16(table, at), xp_words_of_16(table + 16, at), _mm256_slli_epi16(at, 2));
}

/* ---- symbols to states ------------------------------------------------------------------------------------------------ */

/* One symbol of frequency f into 8 states below f << 20. part: its reciprocal. */
XP_INLINE __m256i xp_rans_push256(__m256i x, __m256i f, __m256i begin, __m256 part)
{
    /* Half of x, so that it is a signed number; the quotient is then up to two too small, each of which is worth `more`. */
    const __m256 half = _mm256_cvtepi32_ps(_mm256_srli_epi32(x, 1));
    const __m256i quotient = _mm256_cvttps_epi32(_mm256_mul_ps(half, _mm256_add_ps(part, part)));
    const __m256i rest = _mm256_sub_epi32(x, _mm256_mullo_epi32(quotient, f)), more = _mm256_sub_epi32(_mm256_set1_epi32(1 << XP_RANS_BITS), f);
    const __m256i once = _mm256_andnot_si256(_mm256_cmpgt_epi32(f, rest), more);
    const __m256i twice = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_add_epi32(f, f), rest), more);
    const __m256i least = _mm256_add_epi32(_mm256_slli_epi32(quotient, XP_RANS_BITS), _mm256_add_epi32(rest, begin));

    return _mm256_add_epi32(least, _mm256_add_epi32(once, twice));
}

/* States that have to give a word away before a symbol of frequency f. */
XP_INLINE __m256i xp_rans_full256(__m256i x, __m256i f)
{
    const __m256i limit = _mm256_slli_epi32(f, 20);

    return _mm256_cmpeq_epi32(_mm256_max_epu32(x, limit), x);
}

XP_INLINE unsigned xp_signs256(__m256i x)
{
    return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(x));
}

/* One symbol into 16 states, by their places. Returns the lanes that gave a word away; *words: of all lanes. Words of lanes 0-3, 8-11,
 * 4-7, 12-15 lie in one vector. */
XP_INLINE unsigned xp_rans_push_pair(__m256i *x, const uint8_t *place, const struct xp_rans_table *t, __m256i *words)
{
    const __m256i p = _mm256_permute4x64_epi64(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)place)), 0xd8);
    const __m256i twice = _mm256_and_si256(_mm256_or_si256(_mm256_slli_epi16(p, 2), _mm256_srli_epi16(p, 3)), _mm256_set1_epi16(0x3e));
    const __m256i at = _mm256_or_si256(_mm256_or_si256(twice, _mm256_slli_epi16(twice, 8)), _mm256_set1_epi16(0x0100));
    const __m256i f = xp_words_of_32(t->frequency, at), begin = xp_words_of_32(t->begin, at);
    const __m256i low = xp_words_of_32(t->inverse_low, at), high = xp_words_of_32(t->inverse_high, at);
    const __m256i zero = _mm256_setzero_si256(), word = _mm256_set1_epi32(0xffff);
    const __m256i f0 = _mm256_unpacklo_epi16(f, zero), f1 = _mm256_unpackhi_epi16(f, zero);
    const __m256i full[2] = { xp_rans_full256(x[0], f0), xp_rans_full256(x[1], f1) };

    *words = _mm256_permute4x64_epi64(_mm256_packus_epi32(_mm256_and_si256(x[0], word), _mm256_and_si256(x[1], word)), 0xd8);
    x[0] = _mm256_blendv_epi8(x[0], _mm256_srli_epi32(x[0], 16), full[0]);
    x[1] = _mm256_blendv_epi8(x[1], _mm256_srli_epi32(x[1], 16), full[1]);
    x[0] = xp_rans_push256(x[0], f0, _mm256_unpacklo_epi16(begin, zero), _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, high)));
    x[1] = xp_rans_push256(x[1], f1, _mm256_unpackhi_epi16(begin, zero), _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, high)));
    return xp_signs256(full[0]) | xp_signs256(full[1]) << 8;
}

/* ---- states to symbols ------------------------------------------------------------------------------------------------ */

/* One symbol out of 16 states, which may be below 2^16 afterwards. Returns the symbols of lanes 0-3, 8-11, 4-7, 12-15. */
XP_INLINE __m256i xp_rans_pop_pair(__m256i *x, const struct xp_rans_table *t)
{
    const __m256i slots = _mm256_set1_epi32((1 << XP_RANS_BITS) - 1), zero = _mm256_setzero_si256();
    const __m256i slot = _mm256_packus_epi32(_mm256_and_si256(x[0], slots), _mm256_and_si256(x[1], slots));
    __m256i at = _mm256_set1_epi16(0x0302), begin = zero; /* entry 1 of the tree; where the symbol begins, as far as known */

    XP_UNROLL
    for (int depth = 0; depth < 5; depth++) {
        const __m256i next = depth < 3 ? xp_words_of_8(t->tree, at) : depth < 4 ? xp_words_of_8(t->tree + 8, at) : xp_words_of_16(t->tree + 16, at);
        const __m256i beyond = _mm256_cmpgt_epi16(next, slot);

        begin = _mm256_blendv_epi8(next, begin, beyond);
        at = _mm256_add_epi16(_mm256_add_epi16(at, at), _mm256_blendv_epi8(_mm256_set1_epi16(0x0102), _mm256_set1_epi16(-0x0100), beyond));
    }
    const __m256i f = xp_words_of_32(t->frequency, at), over = _mm256_sub_epi16(slot, begin);
    x[0] = _mm256_add_epi32(_mm256_mullo_epi32(_mm256_unpacklo_epi16(f, zero), _mm256_srli_epi32(x[0], XP_RANS_BITS)), _mm256_unpacklo_epi16(over, zero));
    x[1] = _mm256_add_epi32(_mm256_mullo_epi32(_mm256_unpackhi_epi16(f, zero), _mm256_srli_epi32(x[1], XP_RANS_BITS)), _mm256_unpackhi_epi16(over, zero));
    return _mm256_srli_epi16(_mm256_and_si256(at, _mm256_set1_epi16(0x3e)), 1);
}

/* States that have to take a word. */
XP_INLINE __m256i xp_rans_low256(__m256i x)
{
    return _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
}

XP_INLINE __m256i xp_rans_refill256(__m256i x, __m256i low, __m256i words)
{
    return _mm256_blendv_epi8(x, _mm256_or_si256(_mm256_slli_epi32(x, 16), words), low);
}

/* ---- integers to symbols and low bits, and back ----------------------------------------------------------------------- */

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
