/*
 * residual_avx512.c - rows as f32 and back, energies and distances with AVX-512
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>

#include "hash/variants.h"
#include "hash/x86/rows_avx512.h"

/* Partials 0 .. 15 and 16 .. 31 of a row sum. */
struct partials {
    __m512 low, high;
};

static float fold(struct partials p)
{
    const __m512 all = _mm512_add_ps(p.low, p.high);
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* Values [16, 32) of a row of which n are left; behind the end all are 0, which changes no sum. */
XP_INLINE size_t second_half(size_t n)
{
    return n > 16 ? n - 16 : 0;
}

XP_INLINE void add_values(struct partials *s, const char *p, const xp_dtype t, const size_t size, size_t n)
{
    s->low = xp_add_square512(s->low, xp_load512(p, t, n));
    s->high = xp_add_square512(s->high, xp_load512(p + 16 * size, t, n >= 32 ? 16 : second_half(n)));
}

XP_INLINE float energy(const char *x, const xp_dtype t, const size_t size, size_t n)
{
    struct partials s = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    size_t i = 0;

    for (; i + 32 <= n; i += 32)
        add_values(&s, x + i * size, t, size, 32);
    if (i < n)
        add_values(&s, x + i * size, t, size, n - i);
    return fold(s);
}

XP_INLINE __m512 difference(const char *a, const char *b, const xp_dtype t, size_t n)
{
    return _mm512_sub_ps(xp_load512(a, t, n), xp_load512(b, t, n));
}

XP_INLINE void add_differences(struct partials *s, const char *a, const char *b, const xp_dtype t, const size_t size, size_t n)
{
    s->low = xp_add_square512(s->low, difference(a, b, t, n));
    s->high = xp_add_square512(s->high, difference(a + 16 * size, b + 16 * size, t, n >= 32 ? 16 : second_half(n)));
}

XP_INLINE float distance(const char *a, const char *b, const xp_dtype t, const size_t size, size_t n)
{
    struct partials s = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    size_t i = 0;

    for (; i + 32 <= n; i += 32)
        add_differences(&s, a + i * size, b + i * size, t, size, 32);
    if (i < n)
        add_differences(&s, a + i * size, b + i * size, t, size, n - i);
    return fold(s);
}

static float distance_bf16(const char *a, const char *b, size_t n)
{
    __m512 even = _mm512_setzero_ps(), odd = even;

    for (size_t i = 0; i < n; i += 32) {
        const __mmask32 m = n - i >= 32 ? 0xffffffffu : _bzhi_u32(0xffffffffu, (unsigned)(n - i));
        const __m512i x = n - i >= 32 ? _mm512_loadu_si512(a + 2 * i) : _mm512_maskz_loadu_epi16(m, a + 2 * i);
        const __m512i y = n - i >= 32 ? _mm512_loadu_si512(b + 2 * i) : _mm512_maskz_loadu_epi16(m, b + 2 * i);
        even = xp_add_square512(even, _mm512_sub_ps(xp_even_bf16_512(x), xp_even_bf16_512(y)));
        odd = xp_add_square512(odd, _mm512_sub_ps(xp_odd_bf16_512(x), xp_odd_bf16_512(y)));
    }
    return xp_fold_pairs512(even, odd);
}

float xp_energy_avx512(const float *x, size_t n)
{
    return energy((const char *)x, XP_F32, 4, n);
}

float xp_distance_avx512(const void *a, const void *b, xp_dtype t, size_t dim)
{
    switch (t) {
    case XP_BF16: return b ? distance_bf16(a, b, dim) : energy(a, XP_BF16, 2, dim);
    case XP_F16: return b ? distance(a, b, XP_F16, 2, dim) : energy(a, XP_F16, 2, dim);
    default: return b ? distance(a, b, XP_F32, 4, dim) : energy(a, XP_F32, 4, dim);
    }
}

XP_INLINE void residual16(const char *row, const xp_dtype t, const float *base, size_t n, float *out)
{
    const __m512 m = base ? xp_load_f32_512(base, n) : _mm512_setzero_ps();

    xp_store_f32_512(out, _mm512_sub_ps(xp_load512(row, t, n), m), n);
}

XP_INLINE void residual(const char *row, const xp_dtype t, const size_t size, const float *base, size_t n, float *out)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16)
        residual16(row + i * size, t, base ? base + i : NULL, 16, out + i);
    if (i < n)
        residual16(row + i * size, t, base ? base + i : NULL, n - i, out + i);
}

void xp_residual_avx512(const void *row, xp_dtype t, const float *base, size_t dim, float *out)
{
    switch (t) {
    case XP_BF16: residual(row, XP_BF16, 2, base, dim, out); break;
    case XP_F16: residual(row, XP_F16, 2, base, dim, out); break;
    default: residual(row, XP_F32, 4, base, dim, out); break;
    }
}

struct two_sums {
    struct partials row, out;
};

/* 32 values of which n exist. */
XP_INLINE void residual_sums32(const char *row, const xp_dtype t, const size_t size, const float *base, size_t n, float *out,
                               struct two_sums *s)
{
    const size_t rest = n >= 32 ? 16 : second_half(n);
    const __m512 a = xp_load512(row, t, n), b = xp_load512(row + 16 * size, t, rest);
    const __m512 x = _mm512_sub_ps(a, base ? xp_load_f32_512(base, n) : _mm512_setzero_ps());
    const __m512 y = _mm512_sub_ps(b, base ? xp_load_f32_512(base + 16, rest) : _mm512_setzero_ps());

    s->row.low = xp_add_square512(s->row.low, a);
    s->row.high = xp_add_square512(s->row.high, b);
    s->out.low = xp_add_square512(s->out.low, x);
    s->out.high = xp_add_square512(s->out.high, y);
    xp_store_f32_512(out, x, n);
    xp_store_f32_512(out + 16, y, rest);
}

XP_INLINE void residual_sums(const char *row, const xp_dtype t, const size_t size, const float *base, size_t n, float *out, float sums[2])
{
    const struct partials none = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    struct two_sums s = {none, none};
    size_t i = 0;

    for (; i + 32 <= n; i += 32)
        residual_sums32(row + i * size, t, size, base ? base + i : NULL, 32, out + i, &s);
    if (i < n)
        residual_sums32(row + i * size, t, size, base ? base + i : NULL, n - i, out + i, &s);
    sums[0] = fold(s.row);
    sums[1] = fold(s.out);
}

void xp_residual_sums_avx512(const void *row, xp_dtype t, const float *base, size_t dim, float *out, float sums[2])
{
    switch (t) {
    case XP_BF16: residual_sums(row, XP_BF16, 2, base, dim, out, sums); break;
    case XP_F16: residual_sums(row, XP_F16, 2, base, dim, out, sums); break;
    default: residual_sums(row, XP_F32, 4, base, dim, out, sums); break;
    }
}

XP_INLINE void restore16(const float *in, const float *base, size_t n, const xp_dtype t, char *row)
{
    __m512 x = xp_load_f32_512(in, n);

    if (base)
        x = _mm512_add_ps(x, xp_load_f32_512(base, n));
    xp_store512(row, t, x, n);
}

XP_INLINE void restore(const float *in, const float *base, size_t n, const xp_dtype t, const size_t size, char *row)
{
    size_t i = 0;

    for (; i + 16 <= n; i += 16)
        restore16(in + i, base ? base + i : NULL, 16, t, row + i * size);
    if (i < n)
        restore16(in + i, base ? base + i : NULL, n - i, t, row + i * size);
}

void xp_restore_avx512(const float *in, const float *base, size_t dim, xp_dtype t, void *row)
{
    switch (t) {
    case XP_BF16: restore(in, base, dim, XP_BF16, 2, row); break;
    case XP_F16: restore(in, base, dim, XP_F16, 2, row); break;
    default: restore(in, base, dim, XP_F32, 4, row); break;
    }
}

/*
 * The row to come, a quarter of as many bytes at a time as are worked on in two passes: from both halves, so that the next page is
 * looked up while the one before it is read. Lines are asked for again and again, as a request is dropped where too many are under way.
 */
XP_INLINE void fetch_halves(const char *ahead, size_t bytes, size_t at)
{
    if (!ahead)
        return;
    _mm_prefetch(ahead + at / 4, _MM_HINT_T1);
    _mm_prefetch(ahead + bytes / 2 + at / 4, _MM_HINT_T1);
}

XP_INLINE void add16(const char *row, const xp_dtype t, size_t n, float *sum)
{
    xp_store_f32_512(sum, _mm512_add_ps(xp_load_f32_512(sum, n), xp_load512(row, t, n)), n);
}

/* Is a row of bf16 too small for its sum of squares to be more than `most`? Quicker than the sum. The sum of n <= 2^20 terms is rounded
 * up by less than 1 %. */
XP_INLINE int small_bf16(const char *row, size_t n, float most, const char *ahead)
{
    const __m512i magnitude = _mm512_set1_epi16(0x7fff);
    __m512i peak = _mm512_setzero_si512();
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        fetch_halves(ahead, n * 2, i * 2);
        peak = _mm512_max_epu16(peak, _mm512_and_si512(magnitude, _mm512_loadu_si512(row + i * 2)));
    }
    if (i < n)
        peak = _mm512_max_epu16(peak, _mm512_and_si512(magnitude, _mm512_maskz_loadu_epi16((__mmask32)((1u << (n - i)) - 1), row + i * 2)));
    const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(peak, 16));
    const __m512 odd = _mm512_castsi512_ps(_mm512_andnot_si512(_mm512_set1_epi32(0xffff), peak));
    const __m512 bound = _mm512_set1_ps(sqrtf(most / (float)n) * 0.99f); /* which NaN is not below */
    return (_mm512_cmp_ps_mask(even, bound, _CMP_LE_OQ) & _mm512_cmp_ps_mask(odd, bound, _CMP_LE_OQ)) == 0xffff;
}

/* The row's sum of squares is at most `most`. */
XP_INLINE int counts(const char *row, const xp_dtype t, const size_t size, size_t n, float most, const char *ahead)
{
    struct partials s = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    size_t i = 0;

    for (; i + 32 <= n; i += 32) {
        fetch_halves(ahead, n * size, i * size);
        add_values(&s, row + i * size, t, size, 32);
    }
    if (i < n)
        add_values(&s, row + i * size, t, size, n - i);
    return fold(s) <= most;
}

XP_INLINE int mean_add(const char *row, const xp_dtype t, const size_t size, size_t n, float most, const char *ahead, float *sum)
{
    size_t i;

    if (!(t == XP_BF16 && small_bf16(row, n, most, ahead)) && !counts(row, t, size, n, most, ahead))
        return 0;
    for (i = 0; i + 32 <= n; i += 32) {
        fetch_halves(ahead, n * size, (n + i) * size);
        add16(row + i * size, t, 16, sum + i);
        add16(row + (i + 16) * size, t, 16, sum + i + 16);
    }
    if (i < n)
        add16(row + i * size, t, n - i, sum + i);
    if (i + 16 < n)
        add16(row + (i + 16) * size, t, n - i - 16, sum + i + 16);
    return 1;
}

int xp_mean_add_avx512(const void *row, xp_dtype t, size_t dim, float most, const void *ahead, float *sum)
{
    switch (t) {
    case XP_BF16: return mean_add(row, XP_BF16, 2, dim, most, ahead, sum);
    case XP_F16: return mean_add(row, XP_F16, 2, dim, most, ahead, sum);
    default: return mean_add(row, XP_F32, 4, dim, most, ahead, sum);
    }
}
