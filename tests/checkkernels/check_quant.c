/*
 * check_quant.c - checkkernels' rows for the quantisers
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check_typed.h"
#include "hash/signs.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const enum xp_qformat formats[] = {XP_Q_INT2,  XP_Q_INT25, XP_Q_INT3,  XP_Q_INT35, XP_Q_INT4,  XP_Q_INT45, XP_Q_INT5,
                                          XP_Q_INT55, XP_Q_INT6,  XP_Q_INT65, XP_Q_INT7,  XP_Q_INT75, XP_Q_INT8,  XP_Q_FP8};
#define FORMATS (sizeof(formats) / sizeof(formats[0]))

/* ---- quantise, dequantise ---- */

static float *finite_row(struct check *c, enum check_fill fill, size_t dim, struct guarded *g)
{
    float *x;

    *g = guard_alloc(dim * 4, 4 * check_below(c, 20), 0);
    x = g->p;
    check_fill_row(c, fill, XP_F32, dim, x);
    for (size_t i = 0; i < dim; i++)
        if (!(x[i] - x[i] == 0.0f))
            x[i] = 1.0f;
    if (fill == FILL_NAN && dim > 1) { /* one value far above the others: a block that becomes +-constant */
        x[check_below(c, dim)] = 1e6f;
        if (check_below(c, 2))
            x[check_below(c, dim)] = -3e5f;
    }
    return x;
}

static void compare_quantise(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 24; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++)
            for (size_t f = 0; f < FORMATS; f++) {
                struct xp_quantiser q = {.dim = check_dim(c)};
                struct guarded x, out[2];
                finite_row(c, (enum check_fill)fill, q.dim, &x);
                q.signs = malloc(xp_sign_words(q.dim) * 4);
                xp_signs_fill(check_random(c), XP_SIGNS_QUANTISE, q.dim, q.signs);
                for (int i = 0; i < 2; i++)
                    out[i] = guard_alloc(xp_qrow_bytes(formats[f], q.dim), check_below(c, 9), 0x55);
                plain->quantise(&q, formats[f], x.p, out[0].p);
                tested->quantise(&q, formats[f], x.p, out[1].p);
                check_equal(c, &out[0], &out[1], "format %d dim %zu fill %s", formats[f], q.dim, check_fill_name((enum check_fill)fill));
                guard_free(&out[0]);
                guard_free(&out[1]);
                guard_free(&x);
                free(q.signs);
            }
}

/* Steps as encoders write them around 1, or any bits. */
static void fill_codes(struct check *c, size_t steps, struct guarded *in)
{
    uint8_t *p = in->p;
    const int wild = check_below(c, 4) == 0;

    for (size_t i = 0; i < in->size; i++)
        p[i] = (uint8_t)check_random(c);
    for (size_t i = 0; i < steps && !wild; i++)
        p[2 * i + 1] = (uint8_t)(0x3c + check_below(c, 3));
}

/* As struct xp_quantiser says. */
static int is_usual(const float *base, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (base[i] != 0.0f && fabsf(base[i]) < 0x1p-100f)
            return 0;
    return 1;
}

static void compare_dequantise(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 200; round++)
        for (size_t f = 0; f < FORMATS; f++) {
            struct xp_quantiser q = {.dim = check_dim(c)};
            const xp_dtype t = check_types[check_below(c, 3)];
            struct guarded in = guard_alloc(xp_qrow_bytes(formats[f], q.dim), check_below(c, 9), 0), out[2];
            struct guarded base = check_typed_row(c, round & 2 ? FILL_GAUSS : FILL_DENORMAL, XP_F32, q.dim);
            q.base_is_usual = round & 2 && is_usual(base.p, q.dim);
            fill_codes(c, (q.dim + XP_QBLOCK - 1) / XP_QBLOCK, &in);
            q.signs = malloc(xp_sign_words(q.dim) * 4);
            xp_signs_fill(check_random(c), XP_SIGNS_QUANTISE, q.dim, q.signs);
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(q.dim * xp_dtype_size(t), xp_dtype_size(t) * check_below(c, 20), 0x55);
            plain->dequantise(&q, formats[f], in.p, round & 1 ? base.p : NULL, t, out[0].p);
            tested->dequantise(&q, formats[f], in.p, round & 1 ? base.p : NULL, t, out[1].p);
            check_equal(c, &out[0], &out[1], "format %d %s dim %zu%s", formats[f], check_dtype_name(t), q.dim, round & 1 ? ", base" : "");
            guard_free(&out[0]);
            guard_free(&out[1]);
            guard_free(&in);
            guard_free(&base);
            free(q.signs);
        }
}

static void compare_deviation(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 120; round++)
        for (size_t f = 0; f < FORMATS; f++) {
            struct xp_quantiser q = {.dim = check_dim(c)};
            const xp_dtype t = check_types[check_below(c, 3)];
            struct guarded in = guard_alloc(xp_qrow_bytes(formats[f], q.dim), check_below(c, 9), 0), out[2];
            struct guarded base = check_typed_row(c, FILL_GAUSS, XP_F32, q.dim);
            struct guarded row = check_typed_row(c, (enum check_fill)(round % FILL_COUNT), t, q.dim);
            struct guarded scratch = guard_alloc(q.dim * xp_dtype_size(t), 0, 0);
            fill_codes(c, (q.dim + XP_QBLOCK - 1) / XP_QBLOCK, &in);
            q.signs = malloc(xp_sign_words(q.dim) * 4);
            xp_signs_fill(check_random(c), XP_SIGNS_QUANTISE, q.dim, q.signs);
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(sizeof(float), 0, 0);
            const float *b = round & 1 ? base.p : NULL;
            check_put_sum(&out[0], plain->deviation(&q, formats[f], in.p, b, t, row.p, scratch.p));
            check_put_sum(&out[1], tested->deviation(&q, formats[f], in.p, b, t, row.p, scratch.p));
            check_equal(c, &out[0], &out[1], "format %d %s dim %zu%s", formats[f], check_dtype_name(t), q.dim, b ? ", base" : "");
            guard_free(&out[0]);
            guard_free(&out[1]);
            guard_free(&in);
            guard_free(&base);
            guard_free(&row);
            guard_free(&scratch);
            free(q.signs);
        }
}

/* Room for a rotated row. */
static struct xp_rotated rotated_room(size_t dim)
{
    const size_t blocks = ((dim + XP_QBLOCK - 1) / XP_QBLOCK + 15) / 16 * 16;

    return (struct xp_rotated){calloc(blocks * XP_QBLOCK, sizeof(int16_t)), calloc(blocks, sizeof(float)), calloc(blocks, sizeof(int32_t)),
                               calloc(blocks, sizeof(int32_t))};
}

static void free_rotated(struct xp_rotated *r)
{
    free(r->h);
    free(r->scale);
    free(r->energy);
    free(r->largest);
}

/* What the kernels make of one row. */
struct coded {
    struct guarded sums, figures, out, decoded; /* figures: forecast, deviation */
};

static struct coded code_row(struct check *c, const struct xp_kernels *k, const struct xp_quantiser *q, enum xp_qformat f,
                             const struct xp_code_row *of, int decoded)
{
    struct guarded residual = guard_alloc(q->dim * 4, 0, 0x55), scratch = guard_alloc(q->dim * xp_dtype_size(of->type), 0, 0x55);
    struct coded r = {guard_alloc(2 * sizeof(float), 0, 0x55), guard_alloc(2 * sizeof(double), 0, 0x55),
                      guard_alloc(xp_qrow_bytes(f, q->dim), check_below(c, 9), 0x55),
                      guard_alloc(q->dim * xp_dtype_size(of->type), xp_dtype_size(of->type) * check_below(c, 20), 0x55)};
    struct xp_rotated rotated = rotated_room(q->dim);
    struct xp_code_row row = *of;
    double *figures = r.figures.p;

    row.residual = residual.p;
    row.scratch = scratch.p;
    row.decoded = decoded ? r.decoded.p : NULL;
    k->rotate(q, &row, &rotated, r.sums.p);
    figures[0] = k->forecast(q, f, &rotated);
    figures[1] = (double)k->code(q, f, &rotated, &row, r.out.p);
    figures[1] = figures[1] == figures[1] ? figures[1] : -1;
    check_same_nan(&r.sums);
    free_rotated(&rotated);
    guard_free(&residual);
    guard_free(&scratch);
    return r;
}

static int finite_sums(const struct coded *r)
{
    const float *s = r->sums.p;

    return s[0] >= 0 && s[0] <= FLT_MAX && s[1] >= 0 && s[1] <= FLT_MAX;
}

static void compare_code_case(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested, enum check_fill fill,
                              enum xp_qformat f, int with_base)
{
    struct xp_quantiser q = {.dim = check_dim(c)};
    const xp_dtype t = check_below(c, 2) ? XP_BF16 : check_types[check_below(c, 3)];
    struct guarded row = check_typed_row(c, fill, t, q.dim), base = check_typed_row(c, FILL_GAUSS, XP_F32, q.dim);
    struct guarded typed = check_typed_row(c, FILL_GAUSS, t, q.dim);
    struct xp_code_row r = {.row = row.p, .type = t, .base = with_base ? base.p : NULL};
    const int decoded = (int)check_below(c, 2);
    struct coded of[2];

    if (with_base && check_below(c, 3)) { /* the base is one of the row's type */
        plain->residual(typed.p, t, NULL, q.dim, base.p);
        r.typed_base = typed.p;
    }

    q.signs = malloc(xp_sign_words(q.dim) * 4);
    xp_signs_fill(check_random(c), XP_SIGNS_QUANTISE, q.dim, q.signs);
    of[0] = code_row(c, plain, &q, f, &r, decoded);
    r.ahead = row.p;
    of[1] = code_row(c, tested, &q, f, &r, decoded);
    check_equal(c, &of[0].sums, &of[1].sums, "sums: %s dim %zu fill %s%s", check_dtype_name(t), q.dim, check_fill_name(fill),
                with_base ? ", base" : "");
    if (finite_sums(&of[0])) {
        check_equal(c, &of[0].figures, &of[1].figures, "forecast, deviation: format %d %s dim %zu fill %s%s", f, check_dtype_name(t), q.dim,
                    check_fill_name(fill), with_base ? ", base" : "");
        check_equal(c, &of[0].out, &of[1].out, "format %d %s dim %zu fill %s%s", f, check_dtype_name(t), q.dim, check_fill_name(fill),
                    with_base ? ", base" : "");
        check_equal(c, &of[0].decoded, &of[1].decoded, "decoded: format %d %s dim %zu fill %s%s", f, check_dtype_name(t), q.dim,
                    check_fill_name(fill), with_base ? ", base" : "");
    }
    for (int i = 0; i < 2; i++) {
        guard_free(&of[i].sums);
        guard_free(&of[i].figures);
        guard_free(&of[i].out);
        guard_free(&of[i].decoded);
    }
    guard_free(&row);
    guard_free(&base);
    guard_free(&typed);
    free(q.signs);
}

static void compare_code(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 30; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++)
            for (size_t f = 0; f < FORMATS; f++)
                compare_code_case(c, plain, tested, (enum check_fill)fill, formats[f], round % 3 == 0);
}

/* ---- timing ---- */

static void run_quantise(void *arg)
{
    struct check_rows *r = arg;
    EACH_ROW(r, r->k->quantise(&r->q, r->format, r->f32, r->codes + i * r->code_bytes))
}

static void run_dequantise(void *arg)
{
    struct check_rows *r = arg;
    EACH_ROW(r, r->k->dequantise(&r->q, r->format, r->codes + i * r->code_bytes, r->base, r->type, other))
}

static void run_deviation(void *arg)
{
    struct check_rows *r = arg;
    EACH_ROW(r, r->sum += r->k->deviation(&r->q, r->format, r->codes + i * r->code_bytes, r->base, r->type, row, other))
}

static void bench_formats(struct check *c, const struct xp_kernels *k, void (*run)(void *), size_t dim)
{
    struct check_rows r = check_make_rows(c, k, XP_BF16, dim);
    char shape[64];

    r.q.dim = dim;
    r.q.signs = malloc(xp_sign_words(dim) * 4);
    xp_signs_fill(1, XP_SIGNS_QUANTISE, dim, r.q.signs);
    for (size_t f = 0; f < FORMATS; f++) {
        r.format = formats[f];
        r.code_bytes = xp_qrow_bytes(r.format, dim);
        r.codes = malloc(r.rows * r.code_bytes);
        run_quantise(&r);
        snprintf(shape, sizeof(shape), "bf16 dim %zu, %.3f bits", dim, 8.0 * (double)r.code_bytes / (double)dim);
        bench_line(c, shape, r.data, r.rows * dim * 2, run, &r);
        free(r.codes);
    }
    free(r.q.signs);
    check_free_rows(&r);
}

static void bench_quantise(struct check *c, const struct xp_kernels *k)
{
    bench_formats(c, k, run_quantise, 4096);
    bench_formats(c, k, run_quantise, 576);
}

static void bench_dequantise(struct check *c, const struct xp_kernels *k)
{
    bench_formats(c, k, run_dequantise, 4096);
    bench_formats(c, k, run_dequantise, 576);
}

static void bench_deviation(struct check *c, const struct xp_kernels *k)
{
    bench_formats(c, k, run_deviation, 4096);
}

/* Rotates and codes; the forecast of one more format, when asked. */
static void code_rows(struct check_rows *r, int forecast)
{
    const size_t row_bytes = r->dim * xp_dtype_size(r->type);
    struct xp_code_row one = {.type = r->type, .residual = r->f32, .scratch = r->other};
    struct xp_rotated rotated = rotated_room(r->dim);
    float sums[2];

    EACH_ROW(r, one.row = row; one.ahead = row + row_bytes; r->k->rotate(&r->q, &one, &rotated, sums);
             r->sum += forecast ? (float)r->k->forecast(&r->q, r->format, &rotated) : 0;
             r->sum += r->k->code(&r->q, r->format, &rotated, &one, r->codes + i * r->code_bytes))
    free_rotated(&rotated);
}

static void run_code(void *arg)
{
    code_rows(arg, 0);
}

static void run_forecast(void *arg)
{
    code_rows(arg, 1);
}

static void run_rotate(void *arg)
{
    struct check_rows *r = arg;
    struct xp_code_row one = {.type = r->type, .residual = r->f32, .scratch = r->other};
    struct xp_rotated rotated = rotated_room(r->dim);
    float sums[2];

    EACH_ROW(r, one.row = row; r->k->rotate(&r->q, &one, &rotated, sums); r->sum += sums[0])
    free_rotated(&rotated);
}

static void bench_rotate(struct check *c, const struct xp_kernels *k)
{
    struct check_rows r = check_make_rows(c, k, XP_BF16, 4096);

    r.q.dim = 4096;
    r.q.signs = malloc(xp_sign_words(4096) * 4);
    xp_signs_fill(1, XP_SIGNS_QUANTISE, 4096, r.q.signs);
    bench_line(c, "bf16 dim 4096", r.data, r.rows * 4096 * 2, run_rotate, &r);
    free(r.q.signs);
    check_free_rows(&r);
}

static void bench_forecast(struct check *c, const struct xp_kernels *k)
{
    bench_formats(c, k, run_forecast, 4096);
}

static void bench_code(struct check *c, const struct xp_kernels *k)
{
    bench_formats(c, k, run_code, 4096);
    bench_formats(c, k, run_code, 576);
}

#define SLOT(entry) offsetof(struct xp_kernels, entry)

const struct check_row check_quant_rows[] = {
    {"quantise", SLOT(quantise), compare_quantise, bench_quantise},
    {"dequantise", SLOT(dequantise), compare_dequantise, bench_dequantise},
    {"deviation", SLOT(deviation), compare_deviation, bench_deviation},
    {"rotate", SLOT(rotate), compare_code, bench_rotate},
    {"forecast", SLOT(forecast), compare_code, bench_forecast},
    {"code", SLOT(code), compare_code, bench_code},
    {NULL, 0, NULL, NULL},
};
