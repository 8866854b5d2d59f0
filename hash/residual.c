/*
 * residual.c - rows as f32 and back, energies and distances (C variants)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "hash/variants.h"

#define LANES 16

/* Adds up the 16 partial sums of a lane sum (kernels.h). */
static float fold_lanes(float *lane)
{
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t p = 0; p < half; p++)
            lane[p] += lane[p + half];
    return lane[0];
}

float xp_energy_c(const float *x, size_t n)
{
    float lane[LANES] = {0};

    for (size_t i = 0; i < n; i++)
        lane[i / 2 % LANES] += x[i] * x[i];
    return fold_lanes(lane);
}

float xp_distance_c(const void *a, const void *b, xp_dtype t, size_t dim)
{
    float lane[LANES] = {0};

    for (size_t i = 0; i < dim; i++) {
        const float d = b ? xp_load_f32(a, t, i) - xp_load_f32(b, t, i) : xp_load_f32(a, t, i);
        lane[i / 2 % LANES] += d * d;
    }
    return fold_lanes(lane);
}

void xp_residual_c(const void *row, xp_dtype t, const float *base, size_t dim, float *out)
{
    for (size_t i = 0; i < dim; i++)
        out[i] = xp_load_f32(row, t, i) - (base ? base[i] : 0.0f);
}

void xp_restore_c(const float *in, const float *base, size_t dim, xp_dtype t, void *row)
{
    for (size_t i = 0; i < dim; i++)
        xp_store_f32(row, t, i, base ? in[i] + base[i] : in[i]);
}
