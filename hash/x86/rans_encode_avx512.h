/*
 * rans_encode_avx512.h - encoding rows of 16 states: a vector holds all states of a row, a table two
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_RANS_ENCODE_AVX512_H
#define XP_RANS_ENCODE_AVX512_H

#include "hash/x86/rans_avx512.h"

#define XP_RANS_ENCODE_SIDE 6 /* rows side by side: one alone waits for its own states */

#define XP_RANS_FETCHED 8 /* steps at a time */

/* What the caller will read, for steps [k, k + XP_RANS_FETCHED). */
XP_INLINE void xp_rans_fetch_rows(const char *row, size_t k)
{
    if (row)
        XP_UNROLL for (size_t i = 0; i < XP_RANS_FETCHED; i += 2) _mm_prefetch(row + 32 * (k + i), _MM_HINT_T1);
}

/* Encodes `count` rows, stage by stage for all of them; count is a constant where this is used. */
XP_INLINE void xp_rans_encode_side_by_side(struct xp_rans_source *s, const int count, size_t n)
{
    struct xp_rans_parts parts[XP_RANS_ENCODE_SIDE];
    struct xp_rans_work w[XP_RANS_ENCODE_SIDE];
    uint32_t state[XP_RANS_ENCODE_SIDE][16];
    const uint8_t *classes[XP_RANS_ENCODE_SIDE];
    uint8_t *words[XP_RANS_ENCODE_SIDE];
    __m512i x[XP_RANS_ENCODE_SIDE];

    for (int i = 0; i < count; i++) {
        w[i] = xp_rans_cut(s[i].work, n);
        parts[i] = xp_rans_split(s[i].q, n, s[i].classes, &w[i]);
        words[i] = w[i].words_end;
        classes[i] = s[i].classes;
        xp_rans_begin(w[i].place, n, 16, state[i]);
        x[i] = _mm512_loadu_si512(state[i]);
    }
    for (size_t k = xp_rans_steps(n, 16); k-- > 0;) {
        const struct xp_rans_table *t[XP_RANS_ENCODE_SIDE];
        __m512i place[XP_RANS_ENCODE_SIDE], span[XP_RANS_ENCODE_SIDE];
        __m256i low[XP_RANS_ENCODE_SIDE];
        __mmask16 full[XP_RANS_ENCODE_SIDE];
        __m512 part[XP_RANS_ENCODE_SIDE];

        if (k % XP_RANS_FETCHED == 0)
            XP_EACH(count) xp_rans_fetch_rows(s[i].read_next, k);
        XP_EACH(count) t[i] = xp_rans_table(classes[i][k]);
        XP_EACH(count) place[i] = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(w[i].place + 16 * k)));
        XP_EACH(count) span[i] = xp_rans_span(t[i], place[i]);
        XP_EACH(count) part[i] = xp_rans_part(t[i], place[i]);
        XP_EACH(count) full[i] = _mm512_cmpge_epu32_mask(x[i], _mm512_slli_epi32(span[i], 20)); /* what lies above the frequency is shifted out */
        XP_EACH(count) low[i] = xp_rans_taken(full[i], x[i]);
        XP_EACH(count) x[i] = _mm512_mask_srli_epi32(x[i], full[i], x[i], 16);
        XP_EACH(count) words[i] = xp_rans_put(words[i], low[i], full[i]);
        XP_EACH(count) x[i] = xp_rans_push(x[i], span[i], part[i]);
    }
    for (int i = 0; i < count; i++) {
        _mm512_storeu_si512(state[i], x[i]);
        xp_rans_assemble(&s[i], state[i], 16, &w[i], parts[i], words[i]);
    }
}

static void xp_rans_encode_16(struct xp_rans_source *s, size_t count, size_t n)
{
    for (; count >= XP_RANS_ENCODE_SIDE; count -= XP_RANS_ENCODE_SIDE, s += XP_RANS_ENCODE_SIDE)
        xp_rans_encode_side_by_side(s, XP_RANS_ENCODE_SIDE, n);
    for (; count >= 3; count -= 3, s += 3)
        xp_rans_encode_side_by_side(s, 3, n);
    for (; count > 0; count--, s++)
        xp_rans_encode_side_by_side(s, 1, n);
}

#endif
