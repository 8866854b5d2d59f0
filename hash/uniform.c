/*
 * uniform.c - the uniform quantiser with one step per row (C variants)
 *
 * Values lie in book order, in groups of 16 whose cells of zero are widened alike (kernels.h).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/half.h"
#include "hash/rans.h"
#include "hash/variants.h"

#include <string.h>

#define LANES 16

static float fold_lanes(float *lane)
{
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t p = 0; p < half; p++)
            lane[p] += lane[p + half];
    return lane[0];
}

/* The integer below a + bias, as a float. a is not negative. */
static inline float cell(float a, float bias)
{
    const float v = a + bias;

    return (float)(int)(v < (float)XP_RANS_MAX_Q ? v : (float)XP_RANS_MAX_Q);
}

/* A value in steps. */
static inline float scaled(const float *x, size_t i, float inverse, const float *dither)
{
    const float v = x[i] * inverse;

    return dither ? v + dither[i] : v;
}

static inline float magnitude(float x)
{
    return x < 0 ? -x : x;
}

float xp_uniform_spread_c(const float *x, size_t groups, const float *weight)
{
    float lane[LANES] = {0};

    for (size_t g = 0; g < groups; g++)
        for (size_t i = 0; i < LANES; i++) {
            const float v = x[LANES * g + i] * weight[g];
            lane[i] += v * v;
        }
    return fold_lanes(lane);
}

void xp_uniform_view_by(const struct xp_view_kernels *k, const struct xp_uniform_view *v, void *typed, float *rest, struct xp_uniform_sums *sums)
{
    const size_t groups = (v->dim + LANES - 1) / LANES;

    sums->row = k->distance(v->row, NULL, v->dtype, v->dim);
    k->reorder(v->row, v->index, v->dim, xp_dtype_size(v->dtype), typed);
    sums->to_mean = 0;
    if (v->mean) {
        k->residual(typed, v->dtype, v->mean, v->dim, rest);
        sums->to_mean = k->energy(rest, v->dim);
    }
    k->residual(typed, v->dtype, v->base, v->dim, rest);
    memset(rest + v->dim, 0, (LANES * groups - v->dim) * sizeof(*rest));
    sums->rest = k->energy(rest, v->dim);
    sums->spread = k->spread(rest, groups, v->weight);
}

void xp_uniform_view_c(const struct xp_uniform_view *v, void *typed, float *rest, struct xp_uniform_sums *sums)
{
    static const struct xp_view_kernels k = { xp_distance_c, xp_reorder_c, xp_residual_c, xp_energy_c, xp_uniform_spread_c };

    xp_uniform_view_by(&k, v, typed, rest, sums);
}

float xp_uniform_error_c(const float *x, size_t groups, float inverse, const float *bias, const float *dither)
{
    float lane[LANES] = {0};

    for (size_t g = 0; g < groups; g++)
        for (size_t i = 0; i < LANES; i++) {
            const float a = magnitude(scaled(x, LANES * g + i, inverse, dither)), e = a - cell(a, bias[g]);
            lane[i] += e * e;
        }
    return fold_lanes(lane);
}

/* What value i of a row is decoded to, before it is rounded to the row's type. */
static inline float decoded(const int16_t *q, const float *base, size_t i, float step, const float *dither)
{
    return (dither ? (float)q[i] - dither[i] : (float)q[i]) * step + base[i];
}

void xp_uniform_restore_c(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row)
{
    for (size_t i = 0; i < n; i++)
        xp_store_f32(row, t, i, decoded(q, base, i, step, dither));
}

float xp_uniform_code_c(const struct xp_uniform_row *r, int16_t *q)
{
    float partial[2 * LANES] = {0}; /* of a row sum */

    for (size_t i = 0; i < (r->dim + LANES - 1) / LANES * LANES; i++) {
        const float v = scaled(r->x, i, r->inverse, r->dither);
        const int k = (int)cell(magnitude(v), r->bias[i / LANES]);
        float typed, d;

        q[i] = (int16_t)(v < 0 ? -k : k);
        if (i >= r->dim)
            continue;
        xp_store_f32(&typed, r->dtype, 0, decoded(q, r->base, i, r->step, r->dither));
        d = xp_load_f32(r->row, r->dtype, i) - xp_load_f32(&typed, r->dtype, 0);
        partial[i % (2 * LANES)] += d * d;
    }
    for (size_t i = 0; i < LANES; i++)
        partial[i] += partial[i + LANES];
    return fold_lanes(partial);
}
