/*
 * check_uniform.c - checkkernels' rows for the uniform quantiser with one step per row
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct values {
    size_t groups;
    struct guarded x, per_group, q, dither;
    float inverse;
};

static struct values make_values(struct check *c, enum check_fill fill)
{
    struct values v = {.groups = check_below(c, 4) ? 1 + check_below(c, 40) : check_below(c, 600)};
    const double scale = exp2(-20 + 40.0 * (double)check_below(c, 1000) / 1000);

    v.inverse = (float)(1 / scale);
    v.x = guard_alloc(64 * v.groups, 0, 0);
    v.per_group = guard_alloc(4 * v.groups, 0, 0);
    v.q = guard_alloc(32 * v.groups, 0, 0);
    v.dither = guard_alloc(64 * v.groups, 0, 0);
    check_fill_row(c, fill == FILL_NAN || fill == FILL_BITS ? FILL_GAUSS : fill, XP_F32, 16 * v.groups, v.x.p);
    for (size_t i = 0; i < 16 * v.groups; i++) {
        float *x = (float *)v.x.p + i;

        if (fill == FILL_NAN) /* exactly between two integers */
            *x = (float)(((double)check_below(c, 64) - 32) * 0.5 * scale);
        if (fill == FILL_BITS)
            *x = (float)(check_gauss(c) * scale * exp2((double)check_below(c, 24)));
        ((int16_t *)v.q.p)[i] = (int16_t)check_random(c);
        ((float *)v.dither.p)[i] = ((float)check_below(c, 256) * 2 - 255) / 512;
    }
    for (size_t g = 0; g < v.groups; g++)
        ((float *)v.per_group.p)[g] = 0.5f - 0.01f * (float)check_below(c, 20);
    return v;
}

static void free_values(struct values *v)
{
    guard_free(&v->x);
    guard_free(&v->per_group);
    guard_free(&v->q);
    guard_free(&v->dither);
}

/* NULL in half of the rounds. */
static const float *dither_of(const struct values *v, int round)
{
    return round & 1 ? v->dither.p : NULL;
}

static void compare_sum(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested, int error)
{
    for (int round = 0; round < 60; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            struct values v = make_values(c, (enum check_fill)fill);
            struct guarded sum[2] = {guard_alloc(4, 0, 0), guard_alloc(4, 0, 0)};

            for (int i = 0; i < 2; i++) {
                const struct xp_kernels *k = i ? tested : plain;
                *(float *)sum[i].p = error ? k->uniform_error(v.x.p, v.groups, v.inverse, v.per_group.p, dither_of(&v, round))
                                           : k->uniform_spread(v.x.p, v.groups, v.per_group.p);
                if (isnan(*(float *)sum[i].p)) /* any NaN is as good as another */
                    *(float *)sum[i].p = NAN;
            }
            check_equal(c, &sum[0], &sum[1], "%zu groups, fill %s%s", v.groups, check_fill_name((enum check_fill)fill),
                        error && round & 1 ? ", dithered" : "");
            guard_free(&sum[0]);
            guard_free(&sum[1]);
            free_values(&v);
        }
}

static void compare_spread(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    compare_sum(c, plain, tested, 0);
}

static void compare_error(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    compare_sum(c, plain, tested, 1);
}

/* Vectors side by side, and some values between them. */
struct vectors {
    size_t count, stride;
    struct guarded b, factor; /* some factors are 0 */
};

static struct vectors make_vectors(struct check *c, size_t groups)
{
    struct vectors v = {.count = check_below(c, 36), .stride = 16 * groups + 16 * check_below(c, 2)};

    v.b = guard_alloc(4 * ((v.count ? v.count - 1 : 0) * v.stride + 16 * groups), 0, 0);
    v.factor = guard_alloc(4 * v.count, 0, 0);
    check_fill_row(c, FILL_GAUSS, XP_F32, v.b.size / 4, v.b.p);
    for (size_t j = 0; j < v.count; j++)
        ((float *)v.factor.p)[j] = check_below(c, 4) ? (float)check_gauss(c) : 0;
    return v;
}

static void free_vectors(struct vectors *v)
{
    guard_free(&v->b);
    guard_free(&v->factor);
}

static void compare_dots(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 60; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            struct values a = make_values(c, (enum check_fill)fill);
            struct vectors v = make_vectors(c, a.groups);
            struct guarded sum[2] = {guard_alloc(4 * v.count, 0, 0), guard_alloc(4 * v.count, 0, 0)};

            for (int i = 0; i < 2; i++) {
                (i ? tested : plain)->vector_dots(a.x.p, v.b.p, v.stride, v.count, a.groups, sum[i].p);
                for (size_t j = 0; j < v.count; j++)
                    if (isnan(((float *)sum[i].p)[j]))
                        ((float *)sum[i].p)[j] = NAN;
            }
            check_equal(c, &sum[0], &sum[1], "%zu groups, %zu vectors, fill %s", a.groups, v.count, check_fill_name((enum check_fill)fill));
            guard_free(&sum[0]);
            guard_free(&sum[1]);
            free_vectors(&v);
            free_values(&a);
        }
}

static void compare_adds(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 60; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            struct values x = make_values(c, (enum check_fill)fill);
            struct vectors v = make_vectors(c, x.groups);
            struct guarded a[2] = {guard_alloc(64 * x.groups, 0, 0), guard_alloc(64 * x.groups, 0, 0)};

            memcpy(a[0].p, x.x.p, a[0].size);
            memcpy(a[1].p, x.x.p, a[1].size);
            plain->vector_adds(a[0].p, v.b.p, v.stride, v.factor.p, v.count, x.groups);
            tested->vector_adds(a[1].p, v.b.p, v.stride, v.factor.p, v.count, x.groups);
            check_equal(c, &a[0], &a[1], "%zu groups, %zu vectors, fill %s", x.groups, v.count, check_fill_name((enum check_fill)fill));
            guard_free(&a[0]);
            guard_free(&a[1]);
            free_vectors(&v);
            free_values(&x);
        }
}

static void shuffle(struct check *c, uint8_t *index, size_t n)
{
    for (size_t w = 0; w < n; w += XP_REORDER_WINDOW) {
        const size_t rest = n - w < XP_REORDER_WINDOW ? n - w : XP_REORDER_WINDOW;

        for (size_t i = 0; i < rest; i++)
            index[w + i] = (uint8_t)check_below(c, rest);
    }
}

/* In some rounds some of the n values become denormals or less. */
static void make_tiny(struct check *c, float *x, size_t n)
{
    if (check_below(c, 4) == 0)
        for (size_t i = 0; i < n; i += 1 + check_below(c, 40))
            x[i] *= 0x1p-130f;
}

/* A row of n values, of which x is what is left of it beyond base; both have zeros behind them. */
static struct guarded make_row(struct check *c, const struct xp_kernels *k, struct values *v, float *base, xp_dtype t, size_t n, size_t gap)
{
    struct guarded row = guard_alloc(n * xp_dtype_size(t), gap, 0);

    check_fill_row(c, FILL_GAUSS, XP_F32, 16 * v->groups, base);
    make_tiny(c, base, n);
    memset(base + n, 0, 4 * (16 * v->groups - n));
    memset((float *)v->x.p + n, 0, 4 * (16 * v->groups - n));
    k->restore(v->x.p, base, n, t, row.p);
    return row;
}

/* What a kernel makes of a row. */
struct view {
    struct guarded typed, rest, sums;
};

static struct view make_view(const struct xp_kernels *k, const struct xp_uniform_view *v, size_t gap)
{
    struct view r = {.typed = guard_alloc(v->dim * xp_dtype_size(v->dtype), gap, 0x55), .rest = guard_alloc((v->dim + 15) / 16 * 64, 0, 0x55),
                     .sums = guard_alloc(sizeof(struct xp_uniform_sums), 0, 0)};
    float *sum = r.sums.p;

    k->uniform_view(v, r.typed.p, r.rest.p, r.sums.p);
    for (size_t i = 0; i < r.sums.size / 4; i++)
        sum[i] = isnan(sum[i]) ? NAN : sum[i]; /* any NaN is as good as another */
    for (size_t i = 0; i < r.rest.size / 4; i++)
        if (isnan(((float *)r.rest.p)[i]))
            ((float *)r.rest.p)[i] = NAN;
    return r;
}

static void free_view(struct view *r)
{
    guard_free(&r->typed);
    guard_free(&r->rest);
    guard_free(&r->sums);
}

static void compare_view(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};

    for (int round = 0; round < 60; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            struct values v = make_values(c, FILL_GAUSS);
            const xp_dtype t = check_below(c, 2) ? XP_BF16 : types[check_below(c, 3)];
            const size_t n = v.groups ? 16 * v.groups - check_below(c, 16) : 0, gap = 2 * check_below(c, 20);
            struct guarded row = guard_alloc(n * xp_dtype_size(t), gap, 0), index = guard_alloc(n + 32, 0, 0), mean = guard_alloc(64 * v.groups, 0, 0);
            const struct xp_uniform_view view = {.row = row.p, .dtype = t, .dim = n, .index = index.p, .base = v.x.p,
                                                 .mean = check_below(c, 2) ? mean.p : NULL, .weight = v.per_group.p,
                                                 .row_ahead = check_below(c, 2) ? row.p : NULL, .base_ahead = check_below(c, 2) ? mean.p : NULL};
            struct view r[2];

            check_fill_row(c, (enum check_fill)fill, t, n, row.p);
            check_fill_row(c, FILL_GAUSS, XP_F32, n, mean.p);
            memset((float *)v.x.p + n, 0, 4 * (16 * v.groups - n));
            shuffle(c, index.p, n);
            for (int i = 0; i < 2; i++)
                r[i] = make_view(i ? tested : plain, &view, gap);
            check_equal(c, &r[0].typed, &r[1].typed, "row, %s, %zu values, gap %zu", check_dtype_name(t), n, gap);
            check_equal(c, &r[0].rest, &r[1].rest, "rest, %s, %zu values, fill %s", check_dtype_name(t), n, check_fill_name((enum check_fill)fill));
            check_equal(c, &r[0].sums, &r[1].sums,
                        "sums, %s, %zu values, fill %s, %s", check_dtype_name(t), n, check_fill_name((enum check_fill)fill), view.mean ? "mean" : "no mean");
            free_view(&r[0]);
            free_view(&r[1]);
            guard_free(&row);
            guard_free(&index);
            guard_free(&mean);
            free_values(&v);
        }
}

static void compare_code(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};

    for (int round = 0; round < 60; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            struct values v = make_values(c, (enum check_fill)fill);
            const xp_dtype t = types[check_below(c, 3)];
            const size_t n = v.groups ? 16 * v.groups - check_below(c, 16) : 0, gap = 2 * check_below(c, 20);
            struct guarded base = guard_alloc(64 * v.groups, 0, 0), row = make_row(c, plain, &v, base.p, t, n, gap);
            const struct xp_uniform_row r = {.x = v.x.p, .bias = v.per_group.p, .dither = dither_of(&v, round), .base = base.p,
                                             .step = 1 / v.inverse, .inverse = v.inverse, .dtype = t, .dim = n, .row = row.p};
            struct guarded q[2] = {guard_alloc(32 * v.groups, 0, 0x55), guard_alloc(32 * v.groups, 0, 0x55)};
            struct guarded error[2] = {guard_alloc(4, 0, 0), guard_alloc(4, 0, 0)};

            for (int i = 0; i < 2; i++) {
                const float e = (i ? tested : plain)->uniform_code(&r, q[i].p);

                *(float *)error[i].p = isnan(e) ? NAN : e; /* any NaN is as good as another */
            }
            check_equal(c, &q[0], &q[1], "integers, %s, %zu values, fill %s, inverse %g%s", check_dtype_name(t), n,
                        check_fill_name((enum check_fill)fill), (double)v.inverse, round & 1 ? ", dithered" : "");
            check_equal(c, &error[0], &error[1], "error, %s, %zu values, fill %s, inverse %g, gap %zu%s", check_dtype_name(t), n,
                        check_fill_name((enum check_fill)fill), (double)v.inverse, gap, round & 1 ? ", dithered" : "");
            for (int i = 0; i < 2; i++) {
                guard_free(&q[i]);
                guard_free(&error[i]);
            }
            guard_free(&base);
            guard_free(&row);
            free_values(&v);
        }
}

static void compare_restore(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};

    for (int round = 0; round < 60; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            struct values v = make_values(c, (enum check_fill)fill);
            const xp_dtype t = types[check_below(c, 3)];
            const size_t n = v.groups ? 16 * v.groups - check_below(c, 16) : 0, gap = 2 * check_below(c, 20);
            const float step = t == XP_F16 ? 0.01f : 1 / v.inverse;
            struct guarded row[2] = {guard_alloc(n * xp_dtype_size(t), gap, 0x55), guard_alloc(n * xp_dtype_size(t), gap, 0x55)};

            make_tiny(c, v.x.p, n);
            for (size_t i = 0; i < n; i += 3)
                ((int16_t *)v.q.p)[i] = 0;
            plain->uniform_restore(v.q.p, v.x.p, n, step, dither_of(&v, round), t, row[0].p);
            tested->uniform_restore(v.q.p, v.x.p, n, step, dither_of(&v, round), t, row[1].p);
            check_equal(c, &row[0], &row[1], "%s, %zu values, fill %s, step %g, gap %zu%s", check_dtype_name(t), n,
                        check_fill_name((enum check_fill)fill), (double)step, gap, round & 1 ? ", dithered" : "");
            guard_free(&row[0]);
            guard_free(&row[1]);
            free_values(&v);
        }
}

static void compare_dither(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 200; round++) {
        const size_t groups = check_below(c, 70), values = 16 * groups;
        const uint64_t key = check_random(c), row = check_below(c, 2) ? check_random(c) : check_below(c, 100);
        struct guarded out[2];

        for (int i = 0; i < 2; i++) {
            out[i] = guard_alloc(4 * (values + XP_DITHER_ROOM), 0, 0x55);
            (i ? tested : plain)->uniform_dither(key, row, groups, out[i].p);
            memset((float *)out[i].p + values, 0x55, 4 * XP_DITHER_ROOM); /* may be written */
        }
        check_equal(c, &out[0], &out[1], "%zu groups, key %llx, row %llu", groups, (unsigned long long)key, (unsigned long long)row);
        guard_free(&out[0]);
        guard_free(&out[1]);
    }
}

/* ---- reorder ---- */

static void compare_reorder(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 200; round++) {
        const size_t size = round & 1 ? 4 : 2, n = check_below(c, 5) ? check_below(c, 1200) : 256 * check_below(c, 20);
        const size_t gap = check_below(c, 9);
        struct guarded in = guard_alloc(n * size, gap, 0), index = guard_alloc(n, 0, 0);
        struct guarded out[2] = {guard_alloc(n * size, gap, 0x55), guard_alloc(n * size, gap, 0x55)};

        check_fill_row(c, FILL_BITS, XP_BYTE, n * size, in.p);
        shuffle(c, index.p, n);
        plain->reorder(in.p, index.p, n, size, out[0].p);
        tested->reorder(in.p, index.p, n, size, out[1].p);
        check_equal(c, &out[0], &out[1], "%zu values of %zu bytes, gap %zu", n, size, gap);
        guard_free(&in);
        guard_free(&index);
        guard_free(&out[0]);
        guard_free(&out[1]);
    }
}

/* ---- speed: GB/s of bf16 values, in the first cache ---- */

#define BENCH_GROUPS 256

struct run {
    const struct xp_kernels *k;
    float x[16 * BENCH_GROUPS], y[16 * BENCH_GROUPS], dither[16 * BENCH_GROUPS + XP_DITHER_ROOM], per_group[BENCH_GROUPS], sum;
    int16_t q[16 * BENCH_GROUPS];
    uint16_t row[16 * BENCH_GROUPS], row2[16 * BENCH_GROUPS];
    uint8_t index[16 * BENCH_GROUPS];
};

static void run_reorder(void *arg)
{
    struct run *r = arg;
    r->k->reorder(r->row, r->index, 16 * BENCH_GROUPS, 2, r->row2);
}

static void run_dither(void *arg)
{
    struct run *r = arg;
    r->k->uniform_dither(1, 2, BENCH_GROUPS, r->dither);
}

static void run_spread(void *arg)
{
    struct run *r = arg;
    r->sum += r->k->uniform_spread(r->x, BENCH_GROUPS, r->per_group);
}

static void run_view(void *arg)
{
    struct run *r = arg;
    struct xp_uniform_sums sums;
    r->k->uniform_view(&(struct xp_uniform_view){.row = r->row, .dtype = XP_BF16, .dim = 16 * BENCH_GROUPS, .index = r->index, .base = r->y,
                                                 .weight = r->per_group}, r->row2, r->x, &sums);
    r->sum += sums.rest;
}

static void run_error(void *arg)
{
    struct run *r = arg;
    r->sum += r->k->uniform_error(r->x, BENCH_GROUPS, 10.0f, r->per_group, NULL);
}

static void run_code(void *arg)
{
    struct run *r = arg;
    r->sum += r->k->uniform_code(&(struct xp_uniform_row){.x = r->x, .bias = r->per_group, .base = r->y, .step = 0.1f, .inverse = 10.0f,
                                                          .dtype = XP_BF16, .dim = 16 * BENCH_GROUPS, .row = r->row}, r->q);
}

static void run_restore(void *arg)
{
    struct run *r = arg;
    r->k->uniform_restore(r->q, r->x, 16 * BENCH_GROUPS, 0.1f, NULL, XP_BF16, r->row);
}

static void bench(struct check *c, const struct xp_kernels *k, void (*what)(void *))
{
    struct run *r = aligned_alloc(64, (sizeof(*r) + 63) / 64 * 64);

    r->k = k;
    r->sum = 0;
    for (size_t i = 0; i < 16 * BENCH_GROUPS; i++) {
        r->x[i] = (float)check_gauss(c);
        r->q[i] = (int16_t)(10 * check_gauss(c));
        r->per_group[i / 16] = 0.45f;
        r->index[i] = (uint8_t)check_random(c);
        r->row[i] = (uint16_t)(0x3f00 + i % 256);
        r->y[i] = 0;
    }
    bench_line(c, "4096 values as bf16", r->row, sizeof(r->row), what, r);
    free(r);
}

static void bench_reorder(struct check *c, const struct xp_kernels *k)
{
    bench(c, k, run_reorder);
}

#define BENCH_VECTORS 32
#define BENCH_DIM 768

struct vectors_run {
    const struct xp_kernels *k;
    float x[BENCH_DIM], b[BENCH_VECTORS * BENCH_DIM], sum[BENCH_VECTORS];
};

static void run_dots(void *arg)
{
    struct vectors_run *r = arg;
    r->k->vector_dots(r->x, r->b, BENCH_DIM, BENCH_VECTORS, BENCH_DIM / 16, r->sum);
}

static void run_adds(void *arg)
{
    struct vectors_run *r = arg;
    r->k->vector_adds(r->x, r->b, BENCH_DIM, r->sum, BENCH_VECTORS, BENCH_DIM / 16);
}

static void bench_vectors(struct check *c, const struct xp_kernels *k, void (*what)(void *))
{
    struct vectors_run *r = calloc(1, sizeof(*r));

    r->k = k;
    for (size_t i = 0; i < BENCH_VECTORS * BENCH_DIM; i++)
        r->b[i] = (float)check_gauss(c);
    for (size_t j = 0; j < BENCH_VECTORS; j++)
        r->sum[j] = 1e-3f;
    bench_line(c, "768 values as bf16, 32 vectors", r->x, 2 * BENCH_DIM, what, r);
    free(r);
}

static void bench_dots(struct check *c, const struct xp_kernels *k)
{
    bench_vectors(c, k, run_dots);
}

static void bench_adds(struct check *c, const struct xp_kernels *k)
{
    bench_vectors(c, k, run_adds);
}

static void bench_dither(struct check *c, const struct xp_kernels *k)
{
    bench(c, k, run_dither);
}

static void bench_spread(struct check *c, const struct xp_kernels *k)
{
    bench(c, k, run_spread);
}

static void bench_view(struct check *c, const struct xp_kernels *k)
{
    bench(c, k, run_view);
}

static void bench_error(struct check *c, const struct xp_kernels *k)
{
    bench(c, k, run_error);
}

static void bench_code(struct check *c, const struct xp_kernels *k)
{
    bench(c, k, run_code);
}

static void bench_restore(struct check *c, const struct xp_kernels *k)
{
    bench(c, k, run_restore);
}

const struct check_row check_uniform_rows[] = {
    {"reorder", offsetof(struct xp_kernels, reorder), compare_reorder, bench_reorder},
    {"vector_dots", offsetof(struct xp_kernels, vector_dots), compare_dots, bench_dots},
    {"vector_adds", offsetof(struct xp_kernels, vector_adds), compare_adds, bench_adds},
    {"uniform_spread", offsetof(struct xp_kernels, uniform_spread), compare_spread, bench_spread},
    {"uniform_view", offsetof(struct xp_kernels, uniform_view), compare_view, bench_view},
    {"uniform_dither", offsetof(struct xp_kernels, uniform_dither), compare_dither, bench_dither},
    {"uniform_error", offsetof(struct xp_kernels, uniform_error), compare_error, bench_error},
    {"uniform_code", offsetof(struct xp_kernels, uniform_code), compare_code, bench_code},
    {"uniform_restore", offsetof(struct xp_kernels, uniform_restore), compare_restore, bench_restore},
    {NULL, 0, NULL, NULL},
};
