/*
 * rans_avx2.c - the entropy coder with AVX2, for rows of 16 states
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

/* Moves the words of the lanes in `full` below *words, the highest lane first. */
XP_INLINE uint8_t *put_words(uint8_t *words, __m256i all, unsigned full)
{
    words = put_four(words, (uint64_t)_mm256_extract_epi64(all, 3), full >> 12);
    words = put_four(words, (uint64_t)_mm256_extract_epi64(all, 2), full >> 8 & 15);
    words = put_four(words, (uint64_t)_mm256_extract_epi64(all, 1), full >> 4 & 15);
    return put_four(words, (uint64_t)_mm256_extract_epi64(all, 0), full & 15);
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
            __m256i all;
            const unsigned full = xp_rans_push_pair(&x[2 * i], w[i].place + 16 * k, xp_rans_table(s[i].classes[k]), &all);
            words[i] = put_words(words[i], all, full);
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
    if (lanes != 16) {
        xp_rans_encode_side_avx2(s, count, n, lanes);
        return;
    }
    for (; count >= ENCODE_SIDE; count -= ENCODE_SIDE, s += ENCODE_SIDE)
        encode(s, ENCODE_SIDE, n);
    for (; count > 0; count--, s++)
        encode(s, 1, n);
}

/* ---- decoding --------------------------------------------------------------------------------------------------- */

/* The next word for states below 2^16. */
XP_INLINE __m256i refill(__m256i x, const uint8_t **p)
{
    const __m256i low = xp_rans_low256(x);
    const unsigned m = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(low));
    /* Byte i of before: lanes below i that take a word. */
    const uint64_t before = _pdep_u64(m, 0x0101010101010101u) * 0x0101010101010101u << 8;
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)*p));

    *p += 2 * __builtin_popcount(m);
    return xp_rans_refill256(x, low, _mm256_permutevar8x32_epi32(words, _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)before))));
}

/* Decodes `count` rows side by side. */
XP_INLINE void decode(struct xp_rans_stream *s, const int count, size_t n)
{
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
            const __m256i symbol = xp_rans_pop_pair(&x[2 * i], xp_rans_table(s[i].classes[k]));

            bad[i] |= p[i] > end[i];
            p[i] = p[i] > end[i] ? end[i] : p[i];
            _mm256_storeu_si256((__m256i *)(void *)(s[i].q + 16 * k), _mm256_permute4x64_epi64(symbol, 0xd8));
            x[2 * i] = refill(x[2 * i], &p[i]);
            x[2 * i + 1] = refill(x[2 * i + 1], &p[i]);
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
    if (lanes != 16) {
        xp_rans_decode_side_avx2(s, count, n, lanes);
        return;
    }
    for (; count >= DECODE_SIDE; count -= DECODE_SIDE, s += DECODE_SIDE)
        decode(s, DECODE_SIDE, n);
    for (; count > 0; count--, s++)
        decode(s, 1, n);
}
