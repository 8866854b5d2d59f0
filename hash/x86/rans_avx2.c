/*
 * rans_avx2.c - the entropy coder with AVX2: rows of 16 states are two vectors of 8, those of fewer are coded as in C
 *
 * A table does not fit a register here. So a symbol is found by counting the symbols that begin at or below the slot, 16 slots at a
 * time, and its entry is gathered.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/rans_avx2.h"

#define ENCODE_SIDE 2 /* rows side by side */
#define DECODE_SIDE 2

/* ---- encoding --------------------------------------------------------------------------------------------------- */

/* 64 bits that hold the words of four lanes, of which those of `full` are wanted: they end where *words begins. What lies below
 * them is written later. */
XP_INLINE uint8_t *put_four(uint8_t *words, uint64_t four, unsigned full)
{
    const unsigned count = (unsigned)__builtin_popcount(full);
    const uint64_t wanted = _pext_u64(four, _pdep_u64(full, 0x0001000100010001u) * 0xffff);

    xp_put64(words - 8, wanted << ((64 - 16 * count) & 63));
    return words - 2 * count;
}

/* Moves the low words of the states in `full` below *words, the highest lane first. */
XP_INLINE uint8_t *put_words(uint8_t *words, __m256i x, unsigned full)
{
    const __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
    const __m128i eight = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));

    words = put_four(words, (uint64_t)_mm_extract_epi64(eight, 1), full >> 4);
    return put_four(words, (uint64_t)_mm_cvtsi128_si64(eight), full & 15);
}

/* One symbol into 8 states. */
XP_INLINE __m256i push(__m256i x, __m256i span, __m256 part)
{
    const __m256i f = _mm256_and_si256(span, _mm256_set1_epi32(0xffff));
    /* Half of x, so that it is a signed number; the quotient is then up to two too small. */
    const __m256 half = _mm256_cvtepi32_ps(_mm256_srli_epi32(x, 1));
    __m256i quotient = _mm256_cvttps_epi32(_mm256_mul_ps(half, _mm256_add_ps(part, part)));
    __m256i rest = _mm256_sub_epi32(x, _mm256_mullo_epi32(quotient, f));

    for (int i = 0; i < 2; i++) {
        const __m256i less = _mm256_cmpgt_epi32(f, rest); /* -1 where the quotient is right */

        rest = _mm256_sub_epi32(rest, _mm256_andnot_si256(less, f));
        quotient = _mm256_add_epi32(quotient, _mm256_andnot_si256(less, _mm256_set1_epi32(1)));
    }
    return _mm256_add_epi32(_mm256_slli_epi32(quotient, XP_RANS_BITS), _mm256_add_epi32(rest, _mm256_srli_epi32(span, 16)));
}

/* Encodes `count` rows side by side, since one waits for its own states; count is a constant where this is used. */
XP_INLINE void encode(struct xp_rans_source *s, const int count, size_t n)
{
    struct xp_rans_parts parts[ENCODE_SIDE];
    struct xp_rans_work w[ENCODE_SIDE];
    uint8_t *words[ENCODE_SIDE];
    __m256i x[2 * ENCODE_SIDE];
    uint32_t state[16];

    for (int i = 0; i < count; i++) {
        w[i] = xp_rans_cut(s[i].work, n);
        parts[i] = xp_rans_split_avx2(s[i].q, n, s[i].classes, &w[i]);
        words[i] = w[i].words_end;
        xp_rans_begin(w[i].place, n, 16, state);
        x[2 * i] = _mm256_loadu_si256((const __m256i *)(const void *)state);
        x[2 * i + 1] = _mm256_loadu_si256((const __m256i *)(const void *)(state + 8));
    }
    for (size_t k = xp_rans_steps(n, 16); k-- > 0;) {
        XP_UNROLL
        for (int i = 0; i < count; i++) {
            const struct xp_rans_table *t = xp_rans_table(s[i].classes[k]);
            XP_UNROLL
            for (int h = 1; h >= 0; h--) {
                const __m256i place = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(w[i].place + 16 * k + 8 * h)));
                const __m256i span = _mm256_i32gather_epi32((const int *)(const void *)t->span, place, 4);
                const __m256 part = _mm256_i32gather_ps(t->reciprocal, place, 4);
                const __m256i limit = _mm256_slli_epi32(span, 20); /* what lies above the frequency is shifted out */
                const __m256i full = _mm256_cmpeq_epi32(_mm256_max_epu32(x[2 * i + h], limit), x[2 * i + h]);
                const __m256i shifted = _mm256_blendv_epi8(x[2 * i + h], _mm256_srli_epi32(x[2 * i + h], 16), full);
                words[i] = put_words(words[i], x[2 * i + h], (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(full)));
                x[2 * i + h] = push(shifted, span, part);
            }
        }
    }
    for (int i = 0; i < count; i++) {
        _mm256_storeu_si256((__m256i *)(void *)state, x[2 * i]);
        _mm256_storeu_si256((__m256i *)(void *)(state + 8), x[2 * i + 1]);
        xp_rans_assemble(&s[i], state, 16, &w[i], parts[i], words[i]);
    }
}

void xp_rans_encode_avx2(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes)
{
    for (; lanes != 16 && count > 0; count--, s++) {
        const struct xp_rans_work w = xp_rans_cut(s->work, n);
        const struct xp_rans_parts parts = xp_rans_split_avx2(s->q, n, s->classes, &w);

        xp_rans_encode_symbols(s, n, lanes, &w, parts);
    }
    for (; count >= ENCODE_SIDE; count -= ENCODE_SIDE, s += ENCODE_SIDE)
        encode(s, ENCODE_SIDE, n);
    for (; count > 0; count--, s++)
        encode(s, 1, n);
}

/* ---- decoding --------------------------------------------------------------------------------------------------- */

/* Symbols of 16 slots (16 bits each). */
XP_INLINE __m256i find(const struct xp_rans_table *t, __m256i slot)
{
    const uint16_t *begin = (const uint16_t *)(const void *)t->span + 1; /* high halves of the entries */
    /* The symbols below the first one in use have no width: a slot is in the escape or beyond them all. */
    const __m256i below = _mm256_cmpgt_epi16(_mm256_set1_epi16((short)begin[2 * xp_rans_place(t->first)]), slot);
    __m256i symbol = _mm256_andnot_si256(below, _mm256_set1_epi16(t->first));

    for (unsigned s = t->first + 1; s <= t->last; s++) {
        const __m256i less = _mm256_cmpgt_epi16(_mm256_set1_epi16((short)begin[2 * xp_rans_place(s)]), slot);
        symbol = _mm256_add_epi16(symbol, _mm256_andnot_si256(less, _mm256_set1_epi16(1)));
    }
    return symbol;
}

/* The state before the symbol, and the next word for lanes below 2^16. */
XP_INLINE __m256i pop(__m256i x, __m256i slot, __m256i symbol, const struct xp_rans_table *t, const uint8_t **p)
{
    const __m256i place = _mm256_or_si256(_mm256_srli_epi32(symbol, 1), _mm256_and_si256(_mm256_slli_epi32(symbol, 4), _mm256_set1_epi32(16)));
    const __m256i span = _mm256_i32gather_epi32((const int *)(const void *)t->span, place, 4);
    const __m256i f = _mm256_and_si256(span, _mm256_set1_epi32(0xffff));

    x = _mm256_add_epi32(_mm256_mullo_epi32(f, _mm256_srli_epi32(x, XP_RANS_BITS)), _mm256_sub_epi32(slot, _mm256_srli_epi32(span, 16)));
    const __m256i low = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
    const unsigned m = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(low));
    /* Byte i of before: lanes below i that take a word. */
    const uint64_t before = _pdep_u64(m, 0x0101010101010101u) * 0x0101010101010101u << 8;
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)*p));
    const __m256i mine = _mm256_permutevar8x32_epi32(words, _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)before)));

    *p += 2 * __builtin_popcount(m);
    return _mm256_blendv_epi8(x, _mm256_or_si256(_mm256_slli_epi32(x, 16), mine), low);
}

/* Decodes `count` rows side by side. */
XP_INLINE void decode(struct xp_rans_stream *s, const int count, size_t n)
{
    const __m256i slots = _mm256_set1_epi32((1 << XP_RANS_BITS) - 1), zero = _mm256_setzero_si256();
    const uint8_t *planes[DECODE_SIDE], *p[DECODE_SIDE], *end[DECODE_SIDE];
    const size_t steps = xp_rans_steps(n, 16);
    uint32_t state[16] = {0};
    __m256i x[2 * DECODE_SIDE];
    int bad[DECODE_SIDE];

    for (int i = 0; i < count; i++) {
        end[i] = s[i].in + s[i].len;
        bad[i] = !xp_rans_open(&s[i], n, 16, state, &planes[i], &p[i]);
        if (bad[i])
            p[i] = end[i];
        x[2 * i] = _mm256_loadu_si256((const __m256i *)(const void *)state);
        x[2 * i + 1] = _mm256_loadu_si256((const __m256i *)(const void *)(state + 8));
    }
    for (size_t k = 0; k < steps; k++) {
        XP_UNROLL
        for (int i = 0; i < count; i++) {
            const struct xp_rans_table *t = xp_rans_table(s[i].classes[k]);
            const __m256i slot[2] = { _mm256_and_si256(x[2 * i], slots), _mm256_and_si256(x[2 * i + 1], slots) };
            const __m256i symbol = find(t, _mm256_packus_epi32(slot[0], slot[1])); /* lanes 0-3, 8-11, 4-7, 12-15 */

            bad[i] |= p[i] > end[i];
            p[i] = p[i] > end[i] ? end[i] : p[i];
            _mm256_storeu_si256((__m256i *)(void *)(s[i].q + 16 * k), _mm256_permute4x64_epi64(symbol, 0xd8));
            x[2 * i] = pop(x[2 * i], slot[0], _mm256_unpacklo_epi16(symbol, zero), t, &p[i]);
            x[2 * i + 1] = pop(x[2 * i + 1], slot[1], _mm256_unpackhi_epi16(symbol, zero), t, &p[i]);
        }
    }
    for (int i = 0; i < count; i++) {
        _mm256_storeu_si256((__m256i *)(void *)state, x[2 * i]);
        _mm256_storeu_si256((__m256i *)(void *)(state + 8), x[2 * i + 1]);
        s[i].ok = !bad[i] && p[i] <= end[i] && xp_rans_end(&s[i], n, 16, state) && xp_rans_join_avx2(&s[i], n, planes[i], p[i]);
    }
}

void xp_rans_decode_avx2(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes)
{
    for (; lanes != 16 && count > 0; count--, s++) {
        const uint8_t *planes, *escapes;

        s->ok = xp_rans_decode_symbols(s, n, lanes, &planes, &escapes) && xp_rans_join_avx2(s, n, planes, escapes);
    }
    for (; count >= DECODE_SIDE; count -= DECODE_SIDE, s += DECODE_SIDE)
        decode(s, DECODE_SIDE, n);
    for (; count > 0; count--, s++)
        decode(s, 1, n);
}
