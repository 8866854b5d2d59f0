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

/* ---- 16 states -------------------------------------------------------------------------------------------------------- */

/* Lanes 0-3 and 8-11 are one vector of 8, the others the second: packing both to words gives the words in order, and taking words apart
 * gives the two vectors. */
XP_INLINE void xp_rans_load_states(__m256i x[2], const uint32_t *state)
{
    const __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)state), b = _mm256_loadu_si256((const __m256i *)(const void *)(state + 8));

    x[0] = _mm256_permute2x128_si256(a, b, 0x20);
    x[1] = _mm256_permute2x128_si256(a, b, 0x31);
}

XP_INLINE void xp_rans_store_states(uint32_t *state, const __m256i x[2])
{
    _mm256_storeu_si256((__m256i *)(void *)state, _mm256_permute2x128_si256(x[0], x[1], 0x20));
    _mm256_storeu_si256((__m256i *)(void *)(state + 8), _mm256_permute2x128_si256(x[0], x[1], 0x31));
}

/* The highest bits of 16 words. */
XP_INLINE unsigned xp_word_signs(__m256i x)
{
    return (unsigned)_mm_movemask_epi8(_mm_packs_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
}

/* rans_avx2.c, by which of 8 words are wanted: a shuffle of bytes that moves those words to the end of their vector; one that gives each
 * place that is wanted the next word from the begin. */
extern const uint16_t xp_rans_gather[256][8], xp_rans_spread[256][8];

/* ---- tables of words --------------------------------------------------------------------------------------------------- */

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

/* Doubled symbols, one a byte, as the tables above are asked for them. */
XP_INLINE __m256i xp_rans_places(const uint8_t *doubled)
{
    const __m256i twice = _mm256_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
    const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)doubled));

    return _mm256_or_si256(_mm256_shuffle_epi8(both, twice), _mm256_set1_epi16(0x0100));
}

/* One symbol of frequency f into 8 states below f << 20. Of x there is half, so that it is a signed number, and a quarter more than its
 * lowest bit is worth on average; the factor makes up for that and for all rounding, so that the quotient is right or one too small
 * (tests/hash/test_rans.c). A division takes less time than looking a reciprocal up. */
XP_INLINE __m256i xp_rans_push256(__m256i x, __m256i f, __m256i begin)
{
    const __m256 part = _mm256_div_ps(_mm256_set1_ps(2 - 0x1p-21f), _mm256_cvtepi32_ps(f));
    const __m256 half = _mm256_add_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(x, 1)), _mm256_set1_ps(0.5f));
    const __m256i quotient = _mm256_cvttps_epi32(_mm256_mul_ps(half, part));
    const __m256i rest = _mm256_sub_epi32(x, _mm256_mullo_epi32(quotient, f));
    const __m256i more = _mm256_andnot_si256(_mm256_cmpgt_epi32(f, rest), _mm256_sub_epi32(_mm256_set1_epi32(1 << XP_RANS_BITS), f));

    return _mm256_add_epi32(_mm256_add_epi32(_mm256_slli_epi32(quotient, XP_RANS_BITS), begin), _mm256_add_epi32(rest, more));
}

/* One symbol into 16 states. *words: the low halves that states were made of; returns which of them are written: a bit for each. */
XP_INLINE unsigned xp_rans_push_pair(__m256i *x, __m256i places, const struct xp_rans_table *t, __m256i *words)
{
    const __m256i f = xp_words_of_32(t->frequency, places), begin = xp_words_of_32(t->begin, places);
    const __m256i zero = _mm256_setzero_si256(), word = _mm256_set1_epi32(0xffff);
    const __m256i f0 = _mm256_unpacklo_epi16(f, zero), f1 = _mm256_unpackhi_epi16(f, zero);
    const __m256i fits0 = _mm256_cmpgt_epi32(f0, _mm256_srli_epi32(x[0], 20)), fits1 = _mm256_cmpgt_epi32(f1, _mm256_srli_epi32(x[1], 20));

    *words = _mm256_packus_epi32(_mm256_and_si256(x[0], word), _mm256_and_si256(x[1], word));
    x[0] = _mm256_blendv_epi8(_mm256_srli_epi32(x[0], 16), x[0], fits0);
    x[1] = _mm256_blendv_epi8(_mm256_srli_epi32(x[1], 16), x[1], fits1);
    x[0] = xp_rans_push256(x[0], f0, _mm256_unpacklo_epi16(begin, zero));
    x[1] = xp_rans_push256(x[1], f1, _mm256_unpackhi_epi16(begin, zero));
    return xp_word_signs(_mm256_packs_epi32(fits0, fits1)) ^ 0xffff;
}

/* Moves those of 8 words that m wants below *words, the last one first. What lies below them is written later. */
XP_INLINE uint8_t *xp_rans_put_8(uint8_t *words, __m128i eight, unsigned m)
{
    const __m128i wanted = _mm_shuffle_epi8(eight, _mm_loadu_si128((const __m128i *)(const void *)xp_rans_gather[m]));

    _mm_storeu_si128((__m128i *)(void *)(words - 16), wanted);
    return words - 2 * __builtin_popcount(m);
}

XP_INLINE uint8_t *xp_rans_put_16(uint8_t *words, __m256i all, unsigned m)
{
    words = xp_rans_put_8(words, _mm256_extracti128_si256(all, 1), m >> 8);
    return xp_rans_put_8(words, _mm256_castsi256_si128(all), m & 0xff);
}

/* ---- states to symbols ------------------------------------------------------------------------------------------------ */

/* One symbol out of 16 states, which may be below 2^16 afterwards. Returns the symbols as words. */
XP_INLINE __m256i xp_rans_pop_pair(__m256i *x, const struct xp_rans_table *t)
{
    const __m256i slots = _mm256_set1_epi32((1 << XP_RANS_BITS) - 1), zero = _mm256_setzero_si256();
    const __m256i slot = _mm256_packus_epi32(_mm256_and_si256(x[0], slots), _mm256_and_si256(x[1], slots));
    __m256i at = _mm256_set1_epi16(0x0302), begin = zero, end = _mm256_set1_epi16(1 << XP_RANS_BITS); /* entry 1 of the tree; of the symbol, as far as known */

    XP_UNROLL
    for (int depth = 0; depth < 5; depth++) {
        const __m256i next = depth < 3 ? xp_words_of_8(t->tree, at) : depth < 4 ? xp_words_of_8(t->tree + 8, at) : xp_words_of_16(t->tree + 16, at);
        const __m256i beyond = _mm256_cmpgt_epi16(next, slot);

        begin = _mm256_blendv_epi8(next, begin, beyond);
        end = _mm256_blendv_epi8(end, next, beyond);
        at = _mm256_add_epi16(_mm256_add_epi16(at, at), _mm256_blendv_epi8(_mm256_set1_epi16(0x0102), _mm256_set1_epi16(-0x0100), beyond));
    }
    const __m256i f = _mm256_sub_epi16(end, begin), over = _mm256_sub_epi16(slot, begin);
    x[0] = _mm256_add_epi32(_mm256_mullo_epi32(_mm256_unpacklo_epi16(f, zero), _mm256_srli_epi32(x[0], XP_RANS_BITS)), _mm256_unpacklo_epi16(over, zero));
    x[1] = _mm256_add_epi32(_mm256_mullo_epi32(_mm256_unpackhi_epi16(f, zero), _mm256_srli_epi32(x[1], XP_RANS_BITS)), _mm256_unpackhi_epi16(over, zero));
    return _mm256_srli_epi16(_mm256_and_si256(at, _mm256_set1_epi16(0x3e)), 1);
}

/* Words of 0 or -1: states that have to take a word. */
XP_INLINE __m256i xp_rans_low(const __m256i x[2])
{
    const __m256i zero = _mm256_setzero_si256();

    return _mm256_packs_epi32(_mm256_cmpeq_epi32(_mm256_srli_epi32(x[0], 16), zero), _mm256_cmpeq_epi32(_mm256_srli_epi32(x[1], 16), zero));
}

/* They take it; words: one for each lane. */
XP_INLINE void xp_rans_refill_pair(__m256i x[2], __m256i low, __m256i words)
{
    const __m256i lower = _mm256_packus_epi32(x[0], x[1]); /* right for those that are low */

    x[0] = _mm256_blendv_epi8(x[0], _mm256_unpacklo_epi16(words, lower), _mm256_unpacklo_epi16(low, low));
    x[1] = _mm256_blendv_epi8(x[1], _mm256_unpackhi_epi16(words, lower), _mm256_unpackhi_epi16(low, low));
}

/* Lanes 0-7 take the next words at p[0], lanes 8-15 those at p[1], or where the first end if they are one row's. */
XP_INLINE void xp_rans_refill_halves(__m256i x[2], const uint8_t **p, const int rows)
{
    const __m256i low = xp_rans_low(x);
    const unsigned m = (unsigned)_mm256_movemask_epi8(_mm256_packs_epi16(low, low)), first = m & 0xff, second = m >> 24;
    const uint8_t *a = p[0], *b = rows == 2 ? p[1] : a + 2 * __builtin_popcount(first);
    const __m256i words = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)a)),
                                                  _mm_loadu_si128((const __m128i *)(const void *)b), 1);
    const __m256i which = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)xp_rans_spread[first])),
                                                  _mm_loadu_si128((const __m128i *)(const void *)xp_rans_spread[second]), 1);

    if (rows == 2)
        p[0] = a + 2 * __builtin_popcount(first);
    p[rows - 1] = b + 2 * __builtin_popcount(second);
    xp_rans_refill_pair(x, low, _mm256_shuffle_epi8(words, which));
}

/* ---- integers to symbols and low bits, and back ----------------------------------------------------------------------- */

/* 16 bits to 16 words of 0 or -1. */
XP_INLINE __m256i xp_spread_bits(unsigned bits)
{
    const __m256i each = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, (short)0x8000);

    return _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16((short)bits), each), each);
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

/* Integers to symbols and low bits, into w; at w->place there are doubled symbols, as xp_rans_places takes them. */
static inline struct xp_rans_parts xp_rans_split_avx2(const int16_t *q, size_t n, const uint8_t *classes, const struct xp_rans_work *w)
{
    uint8_t *plane = w->planes, *escape = w->escapes;

    for (size_t g = 0; g < (n + 15) / 16; g++) {
        const struct xp_rans_table *t = xp_rans_table(classes[g]);
        const unsigned low = xp_rans_low_bits(classes[g]);
        const __m256i v = xp_load_words(q + 16 * g, n - 16 * g);
        __m256i u = _mm256_add_epi16(v, _mm256_set1_epi16((short)((1u << low) >> 1)));
        const __m256i wide = _mm256_add_epi16(_mm256_sra_epi16(u, _mm_cvtsi32_si128((int)low)), _mm256_set1_epi16(16));
        __m128i s = _mm_packus_epi16(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1)); /* 0 and 255 are no symbols with a frequency */
        const __m128i outside = _mm_or_si128(_mm_subs_epu8(_mm_set1_epi8((char)t->first), s), _mm_subs_epu8(s, _mm_set1_epi8((char)t->last)));

        if (!_mm_testz_si128(outside, outside)) {
            const __m128i inside = _mm_cmpeq_epi8(outside, _mm_setzero_si128());

            s = _mm_and_si128(s, inside);
            u = _mm256_and_si256(u, _mm256_cvtepi8_epi16(inside));
            for (unsigned m = (unsigned)_mm_movemask_epi8(inside) ^ 0xffff; m; m &= m - 1, escape += 2)
                xp_put16(escape, (uint16_t)q[16 * g + (unsigned)__builtin_ctz(m)]);
        }
        _mm_storeu_si128((__m128i *)(void *)(w->place + 16 * g), _mm_add_epi8(s, s));
        for (unsigned b = 0; b < low; b += 2) { /* two planes; what one too many leaves behind is overwritten */
            const __m256i a = _mm256_sll_epi16(u, _mm_cvtsi32_si128(15 - (int)b));
            const __m256i both = _mm256_packs_epi16(a, _mm256_sll_epi16(u, _mm_cvtsi32_si128(14 - (int)b)));

            xp_put32(plane + 2 * b, (uint32_t)_mm256_movemask_epi8(_mm256_permute4x64_epi64(both, 0xd8)));
        }
        plane += 2 * low;
    }
    return (struct xp_rans_parts){ (size_t)(plane - w->planes), (size_t)(escape - w->escapes) };
}

/* As xp_rans_begin, from doubled symbols. */
static inline void xp_rans_begin_doubled(const uint8_t *doubled, size_t n, unsigned lanes, uint32_t *state)
{
    const size_t steps = xp_rans_steps(n, lanes);

    for (unsigned lane = 0; lane < lanes; lane++) {
        state[lane] = 2;
        for (size_t i = (steps + XP_RANS_TAIL) * lanes + lane; i >= steps * lanes + lanes;) {
            i -= lanes;
            state[lane] = state[lane] << 5 | (i < n ? doubled[i] >> 1 : 0);
        }
    }
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
        __m256i u = _mm256_sub_epi16(v, _mm256_set1_epi16(16));

        for (unsigned b = low; b-- > 0;)
            u = _mm256_sub_epi16(_mm256_add_epi16(u, u), xp_spread_bits(xp_get16(planes + 2 * b)));
        planes += 2 * low;
        u = _mm256_sub_epi16(u, _mm256_set1_epi16((short)((1u << low) >> 1)));
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
