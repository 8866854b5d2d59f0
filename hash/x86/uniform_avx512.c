/*
 * uniform_avx512.c - the uniform quantiser with one step per row, with AVX-512
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/x86/uniform_avx512.h"

float xp_uniform_spread_avx512(const float *x, size_t groups, const float *weight)
{
    __m512 acc = _mm512_setzero_ps();

    for (size_t g = 0; g < groups; g++) {
        const __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + 16 * g), _mm512_set1_ps(weight[g]));
        acc = _mm512_add_ps(acc, _mm512_mul_ps(v, v));
    }
    return xp_fold_lanes512(acc);
}

XP_INLINE float error(const float *x, size_t groups, float inverse, const float *bias, const float *dither)
{
    const __m512 one = xp_one512(), most = _mm512_set1_ps((float)XP_RANS_MAX_Q);
    __m512 acc = _mm512_setzero_ps();

    for (size_t g = 0; g < groups; g++) {
        const __m512 a = _mm512_abs_ps(xp_scaled512(x, g, inverse, dither));
        const __m512 up = _mm512_min_ps(xp_add_by_fma512(a, _mm512_set1_ps(bias[g]), one), most);
        const __m512 e = _mm512_sub_ps(a, xp_cut_off512(up));
        acc = xp_add_by_fma512(_mm512_mul_ps(e, e), acc, one);
    }
    return xp_fold_lanes512(acc);
}

float xp_uniform_error_avx512(const float *x, size_t groups, float inverse, const float *bias, const float *dither)
{
    return dither ? error(x, groups, inverse, bias, dither) : error(x, groups, inverse, bias, NULL);
}

/* bf16: the upper halves of two vectors make one. */
XP_INLINE size_t restore_bf16_pairs(const int16_t *q, const float *base, size_t n, float step, const float *dither, char *row)
{
    static const uint16_t upper[32] = { 1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                        33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63 };
    const __m512i halves = _mm512_loadu_si512(upper);
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        const __m512i a = xp_round_bf16_any512(xp_value16_512(q, base, step, dither, i));
        const __m512i b = xp_round_bf16_any512(xp_value16_512(q, base, step, dither, i + 16));

        _mm512_storeu_si512(row + 2 * i, _mm512_permutex2var_epi16(a, halves, b));
    }
    return i;
}

XP_INLINE void restore(const int16_t *q, const float *base, size_t n, float step, const float *dither, const xp_dtype t, const size_t size,
                       char *row)
{
    size_t i = t == XP_BF16 ? restore_bf16_pairs(q, base, n, step, dither, row) : 0;

    for (; i + 16 <= n; i += 16)
        xp_store512(row + i * size, t, xp_value16_512(q, base, step, dither, i), 16);
    if (i < n)
        xp_store512(row + i * size, t, xp_value16_512(q, base, step, dither, i), n - i);
}

XP_INLINE void restore_type(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row)
{
    switch (t) {
    case XP_BF16: restore(q, base, n, step, dither, XP_BF16, 2, row); break;
    case XP_F16: restore(q, base, n, step, dither, XP_F16, 2, row); break;
    default: restore(q, base, n, step, dither, XP_F32, 4, row); break;
    }
}

void xp_uniform_restore_avx512(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row)
{
    if (dither)
        restore_type(q, base, n, step, dither, t, row);
    else
        restore_type(q, base, n, step, NULL, t, row);
}

/* What a value becomes when it is stored; no NaN. */
XP_INLINE __m512 typed(__m512 v, const xp_dtype t, const struct xp_bf16_constants512 *k)
{
    if (t == XP_BF16)
        return _mm512_castsi512_ps(_mm512_and_si512(xp_round_bf16_512(v, k), _mm512_set1_epi32((int)0xffff0000)));
    return t == XP_F16 ? _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)) : v;
}

/* Group g, of whose values the first n count. part: partials 0 to 15 or 16 to 31 of a row sum. */
XP_INLINE __m512 code16(const struct xp_uniform_row *r, size_t g, const xp_dtype t, const int dithered, size_t n, const struct xp_bf16_constants512 *c,
                        int16_t *q, __m512 part)
{
    const float *dither = dithered ? r->dither : NULL;
    const __m512 up = xp_biased512(xp_scaled512(r->x, g, r->inverse, dither), r->bias[g]);
    const __m512 back = typed(xp_decoded512(xp_cut_off512(up), r->base, r->step, dither, 16 * g), t, c);
    __m512 d;

    d = _mm512_sub_ps(xp_load512((const char *)r->row + 16 * g * (t == XP_F32 ? 4 : 2), t, n), back);
    if (n < 16)
        d = _mm512_maskz_mov_ps(xp_first16(n), d);
    _mm256_storeu_si256((__m256i *)(void *)(q + 16 * g), _mm512_cvtepi32_epi16(_mm512_cvttps_epi32(up)));
    return xp_add_square512(part, d);
}

XP_INLINE float code(const struct xp_uniform_row *all, const xp_dtype t, const int dithered, int16_t *q)
{
    const struct xp_uniform_row own = *all, *r = &own; /* one that the integers cannot be written into stays in registers */
    const struct xp_bf16_constants512 c = xp_bf16_constants512();
    const size_t whole = r->dim / 16;
    __m512 part[2] = { _mm512_setzero_ps(), _mm512_setzero_ps() };
    size_t g = 0;

    for (; g + 2 <= whole; g += 2) {
        part[0] = code16(r, g, t, dithered, 16, &c, q, part[0]);
        part[1] = code16(r, g + 1, t, dithered, 16, &c, q, part[1]);
    }
    if (g < whole) {
        part[0] = code16(r, g, t, dithered, 16, &c, q, part[0]);
        g++;
    }
    if (16 * g < r->dim) {
        const __m512 more = code16(r, g, t, dithered, r->dim - 16 * g, &c, q, g & 1 ? part[1] : part[0]);

        part[g & 1] = more;
    }
    return xp_fold_lanes512(_mm512_add_ps(part[0], part[1]));
}

float xp_uniform_code_avx512(const struct xp_uniform_row *r, int16_t *q)
{
    switch (r->dtype) {
    case XP_BF16: return r->dither ? code(r, XP_BF16, 1, q) : code(r, XP_BF16, 0, q);
    case XP_F16: return r->dither ? code(r, XP_F16, 1, q) : code(r, XP_F16, 0, q);
    default: return r->dither ? code(r, XP_F32, 1, q) : code(r, XP_F32, 0, q);
    }
}
