/*
 * rans_split_avx512bf16.h - integers to symbols and low bits, and symbols into states, with what came beside BF16
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_RANS_SPLIT_AVX512BF16_H
#define XP_RANS_SPLIT_AVX512BF16_H

#define XP_RANS_BYTE_BITS 8 /* of the low bits: those that are turned over together */

/* What 16 integers of a class want: how many low bits there are, what makes an integer its symbol and those, and the order in which planes
 * are turned over. */
struct xp_rans_low {
    _Alignas(64) int16_t bits[16];
    int16_t bias[16];
    uint8_t order[16];
};

/* Halves of planes as they are turned over, the first one last. */
#define XP_RANS_ORDER(low, i) ((i) % 8 >= 8 - (low) ? 14 - 2 * ((i) % 8) + (i) / 8 : 0x80)
#define XP_RANS_SAME(x, i) (x)
#define XP_RANS_8(f, x, i) f(x, i), f(x, i + 1), f(x, i + 2), f(x, i + 3), f(x, i + 4), f(x, i + 5), f(x, i + 6), f(x, i + 7)
#define XP_RANS_16(f, x) { XP_RANS_8(f, x, 0), XP_RANS_8(f, x, 8) }
#define XP_RANS_LOW(b)                                                                                          \
    { XP_RANS_16(XP_RANS_SAME, b), XP_RANS_16(XP_RANS_SAME, (int16_t)((16 << b) + (1 << b) / 2)), XP_RANS_16(XP_RANS_ORDER, b) }

static const struct xp_rans_low xp_rans_lows[12] = {
    XP_RANS_LOW(0), XP_RANS_LOW(1), XP_RANS_LOW(2), XP_RANS_LOW(3), XP_RANS_LOW(4), XP_RANS_LOW(5),
    XP_RANS_LOW(6), XP_RANS_LOW(7), XP_RANS_LOW(8), XP_RANS_LOW(9), XP_RANS_LOW(10), XP_RANS_LOW(11),
};

/* Bits of the lower bytes, or the upper ones, as 8 planes. */
XP_INLINE void xp_rans_put_planes(__m256i w, const int upper, uint8_t *planes)
{
    const __m256i turned = _mm256_setr_epi8(14, 12, 10, 8, 6, 4, 2, 0, 30, 28, 26, 24, 22, 20, 18, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m256i from = upper ? _mm256_add_epi8(turned, _mm256_set1_epi8(1)) : turned;
    const __m128i bytes = _mm256_castsi256_si128(_mm256_permutexvar_epi8(from, w));
    const __m128i bits = _mm_gf2p8affine_epi64_epi8(_mm_set1_epi64x((long long)0x8040201008040201), bytes, 0);

    _mm_storeu_si128((void *)planes, _mm_shuffle_epi8(bits, _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15)));
}

static inline struct xp_rans_parts xp_rans_split(const int16_t *q, size_t n, const uint8_t *classes, const struct xp_rans_work *work)
{
    uint8_t *plane = work->planes, *escape = work->escapes;

    for (size_t g = 0; g < (n + 15) / 16; g++) {
        const unsigned low = xp_rans_low_bits(classes[g]);
        const struct xp_rans_low *l = &xp_rans_lows[low];
        const size_t left = n - 16 * g;
        const __m256i v = left >= 16 ? _mm256_loadu_si256((const void *)(q + 16 * g)) : _mm256_maskz_loadu_epi16(xp_rans_live(left), q + 16 * g);
        __m256i w = _mm256_add_epi16(v, _mm256_loadu_si256((const void *)l->bias)); /* what is not among the symbols is a large number */
        const __m256i symbol = _mm256_srlv_epi16(w, _mm256_loadu_si256((const void *)l->bits));
        const __m512i at = _mm512_castsi128_si512(_mm256_cvtepi16_epi8(_mm256_min_epu16(symbol, _mm256_set1_epi16(2 * XP_RANS_SYMBOLS - 1))));
        const __m128i place = _mm512_castsi512_si128(_mm512_permutexvar_epi8(at, _mm512_loadu_si512(xp_rans_table(classes[g])->place)));
        const __mmask16 outside = _mm_testn_epi8_mask(place, place);

        if (outside) {
            w = _mm256_mask_mov_epi16(w, outside, _mm256_setzero_si256());
            for (unsigned m = outside; m; m &= m - 1, escape += 2)
                xp_put16(escape, (uint16_t)q[16 * g + (unsigned)__builtin_ctz(m)]);
        }
        _mm_storeu_si128((void *)(work->place + 16 * g), place);
        xp_rans_put_planes(w, 0, plane);
        if (low > XP_RANS_BYTE_BITS)
            xp_rans_put_planes(w, 1, plane + 16);
        plane += 2 * low;
    }
    return (struct xp_rans_parts){ (size_t)(plane - work->planes), (size_t)(escape - work->escapes) };
}

/* The words that are sent, low halves of 16 lanes, one after another. */
XP_INLINE __m256i xp_rans_taken(__mmask16 full, __m512i x)
{
    return _mm256_maskz_compress_epi16(full, _mm512_cvtepi32_epi16(x));
}

/* One symbol into 16 states: the part after their words were taken. x < frequency << 20. */
XP_INLINE __m512i xp_rans_push(__m512i x, __m512i packed, __m512 part)
{
    const __m512i f = _mm512_and_si512(packed, _mm512_set1_epi32(0xfffff));
    /* The quotient is right or one too small (rans_tables.py: reciprocals). */
    const __m512i quotient = _mm512_cvttps_epu32(_mm512_mul_ps(_mm512_cvtepu32_ps(x), part));
    const __m512i rest = _mm512_sub_epi32(x, _mm512_mullo_epi32(quotient, f));
    const __mmask16 more = _mm512_cmpge_epu32_mask(rest, f);
    const __m512i least = _mm512_shldi_epi32(quotient, packed, XP_RANS_BITS);
    const __m512i next = _mm512_mask_add_epi32(least, more, least, _mm512_sub_epi32(_mm512_set1_epi32(1 << XP_RANS_BITS), f));

    return _mm512_add_epi32(next, rest);
}

#endif
