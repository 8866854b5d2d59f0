/*
 * uniform_avx2.c - the uniform quantiser with one step per row, with AVX2
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/rans.h"
#include "hash/variants.h"
#include "hash/x86/rows_avx2.h"

#include <string.h>

/* Adds the partials of a 16-lane sum in the order of the contract. */
static float fold_lanes(__m256 low, __m256 high)
{
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

XP_INLINE __m256 magnitude(__m256 x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

float xp_uniform_spread_avx2(const float *x, size_t groups, const float *weight)
{
    __m256 acc[2] = { _mm256_setzero_ps(), _mm256_setzero_ps() };

    for (size_t g = 0; g < groups; g++)
        for (int h = 0; h < 2; h++) {
            const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + 16 * g + 8 * h), _mm256_set1_ps(weight[g]));
            acc[h] = _mm256_add_ps(acc[h], _mm256_mul_ps(v, v));
        }
    return fold_lanes(acc[0], acc[1]);
}

void xp_uniform_view_avx2(const struct xp_uniform_view *v, void *typed, float *rest, struct xp_uniform_sums *sums)
{
    static const struct xp_view_kernels k = { xp_distance_avx2, xp_reorder_avx2, xp_residual_avx2, xp_energy_avx2, xp_uniform_spread_avx2 };

    xp_uniform_view_by(&k, v, typed, rest, sums);
}

/* trunc(min(a + bias, largest)) as an integer. */
XP_INLINE __m256i cell(__m256 a, float bias)
{
    const __m256 v = _mm256_add_ps(a, _mm256_set1_ps(bias));

    return _mm256_cvttps_epi32(_mm256_min_ps(v, _mm256_set1_ps((float)XP_RANS_MAX_Q)));
}

/* Eight values in steps. */
XP_INLINE __m256 scaled(const float *x, size_t i, float inverse, const float *dither)
{
    const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(inverse));

    return dither ? _mm256_add_ps(v, _mm256_loadu_ps(dither + i)) : v;
}

XP_INLINE float error(const float *x, size_t groups, float inverse, const float *bias, const float *dither)
{
    __m256 acc[2] = { _mm256_setzero_ps(), _mm256_setzero_ps() };

    for (size_t g = 0; g < groups; g++)
        for (int h = 0; h < 2; h++) {
            const __m256 a = magnitude(scaled(x, 16 * g + 8 * h, inverse, dither));
            const __m256 e = _mm256_sub_ps(a, _mm256_cvtepi32_ps(cell(a, bias[g])));
            acc[h] = _mm256_add_ps(acc[h], _mm256_mul_ps(e, e));
        }
    return fold_lanes(acc[0], acc[1]);
}

float xp_uniform_error_avx2(const float *x, size_t groups, float inverse, const float *bias, const float *dither)
{
    return dither ? error(x, groups, inverse, bias, dither) : error(x, groups, inverse, bias, NULL);
}

XP_INLINE void restore16(const int16_t *q, const float *base, float step, const float *dither, const xp_dtype t, void *row)
{
    __m256 v[2];

    for (int h = 0; h < 2; h++) {
        v[h] = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(q + 8 * h))));
        if (dither)
            v[h] = _mm256_sub_ps(v[h], _mm256_loadu_ps(dither + 8 * h));
        v[h] = _mm256_add_ps(_mm256_mul_ps(v[h], _mm256_set1_ps(step)), _mm256_loadu_ps(base + 8 * h));
    }
    xp_store16_256(row, t, v[0], v[1]);
}

XP_INLINE void restore(const int16_t *q, const float *base, size_t n, float step, const float *dither, const xp_dtype t, const size_t size,
                       char *row)
{
    char last[64];
    size_t i = 0;

    for (; i + 16 <= n; i += 16)
        restore16(q + i, base + i, step, dither ? dither + i : NULL, t, row + i * size);
    if (i < n) {
        restore16(q + i, base + i, step, dither ? dither + i : NULL, t, last);
        memcpy(row + i * size, last, (n - i) * size);
    }
}

XP_INLINE void restore_type(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row)
{
    switch (t) {
    case XP_BF16: restore(q, base, n, step, dither, XP_BF16, 2, row); break;
    case XP_F16: restore(q, base, n, step, dither, XP_F16, 2, row); break;
    default: restore(q, base, n, step, dither, XP_F32, 4, row); break;
    }
}

void xp_uniform_restore_avx2(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row)
{
    if (dither)
        restore_type(q, base, n, step, dither, t, row);
    else
        restore_type(q, base, n, step, NULL, t, row);
}

/* What a value becomes when it is stored; no NaN. */
XP_INLINE __m256 typed(__m256 v, const xp_dtype t)
{
    if (t == XP_BF16)
        return _mm256_castsi256_ps(_mm256_and_si256(xp_round_bf16_256(v), _mm256_set1_epi32((int)0xffff0000)));
    return t == XP_F16 ? _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)) : v;
}

/* Group g. row: its values, of which the first n count; part: partials 0 to 15 or 16 to 31 of a row sum. */
XP_INLINE void code16(const struct xp_uniform_row *r, size_t g, const char *row, const xp_dtype t, const int dithered, size_t n, int16_t *q, __m256 *part)
{
    __m256i k[2];

    XP_UNROLL
    for (int h = 0; h < 2; h++) {
        const size_t at = 16 * g + 8 * (size_t)h;
        const __m256 dither = dithered ? _mm256_loadu_ps(r->dither + at) : _mm256_setzero_ps();
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(r->x + at), _mm256_set1_ps(r->inverse)), back, d;

        v = dithered ? _mm256_add_ps(v, dither) : v;
        k[h] = _mm256_sign_epi32(cell(magnitude(v), r->bias[g]), _mm256_castps_si256(v)); /* that of +0 is 0 in any case */
        back = _mm256_cvtepi32_ps(k[h]);
        back = dithered ? _mm256_sub_ps(back, dither) : back;
        back = typed(_mm256_add_ps(_mm256_mul_ps(back, _mm256_set1_ps(r->step)), _mm256_loadu_ps(r->base + at)), t);
        d = _mm256_sub_ps(xp_load256(row + 8 * h * (t == XP_F32 ? 4 : 2), t), back);
        if (n < 16)
            d = _mm256_and_ps(d, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - 8 * h), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))));
        part[h] = _mm256_add_ps(part[h], _mm256_mul_ps(d, d));
    }
    _mm256_storeu_si256((__m256i *)(void *)(q + 16 * g), _mm256_permute4x64_epi64(_mm256_packs_epi32(k[0], k[1]), 0xd8));
}

XP_INLINE float code(const struct xp_uniform_row *all, const xp_dtype t, const int dithered, int16_t *q)
{
    const struct xp_uniform_row own = *all, *r = &own; /* one that the integers cannot be written into stays in registers */
    const size_t size = t == XP_F32 ? 4 : 2, whole = r->dim / 16;
    __m256 part[4] = { _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps() };
    const char *row = r->row;
    char last[64] = {0};
    size_t g = 0;

    for (; g + 2 <= whole; g += 2) {
        code16(r, g, row + 16 * g * size, t, dithered, 16, q, part);
        code16(r, g + 1, row + 16 * (g + 1) * size, t, dithered, 16, q, part + 2);
    }
    if (g < whole) {
        code16(r, g, row + 16 * g * size, t, dithered, 16, q, part);
        g++;
    }
    if (16 * g < r->dim) {
        memcpy(last, row + 16 * g * size, (r->dim - 16 * g) * size);
        code16(r, g, last, t, dithered, r->dim - 16 * g, q, part + 2 * (g & 1));
    }
    return fold_lanes(_mm256_add_ps(part[0], part[2]), _mm256_add_ps(part[1], part[3]));
}

float xp_uniform_code_avx2(const struct xp_uniform_row *r, int16_t *q)
{
    switch (r->dtype) {
    case XP_BF16: return r->dither ? code(r, XP_BF16, 1, q) : code(r, XP_BF16, 0, q);
    case XP_F16: return r->dither ? code(r, XP_F16, 1, q) : code(r, XP_F16, 0, q);
    default: return r->dither ? code(r, XP_F32, 1, q) : code(r, XP_F32, 0, q);
    }
}
