/*
 * residual_avx512.c - rows as f32 and back, energies and distances with AVX-512
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/rows_avx512.h"

/* Adds the 16 partials of a lane sum in the order of the contract. */
static float fold_lanes(__m512 acc)
{
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(acc), _mm512_extractf32x8_ps(acc, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

XP_INLINE __m512 add_squares(__m512 acc, __m512 even, __m512 odd)
{
    acc = _mm512_add_ps(acc, _mm512_mul_ps(even, even));
    return _mm512_add_ps(acc, _mm512_mul_ps(odd, odd));
}

/* Values beyond the row count as 0: they add +0 to a sum that is never -0. */
XP_INLINE float energy(const void *x, const xp_dtype t, size_t n)
{
    __m512 acc = _mm512_setzero_ps();
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        const struct xp_pair512 p = xp_load_pair512((const char *)x + i * xp_dtype_size(t), t, 32);
        acc = add_squares(acc, p.even, p.odd);
    }
    if (i < n) {
        const struct xp_pair512 p = xp_load_pair512((const char *)x + i * xp_dtype_size(t), t, n - i);
        acc = add_squares(acc, p.even, p.odd);
    }
    return fold_lanes(acc);
}

XP_INLINE __m512 add_differences(__m512 acc, struct xp_pair512 a, struct xp_pair512 b)
{
    return add_squares(acc, _mm512_sub_ps(a.even, b.even), _mm512_sub_ps(a.odd, b.odd));
}

XP_INLINE float distance(const void *a, const void *b, const xp_dtype t, const size_t size, size_t n)
{
    const char *p = a, *q = b;
    __m512 acc = _mm512_setzero_ps();
    size_t i = 0;

    for (; i + 32 <= n; i += 32)
        acc = add_differences(acc, xp_load_pair512(p + i * size, t, 32), xp_load_pair512(q + i * size, t, 32));
    if (i < n)
        acc = add_differences(acc, xp_load_pair512(p + i * size, t, n - i), xp_load_pair512(q + i * size, t, n - i));
    return fold_lanes(acc);
}

float xp_energy_avx512(const float *x, size_t n)
{
    return energy(x, XP_F32, n);
}

float xp_distance_avx512(const void *a, const void *b, xp_dtype t, size_t dim)
{
    switch (t) {
    case XP_BF16: return b ? distance(a, b, XP_BF16, 2, dim) : energy(a, XP_BF16, dim);
    case XP_F16: return b ? distance(a, b, XP_F16, 2, dim) : energy(a, XP_F16, dim);
    default: return b ? distance(a, b, XP_F32, 4, dim) : energy(a, XP_F32, dim);
    }
}

XP_INLINE void residual(const char *row, const xp_dtype t, const size_t size, const float *base, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += 16) {
        const size_t left = n - i;
        const __m512 x = xp_load512(row + i * size, t, left);
        const __m512 m = base ? _mm512_maskz_loadu_ps(xp_first16(left), base + i) : _mm512_setzero_ps();
        _mm512_mask_storeu_ps(out + i, xp_first16(left), _mm512_sub_ps(x, m));
    }
}

void xp_residual_avx512(const void *row, xp_dtype t, const float *base, size_t dim, float *out)
{
    switch (t) {
    case XP_BF16: residual(row, XP_BF16, 2, base, dim, out); break;
    case XP_F16: residual(row, XP_F16, 2, base, dim, out); break;
    default: residual(row, XP_F32, 4, base, dim, out); break;
    }
}

XP_INLINE void restore(const float *in, const float *base, size_t n, const xp_dtype t, const size_t size, char *row)
{
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 m = xp_first16(n - i);
        __m512 x = _mm512_maskz_loadu_ps(m, in + i);
        if (base)
            x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(m, base + i));
        xp_store512(row + i * size, t, x, n - i);
    }
}

void xp_restore_avx512(const float *in, const float *base, size_t dim, xp_dtype t, void *row)
{
    switch (t) {
    case XP_BF16: restore(in, base, dim, XP_BF16, 2, row); break;
    case XP_F16: restore(in, base, dim, XP_F16, 2, row); break;
    default: restore(in, base, dim, XP_F32, 4, row); break;
    }
}
