/*
 * check_quant.c - checkkernels' rows for typed rows, centroids and the quantisers
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"
#include "hash/signs.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};
static const enum xp_qformat formats[] = {XP_Q_INT2,  XP_Q_INT25, XP_Q_INT3,  XP_Q_INT35, XP_Q_INT4,  XP_Q_INT45, XP_Q_INT5,
                                          XP_Q_INT55, XP_Q_INT6,  XP_Q_INT65, XP_Q_INT7,  XP_Q_INT75, XP_Q_INT8,  XP_Q_FP8};
#define FORMATS (sizeof(formats) / sizeof(formats[0]))

static size_t choose_dim(struct check *c)
{
    static const size_t dims[] = {384, 512, 576, 768, 1024, 2048, 4096};

    switch (check_below(c, 4)) {
    case 0: return dims[check_below(c, sizeof(dims) / sizeof(dims[0]))];
    case 1: return 1 + check_below(c, 2500);
    default: return 1 + check_below(c, 300);
    }
}

/* A row of this type in a guarded buffer, at any alignment the type allows. */
static struct guarded typed_row(struct check *c, enum check_fill fill, xp_dtype t, size_t dim)
{
    const size_t size = xp_dtype_size(t);
    struct guarded g = guard_alloc(dim * size, size * check_below(c, 20), 0);

    check_fill_row(c, fill, t, dim, g.p);
    return g;
}

/* ---- energy, distance ---- */

/* Which NaN a result is does not matter. */
static void same_nan(struct guarded *g)
{
    float *x = g->p;

    for (size_t i = 0; i < g->size / sizeof(*x); i++)
        x[i] = x[i] == x[i] ? x[i] : -1.0f;
}

static void put_sum(struct guarded *g, float sum)
{
    memcpy(g->p, &sum, sizeof(sum));
    same_nan(g);
}

static void compare_energy(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 40; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            const size_t n = choose_dim(c);
            struct guarded x = typed_row(c, (enum check_fill)fill, XP_F32, n), out[2];
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(sizeof(float), 0, 0);
            put_sum(&out[0], plain->energy(x.p, n));
            put_sum(&out[1], tested->energy(x.p, n));
            check_equal(c, &out[0], &out[1], "n %zu fill %s", n, check_fill_name((enum check_fill)fill));
            guard_free(&out[0]);
            guard_free(&out[1]);
            guard_free(&x);
        }
}

static void compare_distance(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 40; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            const size_t dim = choose_dim(c);
            const xp_dtype t = types[check_below(c, 3)];
            struct guarded a = typed_row(c, (enum check_fill)fill, t, dim), out[2];
            struct guarded b = typed_row(c, round & 1 ? FILL_GAUSS : (enum check_fill)fill, t, dim);
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(sizeof(float), 0, 0);
            const void *other = round % 3 ? b.p : NULL;
            put_sum(&out[0], plain->distance(a.p, other, t, dim));
            put_sum(&out[1], tested->distance(a.p, other, t, dim));
            check_equal(c, &out[0], &out[1], "%s dim %zu fill %s", check_dtype_name(t), dim, check_fill_name((enum check_fill)fill));
            guard_free(&out[0]);
            guard_free(&out[1]);
            guard_free(&a);
            guard_free(&b);
        }
}

/* ---- residual, restore ---- */

static void compare_residual(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 40; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            const size_t dim = choose_dim(c);
            const xp_dtype t = types[check_below(c, 3)];
            struct guarded row = typed_row(c, (enum check_fill)fill, t, dim), base = typed_row(c, FILL_GAUSS, XP_F32, dim), out[2];
            const float *b = round & 1 ? base.p : NULL;
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(dim * 4, 4 * check_below(c, 20), 0x55);
            plain->residual(row.p, t, b, dim, out[0].p);
            tested->residual(row.p, t, b, dim, out[1].p);
            same_nan(&out[0]);
            same_nan(&out[1]);
            check_equal(c, &out[0], &out[1], "%s dim %zu fill %s%s", check_dtype_name(t), dim, check_fill_name((enum check_fill)fill),
                        b ? ", base" : "");
            guard_free(&out[0]);
            guard_free(&out[1]);
            guard_free(&row);
            guard_free(&base);
        }
}

static void compare_residual_sums(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 40; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            const size_t dim = choose_dim(c);
            const xp_dtype t = types[check_below(c, 3)];
            struct guarded row = typed_row(c, (enum check_fill)fill, t, dim), base = typed_row(c, FILL_GAUSS, XP_F32, dim), out[2], sums[2];
            const float *b = round & 1 ? base.p : NULL;
            for (int i = 0; i < 2; i++) {
                out[i] = guard_alloc(dim * 4, 4 * check_below(c, 20), 0x55);
                sums[i] = guard_alloc(8, 0, 0x55);
            }
            plain->residual_sums(row.p, t, b, dim, out[0].p, sums[0].p);
            tested->residual_sums(row.p, t, b, dim, out[1].p, sums[1].p);
            for (int i = 0; i < 2; i++) {
                same_nan(&out[i]);
                same_nan(&sums[i]);
            }
            check_equal(c, &out[0], &out[1], "%s dim %zu fill %s%s", check_dtype_name(t), dim, check_fill_name((enum check_fill)fill),
                        b ? ", base" : "");
            check_equal(c, &sums[0], &sums[1], "sums: %s dim %zu fill %s%s", check_dtype_name(t), dim, check_fill_name((enum check_fill)fill),
                        b ? ", base" : "");
            for (int i = 0; i < 2; i++) {
                guard_free(&out[i]);
                guard_free(&sums[i]);
            }
            guard_free(&row);
            guard_free(&base);
        }
}

static void compare_restore(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 40; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            const size_t dim = choose_dim(c);
            const xp_dtype t = types[check_below(c, 3)];
            struct guarded in = typed_row(c, (enum check_fill)fill, XP_F32, dim), base = typed_row(c, FILL_GAUSS, XP_F32, dim), out[2];
            const float *b = round & 1 ? base.p : NULL;
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(dim * xp_dtype_size(t), xp_dtype_size(t) * check_below(c, 20), 0x55);
            plain->restore(in.p, b, dim, t, out[0].p);
            tested->restore(in.p, b, dim, t, out[1].p);
            if (t == XP_F32) {
                same_nan(&out[0]);
                same_nan(&out[1]);
            }
            check_equal(c, &out[0], &out[1], "%s dim %zu fill %s%s", check_dtype_name(t), dim, check_fill_name((enum check_fill)fill),
                        b ? ", base" : "");
            guard_free(&out[0]);
            guard_free(&out[1]);
            guard_free(&in);
            guard_free(&base);
        }
}

/* ---- fold_sum ---- */

#define MOST_TERMS 9

static void same_nan_typed(struct guarded *g, xp_dtype t)
{
    const uint16_t largest = t == XP_BF16 ? 0x7f80 : 0x7c00; /* infinity */
    uint16_t *x = g->p;

    if (t == XP_F32)
        same_nan(g);
    else
        for (size_t i = 0; i < g->size / sizeof(*x); i++)
            x[i] = (x[i] & 0x7fff) > largest ? 0x7fff : x[i];
}

static void compare_fold_sum(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 40; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            const size_t dim = choose_dim(c), n = check_below(c, MOST_TERMS + 1);
            const xp_dtype t = types[check_below(c, 3)];
            struct guarded x = typed_row(c, (enum check_fill)fill, t, dim), rows[MOST_TERMS][2], out[2];
            struct xp_fold_term terms[MOST_TERMS];
            const float scale = (float)check_gauss(c);
            const void *start = round & 1 ? x.p : NULL;

            for (size_t j = 0; j < n; j++) {
                for (int i = 0; i < 2; i++)
                    rows[j][i] = typed_row(c, check_below(c, 4) ? FILL_GAUSS : (enum check_fill)fill, t, dim);
                terms[j] = (struct xp_fold_term){rows[j][0].p, rows[j][1].p, (float)check_gauss(c), check_below(c, 3) ? (float)check_gauss(c) : 0};
                if (terms[j].alpha == 0.0f)
                    terms[j].centroid = NULL;
            }
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(dim * xp_dtype_size(t), xp_dtype_size(t) * check_below(c, 20), 0x55);
            plain->fold_sum(terms, n, scale, start, t, dim, out[0].p);
            tested->fold_sum(terms, n, scale, start, t, dim, out[1].p);
            for (int i = 0; i < 2; i++)
                same_nan_typed(&out[i], t);
            check_equal(c, &out[0], &out[1], "%s dim %zu, %zu terms, fill %s%s", check_dtype_name(t), dim, n, check_fill_name((enum check_fill)fill),
                        start ? ", x" : "");
            for (size_t j = 0; j < n; j++)
                for (int i = 0; i < 2; i++)
                    guard_free(&rows[j][i]);
            for (int i = 0; i < 2; i++)
                guard_free(&out[i]);
            guard_free(&x);
        }
}

/* ---- mean_add, centroid ---- */

static void compare_mean_add(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 40; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            const size_t dim = choose_dim(c);
            const xp_dtype t = types[check_below(c, 3)];
            const float most = round & 1 ? 1e30f : 3.0f * (float)dim; /* some rows are above */
            struct guarded row = typed_row(c, (enum check_fill)fill, t, dim), sum[2], counts[2];
            for (int i = 0; i < 2; i++) {
                sum[i] = guard_alloc(dim * 4, 4 * check_below(c, 20), 0);
                counts[i] = guard_alloc(4, 0, 0);
            }
            check_fill_row(c, FILL_GAUSS, XP_F32, dim, sum[0].p);
            memcpy(sum[1].p, sum[0].p, dim * 4);
            put_sum(&counts[0], (float)plain->mean_add(row.p, t, dim, most, NULL, sum[0].p));
            put_sum(&counts[1], (float)tested->mean_add(row.p, t, dim, most, round & 2 ? row.p : NULL, sum[1].p));
            check_equal(c, &counts[0], &counts[1], "counts: %s dim %zu fill %s", check_dtype_name(t), dim, check_fill_name((enum check_fill)fill));
            check_equal(c, &sum[0], &sum[1], "%s dim %zu fill %s", check_dtype_name(t), dim, check_fill_name((enum check_fill)fill));
            for (int i = 0; i < 2; i++) {
                guard_free(&sum[i]);
                guard_free(&counts[i]);
            }
            guard_free(&row);
        }
}


static void compare_centroid_case(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested, enum check_fill fill,
                                  size_t dim, size_t rows)
{
    const xp_dtype t = types[check_below(c, 3)];
    const size_t row_bytes = dim * xp_dtype_size(t), stored = rows < 40 ? rows + 1 : 40, K = check_below(c, 5);
    struct guarded data = guard_alloc(stored * row_bytes, xp_dtype_size(t) * check_below(c, 20), 0), out[2];
    uint32_t *order = malloc((rows + 1) * sizeof(*order)), start[6];
    struct xp_rows in = {.data = data.p, .rows = stored, .dim = dim, .dtype = t};

    for (size_t r = 0; r < stored; r++)
        check_fill_row(c, fill, t, dim, (char *)data.p + r * row_bytes);
    for (size_t r = 0; r < rows; r++)
        order[r] = (uint32_t)check_below(c, stored);
    for (size_t k = 0; k <= K; k++)
        start[k] = (uint32_t)(rows * k / (K ? K : 1));
    for (int i = 0; i < 2; i++)
        out[i] = guard_alloc(K * dim * 4, 4 * check_below(c, 20), 0x55);
    plain->centroid(&in, order, start, K, out[0].p);
    tested->centroid(&in, order, start, K, out[1].p);
    same_nan(&out[0]);
    same_nan(&out[1]);
    check_equal(c, &out[0], &out[1], "%s dim %zu rows %zu K %zu fill %s", check_dtype_name(t), dim, rows, K, check_fill_name(fill));
    guard_free(&out[0]);
    guard_free(&out[1]);
    guard_free(&data);
    free(order);
}

static void compare_centroid(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 20; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++)
            compare_centroid_case(c, plain, tested, (enum check_fill)fill, choose_dim(c), check_below(c, 60));
    compare_centroid_case(c, plain, tested, FILL_GAUSS, 33, 9000); /* more than one run of 4096 */
    compare_centroid_case(c, plain, tested, FILL_GAUSS, 1, 9000);
}

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
                struct xp_quantiser q = {.dim = choose_dim(c)};
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

static void compare_dequantise(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 200; round++)
        for (size_t f = 0; f < FORMATS; f++) {
            struct xp_quantiser q = {.dim = choose_dim(c)};
            const xp_dtype t = types[check_below(c, 3)];
            struct guarded in = guard_alloc(xp_qrow_bytes(formats[f], q.dim), check_below(c, 9), 0), out[2];
            struct guarded base = typed_row(c, round & 2 ? FILL_GAUSS : FILL_DENORMAL, XP_F32, q.dim);
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
            struct xp_quantiser q = {.dim = choose_dim(c)};
            const xp_dtype t = types[check_below(c, 3)];
            struct guarded in = guard_alloc(xp_qrow_bytes(formats[f], q.dim), check_below(c, 9), 0), out[2];
            struct guarded base = typed_row(c, FILL_GAUSS, XP_F32, q.dim);
            struct guarded row = typed_row(c, (enum check_fill)(round % FILL_COUNT), t, q.dim);
            struct guarded scratch = guard_alloc(q.dim * xp_dtype_size(t), 0, 0);
            fill_codes(c, (q.dim + XP_QBLOCK - 1) / XP_QBLOCK, &in);
            q.signs = malloc(xp_sign_words(q.dim) * 4);
            xp_signs_fill(check_random(c), XP_SIGNS_QUANTISE, q.dim, q.signs);
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(sizeof(float), 0, 0);
            const float *b = round & 1 ? base.p : NULL;
            put_sum(&out[0], plain->deviation(&q, formats[f], in.p, b, t, row.p, scratch.p));
            put_sum(&out[1], tested->deviation(&q, formats[f], in.p, b, t, row.p, scratch.p));
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
    struct guarded sums, figures, out; /* figures: forecast, deviation */
};

static struct coded code_row(struct check *c, const struct xp_kernels *k, const struct xp_quantiser *q, enum xp_qformat f,
                             const struct xp_code_row *of)
{
    struct guarded residual = guard_alloc(q->dim * 4, 0, 0x55), scratch = guard_alloc(q->dim * xp_dtype_size(of->type), 0, 0x55);
    struct coded r = {guard_alloc(2 * sizeof(float), 0, 0x55), guard_alloc(2 * sizeof(double), 0, 0x55),
                      guard_alloc(xp_qrow_bytes(f, q->dim), check_below(c, 9), 0x55)};
    struct xp_rotated rotated = rotated_room(q->dim);
    struct xp_code_row row = *of;
    double *figures = r.figures.p;

    row.residual = residual.p;
    row.scratch = scratch.p;
    k->rotate(q, &row, &rotated, r.sums.p);
    figures[0] = k->forecast(q, f, &rotated);
    figures[1] = (double)k->code(q, f, &rotated, &row, r.out.p);
    figures[1] = figures[1] == figures[1] ? figures[1] : -1;
    same_nan(&r.sums);
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
    struct xp_quantiser q = {.dim = choose_dim(c)};
    const xp_dtype t = check_below(c, 2) ? XP_BF16 : types[check_below(c, 3)];
    struct guarded row = typed_row(c, fill, t, q.dim), base = typed_row(c, FILL_GAUSS, XP_F32, q.dim);
    struct xp_code_row r = {row.p, t, with_base ? base.p : NULL, NULL, NULL, NULL};
    struct coded of[2];

    q.signs = malloc(xp_sign_words(q.dim) * 4);
    xp_signs_fill(check_random(c), XP_SIGNS_QUANTISE, q.dim, q.signs);
    of[0] = code_row(c, plain, &q, f, &r);
    r.ahead = row.p;
    of[1] = code_row(c, tested, &q, f, &r);
    check_equal(c, &of[0].sums, &of[1].sums, "sums: %s dim %zu fill %s%s", check_dtype_name(t), q.dim, check_fill_name(fill),
                with_base ? ", base" : "");
    if (finite_sums(&of[0])) {
        check_equal(c, &of[0].figures, &of[1].figures, "forecast, deviation: format %d %s dim %zu fill %s%s", f, check_dtype_name(t), q.dim,
                    check_fill_name(fill), with_base ? ", base" : "");
        check_equal(c, &of[0].out, &of[1].out, "format %d %s dim %zu fill %s%s", f, check_dtype_name(t), q.dim, check_fill_name(fill),
                    with_base ? ", base" : "");
    }
    for (int i = 0; i < 2; i++) {
        guard_free(&of[i].sums);
        guard_free(&of[i].figures);
        guard_free(&of[i].out);
    }
    guard_free(&row);
    guard_free(&base);
    free(q.signs);
}

static void compare_code(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 30; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++)
            for (size_t f = 0; f < FORMATS; f++)
                compare_code_case(c, plain, tested, (enum check_fill)fill, formats[f], round % 3 == 0);
}

/* ---- timing: 64 MiB of bf16 rows, from memory ---- */

struct rows_run {
    const struct xp_kernels *k;
    xp_dtype type;
    size_t rows, dim;
    char *data, *other;
    float *base, *f32;
    struct xp_quantiser q;
    enum xp_qformat format;
    uint8_t *codes;
    size_t code_bytes;
    uint32_t *order;
    float sum;
};

static struct rows_run make_rows(struct check *c, const struct xp_kernels *k, xp_dtype t, size_t dim)
{
    struct rows_run r = {.k = k, .type = t, .dim = dim, .rows = ((size_t)64 << 20) / (dim * 2)};
    const size_t row_bytes = dim * xp_dtype_size(t), bytes = r.rows * row_bytes;

    r.data = aligned_alloc(4096, bytes);
    r.other = aligned_alloc(4096, bytes);
    r.base = aligned_alloc(64, dim * 4 + 64);
    r.f32 = aligned_alloc(64, dim * 4 + 64);
    r.order = malloc(r.rows * sizeof(*r.order));
    for (size_t i = 0; i < r.rows; i++) {
        r.order[i] = (uint32_t)i;
        if (i < 16)
            check_fill_row(c, FILL_GAUSS, t, dim, r.data + i * row_bytes);
        else
            memcpy(r.data + i * row_bytes, r.data + i % 16 * row_bytes, row_bytes);
    }
    memcpy(r.other, r.data, bytes);
    check_fill_row(c, FILL_GAUSS, XP_F32, dim, r.base);
    check_fill_row(c, FILL_GAUSS, XP_F32, dim, r.f32);
    return r;
}

static void free_rows(struct rows_run *r)
{
    free(r->data);
    free(r->other);
    free(r->base);
    free(r->f32);
    free(r->order);
}

#define EACH_ROW(r, body)                                                                                                             \
    for (size_t i = 0; i < (r)->rows; i++) {                                                                                          \
        char *row = (r)->data + i * (r)->dim * xp_dtype_size((r)->type);                                                              \
        char *other = (r)->other + i * (r)->dim * xp_dtype_size((r)->type);                                                           \
        (void)row, (void)other;                                                                                                       \
        body;                                                                                                                         \
    }

static void run_energy(void *arg)
{
    struct rows_run *r = arg;
    EACH_ROW(r, r->sum += r->k->energy(r->f32, r->dim))
}

static void run_distance(void *arg)
{
    struct rows_run *r = arg;
    EACH_ROW(r, r->sum += r->k->distance(row, other, r->type, r->dim))
}

static void run_residual(void *arg)
{
    struct rows_run *r = arg;
    EACH_ROW(r, r->k->residual(row, r->type, r->base, r->dim, r->f32))
}

static void run_residual_sums(void *arg)
{
    struct rows_run *r = arg;
    float sums[2];
    EACH_ROW(r, r->k->residual_sums(row, r->type, r->base, r->dim, r->f32, sums); r->sum += sums[0] + sums[1])
}

static void run_restore(void *arg)
{
    struct rows_run *r = arg;
    EACH_ROW(r, r->k->restore(r->f32, r->base, r->dim, r->type, other))
}

static void run_fold_sum(void *arg)
{
    struct rows_run *r = arg;
    struct xp_fold_term term = {.centroid = r->data, .weight = 0.5f, .alpha = 0.25f};
    EACH_ROW(r, term.result = other; r->k->fold_sum(&term, 1, 0.5f, row, r->type, r->dim, other))
}

static void run_mean_add(void *arg)
{
    struct rows_run *r = arg;
    const size_t row_bytes = r->dim * xp_dtype_size(r->type);
    EACH_ROW(r, r->sum += (float)r->k->mean_add(row, r->type, r->dim, 1e30f, row + row_bytes, r->f32))
}

static void run_centroid(void *arg)
{
    struct rows_run *r = arg;
    const struct xp_rows in = {.data = r->data, .rows = r->rows, .dim = r->dim, .dtype = r->type};
    const uint32_t start[] = {0, (uint32_t)r->rows};
    r->k->centroid(&in, r->order, start, 1, r->f32);
}

static void bench_rows(struct check *c, const struct xp_kernels *k, void (*run)(void *), const char *what)
{
    char shape[64];

    for (size_t t = 0; t < 3; t++) {
        struct rows_run r = make_rows(c, k, types[t], 4096);
        snprintf(shape, sizeof(shape), "%s dim 4096, %s", check_dtype_name(types[t]), what);
        bench_line(c, shape, r.data, r.rows * r.dim * xp_dtype_size(r.type), run, &r);
        free_rows(&r);
    }
}

static void bench_energy(struct check *c, const struct xp_kernels *k)
{
    struct rows_run r = make_rows(c, k, XP_BF16, 4096);

    r.rows = 64;
    bench_line(c, "a row of 4096 in L1, counted as bf16 bytes", r.data, r.rows * r.dim * 2, run_energy, &r);
    free_rows(&r);
}

static void bench_distance(struct check *c, const struct xp_kernels *k)
{
    bench_rows(c, k, run_distance, "two rows from memory");
}

static void bench_residual(struct check *c, const struct xp_kernels *k)
{
    bench_rows(c, k, run_residual, "rows from memory");
}

static void bench_residual_sums(struct check *c, const struct xp_kernels *k)
{
    bench_rows(c, k, run_residual_sums, "rows from memory");
}

static void bench_restore(struct check *c, const struct xp_kernels *k)
{
    bench_rows(c, k, run_restore, "rows to memory");
}

static void bench_fold_sum(struct check *c, const struct xp_kernels *k)
{
    bench_rows(c, k, run_fold_sum, "one term, to memory");
}

static void bench_mean_add(struct check *c, const struct xp_kernels *k)
{
    bench_rows(c, k, run_mean_add, "rows from memory");
}

static void bench_centroid(struct check *c, const struct xp_kernels *k)
{
    bench_rows(c, k, run_centroid, "one cluster of all rows");
}

static void run_quantise(void *arg)
{
    struct rows_run *r = arg;
    EACH_ROW(r, r->k->quantise(&r->q, r->format, r->f32, r->codes + i * r->code_bytes))
}

static void run_dequantise(void *arg)
{
    struct rows_run *r = arg;
    EACH_ROW(r, r->k->dequantise(&r->q, r->format, r->codes + i * r->code_bytes, r->base, r->type, other))
}

static void run_deviation(void *arg)
{
    struct rows_run *r = arg;
    EACH_ROW(r, r->sum += r->k->deviation(&r->q, r->format, r->codes + i * r->code_bytes, r->base, r->type, row, other))
}

static void bench_formats(struct check *c, const struct xp_kernels *k, void (*run)(void *), size_t dim)
{
    struct rows_run r = make_rows(c, k, XP_BF16, dim);
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
    free_rows(&r);
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
static void code_rows(struct rows_run *r, int forecast)
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
    struct rows_run *r = arg;
    struct xp_code_row one = {.type = r->type, .residual = r->f32, .scratch = r->other};
    struct xp_rotated rotated = rotated_room(r->dim);
    float sums[2];

    EACH_ROW(r, one.row = row; r->k->rotate(&r->q, &one, &rotated, sums); r->sum += sums[0])
    free_rotated(&rotated);
}

static void bench_rotate(struct check *c, const struct xp_kernels *k)
{
    struct rows_run r = make_rows(c, k, XP_BF16, 4096);

    r.q.dim = 4096;
    r.q.signs = malloc(xp_sign_words(4096) * 4);
    xp_signs_fill(1, XP_SIGNS_QUANTISE, 4096, r.q.signs);
    bench_line(c, "bf16 dim 4096", r.data, r.rows * 4096 * 2, run_rotate, &r);
    free(r.q.signs);
    free_rows(&r);
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
    {"energy", SLOT(energy), compare_energy, bench_energy},
    {"distance", SLOT(distance), compare_distance, bench_distance},
    {"residual", SLOT(residual), compare_residual, bench_residual},
    {"residual_sums", SLOT(residual_sums), compare_residual_sums, bench_residual_sums},
    {"restore", SLOT(restore), compare_restore, bench_restore},
    {"fold_sum", SLOT(fold_sum), compare_fold_sum, bench_fold_sum},
    {"mean_add", SLOT(mean_add), compare_mean_add, bench_mean_add},
    {"centroid", SLOT(centroid), compare_centroid, bench_centroid},
    {"quantise", SLOT(quantise), compare_quantise, bench_quantise},
    {"dequantise", SLOT(dequantise), compare_dequantise, bench_dequantise},
    {"deviation", SLOT(deviation), compare_deviation, bench_deviation},
    {"rotate", SLOT(rotate), compare_code, bench_rotate},
    {"forecast", SLOT(forecast), compare_code, bench_forecast},
    {"code", SLOT(code), compare_code, bench_code},
    {NULL, 0, NULL, NULL},
};
