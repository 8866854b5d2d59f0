/*
 * test_quantise.c - row formats: lengths, errors, every isa alike, spikes, extremes, hostile bytes
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hash/qblock.h"
#include "hash/signs.h"
#include "tests/harness/random.h"

/* Format and the relative error that a Gaussian row of many blocks has in it. */
static const struct {
    enum xp_qformat format;
    double bits, error;
} formats[] = {
    { XP_Q_INT2, 2, 0.343 },    { XP_Q_INT25, 2.5, 0.285 }, { XP_Q_INT3, 3, 0.192 },    { XP_Q_INT35, 3.5, 0.145 }, { XP_Q_INT4, 4, 0.103 },
    { XP_Q_INT45, 4.5, 0.076 }, { XP_Q_INT5, 5, 0.0525 },   { XP_Q_INT55, 5.5, 0.037 }, { XP_Q_INT6, 6, 0.0262 },   { XP_Q_INT65, 6.5, 0.0187 },
    { XP_Q_INT7, 7, 0.0131 },   { XP_Q_INT75, 7.5, 0.0093 }, { XP_Q_INT8, 8, 0.0067 },  { XP_Q_FP8, 8, 0.026 },
};
#define FORMATS (sizeof(formats) / sizeof(formats[0]))

static struct xp_quantiser make(size_t dim, uint64_t seed)
{
    struct xp_quantiser q = { .dim = dim, .signs = malloc(4 * xp_sign_words(dim)) };

    xp_signs_fill(seed, XP_SIGNS_QUANTISE, dim, q.signs);
    return q;
}

/* Codes and decodes on every isa, asserts that all agree, and returns |x' - x| / |x|. */
static double round_trip(const struct xp_quantiser *q, enum xp_qformat f, const float *x, float *back)
{
    const size_t bytes = xp_qrow_bytes(f, q->dim);
    uint8_t *code[2] = { malloc(bytes), malloc(bytes) };
    float *row = malloc(q->dim * sizeof(*row));
    double error = 0, norm = 0;

    for (int isa = XP_ISA_C; isa <= (int)xp_cpu_isa(); isa++) {
        struct xp_kernels k;
        xp_kernels_init(&k, (enum xp_isa)isa);
        memset(code[isa > 0], 0xaa, bytes);
        k.quantise(q, f, x, code[isa > 0]);
        k.dequantise(q, f, code[isa > 0], NULL, XP_F32, isa ? row : back);
        if (isa) {
            cr_assert_arr_eq(code[0], code[1], bytes, "format %d dim %zu: %s codes differently", f, q->dim, k.isa);
            cr_assert_arr_eq(back, row, q->dim * sizeof(*row), "format %d dim %zu: %s decodes differently", f, q->dim, k.isa);
        }
    }
    for (size_t i = 0; i < q->dim; i++) {
        error += ((double)x[i] - back[i]) * ((double)x[i] - back[i]);
        norm += (double)x[i] * x[i];
    }
    free(code[0]);
    free(code[1]);
    free(row);
    return norm > 0 ? sqrt(error / norm) : sqrt(error);
}

Test(quantise, lengths_follow_from_bits_and_blocks)
{
    for (size_t f = 0; f < FORMATS; f++) {
        const double whole = 2 + 16 * formats[f].bits;
        cr_assert_eq(xp_qrow_bytes(formats[f].format, 128), (size_t)whole, "format %d", formats[f].format);
        cr_assert_eq(xp_qrow_bytes(formats[f].format, 4096), (size_t)(32 * whole));
        cr_assert_eq(xp_qrow_bytes(formats[f].format, 129), xp_qrow_bytes(formats[f].format, 136), "a rest of 1 .. 8 is one block of 8");
        cr_assert_eq(xp_qrow_bytes(formats[f].format, 65), xp_qrow_bytes(formats[f].format, 128), "a rest of 65 is a whole block");
    }
    cr_assert_eq(xp_qrow_bytes(XP_Q_RAW, 128), 0);
    cr_assert_eq(xp_qrow_bytes(XP_Q_ZERO, 128), 0);
    cr_assert_eq(xp_qrow_bytes(XP_Q_BASE, 128), 0);
}

Test(quantise, pairs_are_divided_exactly)
{
    int paired = 0;

    for (unsigned f = 0; f < XP_QFORMATS; f++) {
        const struct xp_qinfo *q = &xp_qinfo[f];
        if (!q->paired)
            continue;
        paired++;
        cr_assert_leq((unsigned)q->levels * q->levels, 1u << q->bits);
        for (uint32_t w = 0; w < 1u << q->bits; w++)
            cr_assert_eq(w * q->div_mul >> 16 >> q->div_shift, w / q->levels, "%u / %u", w, q->levels);
    }
    cr_assert_eq(paired, 6);
}

Test(quantise, code_positions_are_a_permutation)
{
    int seen[XP_QBLOCK] = { 0 };

    for (size_t j = 0; j < XP_QBLOCK; j++)
        seen[xp_qposition(j)]++;
    for (size_t j = 0; j < XP_QBLOCK; j++)
        cr_assert_eq(seen[j], 1);
}

Test(quantise, gaussian_rows_of_every_dim_have_the_error_of_the_format)
{
    struct random rng = random_start("quantise");
    static float x[4096], back[4096];

    for (size_t dim = 1; dim <= 301; dim++) {
        struct xp_quantiser q = make(dim == 301 ? 4096 : dim, random_bits(&rng));
        const size_t rows = 1 + 1000 / q.dim; /* one short row may be far from the mean error */
        for (size_t f = 0; f < FORMATS; f++) {
            double sum = 0;
            for (size_t r = 0; r < rows; r++) {
                for (size_t i = 0; i < q.dim; i++)
                    x[i] = (float)random_normal(&rng);
                const double e = round_trip(&q, formats[f].format, x, back);
                sum += e * e;
            }
            const double e = sqrt(sum / (double)rows);
            cr_assert_leq(e, formats[f].error * (q.dim == 4096 ? 1.05 : 1.5) + 0.003, "format %d dim %zu: %g", formats[f].format, q.dim, e);
        }
        free(q.signs);
    }
}

/* Forecast over deviation of a row of f32, whose type adds next to nothing. It varies by a few percent where rows are short. */
static double forecast_over_truth(const struct xp_kernels *k, const struct xp_quantiser *q, enum xp_qformat f, const float *x)
{
    const size_t blocks = (xp_qblocks(q->dim) + 15) / 16 * 16;
    struct xp_rotated rotated = { calloc(blocks * XP_QBLOCK, sizeof(int16_t)), calloc(blocks, sizeof(float)), calloc(blocks, sizeof(int32_t)),
                                  calloc(blocks, sizeof(int32_t)) };
    float *residual = malloc(q->dim * sizeof(*x)), *scratch = malloc(q->dim * sizeof(*x)), sums[2];
    const struct xp_code_row row = { .row = x, .type = XP_F32, .residual = residual, .scratch = scratch };
    uint8_t *code = malloc(xp_qrow_bytes(f, q->dim));

    k->rotate(q, &row, &rotated, sums);
    const double ratio = k->forecast(q, f, &rotated) / (double)k->code(q, f, &rotated, &row, code);
    free(rotated.h);
    free(rotated.scale);
    free(rotated.energy);
    free(rotated.largest);
    free(residual);
    free(scratch);
    free(code);
    return ratio;
}

Test(quantise, errors_are_foreseen)
{
    static const size_t dims[] = { 20, 128, 300, 576, 4096 };
    struct random rng = random_start("quantise");
    float x[4096];

    for (size_t d = 0; d < sizeof(dims) / sizeof(dims[0]); d++) {
        const struct xp_quantiser q = make(dims[d], 7);
        struct xp_kernels k;

        xp_kernels_init(&k, XP_ISA_BEST);
        const size_t rows = 1 + 8192 / dims[d];
        double ratio[FORMATS] = { 0 };
        for (size_t r = 0; r < rows; r++) {
            for (size_t i = 0; i < dims[d]; i++)
                x[i] = (float)random_normal(&rng) * (i % 97 ? 1 : 20);
            for (size_t f = 0; f < FORMATS; f++)
                ratio[f] += (formats[f].format == XP_Q_FP8 ? 1 : forecast_over_truth(&k, &q, formats[f].format, x)) / (double)rows;
        }
        for (size_t f = 0; f < FORMATS; f++)
            cr_assert(ratio[f] < 1.02 && (ratio[f] > 0.9 || dims[d] == 20 || dims[d] == 300), "format %d dim %zu: %g of the error",
                      formats[f].format, dims[d], ratio[f]);
        free(q.signs);
    }
}

Test(quantise, spikes_are_kept_by_every_format)
{
    struct random rng = random_start("quantise_spikes");
    static float x[300], back[300];

    for (int round = 0; round < 300; round++) {
        struct xp_quantiser q = make(1 + random_below(&rng, 300), random_bits(&rng));
        memset(x, 0, sizeof(x));
        x[random_below(&rng, q.dim)] = (float)ldexp(random_normal(&rng) + 3, (int)random_below(&rng, 60) - 30);
        for (size_t f = 0; f < FORMATS; f++) {
            const double e = round_trip(&q, formats[f].format, x, back);
            cr_assert_leq(e, 0.005, "format %d dim %zu: %g", formats[f].format, q.dim, e);
        }
        free(q.signs);
    }
}

Test(quantise, powers_of_two_scale_through)
{
    struct random rng = random_start("quantise_scale");
    float x[200], y[200], back[200], scaled[200];

    for (int shift = -80; shift <= 80; shift += 16) {
        struct xp_quantiser q = make(200, random_bits(&rng));
        for (size_t i = 0; i < 200; i++) {
            x[i] = (float)random_normal(&rng);
            y[i] = ldexpf(x[i], shift);
        }
        for (size_t f = 0; f < FORMATS; f++) {
            round_trip(&q, formats[f].format, x, back);
            round_trip(&q, formats[f].format, y, scaled);
            for (size_t i = 0; i < 200; i++)
                cr_assert_eq(scaled[i], ldexpf(back[i], shift), "format %d shift %d", formats[f].format, shift);
        }
        free(q.signs);
    }
}

/* Blocks too small or too large to scale become zeros, and so do zeros; their neighbours are not touched. */
Test(quantise, extreme_blocks_become_zeros)
{
    static const float extremes[] = { 0.0f, -0.0f, 1e-40f, 1e-35f, 3e38f, -3e38f };
    struct random rng = random_start("quantise_extremes");
    float x[256], back[256];

    for (size_t k = 0; k < sizeof(extremes) / sizeof(extremes[0]); k++) {
        struct xp_quantiser q = make(256, random_bits(&rng));
        for (size_t i = 0; i < 256; i++)
            x[i] = i < 128 ? extremes[k] : (float)random_normal(&rng);
        for (size_t f = 0; f < FORMATS; f++) {
            round_trip(&q, formats[f].format, x, back);
            double error = 0, norm = 0;
            for (size_t i = 0; i < 128; i++)
                cr_assert_eq(back[i], 0.0f, "format %d value %g", formats[f].format, (double)extremes[k]);
            for (size_t i = 128; i < 256; i++) {
                error += ((double)x[i] - back[i]) * ((double)x[i] - back[i]);
                norm += (double)x[i] * x[i];
            }
            cr_assert_leq(sqrt(error / norm), formats[f].error * 2);
        }
        free(q.signs);
    }
}

Test(quantise, any_bytes_decode_to_finite_values)
{
    struct random rng = random_start("quantise_hostile");
    uint8_t bytes[1024];
    float back[300];

    for (int isa = XP_ISA_C; isa <= (int)xp_cpu_isa(); isa++) {
        struct xp_kernels k;
        xp_kernels_init(&k, (enum xp_isa)isa);
        for (int round = 0; round < 500; round++) {
            struct xp_quantiser q = make(1 + random_below(&rng, 300), 1);
            for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (uint8_t)random_bits(&rng);
            for (size_t f = 0; f < FORMATS; f++) {
                k.dequantise(&q, formats[f].format, bytes, NULL, XP_F32, back);
                for (size_t i = 0; i < q.dim; i++)
                    cr_assert(isfinite(back[i]), "format %d", formats[f].format);
            }
            free(q.signs);
        }
    }
}
