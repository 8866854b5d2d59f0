/*
 * rans_avx512.c - the entropy coder with AVX-512, for rows of 16 states: a vector holds all states, a table two
 *
 * Decoding works on four rows at a time: one row alone waits for its own states.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/bytes.h"
#include "hash/rans.h"
#include "hash/variants.h"

#include <immintrin.h>
#include <string.h>

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
        _mm_storeu_si128((__m128i *)(void *)(w->index + 16 * g), _mm256_cvtepi16_epi8(s));
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
    xp_rans_begin(w.index, n, lanes, state);
    x = _mm512_loadu_si512(state);
    for (size_t step = xp_rans_steps(n, lanes); step-- > 0;) {
        const struct xp_rans_table *t = xp_rans_table(classes[step]);
        const __m512i s = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(w.index + 16 * step)));
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

struct reader {
    __m512i x;
    const uint8_t *p, *end, *planes;
    int over; /* read more words than there are */
};

/* One symbol of every state. */
static inline __attribute__((always_inline)) void step(struct reader *r, const struct xp_rans_table *t, int16_t *q)
{
    const __m512i low = _mm512_loadu_si512(t->span), high = _mm512_loadu_si512(t->span + 16);
    const __m512i slot = _mm512_and_si512(r->x, _mm512_set1_epi32((1 << XP_RANS_BITS) - 1));
    const __m512i key = _mm512_or_si512(_mm512_slli_epi32(slot, 16), _mm512_set1_epi32(0xffff));
    __m512i at = _mm512_set1_epi32(8), span, words;
    __mmask16 m = _mm512_cmpge_epu32_mask(key, _mm512_set1_epi32((int)t->span[16]));

    /* Binary search: at is the index to compare with next. */
    at = _mm512_mask_set1_epi32(at, m, 24);
    for (int half = 4; half > 0; half /= 2) {
        m = _mm512_cmpge_epu32_mask(key, _mm512_permutex2var_epi32(low, at, high));
        at = _mm512_sub_epi32(at, _mm512_set1_epi32(half));
        at = _mm512_mask_add_epi32(at, m, at, _mm512_set1_epi32(2 * half));
    }
    m = _mm512_cmplt_epu32_mask(key, _mm512_permutex2var_epi32(low, at, high));
    at = _mm512_mask_add_epi32(at, m, at, _mm512_set1_epi32(-1));
    _mm256_storeu_si256((__m256i *)(void *)q, _mm512_cvtepi32_epi16(at));

    span = _mm512_permutex2var_epi32(low, at, high);
    r->x = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_and_si512(span, _mm512_set1_epi32(0xffff)),
                                               _mm512_srli_epi32(r->x, XP_RANS_BITS)),
                            _mm512_sub_epi32(slot, _mm512_srli_epi32(span, 16)));
    m = _mm512_cmplt_epu32_mask(r->x, _mm512_set1_epi32(0x10000));
    words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)r->p));
    r->x = _mm512_or_si512(_mm512_mask_slli_epi32(r->x, m, r->x, 16), _mm512_maskz_expand_epi32(m, words));
    r->p += 2 * __builtin_popcount(m);
    r->over |= r->p > r->end;
    r->p = r->p > r->end ? r->end : r->p;
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

static void start(const struct xp_rans_stream *s, size_t n, struct reader *r)
{
    uint32_t state[16];

    r->end = s->in + s->len;
    r->over = !xp_rans_open(s, n, 16, state, &r->planes, &r->p);
    if (r->over) {
        r->p = r->end;
        memset(state, 0, sizeof(state));
    }
    r->x = _mm512_loadu_si512(state);
}

static int finish(const struct xp_rans_stream *s, size_t n, const struct reader *r)
{
    uint32_t state[16];

    _mm512_storeu_si512(state, r->x);
    return !r->over && xp_rans_end(s, n, 16, state) && join(s, n, r->planes, r->p);
}

/* Decodes `count` rows side by side; count is a constant where this is used. */
static inline __attribute__((always_inline)) void rows(struct xp_rans_stream *s, const int count, size_t n)
{
    const size_t steps = xp_rans_steps(n, 16);
    struct reader r[4];

    for (int i = 0; i < count; i++)
        start(&s[i], n, &r[i]);
    for (size_t k = 0; k < steps; k++)
        for (int i = 0; i < count; i++)
            step(&r[i], xp_rans_table(s[i].classes[k]), s[i].q + 16 * k);
    for (int i = 0; i < count; i++)
        s[i].ok = finish(&s[i], n, &r[i]);
}

void xp_rans_decode_avx512(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes)
{
    if (lanes != 16) {
        xp_rans_decode_c(s, count, n, lanes);
        return;
    }
    for (; count >= 4; count -= 4, s += 4)
        rows(s, 4, n);
    for (; count > 0; count--, s++)
        rows(s, 1, n);
}
