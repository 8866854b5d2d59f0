/*
 * test_residual.c - typed rows to f32 and back, energies and distances, against arithmetic of our own
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hash/kernels.h"
#include "tests/harness/random.h"
#include "tests/harness/values.h"

static void each_isa(void (*test)(const struct xp_kernels *k, struct random *rng), const char *name)
{
    struct random rng = random_start(name);

    for (int isa = XP_ISA_C; isa <= (int)xp_cpu_isa(); isa++) {
        struct xp_kernels k;
        xp_kernels_init(&k, (enum xp_isa)isa);
        test(&k, &rng);
    }
}

static void all_halves(const struct xp_kernels *k, struct random *rng)
{
    static uint16_t in[65536], back[65536];
    static float x[65536];

    for (int t = XP_BF16; t <= XP_F16; t++) {
        for (size_t i = 0; i < 65536; i++)
            in[i] = (uint16_t)i;
        k->residual(in, (xp_dtype)t, NULL, 65536, x);
        k->restore(x, NULL, 65536, (xp_dtype)t, back);
        for (size_t i = 0; i < 65536; i++) {
            const double v = value_get(in, (xp_dtype)t, i);
            if (isnan(v)) {
                cr_assert(isnan(x[i]) && isnan(value_get(back, (xp_dtype)t, i)), "%s type %d: NaN %zx is lost", k->isa, t, i);
            } else {
                cr_assert_eq(x[i], v, "%s type %d pattern %zx", k->isa, t, i);
                cr_assert_eq(back[i], in[i], "%s type %d pattern %zx came back as %x", k->isa, t, i, back[i]);
            }
        }
    }
}

Test(residual, every_half_survives)
{
    each_isa(all_halves, "residual_halves");
}

static void rounding(const struct xp_kernels *k, struct random *rng)
{
    float x[512];
    uint16_t got[512], expected[512];

    for (int round = 0; round < 400; round++)
        for (int t = XP_BF16; t <= XP_F16; t++) {
            const size_t n = 1 + random_below(rng, 512);
            for (size_t i = 0; i < n; i++) {
                uint32_t u = (uint32_t)random_bits(rng);
                if (round & 1) /* near ties, and in the range of f16 with its denormals */
                    u = (u & 0x80000000u) | (0x33000000u + (u & 0x14ffe000u)) | (random_bits(rng) & 1 ? 0x1000 : 0xfff) | (u & 0x8000);
                memcpy(&x[i], &u, 4);
                if (isnan(x[i]))
                    x[i] = 1;
                value_put(expected, (xp_dtype)t, i, x[i]);
            }
            k->restore(x, NULL, n, (xp_dtype)t, got);
            for (size_t i = 0; i < n; i++)
                cr_assert_eq(got[i], expected[i], "%s type %d: %a gave %x, not %x", k->isa, t, (double)x[i], got[i], expected[i]);
        }
}

Test(residual, rounds_to_nearest_even)
{
    each_isa(rounding, "residual_rounding");
}

static void base_and_sums(const struct xp_kernels *k, struct random *rng)
{
    static float base[2000], out[2000];
    static unsigned char a[8000], b[8000];

    for (int round = 0; round < 300; round++) {
        const xp_dtype t = (xp_dtype)(XP_BF16 + round % 3);
        const size_t dim = 1 + random_below(rng, 2000);
        double energy = 0, distance = 0, of_residual = 0;
        for (size_t i = 0; i < dim; i++) {
            value_put(a, t, i, random_normal(rng));
            value_put(b, t, i, random_normal(rng));
            base[i] = (float)random_normal(rng);
            const double x = value_get(a, t, i), d = x - value_get(b, t, i);
            energy += x * x;
            distance += d * d;
        }
        k->residual(a, t, base, dim, out);
        for (size_t i = 0; i < dim; i++) {
            cr_assert_eq(out[i], (float)value_get(a, t, i) - base[i]);
            of_residual += (double)out[i] * out[i];
        }
        const double bound = ((double)dim / 32 + 9) * 0x1p-24;
        cr_assert_leq(fabs(k->energy(out, dim) - of_residual), bound * of_residual);
        cr_assert_leq(fabs(k->distance(a, b, t, dim) - distance), bound * distance);
        cr_assert_leq(fabs(k->distance(a, NULL, t, dim) - energy), bound * energy);
        cr_assert_eq(k->distance(a, a, t, dim), 0.0f);
    }
}

Test(residual, subtracts_the_base_and_sums_squares)
{
    each_isa(base_and_sums, "residual_sums");
}

static void not_finite(const struct xp_kernels *k, struct random *rng)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    float row[100];

    for (int round = 0; round < 60; round++) {
        for (size_t i = 0; i < 100; i++)
            row[i] = 1;
        row[random_below(rng, 100)] = bad[round % 3];
        cr_assert_not(isfinite(k->energy(row, 100)), "%s", k->isa);
        cr_assert_not(isfinite(k->distance(row, NULL, XP_F32, 100)), "%s", k->isa);
    }
}

Test(residual, nan_and_infinity_show_in_the_sums)
{
    each_isa(not_finite, "residual_nan");
}
