/*
 * check_typed.c - checkkernels' rows for typed rows: energies, residuals, sums, means
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check_typed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const xp_dtype check_types[3] = {XP_BF16, XP_F16, XP_F32};

size_t check_dim(struct check *c)
{
    static const size_t dims[] = {64, 384, 512, 576, 768, 1024, 2048, 2112, 4096};

    switch (check_below(c, 4)) {
    case 0: return dims[check_below(c, sizeof(dims) / sizeof(dims[0]))];
    case 1: return 1 + check_below(c, 2500);
    default: return 1 + check_below(c, 300);
    }
}

struct guarded check_typed_row(struct check *c, enum check_fill fill, xp_dtype t, size_t dim)
{
    const size_t size = xp_dtype_size(t);
    struct guarded g = guard_alloc(dim * size, size * check_below(c, 20), 0);

    check_fill_row(c, fill, t, dim, g.p);
    return g;
}

void check_same_nan(struct guarded *g)
{
    float *x = g->p;

    for (size_t i = 0; i < g->size / sizeof(*x); i++)
        x[i] = x[i] == x[i] ? x[i] : -1.0f;
}

void check_put_sum(struct guarded *g, float sum)
{
    memcpy(g->p, &sum, sizeof(sum));
    check_same_nan(g);
}

/* ---- energy, distance ---- */

static void compare_energy(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 40; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            const size_t n = check_dim(c);
            struct guarded x = check_typed_row(c, (enum check_fill)fill, XP_F32, n), out[2];
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(sizeof(float), 0, 0);
            check_put_sum(&out[0], plain->energy(x.p, n));
            check_put_sum(&out[1], tested->energy(x.p, n));
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
            const size_t dim = check_dim(c);
            const xp_dtype t = check_types[check_below(c, 3)];
            struct guarded a = check_typed_row(c, (enum check_fill)fill, t, dim), out[2];
            struct guarded b = check_typed_row(c, round & 1 ? FILL_GAUSS : (enum check_fill)fill, t, dim);
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(sizeof(float), 0, 0);
            const void *other = round % 3 ? b.p : NULL;
            check_put_sum(&out[0], plain->distance(a.p, other, t, dim));
            check_put_sum(&out[1], tested->distance(a.p, other, t, dim));
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
            const size_t dim = check_dim(c);
            const xp_dtype t = check_types[check_below(c, 3)];
            struct guarded row = check_typed_row(c, (enum check_fill)fill, t, dim), base = check_typed_row(c, FILL_GAUSS, XP_F32, dim), out[2];
            const float *b = round & 1 ? base.p : NULL;
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(dim * 4, 4 * check_below(c, 20), 0x55);
            plain->residual(row.p, t, b, dim, out[0].p);
            tested->residual(row.p, t, b, dim, out[1].p);
            check_same_nan(&out[0]);
            check_same_nan(&out[1]);
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
            const size_t dim = check_dim(c);
            const xp_dtype t = check_types[check_below(c, 3)];
            struct guarded row = check_typed_row(c, (enum check_fill)fill, t, dim), base = check_typed_row(c, FILL_GAUSS, XP_F32, dim), out[2], sums[2];
            const float *b = round & 1 ? base.p : NULL;
            for (int i = 0; i < 2; i++) {
                out[i] = guard_alloc(dim * 4, 4 * check_below(c, 20), 0x55);
                sums[i] = guard_alloc(8, 0, 0x55);
            }
            plain->residual_sums(row.p, t, b, dim, out[0].p, sums[0].p);
            tested->residual_sums(row.p, t, b, dim, out[1].p, sums[1].p);
            for (int i = 0; i < 2; i++) {
                check_same_nan(&out[i]);
                check_same_nan(&sums[i]);
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
            const size_t dim = check_dim(c);
            const xp_dtype t = check_types[check_below(c, 3)];
            struct guarded in = check_typed_row(c, (enum check_fill)fill, XP_F32, dim), base = check_typed_row(c, FILL_GAUSS, XP_F32, dim), out[2];
            const float *b = round & 1 ? base.p : NULL;
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(dim * xp_dtype_size(t), xp_dtype_size(t) * check_below(c, 20), 0x55);
            plain->restore(in.p, b, dim, t, out[0].p);
            tested->restore(in.p, b, dim, t, out[1].p);
            if (t == XP_F32) {
                check_same_nan(&out[0]);
                check_same_nan(&out[1]);
            }
            check_equal(c, &out[0], &out[1], "%s dim %zu fill %s%s", check_dtype_name(t), dim, check_fill_name((enum check_fill)fill),
                        b ? ", base" : "");
            guard_free(&out[0]);
            guard_free(&out[1]);
            guard_free(&in);
            guard_free(&base);
        }
}

void check_same_nan_typed(struct guarded *g, xp_dtype t)
{
    const uint16_t largest = t == XP_BF16 ? 0x7f80 : 0x7c00; /* infinity */
    uint16_t *x = g->p;

    if (t == XP_F32)
        check_same_nan(g);
    else
        for (size_t i = 0; i < g->size / sizeof(*x); i++)
            x[i] = (x[i] & 0x7fff) > largest ? 0x7fff : x[i];
}

#define MOST_TERMS 9

/* ---- row_sum ---- */

static void compare_row_sum(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 40; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            const size_t dim = check_dim(c), n = check_below(c, MOST_TERMS + 1);
            const xp_dtype t = check_types[check_below(c, 3)];
            struct guarded rows[MOST_TERMS], out[2];
            struct xp_sum_term terms[MOST_TERMS];

            for (size_t j = 0; j < n; j++) {
                rows[j] = check_typed_row(c, check_below(c, 4) ? FILL_GAUSS : (enum check_fill)fill, t, dim);
                terms[j] = (struct xp_sum_term){rows[j].p, round & 1 ? (float)check_gauss(c) : 1, j + 1 == n || check_below(c, 2)};
            }
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(dim * xp_dtype_size(t), xp_dtype_size(t) * check_below(c, 20), 0x55);
            plain->row_sum(terms, n, t, dim, out[0].p);
            tested->row_sum(terms, n, t, dim, out[1].p);
            for (int i = 0; i < 2; i++)
                check_same_nan_typed(&out[i], t);
            check_equal(c, &out[0], &out[1], "%s dim %zu, %zu terms, fill %s", check_dtype_name(t), dim, n, check_fill_name((enum check_fill)fill));
            for (size_t j = 0; j < n; j++)
                guard_free(&rows[j]);
            for (int i = 0; i < 2; i++)
                guard_free(&out[i]);
        }
}

/* ---- mean_add, centroid ---- */

static void compare_mean_add(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 40; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            const size_t dim = check_dim(c);
            const xp_dtype t = check_types[check_below(c, 3)];
            const float most = round & 1 ? 1e30f : 3.0f * (float)dim; /* some rows are above */
            struct guarded row = check_typed_row(c, (enum check_fill)fill, t, dim), sum[2], counts[2];
            for (int i = 0; i < 2; i++) {
                sum[i] = guard_alloc(dim * 4, 4 * check_below(c, 20), 0);
                counts[i] = guard_alloc(4, 0, 0);
            }
            check_fill_row(c, FILL_GAUSS, XP_F32, dim, sum[0].p);
            memcpy(sum[1].p, sum[0].p, dim * 4);
            check_put_sum(&counts[0], (float)plain->mean_add(row.p, t, dim, most, NULL, sum[0].p));
            check_put_sum(&counts[1], (float)tested->mean_add(row.p, t, dim, most, round & 2 ? row.p : NULL, sum[1].p));
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
    const xp_dtype t = check_types[check_below(c, 3)];
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
    check_same_nan(&out[0]);
    check_same_nan(&out[1]);
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
            compare_centroid_case(c, plain, tested, (enum check_fill)fill, check_dim(c), check_below(c, 60));
    compare_centroid_case(c, plain, tested, FILL_GAUSS, 33, 9000); /* more than one run of 4096 */
    compare_centroid_case(c, plain, tested, FILL_GAUSS, 1, 9000);
}

/* ---- timing ---- */

struct check_rows check_make_rows(struct check *c, const struct xp_kernels *k, xp_dtype t, size_t dim)
{
    struct check_rows r = {.k = k, .type = t, .dim = dim, .rows = ((size_t)64 << 20) / (dim * 2)};
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

void check_free_rows(struct check_rows *r)
{
    free(r->data);
    free(r->other);
    free(r->base);
    free(r->f32);
    free(r->order);
}

static void run_energy(void *arg)
{
    struct check_rows *r = arg;
    EACH_ROW(r, r->sum += r->k->energy(r->f32, r->dim))
}

static void run_distance(void *arg)
{
    struct check_rows *r = arg;
    EACH_ROW(r, r->sum += r->k->distance(row, other, r->type, r->dim))
}

static void run_residual(void *arg)
{
    struct check_rows *r = arg;
    EACH_ROW(r, r->k->residual(row, r->type, r->base, r->dim, r->f32))
}

static void run_residual_sums(void *arg)
{
    struct check_rows *r = arg;
    float sums[2];
    EACH_ROW(r, r->k->residual_sums(row, r->type, r->base, r->dim, r->f32, sums); r->sum += sums[0] + sums[1])
}

static void run_restore(void *arg)
{
    struct check_rows *r = arg;
    EACH_ROW(r, r->k->restore(r->f32, r->base, r->dim, r->type, other))
}

static void run_row_sum(void *arg)
{
    struct check_rows *r = arg;
    struct xp_sum_term terms[] = {{NULL, 0.5f, 0}, {r->data, 0.25f, 1}};
    EACH_ROW(r, terms[0].row = row; r->k->row_sum(terms, 2, r->type, r->dim, other))
}

static void run_mean_add(void *arg)
{
    struct check_rows *r = arg;
    const size_t row_bytes = r->dim * xp_dtype_size(r->type);
    EACH_ROW(r, r->sum += (float)r->k->mean_add(row, r->type, r->dim, 1e30f, row + row_bytes, r->f32))
}

static void run_centroid(void *arg)
{
    struct check_rows *r = arg;
    const struct xp_rows in = {.data = r->data, .rows = r->rows, .dim = r->dim, .dtype = r->type};
    const uint32_t start[] = {0, (uint32_t)r->rows};
    r->k->centroid(&in, r->order, start, 1, r->f32);
}

static void bench_rows(struct check *c, const struct xp_kernels *k, void (*run)(void *), const char *what)
{
    char shape[64];

    for (size_t t = 0; t < 3; t++) {
        struct check_rows r = check_make_rows(c, k, check_types[t], 4096);
        snprintf(shape, sizeof(shape), "%s dim 4096, %s", check_dtype_name(check_types[t]), what);
        bench_line(c, shape, r.data, r.rows * r.dim * xp_dtype_size(r.type), run, &r);
        check_free_rows(&r);
    }
}

static void bench_energy(struct check *c, const struct xp_kernels *k)
{
    struct check_rows r = check_make_rows(c, k, XP_BF16, 4096);

    r.rows = 64;
    bench_line(c, "a row of 4096 in L1, counted as bf16 bytes", r.data, r.rows * r.dim * 2, run_energy, &r);
    check_free_rows(&r);
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

static void bench_row_sum(struct check *c, const struct xp_kernels *k)
{
    bench_rows(c, k, run_row_sum, "two terms, to memory");
}

static void bench_mean_add(struct check *c, const struct xp_kernels *k)
{
    bench_rows(c, k, run_mean_add, "rows from memory");
}

static void bench_centroid(struct check *c, const struct xp_kernels *k)
{
    bench_rows(c, k, run_centroid, "one cluster of all rows");
}

#define SLOT(entry) offsetof(struct xp_kernels, entry)

const struct check_row check_typed_rows[] = {
    {"energy", SLOT(energy), compare_energy, bench_energy},
    {"distance", SLOT(distance), compare_distance, bench_distance},
    {"residual", SLOT(residual), compare_residual, bench_residual},
    {"residual_sums", SLOT(residual_sums), compare_residual_sums, bench_residual_sums},
    {"restore", SLOT(restore), compare_restore, bench_restore},
    {"row_sum", SLOT(row_sum), compare_row_sum, bench_row_sum},
    {"mean_add", SLOT(mean_add), compare_mean_add, bench_mean_add},
    {"centroid", SLOT(centroid), compare_centroid, bench_centroid},
    {NULL, 0, NULL, NULL},
};
