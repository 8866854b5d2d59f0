/*
 * vector.c - inner products with several f32 vectors, and sums of them, in groups of 16 (C variants)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"

#define LANES 16

static float dot(const float *a, const float *b, size_t groups)
{
    float lane[LANES] = {0};

    for (size_t g = 0; g < groups; g++)
        for (size_t i = 0; i < LANES; i++)
            lane[i] += a[LANES * g + i] * b[LANES * g + i];
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

void xp_vector_dots_c(const float *a, const float *b, size_t stride, size_t count, size_t groups, float *out)
{
    for (size_t j = 0; j < count; j++)
        out[j] = dot(a, b + j * stride, groups);
}

void xp_vector_adds_c(float *a, const float *b, size_t stride, const float *factor, size_t count, size_t groups)
{
    for (size_t j = 0; j < count; j++)
        for (size_t i = 0; factor[j] != 0 && i < LANES * groups; i++)
            a[i] += factor[j] * b[j * stride + i];
}
