/*
 * vector_avx512.c - inner products with several f32 vectors, and sums of them, with AVX-512
 *
 * Eight inner products at a time, whose sums do not wait for each other; sums eight vectors wide, for the same reason.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>

#define SIDE 8
#define TERMS 32 /* of a sum that are added in one pass */
#define WIDTH 8  /* vectors of registers that share a factor */

/* Adds the partials of a 16-lane sum in the order of the contract. */
static float fold_lanes(__m512 acc)
{
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(acc), _mm512_extractf32x8_ps(acc, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

XP_INLINE void dots(const float *a, const float *b, size_t stride, const int count, size_t groups, float *out)
{
    __m512 acc[SIDE];

    XP_UNROLL
    for (int j = 0; j < count; j++)
        acc[j] = _mm512_setzero_ps();
    for (size_t i = 0; i < 16 * groups; i += 16) {
        const __m512 x = _mm512_loadu_ps(a + i);

        XP_UNROLL
        for (int j = 0; j < count; j++)
            acc[j] = _mm512_add_ps(acc[j], _mm512_mul_ps(x, _mm512_loadu_ps(b + (size_t)j * stride + i)));
    }
    XP_UNROLL
    for (int j = 0; j < count; j++)
        out[j] = fold_lanes(acc[j]);
}

void xp_vector_dots_avx512(const float *a, const float *b, size_t stride, size_t count, size_t groups, float *out)
{
    size_t j = 0;

    for (; j + SIDE <= count; j += SIDE)
        dots(a, b + j * stride, stride, SIDE, groups, out + j);
    for (; j < count; j++)
        dots(a, b + j * stride, stride, 1, groups, out + j);
}

/* Terms of a sum: vectors and their factors, none of which is 0. */
struct terms {
    const float *vector[TERMS];
    float factor[TERMS];
    size_t count;
};

/* Adds the terms to `width` vectors of registers at a. */
XP_INLINE void adds(float *a, const struct terms *t, size_t at, const int width)
{
    __m512 x[WIDTH];

    XP_UNROLL
    for (int i = 0; i < width; i++)
        x[i] = _mm512_loadu_ps(a + at + 16 * (size_t)i);
    for (size_t j = 0; j < t->count; j++) {
        const __m512 factor = _mm512_set1_ps(t->factor[j]);
        const float *b = t->vector[j] + at;

        XP_UNROLL
        for (int i = 0; i < width; i++)
            x[i] = _mm512_add_ps(x[i], _mm512_mul_ps(factor, _mm512_loadu_ps(b + 16 * (size_t)i)));
    }
    XP_UNROLL
    for (int i = 0; i < width; i++)
        _mm512_storeu_ps(a + at + 16 * (size_t)i, x[i]);
}

void xp_vector_adds_avx512(float *a, const float *b, size_t stride, const float *factor, size_t count, size_t groups)
{
    for (size_t j = 0; j < count;) {
        struct terms t;
        size_t g = 0;

        for (t.count = 0; j < count && t.count < TERMS; j++)
            if (factor[j] != 0) {
                t.vector[t.count] = b + j * stride;
                t.factor[t.count++] = factor[j];
            }
        for (; g + WIDTH <= groups; g += WIDTH)
            adds(a, &t, 16 * g, WIDTH);
        for (; g < groups; g++)
            adds(a, &t, 16 * g, 1);
    }
}
