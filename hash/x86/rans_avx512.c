/*
 * rans_avx512.c - the entropy coder with AVX-512, for rows of 16 states: a vector holds all states, a table two
 *
 * Decoding works on several rows at a time: one row alone waits for its own states.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/x86/rans_encode_avx512.h"

void xp_rans_encode_avx512(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes)
{
    if (lanes == 16)
        xp_rans_encode_16(s, count, n);
    else
        xp_rans_encode_side(s, count, n, lanes);
}

#define SIDE 6 /* rows side by side */

/* One symbol of every state of `count` rows: step k. */
XP_INLINE void step(__m512i *x, const uint8_t **p, const uint8_t *const *classes, int16_t *const *q, size_t k, const int count)
{
    const struct xp_rans_table *table[SIDE];
    __m512i symbol[SIDE], words[SIDE];
    __mmask16 m[SIDE];

    XP_EACH(count) table[i] = xp_rans_table(classes[i][k]);
    xp_rans_pop(x, table, symbol, count);
    XP_EACH(count) _mm256_storeu_si256((__m256i *)(void *)(q[i] + 16 * k), _mm512_cvtepi32_epi16(symbol[i]));
    XP_EACH(count) m[i] = _mm512_cmplt_epu32_mask(x[i], _mm512_set1_epi32(0x10000));
    XP_EACH(count) words[i] = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p[i]));
    XP_EACH(count) x[i] = _mm512_or_si512(_mm512_mask_slli_epi32(x[i], m[i], x[i], 16), _mm512_maskz_expand_epi32(m[i], words[i]));
    XP_EACH(count) p[i] += 2 * __builtin_popcount(m[i]);
}

/* Decodes `count` rows side by side; count is a constant where this is used. */
XP_INLINE void rows(struct xp_rans_stream *s, const int count, size_t n)
{
    const size_t steps = xp_rans_steps(n, 16);
    const uint8_t *p[SIDE], *end[SIDE], *planes[SIDE], *classes[SIDE];
    uint32_t state[SIDE][16] = {{0}};
    int bad[SIDE];
    int16_t *q[SIDE];
    __m512i x[SIDE];

    for (int i = 0; i < count; i++) {
        end[i] = s[i].in + s[i].len;
        classes[i] = s[i].classes;
        q[i] = s[i].q;
        bad[i] = !xp_rans_open(&s[i], n, 16, state[i], &planes[i], &p[i]);
        if (bad[i])
            p[i] = end[i];
        x[i] = _mm512_loadu_si512(state[i]);
    }
    for (size_t k = 0; k < steps;) {
        for (size_t stop = k + XP_RANS_STRIDE < steps ? k + XP_RANS_STRIDE : steps; k < stop; k++)
            step(x, p, classes, q, k, count);
        for (int i = 0; i < count; i++) {
            bad[i] |= p[i] > end[i];
            p[i] = p[i] > end[i] ? end[i] : p[i];
        }
    }
    for (int i = 0; i < count; i++) {
        _mm512_storeu_si512(state[i], x[i]);
        s[i].ok = !bad[i] && xp_rans_end(&s[i], n, 16, state[i]) && xp_rans_join(&s[i], n, planes[i], p[i]);
    }
}

void xp_rans_decode_avx512(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes)
{
    if (lanes != 16) {
        xp_rans_decode_side(s, count, n, lanes);
        return;
    }
    for (; count >= SIDE; count -= SIDE, s += SIDE)
        rows(s, SIDE, n);
    for (; count >= 2; count -= 2, s += 2)
        rows(s, 2, n);
    for (; count > 0; count--, s++)
        rows(s, 1, n);
}
