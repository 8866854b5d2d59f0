/*
 * uniform_avx512bf16.c - the uniform quantiser with one step per row, with AVX-512 and its BF16
 *
 * The instruction that rounds to bf16 makes zeros of values below 2^-126.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/x86/uniform_avx512.h"
#include "hash/x86/window_avx512.h"

/* Partials of a row sum, as pairs of bf16 come apart. */
struct partials {
    __m512 even, odd;
};

/* Kept in registers: 1, and what an integer is added to so that it lies in the low bits of the sum. */
struct constants {
    __m512 one, low_bits;
};

XP_INLINE struct constants make_constants(void)
{
    struct constants c = { xp_one512(), _mm512_set1_ps(0x1.8p23f) };

    XP_KEEP(c.low_bits);
    return c;
}

/* Group g: its integers, in 16 bits of 32, and what they are decoded to. */
XP_INLINE __m512 code16(const struct xp_uniform_row *r, size_t g, const int dithered, const struct constants *c, __m512i *k)
{
    const float *dither = dithered ? r->dither : NULL;
    const __m512 whole = xp_cut_off512(xp_biased512(xp_scaled512(r->x, g, r->inverse, dither), r->bias[g]));

    *k = _mm512_castps_si512(xp_add_by_fma512(whole, c->low_bits, c->one));
    return xp_decoded512(whole, r->base, r->step, dither, 16 * g);
}

/* Adds the squared errors of 32 values. That what is below 2^-126 becomes 0 changes none: beside a value whose square is not 0 it is
 * nothing. */
XP_INLINE void add_errors(struct partials *s, __m512i row, __m512i typed, const struct constants *c)
{
    const __m512 even = _mm512_fnmadd_ps(xp_even_bf16_512(typed), c->one, xp_even_bf16_512(row));
    const __m512 odd = _mm512_fnmadd_ps(xp_odd_bf16_512(typed), c->one, xp_odd_bf16_512(row));

    s->even = xp_add_by_fma512(_mm512_mul_ps(even, even), s->even, c->one);
    s->odd = xp_add_by_fma512(_mm512_mul_ps(odd, odd), s->odd, c->one);
}

XP_INLINE float code(const struct xp_uniform_row *all, const int dithered, int16_t *q)
{
    static const uint16_t lower[32] = { 0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                        32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62 };
    const struct xp_uniform_row own = *all, *r = &own; /* one that the integers cannot be written into stays in registers */
    const __m512i halves = _mm512_loadu_si512(lower);
    const struct constants c = make_constants();
    struct partials s = { _mm512_setzero_ps(), _mm512_setzero_ps() };
    size_t i = 0;
    __m512i k[2];

    for (; i + 32 <= r->dim; i += 32) {
        const __m512 a = code16(r, i / 16, dithered, &c, &k[0]), b = code16(r, i / 16 + 1, dithered, &c, &k[1]);

        _mm512_storeu_si512(q + i, _mm512_permutex2var_epi16(k[0], halves, k[1]));
        add_errors(&s, _mm512_loadu_si512((const char *)r->row + 2 * i), (__m512i)_mm512_cvtne2ps_pbh(b, a), &c);
    }
    if (i < r->dim) {
        const size_t n = r->dim - i;
        const __m512 a = code16(r, i / 16, dithered, &c, &k[0]);
        const __m512 b = n > 16 ? code16(r, i / 16 + 1, dithered, &c, &k[1]) : _mm512_setzero_ps();

        _mm256_storeu_si256((__m256i *)(void *)(q + i), _mm512_cvtepi32_epi16(k[0]));
        if (n > 16)
            _mm256_storeu_si256((__m256i *)(void *)(q + i + 16), _mm512_cvtepi32_epi16(k[1]));
        add_errors(&s, xp_load_first32((const char *)r->row + 2 * i, n),
                   _mm512_maskz_mov_epi16(_bzhi_u32(0xffffffffu, (unsigned)n), (__m512i)_mm512_cvtne2ps_pbh(b, a)), &c);
    }
    return xp_fold_pairs512(s.even, s.odd);
}

float xp_uniform_code_avx512bf16(const struct xp_uniform_row *r, int16_t *q)
{
    if (r->dtype != XP_BF16)
        return xp_uniform_code_avx512(r, q);
    return r->dither ? code(r, 1, q) : code(r, 0, q);
}

/* Some of the values are not 0, but would become it. */
XP_INLINE __mmask16 tiny(__m512 x)
{
    return _mm512_fpclass_ps_mask(x, 0x20);
}

/* Values [0, n), n a multiple of 32. Returns whether the row is right: it is not where values are tiny. */
XP_INLINE int restore(const int16_t *q, const float *base, size_t n, float step, const float *dither, char *row)
{
    __mmask16 some = 0;

    for (size_t i = 0; i < n; i += 32) {
        const __m512 a = xp_value16_512(q, base, step, dither, i), b = xp_value16_512(q, base, step, dither, i + 16);

        some |= tiny(a) | tiny(b);
        _mm512_storeu_si512(row + 2 * i, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
    return !some;
}

void xp_uniform_restore_avx512bf16(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row)
{
    const size_t whole = t == XP_BF16 ? n / 32 * 32 : 0;
    size_t done = whole;

    if (whole && !(dither ? restore(q, base, whole, step, dither, row) : restore(q, base, whole, step, NULL, row)))
        done = 0;
    if (done < n)
        xp_uniform_restore_avx512(q + done, base + done, n - done, step, dither ? dither + done : NULL, t, (char *)row + 2 * done);
}
