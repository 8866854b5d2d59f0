/*
 * residual.c - rows as f32 and back, energies and distances (C variants)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "hash/variants.h"

#define PARTIALS 32

/* Adds up the partials of a row sum (kernels.h). */
static float fold(float *partial)
{
    for (size_t half = PARTIALS / 2; half > 0; half /= 2)
        for (size_t p = 0; p < half; p++)
            partial[p] += partial[p + half];
    return partial[0];
}

float xp_energy_c(const float *x, size_t n)
{
    float partial[PARTIALS] = {0};

    for (size_t i = 0; i < n; i++)
        partial[i % PARTIALS] += x[i] * x[i];
    return fold(partial);
}

float xp_distance_c(const void *a, const void *b, xp_dtype t, size_t dim)
{
    float partial[PARTIALS] = {0};

    for (size_t i = 0; i < dim; i++) {
        const float d = b ? xp_load_f32(a, t, i) - xp_load_f32(b, t, i) : xp_load_f32(a, t, i);
        partial[i % PARTIALS] += d * d;
    }
    return fold(partial);
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

void xp_residual_sums_c(const void *row, xp_dtype t, const float *base, size_t dim, float *out, float sums[2])
{
    xp_residual_c(row, t, base, dim, out);
    sums[0] = xp_distance_c(row, NULL, t, dim);
    sums[1] = xp_energy_c(out, dim);
}

int xp_mean_add_c(const void *row, xp_dtype t, size_t dim, float most, const void *ahead, float *sum)
{
    const int counts = xp_distance_c(row, NULL, t, dim) <= most;

    for (size_t i = 0; i < dim && counts; i++)
        sum[i] += xp_load_f32(row, t, i);
    return counts;
}
