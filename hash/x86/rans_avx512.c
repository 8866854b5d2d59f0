/*
 * rans_avx512.c - the entropy coder with AVX-512, for rows of 16 states: a vector holds all states, a table two
 *
 * Decoding works on several rows at a time: one row alone waits for its own states.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/bytes.h"
#include "hash/rans.h"
#include "hash/variants.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>

/* ---- encoding --------------------------------------------------------------------------------------------------- */

static struct xp_rans_parts split(const int16_t *q, size_t n, const uint8_t *classes, const struct xp_rans_work *w)
{
    uint8_t *plane = w->planes, *escape = w->escapes;

    for (size_t g = 0; g < (n + 15) / 16; g++) {
        const struct xp_rans_table *t = xp_rans_table(classes[g]);
        const unsigned low = xp_rans_low_bits(classes[g]);
        const __mmask16 live = n - 16 * g < 16 ? (__mmask16)((1u << (n - 16 * g)) - 1) : 0xffff;
        const __m256i v = _mm256_maskz_loadu_epi16(live, q + 16 * g);
        __m256i u = _mm256_add_epi16(v, _mm256_set1_epi16((short)(low ? 1 << (low - 1) : 0)));
        __m256i s = _mm256_add_epi16(_mm256_sra_epi16(u, _mm_cvtsi32_si128((int)low)), _mm256_set1_epi16(16));
        const __mmask16 outside = _mm256_cmplt_epi16_mask(s, _mm256_set1_epi16(t->first)) |
                                  _mm256_cmpgt_epi16_mask(s, _mm256_set1_epi16(t->last));

        if (outside) {
            s = _mm256_mask_mov_epi16(s, outside, _mm256_setzero_si256());
            u = _mm256_mask_mov_epi16(u, outside, _mm256_setzero_si256());
            for (unsigned m = outside; m; m &= m - 1, escape += 2)
                xp_put16(escape, (uint16_t)q[16 * g + (unsigned)__builtin_ctz(m)]);
        }
        s = _mm256_or_si256(_mm256_srli_epi16(s, 1), _mm256_and_si256(_mm256_slli_epi16(s, 4), _mm256_set1_epi16(16)));
        _mm_storeu_si128((__m128i *)(void *)(w->place + 16 * g), _mm256_cvtepi16_epi8(s));
        for (unsigned b = 0; b < low; b++, plane += 2)
            xp_put16(plane, _mm256_test_epi16_mask(u, _mm256_set1_epi16((short)(1 << b))));
    }
    return (struct xp_rans_parts){ (size_t)(plane - w->planes), (size_t)(escape - w->escapes) };
}

size_t xp_rans_encode_avx512(const int16_t *q, size_t n, const uint8_t *classes, unsigned lanes, void *work, uint8_t *out,
                             size_t cap)
{
    const __m256i iota = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    struct xp_rans_parts parts;
    struct xp_rans_work w;
    uint32_t state[XP_RANS_MAX_LANES];
    uint8_t *words;
    __m512i x;

    if (lanes != 16)
        return xp_rans_encode_c(q, n, classes, lanes, work, out, cap);
    w = xp_rans_cut(work, n);
    parts = split(q, n, classes, &w);
    words = w.words_end;
    xp_rans_begin(w.place, n, lanes, state);
    x = _mm512_loadu_si512(state);
    for (size_t step = xp_rans_steps(n, lanes); step-- > 0;) {
        const struct xp_rans_table *t = xp_rans_table(classes[step]);
        const __m512i s = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(w.place + 16 * step)));
        const __m512i span = _mm512_permutex2var_epi32(_mm512_loadu_si512(t->span), s, _mm512_loadu_si512(t->span + 16));
        const __m512 part = _mm512_permutex2var_ps(_mm512_loadu_ps(t->reciprocal), s, _mm512_loadu_ps(t->reciprocal + 16));
        const __m512i f = _mm512_and_si512(span, _mm512_set1_epi32(0xffff));
        const __mmask16 full = _mm512_cmpge_epu32_mask(x, _mm512_slli_epi32(f, 20));
        const unsigned count = (unsigned)__builtin_popcount(full);
        const __m256i low = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, x));
        __m512i quotient, rest;
        __mmask16 more;

        /* The words of a step lie in lane order, so the store ends where the last one began. */
        _mm256_storeu_si256((__m256i *)(void *)(words - 32),
                            _mm256_permutexvar_epi16(_mm256_add_epi16(iota, _mm256_set1_epi16((short)count)), low));
        words -= 2 * count;
        x = _mm512_mask_srli_epi32(x, full, x, 16);
        /* The quotient is right or one too small (rans_tables.py: reciprocals). */
        quotient = _mm512_cvttps_epu32(_mm512_mul_ps(_mm512_cvtepu32_ps(x), part));
        rest = _mm512_sub_epi32(x, _mm512_mullo_epi32(quotient, f));
        more = _mm512_cmpge_epu32_mask(rest, f);
        rest = _mm512_mask_sub_epi32(rest, more, rest, f);
        quotient = _mm512_mask_sub_epi32(quotient, more, quotient, _mm512_set1_epi32(-1));
        x = _mm512_add_epi32(_mm512_slli_epi32(quotient, XP_RANS_BITS), _mm512_add_epi32(rest, _mm512_srli_epi32(span, 16)));
    }
    _mm512_storeu_si512(state, x);
    return xp_rans_assemble(state, lanes, &w, parts, words, out, cap);
}

/* ---- decoding --------------------------------------------------------------------------------------------------- */

#define SIDE 6 /* rows side by side */
#define EACH XP_UNROLL for (int i = 0; i < count; i++)

/* One symbol of every state of `count` rows: step k. Written stage by stage, since the CPU does not look far enough ahead to
 * find the other rows' work by itself. */
XP_INLINE void step(__m512i *x, const uint8_t **p, const uint8_t *const *classes, int16_t *const *q, size_t k, const int count)
{
    const __m512i half_words = _mm512_set1_epi32(0xffff), slots = _mm512_set1_epi32((1 << XP_RANS_BITS) - 1);
    __m512i key[SIDE], at[SIDE], odd[SIDE], span[SIDE];
    const uint32_t *table[SIDE];
    __mmask16 m[SIDE];

    /* key: the largest entry that begins at or below the slot; searched in the even symbols, then the odd one beside it. */
    EACH table[i] = xp_rans_table(classes[i][k])->span;
    EACH key[i] = _mm512_or_si512(_mm512_slli_epi32(_mm512_and_si512(x[i], slots), 16), half_words);
    EACH m[i] = _mm512_cmpge_epu32_mask(key[i], _mm512_set1_epi32((int)table[i][8]));
    EACH at[i] = _mm512_mask_mov_epi32(_mm512_set1_epi32(4), m[i], _mm512_set1_epi32(12));
    XP_UNROLL
    for (int half = 2; half > 0; half /= 2) {
        EACH m[i] = _mm512_cmpge_epu32_mask(key[i], _mm512_permutexvar_epi32(at[i], _mm512_loadu_si512(table[i])));
        EACH at[i] = _mm512_mask_add_epi32(_mm512_sub_epi32(at[i], _mm512_set1_epi32(half)), m[i], at[i], _mm512_set1_epi32(half));
    }
    EACH m[i] = _mm512_cmplt_epu32_mask(key[i], _mm512_permutexvar_epi32(at[i], _mm512_loadu_si512(table[i])));
    EACH at[i] = _mm512_mask_add_epi32(at[i], m[i], at[i], _mm512_set1_epi32(-1));
    EACH odd[i] = _mm512_permutexvar_epi32(at[i], _mm512_loadu_si512(table[i] + 16));
    EACH span[i] = _mm512_permutexvar_epi32(at[i], _mm512_loadu_si512(table[i]));
    EACH m[i] = _mm512_cmpge_epu32_mask(key[i], odd[i]);
    EACH at[i] = _mm512_add_epi32(at[i], at[i]);
    EACH at[i] = _mm512_mask_add_epi32(at[i], m[i], at[i], _mm512_set1_epi32(1));
    EACH _mm256_storeu_si256((__m256i *)(void *)(q[i] + 16 * k), _mm512_cvtepi32_epi16(at[i]));
    EACH span[i] = _mm512_mask_mov_epi32(span[i], m[i], odd[i]);

    EACH at[i] = _mm512_sub_epi32(_mm512_and_si512(x[i], slots), _mm512_srli_epi32(span[i], 16));
    EACH x[i] = _mm512_mullo_epi32(_mm512_and_si512(span[i], half_words), _mm512_srli_epi32(x[i], XP_RANS_BITS));
    EACH x[i] = _mm512_add_epi32(x[i], at[i]);
    EACH m[i] = _mm512_cmplt_epu32_mask(x[i], _mm512_set1_epi32(0x10000));
    EACH at[i] = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p[i]));
    EACH x[i] = _mm512_or_si512(_mm512_mask_slli_epi32(x[i], m[i], x[i], 16), _mm512_maskz_expand_epi32(m[i], at[i]));
    EACH p[i] += 2 * __builtin_popcount(m[i]);
}

/* s->q holds symbols and becomes integers. 0 when the escapes do not end where the row does. */
static int join(const struct xp_rans_stream *s, size_t n, const uint8_t *planes, const uint8_t *escapes)
{
    const uint8_t *end = s->in + s->len;

    for (size_t g = 0; g < (n + 15) / 16; g++) {
        const unsigned low = xp_rans_low_bits(s->classes[g]);
        const __mmask16 live = n - 16 * g < 16 ? (__mmask16)((1u << (n - 16 * g)) - 1) : 0xffff;
        int16_t *q = s->q + 16 * g;
        const __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)q);
        const __mmask16 outside = _mm256_testn_epi16_mask(v, v) & live;
        __m256i u = _mm256_sll_epi16(_mm256_sub_epi16(v, _mm256_set1_epi16(16)), _mm_cvtsi32_si128((int)low));

        for (unsigned b = 0; b < low; b++, planes += 2)
            u = _mm256_mask_add_epi16(u, xp_get16(planes), u, _mm256_set1_epi16((short)(1 << b)));
        u = _mm256_sub_epi16(u, _mm256_set1_epi16((short)(low ? 1 << (low - 1) : 0)));
        _mm256_storeu_si256((__m256i *)(void *)q, _mm256_maskz_mov_epi16(live, u));
        for (unsigned m = outside; m; m &= m - 1, escapes += 2) {
            if (end - escapes < 2)
                return 0;
            q[__builtin_ctz(m)] = (int16_t)xp_get16(escapes);
        }
    }
    return escapes == end;
}

/* Steps between two looks at the ends of the rows; what is read beyond them lies within XP_RANS_SLACK. */
#define STRIDE (XP_RANS_SLACK / 32 - 2)

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
        for (size_t stop = k + STRIDE < steps ? k + STRIDE : steps; k < stop; k++)
            step(x, p, classes, q, k, count);
        for (int i = 0; i < count; i++) {
            bad[i] |= p[i] > end[i];
            p[i] = p[i] > end[i] ? end[i] : p[i];
        }
    }
    for (int i = 0; i < count; i++) {
        _mm512_storeu_si512(state[i], x[i]);
        s[i].ok = !bad[i] && xp_rans_end(&s[i], n, 16, state[i]) && join(&s[i], n, planes[i], p[i]);
    }
}

void xp_rans_decode_avx512(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes)
{
    if (lanes != 16) {
        xp_rans_decode_c(s, count, n, lanes);
        return;
    }
    for (; count >= SIDE; count -= SIDE, s += SIDE)
        rows(s, SIDE, n);
    for (; count >= 2; count -= 2, s += 2)
        rows(s, 2, n);
    for (; count > 0; count--, s++)
        rows(s, 1, n);
}
