/*
 * test_codec_quant.c - the promise of bounded mode, checked in f64 with arithmetic of our own; what the bytes cost; bad bytes
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hash/bytes.h"
#include "hash/coded_rows.h"
#include "hash/coder_impl.h"
#include "tests/harness/random.h"
#include "tests/harness/values.h"

struct batch {
    xp_dtype type;
    size_t rows, dim, row_bytes, len;
    unsigned char *data, *back, *frame;
    struct xp_coder *coder;
    xp_codec_stats stats;
};

static struct batch make(const char *codec, double eps, xp_eps_ref ref, xp_dtype t, size_t rows, size_t dim, enum xp_isa isa)
{
    struct batch b = { .type = t, .rows = rows, .dim = dim, .row_bytes = dim * xp_dtype_size(t) };
    struct xp_coder_desc d = { .dtype = t, .dim = dim, .mode = XP_MODE_BOUNDED, .eps = eps, .eps_ref = ref, .isa = isa };

    cr_assert_eq(xp_codec_parse(codec, &d.choice), XP_OK);
    cr_assert_eq(xp_coder_create(&b.coder, &d), XP_OK);
    b.data = calloc(rows + 1, b.row_bytes);
    b.back = calloc(rows + 1, b.row_bytes);
    b.frame = malloc(xp_frame_bound(t, dim, rows));
    return b;
}

static void release(struct batch *b)
{
    xp_coder_destroy(b->coder);
    free(b->data);
    free(b->back);
    free(b->frame);
}

static void code(struct batch *b)
{
    const struct xp_rows in = { .data = b->data, .rows = b->rows, .dim = b->dim, .dtype = b->type };

    memset(&b->stats, 0, sizeof(b->stats));
    cr_assert_eq(xp_coder_encode(b->coder, &in, b->frame, xp_frame_bound(b->type, b->dim, b->rows), &b->len, &b->stats), XP_OK);
    cr_assert_eq(xp_coder_decode(b->coder, b->frame, b->len, b->back, b->rows), XP_OK, "%s", xp_coder_why(b->coder));
}

/* Bits of a value on the wire. */
static double bits(const struct batch *b)
{
    return 8.0 * (double)b->len / (double)(b->rows * b->dim);
}

enum kind { GAUSS, STUDENT, CHANNELS, OFFSET, MIXED, KINDS };

static double draw(struct random *rng, enum kind k, size_t row, size_t i)
{
    const double x = random_normal(rng);

    switch (k) {
    case STUDENT: /* two degrees of freedom: no variance */
        return x / sqrt(-log(1 - random_unit(rng)));
    case CHANNELS: return i % 61 == 7 ? 80 * x : x;
    case OFFSET: return x + (i % 97 == 3 ? 1000 : 0.5 * sin((double)i));
    case MIXED: return ldexp(x, (int)(row * 7 % 60) - 30);
    default: return x;
    }
}

static void check_promise(const struct batch *b, double eps, enum kind kind)
{
    double worst = 0, sum = 0;

    for (size_t r = 0; r < b->rows; r++) {
        const unsigned char *x = b->data + r * b->row_bytes, *y = b->back + r * b->row_bytes;
        const double norm = value_norm(x, b->type, b->dim), error = value_distance(x, y, b->type, b->dim);
        if (!isfinite(norm)) {
            cr_assert_arr_eq(x, y, b->row_bytes, "kind %d type %d row %zu with NaN or Inf", kind, b->type, r);
            continue;
        }
        cr_assert_leq(error, eps * norm, "kind %d type %d dim %zu eps %g row %zu: %.9g of %.9g", kind, b->type, b->dim, eps, r, error, eps * norm);
        if (norm > 0) {
            worst = fmax(worst, error / norm);
            sum += error / norm;
        }
    }
    if (!strcmp(b->stats.codec, "quant")) {
        cr_assert_float_eq(b->stats.err_max, worst, 1e-3 * worst + 1e-12);
        cr_assert_float_eq(b->stats.err_mean, sum / (double)b->rows, 1e-3 * sum / (double)b->rows + 1e-12);
        cr_assert_leq(b->stats.err_ref_max, eps);
    }
}

Test(codec_quant, no_row_misses_eps)
{
    struct random rng = random_start("codec_quant");
    static const double eps[] = { 0.003, 0.01, 0.03, 0.1, 0.25, 0.9 };

    for (size_t dim = 1; dim <= 300; dim += 1 + random_below(&rng, 4))
        for (int kind = 0; kind < KINDS; kind++) {
            const double e = eps[random_below(&rng, 6)];
            const size_t rows = 1 + random_below(&rng, 40);
            struct batch b = make("quant", e, kind & 1 ? XP_EPS_REF_MIN : XP_EPS_REF_ROW, (xp_dtype)(XP_BF16 + random_below(&rng, 3)), rows, dim,
                                  XP_ISA_BEST);
            for (size_t i = 0; i < rows * dim; i++)
                value_put(b.data, b.type, i, draw(&rng, (enum kind)kind, i / dim, i % dim));
            code(&b);
            check_promise(&b, e, (enum kind)kind);
            release(&b);
        }
}

Test(codec_quant, no_long_row_misses_eps)
{
    struct random rng = random_start("codec_quant_long");
    static const double eps[] = { 0.01, 0.03, 0.1 };

    for (int kind = 0; kind < KINDS; kind++)
        for (int t = XP_BF16; t <= XP_F32; t++) {
            struct batch b = make("quant", eps[t - 1], XP_EPS_REF_ROW, (xp_dtype)t, 60, 4096, XP_ISA_BEST);
            for (size_t i = 0; i < 60 * 4096; i++)
                value_put(b.data, b.type, i, draw(&rng, (enum kind)kind, i / 4096, i % 4096));
            code(&b);
            check_promise(&b, eps[t - 1], (enum kind)kind);
            release(&b);
        }
}

/* With the mean in the reference an outlier channel that hardly moves does not hide the others. */
Test(codec_quant, reference_of_the_mean_row_is_kept)
{
    struct random rng = random_start("codec_quant_min");
    enum { ROWS = 300, DIM = 200 };
    struct batch b = make("quant", 0.1, XP_EPS_REF_MIN, XP_F32, ROWS, DIM, XP_ISA_BEST);
    double mean[DIM] = { 0 };

    for (size_t i = 0; i < ROWS * DIM; i++)
        value_put(b.data, b.type, i, random_normal(&rng) + (i % DIM == 3 ? 1000 : 0));
    code(&b);
    cr_assert_eq(xp_get32(b.frame + 64), 1, "the mean row is in the frame");
    for (size_t i = 0; i < DIM; i++)
        mean[i] = value_get(b.frame + 68, b.type, i);
    for (size_t r = 0; r < ROWS; r++) {
        double to_mean = 0;
        for (size_t i = 0; i < DIM; i++)
            to_mean += pow(value_get(b.data, b.type, r * DIM + i) - mean[i], 2);
        const double norm = value_norm(b.data + r * b.row_bytes, b.type, DIM);
        const double ref = fmax(fmin(norm, sqrt(to_mean)), norm / 256);
        cr_assert_leq(value_distance(b.data + r * b.row_bytes, b.back + r * b.row_bytes, b.type, DIM), 0.1 * ref);
    }
    cr_assert_lt(bits(&b), 7);
    release(&b);
}

Test(codec_quant, gaussian_rows_cost_what_their_eps_needs)
{
    struct random rng = random_start("codec_quant_cost");
    static const struct {
        double eps, bits;
    } cases[] = { { 0.3, 2.75 }, { 0.2, 3.3 }, { 0.11, 4.25 }, { 0.055, 5.25 }, { 0.03, 6.25 }, { 0.01, 7.75 } };

    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct batch b = make("quant", cases[c].eps, XP_EPS_REF_ROW, XP_BF16, 500, 1024, XP_ISA_BEST);
        for (size_t i = 0; i < 500 * 1024; i++)
            value_put(b.data, b.type, i, random_normal(&rng));
        code(&b);
        cr_assert_leq(bits(&b), cases[c].bits, "eps %g: %g bits", cases[c].eps, bits(&b));
        cr_assert_eq(b.stats.rows_raw, 0);
        release(&b);
    }
}

Test(codec_quant, equal_rows_are_their_mean_and_cost_a_byte_each)
{
    struct random rng = random_start("codec_quant_equal");
    struct batch b = make("quant", 0.01, XP_EPS_REF_ROW, XP_BF16, 100, 384, XP_ISA_BEST);

    for (size_t i = 0; i < 100 * 384; i++) {
        if (i < 384)
            value_put(b.data, b.type, i, random_normal(&rng));
        else
            memcpy(b.data + 2 * i, b.data + 2 * (i % 384), 2);
    }
    code(&b);
    cr_assert_leq(b.len, 64 + 4 + 768 + 100);
    cr_assert_arr_eq(b.back, b.data, 100 * 768);
    release(&b);
}

Test(codec_quant, a_mean_row_is_sent_when_it_pays)
{
    struct random rng = random_start("codec_quant_mean");
    double cost[2];

    for (int shifted = 0; shifted < 2; shifted++) {
        struct batch b = make("quant", 0.05, XP_EPS_REF_ROW, XP_BF16, 400, 256, XP_ISA_BEST);
        for (size_t i = 0; i < 400 * 256; i++)
            value_put(b.data, b.type, i, random_normal(&rng) + (shifted ? 3 * sin((double)(i % 256)) : 0));
        code(&b);
        cr_assert_eq(xp_get32(b.frame + 64), (uint32_t)shifted, "flags");
        cost[shifted] = bits(&b);
        release(&b);
    }
    cr_assert_lt(cost[1], cost[0] - 0.9, "the energy beside the mean is 1 / 5.5: 1.2 bits less");
}

/* The mean of 128 rows takes 1 / 128 off the energy of these; to the others it adds as much. */
Test(codec_quant, rows_without_a_mean_get_none_however_many_they_are)
{
    struct random rng = random_start("codec_quant_no_mean");
    struct batch b = make("quant", 0.05, XP_EPS_REF_ROW, XP_BF16, 6000, 128, XP_ISA_BEST);

    for (size_t i = 0; i < 6000 * 128; i++)
        value_put(b.data, b.type, i, random_normal(&rng));
    code(&b);
    cr_assert_eq(xp_get32(b.frame + 64), 0, "flags");
    release(&b);
}

Test(codec_quant, nan_inf_and_zero_rows_come_back_bit_for_bit)
{
    struct random rng = random_start("codec_quant_nan");
    enum { ROWS = 60, DIM = 130 };

    for (int t = XP_BF16; t <= XP_F32; t++) {
        struct batch b = make("quant", 0.05, XP_EPS_REF_ROW, (xp_dtype)t, ROWS, DIM, XP_ISA_BEST);
        for (size_t i = 0; i < ROWS * DIM; i++) {
            const size_t r = i / DIM;
            value_put(b.data, b.type, i, r % 4 == 3 ? 0 : 2 + random_normal(&rng));
            if (r % 4 == 1 && i % DIM == r)
                value_put(b.data, b.type, i, r % 8 == 1 ? NAN : -INFINITY);
        }
        code(&b);
        check_promise(&b, 0.05, GAUSS);
        for (size_t r = 0; r < ROWS; r++)
            if (r % 4 & 1)
                cr_assert_arr_eq(b.back + r * b.row_bytes, b.data + r * b.row_bytes, b.row_bytes, "row %zu", r);
        cr_assert_eq(b.stats.rows_raw, ROWS / 4, "only the rows with NaN or Inf are raw: zeros cost nothing");
        release(&b);
    }
}

/* Squares that overflow or vanish in f32 must not deceive the check. */
Test(codec_quant, rows_at_the_ends_of_f32_keep_the_promise)
{
    struct random rng = random_start("codec_quant_ends");
    static const int exponents[] = { -149, -140, -126, -100, -75, -66, -60, 60, 63, 66, 100, 125 };

    for (size_t e = 0; e < sizeof(exponents) / sizeof(exponents[0]); e++) {
        struct batch b = make("quant", 0.02, XP_EPS_REF_ROW, e & 1 ? XP_BF16 : XP_F32, 20, 150, XP_ISA_BEST);
        for (size_t i = 0; i < 20 * 150; i++)
            value_put(b.data, b.type, i, ldexp(1 + random_unit(&rng), exponents[e]) * (random_bits(&rng) & 1 ? 1 : -1));
        code(&b);
        check_promise(&b, 0.02, MIXED);
        release(&b);
    }
}

Test(codec_quant, every_isa_writes_the_same_frame)
{
    struct random rng = random_start("codec_quant_isa");

    for (int round = 0; round < 40; round++) {
        const xp_dtype t = (xp_dtype)(XP_BF16 + round % 3);
        const size_t rows = 1 + random_below(&rng, 30), dim = 1 + random_below(&rng, 700);
        struct batch plain = make("quant", 0.04, XP_EPS_REF_MIN, t, rows, dim, XP_ISA_C);
        for (size_t i = 0; i < rows * dim; i++)
            value_put(plain.data, t, i, draw(&rng, (enum kind)(round % KINDS), i / dim, i % dim));
        code(&plain);
        for (int isa = XP_ISA_AVX2; isa <= (int)xp_cpu_isa(); isa++) {
            struct batch b = make("quant", 0.04, XP_EPS_REF_MIN, t, rows, dim, (enum xp_isa)isa);
            memcpy(b.data, plain.data, rows * b.row_bytes);
            code(&b);
            cr_assert_eq(b.len, plain.len);
            cr_assert_arr_eq(b.frame, plain.frame, b.len, "isa %d", isa);
            cr_assert_arr_eq(b.back, plain.back, rows * b.row_bytes, "isa %d", isa);
            release(&b);
        }
        release(&plain);
    }
}

/* ---- payloads that are not what they claim ---- */

static void refuse(struct xp_coder *c, const uint8_t *payload, size_t len, const char *what)
{
    float out[3 * 8];

    cr_assert_eq(xp_codec_quant.decode(c, payload, len, 3, out), XP_ERR_CORRUPT, "%s", what);
    cr_assert_gt(strlen(xp_coder_why(c)), 0);
}

static double promise_everything(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from)
{
    (void)q;
    (void)f;
    (void)from;
    return 0;
}

/* A forecast may only save time: a device has none. Rows far from the origin, so that rounding to their type is not small beside eps. */
Test(codec_quant, forecasts_choose_no_format)
{
    const double eps[] = { 0.2, 0.1, 0.05, 0.03, 0.01 };
    struct random rng = random_start("codec_quant_forecasts");

    for (unsigned n = 0; n < 240; n++) {
        const size_t dim = 20 + random_below(&rng, 200), rows = 400;
        struct batch b = make("quant", eps[n % 5], XP_EPS_REF_MIN, n % 2 ? XP_F16 : XP_BF16, rows, dim, XP_ISA_C);
        unsigned char *without;
        const double offset = exp(5.5 * random_unit(&rng));

        for (size_t i = 0; i < rows * dim; i++)
            value_put(b.data, b.type, i, (n % 3 ? draw(&rng, (enum kind)(n % KINDS), i / dim, i % dim) : random_normal(&rng)) + offset * sin((double)(i % dim)));
        const xp_forecast_fn forecast = b.coder->kernels.forecast;
        b.coder->kernels.forecast = promise_everything;
        code(&b);
        without = malloc(b.len);
        memcpy(without, b.frame, b.len);
        const size_t len = b.len;
        b.coder->kernels.forecast = forecast;
        code(&b);
        cr_assert(b.len == len && memcmp(b.frame, without, len) == 0, "dim %zu, type %d, eps %g, offset %g: %zu bytes with forecasts, %zu without",
                  dim, b.type, eps[n % 5], offset, b.len, len);
        free(without);
        release(&b);
    }
}

Test(codec_quant, refuses_bad_payloads)
{
    struct batch b = make("quant", 0.1, XP_EPS_REF_ROW, XP_F32, 3, 8, XP_ISA_BEST);
    uint8_t p[4 + 32 + 3 + 3 * 32] = { 0 };
    float out[3 * 8];

    p[4] = p[5] = p[6] = XP_Q_ZERO;
    cr_assert_eq(xp_codec_quant.decode(b.coder, p, 7, 3, out), XP_OK, "three rows of zeros");
    refuse(b.coder, p, 3, "shorter than the prefix");
    refuse(b.coder, p, 6, "a format byte is missing");
    refuse(b.coder, p, 8, "a byte too many");
    p[0] = 2;
    refuse(b.coder, p, 7, "unknown flag");
    p[0] = 1;
    refuse(b.coder, p, 7, "no room for the mean row");
    p[0] = 0;
    for (unsigned f = 0; f < 256; f++) {
        const size_t bytes = f == XP_Q_RAW ? 32 : f < 16 ? xp_qrow_bytes((enum xp_qformat)f, 8) : 0;
        p[5] = (uint8_t)f;
        if (f >= XP_Q_BASE)
            refuse(b.coder, p, 7, "an unknown format, or the base where there is none");
        else
            cr_assert_eq(xp_codec_quant.decode(b.coder, p, 7 + bytes, 3, out), XP_OK, "format %u", f);
    }
    memset(p, 0, sizeof(p));
    p[0] = 1;
    p[4 + 32] = p[5 + 32] = p[6 + 32] = XP_Q_BASE;
    cr_assert_eq(xp_codec_quant.decode(b.coder, p, 39, 3, out), XP_OK, "three times the mean row");
    p[4 + 3] = 0x7f;
    p[4 + 2] = 0x80;
    refuse(b.coder, p, 39, "a mean row with infinity");
    release(&b);
}

/* ---- row_wise ---------------------------------------------------------------------------------------------------- */

/* Decodes rows [first, first + n) from a frame of their own, at their places of b->back. */
static void code_part(struct batch *b, size_t first, size_t n)
{
    const struct xp_rows in = { .data = b->data + first * b->row_bytes, .rows = n, .dim = b->dim, .dtype = b->type };
    size_t len;

    cr_assert_eq(xp_coder_encode(b->coder, &in, b->frame, xp_frame_bound(b->type, b->dim, n), &len, NULL), XP_OK);
    cr_assert_eq(xp_coder_decode(b->coder, b->frame, len, b->back + first * b->row_bytes, n), XP_OK, "%s", xp_coder_why(b->coder));
}

static void make_row_wise(struct batch *b)
{
    struct xp_coder_desc d = b->coder->desc;

    d.row_wise = 1;
    xp_coder_destroy(b->coder);
    cr_assert_eq(xp_coder_create(&b->coder, &d), XP_OK);
}

/* Rows with a common offset (a mean row would pay), NaN rows (most of them, so that the frame is longer than plain rows), zeros. */
static void check_row_wise(const char *codec, xp_dtype t, size_t dim, struct random *rng)
{
    const size_t rows = 37;
    struct batch b = make(codec, 0.999, XP_EPS_REF_ROW, t, rows, dim, xp_cpu_isa());
    unsigned char *whole = malloc(rows * b.row_bytes);

    make_row_wise(&b);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < dim; i++)
            value_put(b.data + r * b.row_bytes, t, i, r % 3 ? (i ? 1 : NAN) : r == 9 ? 0 : 20 + random_normal(rng));
    code_part(&b, 0, rows);
    memcpy(whole, b.back, rows * b.row_bytes);
    for (size_t n = 1; n < rows; n += 5) {
        memset(b.back, 0x55, rows * b.row_bytes);
        for (size_t r = 0; r < rows; r += n)
            code_part(&b, r, rows - r < n ? rows - r : n);
        cr_assert_arr_eq(b.back, whole, rows * b.row_bytes, "%s, dim %zu: frames of %zu rows decode to something else", codec, dim, n);
    }
    free(whole);
    release(&b);
}

Test(codec_quant, row_wise_rows_do_not_depend_on_the_frame_they_are_in)
{
    static const size_t dims[] = { 1, 2, 3, 5, 8, 33, 384 };
    struct random rng = random_start("row_wise");

    for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++) {
        check_row_wise("int8", XP_BF16, dims[i], &rng);
        check_row_wise("fp8", XP_F32, dims[i], &rng);
        check_row_wise("int4", XP_F16, dims[i], &rng);
    }
}

/* Rows of all kinds: with a common offset, tiny, huge, of few values, zeros, NaN. */
static void fill_all_kinds(struct batch *b, struct random *rng)
{
    for (size_t r = 0; r < b->rows; r++)
        for (size_t i = 0; i < b->dim; i++) {
            const double x = random_normal(rng);
            const double kinds[] = { x, x + 20, ldexp(x, -120), ldexp(x, -133), ldexp(x, 100), i % 300 < 128 ? x : 0, i % 97 ? 0 : x, 0, i ? x : NAN };
            value_put(b->data + r * b->row_bytes, b->type, i, kinds[r % 9]);
        }
}

/* What rows are decoded to without a frame, kept or not, and of those kept the frame, is what it is with one. */
static void check_round_trip(const char *codec, double eps, xp_dtype t, size_t dim, enum xp_isa isa, struct random *rng)
{
    const size_t rows = 45;
    struct batch b = make(codec, eps, XP_EPS_REF_ROW, t, rows, dim, isa);
    const struct xp_rows in = { .data = b.data, .rows = rows, .dim = dim, .dtype = t };
    unsigned char *out = calloc(rows, b.row_bytes), *frame = malloc(xp_frame_bound(t, dim, rows));
    uint8_t *coded = malloc(b.row_bytes + 64);
    struct xp_coded_rows *store;
    uint32_t number[45];
    size_t len;

    make_row_wise(&b);
    fill_all_kinds(&b, rng);
    code(&b);
    cr_assert_eq(xp_coder_round_trip(b.coder, &in, NULL, 0, coded, out), XP_OK);
    cr_assert_arr_eq(out, b.back, rows * b.row_bytes, "%s, type %d, dim %zu, isa %d: not kept", codec, t, dim, isa);
    memset(out, 0x55, rows * b.row_bytes);
    cr_assert_eq(xp_coded_rows_create(&store, rows + 3, b.row_bytes), XP_OK);
    xp_coded_rows_begin(store, &in);
    cr_assert_eq(xp_coder_round_trip(b.coder, &in, store, 3, coded, out), XP_OK);
    cr_assert_arr_eq(out, b.back, rows * b.row_bytes, "%s, type %d, dim %zu, isa %d: kept", codec, t, dim, isa);
    memset(b.data, 0x11, rows * b.row_bytes);
    memset(out, 0x55, rows * b.row_bytes);
    cr_assert_eq(xp_coder_round_trip(b.coder, &in, store, 3, coded, out), XP_OK);
    cr_assert_arr_eq(out, b.back, rows * b.row_bytes, "%s, type %d, dim %zu, isa %d: again", codec, t, dim, isa);
    for (uint32_t i = 0; i < rows; i++)
        number[i] = 3 + i;
    cr_assert_eq(xp_coder_encode_once(b.coder, &in, store, number, frame, xp_frame_bound(t, dim, rows), &len, NULL), XP_OK);
    cr_assert_eq(len, b.len);
    cr_assert_arr_eq(frame, b.frame, len, "%s, type %d, dim %zu, isa %d: frame", codec, t, dim, isa);
    xp_coded_rows_destroy(store);
    free(out);
    free(frame);
    free(coded);
    release(&b);
}

Test(codec_quant, a_round_trip_needs_no_frame)
{
    static const size_t dims[] = { 1, 2, 5, 33, 64, 192, 300, 2304 };
    struct random rng = random_start("round_trip");

    for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++)
        for (int isa = XP_ISA_C; isa <= (int)xp_cpu_isa(); isa++)
            for (int t = XP_BF16; t <= XP_F32; t++) {
                check_round_trip("int8", 0.999, (xp_dtype)t, dims[i], (enum xp_isa)isa, &rng);
                check_round_trip("int5", 0.999, (xp_dtype)t, dims[i], (enum xp_isa)isa, &rng);
                check_round_trip("fp8", 0.999, (xp_dtype)t, dims[i], (enum xp_isa)isa, &rng);
                check_round_trip("quant", 0.03, (xp_dtype)t, dims[i], (enum xp_isa)isa, &rng);
            }
}

Test(codec_quant, no_round_trip_where_a_row_depends_on_others)
{
    struct batch b = make("int8", 0.1, XP_EPS_REF_ROW, XP_BF16, 4, 64, XP_ISA_BEST);
    const struct xp_rows in = { .data = b.data, .rows = 4, .dim = 64, .dtype = XP_BF16 };
    uint8_t coded[192];

    cr_assert_eq(xp_coder_round_trip(b.coder, &in, NULL, 0, coded, b.back), XP_ERR_INVALID_ARG);
    make_row_wise(&b);
    cr_assert_eq(xp_coder_round_trip(b.coder, &in, NULL, 0, coded, b.back), XP_OK);
    release(&b);
}

/* The payload is summed while it grows, on the guess that all rows have the first one's format: any row may prove it wrong. */
Test(codec_quant, a_row_of_another_format_leaves_the_checksum_right)
{
    const size_t rows = 200, others[] = { 0, 1, 15, 100, 198, 199 };
    struct random rng = random_start("a_row_of_another_format");
    struct batch b = make("int4", 0.2, XP_EPS_REF_ROW, XP_BF16, rows, 512, XP_ISA_BEST);

    for (size_t i = 0; i < rows * 512; i++)
        value_put(b.data, XP_BF16, i, random_normal(&rng));
    for (size_t k = 0; k <= sizeof(others) / sizeof(others[0]); k++) {
        code(&b); /* the decoder compares the checksum with one taken in one go */
        cr_assert_eq(b.stats.rows_raw, k, "%zu rows", k);
        if (k < sizeof(others) / sizeof(others[0]))
            value_put(b.data, XP_BF16, others[sizeof(others) / sizeof(others[0]) - 1 - k] * 512, INFINITY);
    }
    release(&b);
}
