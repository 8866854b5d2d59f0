/*
 * residual_avx2.c - rows as f32 and back, energies and distances with AVX2
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "hash/variants.h"
#include "hash/x86/prefetch.h"
#include "hash/x86/rows_avx2.h"

#include <string.h>

#define STEP 32 /* values: one to each partial of a row sum */

/* ---- row sums --------------------------------------------------------------------------------------------- */

/* Partials 8 k .. 8 k + 7 in part[k]. */
static float fold(const __m256 part[4])
{
    const __m256 eight = _mm256_add_ps(_mm256_add_ps(part[0], part[2]), _mm256_add_ps(part[1], part[3]));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

XP_INLINE __m256 add_square(__m256 sum, __m256 x)
{
    return _mm256_add_ps(sum, _mm256_mul_ps(x, x));
}

/* b NULL: zeros. */
XP_INLINE void add_step(__m256 part[4], const char *a, const char *b, const xp_dtype t, const size_t size)
{
    XP_UNROLL
    for (size_t k = 0; k < 4; k++) {
        const __m256 x = xp_load256(a + 8 * k * size, t);
        part[k] = add_square(part[k], b ? _mm256_sub_ps(x, xp_load256(b + 8 * k * size, t)) : x);
    }
}

XP_INLINE float square_sum(const char *a, const char *b, const xp_dtype t, const size_t size, size_t n)
{
    __m256 part[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    char x[STEP * 4] = {0}, y[STEP * 4] = {0};
    size_t i = 0;

    for (; i + STEP <= n; i += STEP)
        add_step(part, a + i * size, b ? b + i * size : NULL, t, size);
    if (i < n) { /* zeros behind the end change no sum */
        memcpy(x, a + i * size, (n - i) * size);
        if (b)
            memcpy(y, b + i * size, (n - i) * size);
        add_step(part, x, b ? y : NULL, t, size);
    }
    return fold(part);
}

float xp_energy_avx2(const float *x, size_t n)
{
    return square_sum((const char *)x, NULL, XP_F32, 4, n);
}

float xp_distance_avx2(const void *a, const void *b, xp_dtype t, size_t dim)
{
    switch (t) {
    case XP_BF16: return b ? square_sum(a, b, XP_BF16, 2, dim) : square_sum(a, NULL, XP_BF16, 2, dim);
    case XP_F16: return b ? square_sum(a, b, XP_F16, 2, dim) : square_sum(a, NULL, XP_F16, 2, dim);
    default: return b ? square_sum(a, b, XP_F32, 4, dim) : square_sum(a, NULL, XP_F32, 4, dim);
    }
}

/* ---- residual, restore ------------------------------------------------------------------------------------ */

XP_INLINE size_t residual(const char *row, const xp_dtype t, const size_t size, const float *base, size_t n, float *out)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        const __m256 m = base ? _mm256_loadu_ps(base + i) : _mm256_setzero_ps();
        _mm256_storeu_ps(out + i, _mm256_sub_ps(xp_load256(row + i * size, t), m));
    }
    return i;
}

void xp_residual_avx2(const void *row, xp_dtype t, const float *base, size_t dim, float *out)
{
    const size_t done = t == XP_BF16  ? residual(row, XP_BF16, 2, base, dim, out)
                        : t == XP_F16 ? residual(row, XP_F16, 2, base, dim, out)
                                      : residual(row, XP_F32, 4, base, dim, out);

    xp_residual_c((const char *)row + done * (t == XP_F32 ? 4 : 2), t, base ? base + done : NULL, dim - done, out + done);
}

XP_INLINE void residual_sums(const char *row, const xp_dtype t, const size_t size, const float *base, size_t n, float *out, float sums[2])
{
    __m256 part[2][4];
    char last[STEP * 4] = {0};
    float last_base[STEP] = {0}, last_out[STEP];

    for (int k = 0; k < 4; k++)
        part[0][k] = part[1][k] = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += STEP) {
        const int whole = n - i >= STEP;
        const char *p = row + i * size;
        const float *m = base ? base + i : last_base;
        float *to = whole ? out + i : last_out;
        if (!whole) { /* zeros behind the end change no sum */
            memcpy(last, p, (n - i) * size);
            p = last;
            if (base)
                memcpy(last_base, base + i, (n - i) * sizeof(*base));
            m = last_base;
        }
        XP_UNROLL
        for (size_t k = 0; k < 4; k++) {
            const __m256 x = xp_load256(p + 8 * k * size, t), y = _mm256_sub_ps(x, _mm256_loadu_ps(m + 8 * k));
            part[0][k] = add_square(part[0][k], x);
            part[1][k] = add_square(part[1][k], y);
            _mm256_storeu_ps(to + 8 * k, y);
        }
        if (!whole)
            memcpy(out + i, last_out, (n - i) * sizeof(*out));
    }
    sums[0] = fold(part[0]);
    sums[1] = fold(part[1]);
}

void xp_residual_sums_avx2(const void *row, xp_dtype t, const float *base, size_t dim, float *out, float sums[2])
{
    switch (t) {
    case XP_BF16: residual_sums(row, XP_BF16, 2, base, dim, out, sums); break;
    case XP_F16: residual_sums(row, XP_F16, 2, base, dim, out, sums); break;
    default: residual_sums(row, XP_F32, 4, base, dim, out, sums); break;
    }
}

XP_INLINE size_t restore(const float *in, const float *base, size_t n, const xp_dtype t, const size_t size, char *row)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16) {
        __m256 a = _mm256_loadu_ps(in + i), b = _mm256_loadu_ps(in + i + 8);
        if (base) {
            a = _mm256_add_ps(a, _mm256_loadu_ps(base + i));
            b = _mm256_add_ps(b, _mm256_loadu_ps(base + i + 8));
        }
        xp_store16_256(row + i * size, t, a, b);
    }
    return i;
}

void xp_restore_avx2(const float *in, const float *base, size_t dim, xp_dtype t, void *row)
{
    const size_t done = t == XP_BF16  ? restore(in, base, dim, XP_BF16, 2, row)
                        : t == XP_F16 ? restore(in, base, dim, XP_F16, 2, row)
                                      : restore(in, base, dim, XP_F32, 4, row);

    xp_restore_c(in + done, base ? base + done : NULL, dim - done, t, (char *)row + done * (t == XP_F32 ? 4 : 2));
}

XP_INLINE void add_row(const char *row, const xp_dtype t, const size_t size, size_t n, float *sum)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(sum + i, _mm256_add_ps(_mm256_loadu_ps(sum + i), xp_load256(row + i * size, t)));
    for (; i < n; i++)
        sum[i] += xp_load_f32(row, t, i);
}

int xp_mean_add_avx2(const void *row, xp_dtype t, size_t dim, float most, const void *ahead, float *sum)
{
    const size_t size = xp_dtype_size(t);

    xp_prefetch_part(ahead, dim * size, 0, 2);
    const float energy = xp_distance_avx2(row, NULL, t, dim);
    xp_prefetch_part(ahead, dim * size, 1, 2);
    if (!(energy <= most))
        return 0;
    switch (t) {
    case XP_BF16: add_row(row, XP_BF16, 2, dim, sum); break;
    case XP_F16: add_row(row, XP_F16, 2, dim, sum); break;
    default: add_row(row, XP_F32, 4, dim, sum); break;
    }
    return 1;
}
