/*
 * rans_avx512.h - what the entropy coder's AVX-512 files share: integers to symbols and low bits, and back
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_RANS_AVX512_H
#define XP_RANS_AVX512_H

#include "hash/bytes.h"
#include "hash/rans.h"
#include "hash/variants.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>
#include <string.h>

/* rans_side_avx512.c, rans_side_avx512bf16.c: rows of fewer than 16 states, several rows to a vector. */
void xp_rans_encode_side(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes);
void xp_rans_encode_side_avx512bf16(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes);
void xp_rans_decode_side(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes);

/* Steps between two looks at the ends of the rows; what is read beyond them lies within XP_RANS_SLACK. */
#define XP_RANS_STRIDE (XP_RANS_SLACK / 32 - 2)

/* Half of what the low bits can hold. */
XP_INLINE __m256i xp_rans_half(unsigned low)
{
    return _mm256_set1_epi16((short)((1u << low) >> 1));
}

/* The lanes that the last integers of a row fill. */
XP_INLINE __mmask16 xp_rans_live(size_t left)
{
    return (__mmask16)((1u << left) - 1);
}

/* s->q holds symbols and becomes integers. 0 when the escapes do not end where the row does. */
static inline int xp_rans_join(const struct xp_rans_stream *s, size_t n, const uint8_t *planes, const uint8_t *escapes)
{
    const uint8_t *end = s->in + s->len;

    for (size_t g = 0; g < (n + 15) / 16; g++) {
        const unsigned low = xp_rans_low_bits(s->classes[g]);
        const __mmask16 live = n - 16 * g < 16 ? xp_rans_live(n - 16 * g) : 0xffff;
        int16_t *q = s->q + 16 * g;
        const __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)q);
        const __mmask16 outside = _mm256_testn_epi16_mask(v, v) & live;
        __m256i u = _mm256_sll_epi16(_mm256_sub_epi16(v, _mm256_set1_epi16(16)), _mm_cvtsi32_si128((int)low));

        for (unsigned b = 0; b < low; b++, planes += 2)
            u = _mm256_mask_add_epi16(u, xp_get16(planes), u, _mm256_set1_epi16((short)(1 << b)));
        u = _mm256_sub_epi16(u, xp_rans_half(low));
        _mm256_storeu_si256((__m256i *)(void *)q, _mm256_maskz_mov_epi16(live, u));
        for (unsigned m = outside; m; m &= m - 1, escapes += 2) {
            if (end - escapes < 2)
                return 0;
            q[__builtin_ctz(m)] = (int16_t)xp_get16(escapes);
        }
    }
    return escapes == end;
}

#define XP_EACH(count) XP_UNROLL for (int i = 0; i < (count); i++)

/* Two tables' entries for 32 lanes of 16 bits: even lanes look into the first, odd ones, whose numbers have bit 5 set, into the second. */
XP_INLINE __m512i xp_rans_look_up(const uint16_t *a, __m512i at, const uint16_t *b)
{
    return _mm512_permutex2var_epi16(_mm512_loadu_si512(a), at, _mm512_loadu_si512(b));
}

/* One symbol out of 16 states, `count` vectors of states side by side, written stage by stage since the CPU does not look far
 * enough ahead to find the other vectors' work by itself. Two vectors share the search, as slots and tables fit into 16 bits: an odd
 * one out shares it with itself. States may be below 2^16 afterwards. symbol: the low 16 bits of each lane count. */
XP_INLINE void xp_rans_pop(__m512i *x, const struct xp_rans_table *const *table, __m512i *symbol, const int count)
{
    const __m512i slots = _mm512_set1_epi16((1 << XP_RANS_BITS) - 1), second = _mm512_set1_epi32(0x200000);
    const __m512i low = _mm512_set1_epi32(0xffff);
    const int pairs = (count + 1) / 2;
    __m512i key[4], at[4], span[4];
    __mmask32 m[4];

#define OTHER(i) (2 * (i) + 1 < count ? 2 * (i) + 1 : 2 * (i))
#define LOOK_UP(i, part) xp_rans_look_up(table[2 * (i)]->part, at[i], table[OTHER(i)]->part)
    XP_EACH(pairs) key[i] = _mm512_mask_blend_epi16(0xaaaaaaaa, x[2 * i], _mm512_slli_epi32(x[OTHER(i)], 16));
    XP_EACH(pairs) key[i] = _mm512_and_si512(key[i], slots);
    /* The last entry that begins at or below the slot. */
    XP_EACH(pairs) at[i] = _mm512_or_si512(_mm512_set1_epi16(16), second);
    XP_EACH(pairs) m[i] = _mm512_cmpge_epu16_mask(key[i], LOOK_UP(i, begin));
    XP_EACH(pairs) at[i] = _mm512_mask_mov_epi16(_mm512_or_si512(_mm512_set1_epi16(8), second), m[i], _mm512_or_si512(_mm512_set1_epi16(24), second));
    XP_UNROLL
    for (int half = 4; half > 0; half /= 2) {
        const __m512i by = _mm512_set1_epi16((short)half);
        XP_EACH(pairs) m[i] = _mm512_cmpge_epu16_mask(key[i], LOOK_UP(i, begin));
        XP_EACH(pairs) at[i] = _mm512_mask_add_epi16(_mm512_sub_epi16(at[i], by), m[i], at[i], by);
    }
    XP_EACH(pairs) m[i] = _mm512_cmplt_epu16_mask(key[i], LOOK_UP(i, begin));
    XP_EACH(pairs) at[i] = _mm512_mask_add_epi16(at[i], m[i], at[i], _mm512_set1_epi16(-1));

    XP_EACH(pairs) span[i] = LOOK_UP(i, frequency);
    XP_EACH(pairs) key[i] = _mm512_sub_epi16(key[i], LOOK_UP(i, begin));
    XP_EACH(pairs) at[i] = _mm512_and_si512(at[i], _mm512_set1_epi16(XP_RANS_SYMBOLS - 1));
    XP_EACH(pairs) symbol[2 * i] = at[i];
    XP_EACH(pairs) symbol[OTHER(i)] = OTHER(i) == 2 * i ? at[i] : _mm512_srli_epi32(at[i], 16);
    XP_EACH(count) x[i] = _mm512_srli_epi32(x[i], XP_RANS_BITS);
    XP_EACH(count) x[i] = _mm512_mullo_epi32(x[i], i % 2 ? _mm512_srli_epi32(span[i / 2], 16) : _mm512_and_si512(span[i / 2], low));
    XP_EACH(count) x[i] = _mm512_add_epi32(x[i], i % 2 ? _mm512_srli_epi32(key[i / 2], 16) : _mm512_and_si512(key[i / 2], low));
#undef LOOK_UP
#undef OTHER
}

#ifdef XP_RANS_SPAN /* by rans_avx512bf16.h */
#include "hash/x86/rans_split_avx512bf16.h"
#else
#define XP_RANS_SPAN span

static inline struct xp_rans_parts xp_rans_split(const int16_t *q, size_t n, const uint8_t *classes, const struct xp_rans_work *w)
{
    uint8_t *plane = w->planes, *escape = w->escapes;

    for (size_t g = 0; g < (n + 15) / 16; g++) {
        const struct xp_rans_table *t = xp_rans_table(classes[g]);
        const unsigned low = xp_rans_low_bits(classes[g]);
        const size_t left = n - 16 * g;
        const __m256i v = left >= 16 ? _mm256_loadu_si256((const __m256i *)(const void *)(q + 16 * g)) : _mm256_maskz_loadu_epi16(xp_rans_live(left), q + 16 * g);
        __m256i u = _mm256_add_epi16(v, xp_rans_half(low));
        __m256i s = _mm256_add_epi16(_mm256_sra_epi16(u, _mm_cvtsi32_si128((int)low)), _mm256_set1_epi16(16));
        const __m256i above = _mm256_sub_epi16(s, _mm256_set1_epi16(t->first)); /* below it is a large number */
        const __mmask16 outside = _mm256_cmpgt_epu16_mask(above, _mm256_set1_epi16((short)(t->last - t->first)));

        if (outside) {
            s = _mm256_mask_mov_epi16(s, outside, _mm256_setzero_si256());
            u = _mm256_mask_mov_epi16(u, outside, _mm256_setzero_si256());
            for (unsigned m = outside; m; m &= m - 1, escape += 2)
                xp_put16(escape, (uint16_t)q[16 * g + (unsigned)__builtin_ctz(m)]);
        }
        s = _mm256_or_si256(_mm256_srli_epi16(s, 1), _mm256_and_si256(_mm256_slli_epi16(s, 4), _mm256_set1_epi16(16)));
        _mm_storeu_si128((__m128i *)(void *)(w->place + 16 * g), _mm256_cvtepi16_epi8(s));
        for (unsigned b = 0; b < low; b++, plane += 2) {
            const uint16_t bits = _mm256_test_epi16_mask(u, _mm256_set1_epi16((short)(1 << b)));
            memcpy(plane, &bits, sizeof(bits)); /* from the mask register; xp_put16 became two stores of bytes */
        }
    }
    return (struct xp_rans_parts){ (size_t)(plane - w->planes), (size_t)(escape - w->escapes) };
}

/* The words that are sent, low halves of 16 lanes, one after another. */
XP_INLINE __m256i xp_rans_taken(__mmask16 full, __m512i x)
{
    return _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, x));
}

/* One symbol into 16 states: the part after their words were taken. x < frequency << 20. */
XP_INLINE __m512i xp_rans_push(__m512i x, __m512i span, __m512 part)
{
    const __m512i f = _mm512_and_si512(span, _mm512_set1_epi32(0xffff));
    /* The quotient is right or one too small (rans_tables.py: reciprocals). */
    const __m512i quotient = _mm512_cvttps_epu32(_mm512_mul_ps(_mm512_cvtepu32_ps(x), part));
    const __m512i rest = _mm512_sub_epi32(x, _mm512_mullo_epi32(quotient, f));
    const __mmask16 more = _mm512_cmpge_epu32_mask(rest, f);
    const __m512i least = _mm512_add_epi32(_mm512_slli_epi32(quotient, XP_RANS_BITS), _mm512_srli_epi32(span, 16));
    const __m512i next = _mm512_mask_add_epi32(least, more, least, _mm512_sub_epi32(_mm512_set1_epi32(1 << XP_RANS_BITS), f));

    return _mm512_add_epi32(next, rest);
}
#endif

/* What a table has for symbols, by place: reciprocals, and spans as xp_rans_push wants them. */
XP_INLINE __m512 xp_rans_part(const struct xp_rans_table *t, __m512i place)
{
    return _mm512_permutex2var_ps(_mm512_loadu_ps(t->reciprocal), place, _mm512_loadu_ps(t->reciprocal + 16));
}

XP_INLINE __m512i xp_rans_span(const struct xp_rans_table *t, __m512i place)
{
    return _mm512_permutex2var_epi32(_mm512_loadu_si512(t->XP_RANS_SPAN), place, _mm512_loadu_si512(t->XP_RANS_SPAN + 16));
}

/* They go below *words, whose new place is returned: the store ends where the last one began. What lies below is written later. */
XP_INLINE uint8_t *xp_rans_put(uint8_t *words, __m256i taken, __mmask16 full)
{
    static const uint16_t turned[32] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    const unsigned count = (unsigned)__builtin_popcount(full);
    const __m256i from = _mm256_loadu_si256((const __m256i *)(const void *)(turned + count));

    _mm256_storeu_si256((__m256i *)(void *)(words - 32), _mm256_permutexvar_epi16(from, taken));
    return words - 2 * count;
}

#endif
