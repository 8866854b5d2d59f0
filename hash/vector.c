/*
 * vector.c - inner products and sums of f32 vectors, in groups of 16 (C variants)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"

#define LANES 16

float xp_vector_dot_c(const float *a, const float *b, size_t groups)
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

void xp_vector_add_c(float *a, const float *b, float factor, size_t groups)
{
    for (size_t i = 0; i < LANES * groups; i++)
        a[i] += factor * b[i];
}
