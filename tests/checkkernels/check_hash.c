/*
 * check_hash.c - checkkernels' rows for the transforms and the hash
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"
#include "hash/hasher.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Hadamard transforms ---- */

static void fill_ints(struct check *c, unsigned kind, void *p, size_t n, size_t width)
{
    static const int64_t constant[] = {0, INT16_MIN, INT16_MAX, INT32_MIN, INT32_MAX};

    for (size_t i = 0; i < n; i++) {
        const int64_t v = kind < 5 ? constant[kind] : (int64_t)check_random(c);
        memcpy((char *)p + i * width, &v, width); /* little endian: the low bytes */
    }
}

static void compare_fht(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested, size_t width)
{
    for (unsigned log2n = 0; log2n <= 14; log2n++) {
        for (unsigned kind = 0; kind < 8; kind++) {
            const size_t rows = log2n < 10 ? check_below(c, 6) : 1, n = rows << log2n;
            const size_t gap = width * check_below(c, 5);
            struct guarded a = guard_alloc(n * width, gap, 0), b = guard_alloc(n * width, gap, 0);

            fill_ints(c, kind, a.p, n, width);
            memcpy(b.p, a.p, n * width);
            if (width == 2) {
                plain->fht_i16(a.p, log2n, rows);
                tested->fht_i16(b.p, log2n, rows);
            } else {
                plain->fht_i32(a.p, log2n, rows);
                tested->fht_i32(b.p, log2n, rows);
            }
            check_equal(c, &a, &b, "log2n %u, %zu rows, kind %u, gap %zu", log2n, rows, kind, gap);
            guard_free(&a);
            guard_free(&b);
        }
    }
}

static void compare_fht_i16(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    compare_fht(c, plain, tested, 2);
}

static void compare_fht_i32(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    compare_fht(c, plain, tested, 4);
}

struct fht_run {
    const struct xp_kernels *k;
    void *x;
    unsigned log2n;
    size_t rows;
};

static void run_fht_i16(void *arg)
{
    struct fht_run *r = arg;
    r->k->fht_i16(r->x, r->log2n, r->rows);
}

static void run_fht_i32(void *arg)
{
    struct fht_run *r = arg;
    r->k->fht_i32(r->x, r->log2n, r->rows);
}

static void bench_fht(struct check *c, const struct xp_kernels *k, size_t width, void (*run)(void *))
{
    static const unsigned sizes[] = {7, 9, 12};
    const size_t bytes = 16384;
    char shape[64];

    for (unsigned i = 0; i < 3; i++) {
        struct fht_run r = {.k = k, .x = aligned_alloc(64, bytes), .log2n = sizes[i], .rows = bytes / width >> sizes[i]};
        memset(r.x, 3, bytes);
        snprintf(shape, sizeof(shape), "n %u, %zu rows in L1", 1u << sizes[i], r.rows);
        bench_line(c, shape, r.x, bytes, run, &r);
        free(r.x);
    }
}

static void bench_fht_i16(struct check *c, const struct xp_kernels *k)
{
    bench_fht(c, k, 2, run_fht_i16);
}

static void bench_fht_i32(struct check *c, const struct xp_kernels *k)
{
    bench_fht(c, k, 4, run_fht_i32);
}

/* ---- hash ---- */

struct hash_case {
    struct xp_hasher_desc desc;
    xp_dtype type;
    size_t rows;
    int gathered, centred, with_ids, with_sketch;
};

static void choose_hash_case(struct check *c, struct hash_case *h)
{
    static const size_t dims[] = {1, 2, 3, 31, 32, 33, 64, 100, 127, 128, 200, 256, 257, 384, 511, 512, 513,
                                  768, 1000, 1023, 1024, 1025, 1536, 2048, 2560, 4096, 5001};
    static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};

    memset(h, 0, sizeof(*h));
    h->desc.dim = check_random(c) & 3 ? dims[check_below(c, sizeof(dims) / sizeof(dims[0]))] : 1 + check_below(c, 3000);
    const unsigned n = xp_hash_width(h->desc.dim);
    h->desc.rounds = 1 + (unsigned)check_below(c, 3);
    h->desc.w = 4u << check_below(c, (size_t)__builtin_ctz(n) - 1);
    h->desc.k = 1 + (unsigned)check_below(c, n / h->desc.w < XP_HASH_MAX_K ? n / h->desc.w : XP_HASH_MAX_K);
    h->desc.sketch = 32 * (unsigned)check_below(c, n / 32 + 1);
    h->desc.seed = check_random(c);
    h->type = types[check_below(c, 3)];
    h->rows = check_below(c, 7);
    h->gathered = check_random(c) & 1;
    h->centred = check_random(c) & 1;
    h->with_ids = (check_random(c) & 3) > 0;
    h->with_sketch = (check_random(c) & 3) > 0;
}

static void set_random_mean(struct check *c, struct xp_hasher *h)
{
    float *mean = malloc(h->dim * sizeof(*mean));

    for (size_t i = 0; i < h->dim; i++)
        mean[i] = (float)(0.3 * check_gauss(c));
    xp_hasher_set_mean(h, mean);
    free(mean);
}

static void compare_hash_case(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested,
                              const struct hash_case *t, enum check_fill fill)
{
    const size_t row_bytes = t->desc.dim * xp_dtype_size(t->type), stored = t->rows + 2;
    const size_t gap = xp_dtype_size(t->type) == 2 ? check_below(c, 40) : 2 * check_below(c, 20);
    struct guarded data = guard_alloc(stored * row_bytes, gap, 0);
    uint32_t index[16];
    struct xp_hasher h;

    if (xp_hasher_init(&h, &t->desc) != XP_OK) {
        printf("# hasher refused dim %zu w %u k %u\n", t->desc.dim, t->desc.w, t->desc.k);
        c->failed++;
        guard_free(&data);
        return;
    }
    if (t->centred)
        set_random_mean(c, &h);
    for (size_t r = 0; r < stored; r++)
        check_fill_row(c, fill, t->type, t->desc.dim, (char *)data.p + r * row_bytes);
    for (size_t r = 0; r < t->rows; r++)
        index[r] = (uint32_t)check_below(c, stored);

    const struct xp_rows in = {.data = (char *)data.p + (t->gathered ? 0 : 2 * row_bytes), .index = t->gathered ? index : NULL,
                               .rows = t->rows, .dim = t->desc.dim, .dtype = t->type};
    const size_t sketch_bytes = t->with_sketch ? t->rows * h.sketch * sizeof(int16_t) : 0;
    struct guarded ids[2], sketch[2];
    for (int i = 0; i < 2; i++) {
        ids[i] = guard_alloc(t->rows * sizeof(uint32_t), 0, 0x55);
        sketch[i] = guard_alloc(sketch_bytes, 2 * check_below(c, 9), 0x55);
    }
    plain->hash(&h, &in, t->with_ids ? ids[0].p : NULL, t->with_sketch ? sketch[0].p : NULL);
    tested->hash(&h, &in, t->with_ids ? ids[1].p : NULL, t->with_sketch ? sketch[1].p : NULL);
    check_equal(c, &ids[0], &ids[1], "ids: %s dim %zu n %u k %u w %u rounds %u rows %zu fill %s%s", check_dtype_name(t->type),
                h.dim, h.n, h.k, h.w, h.rounds, t->rows, check_fill_name(fill), t->gathered ? ", gathered" : "");
    check_equal(c, &sketch[0], &sketch[1], "sketch of %u: %s dim %zu n %u rounds %u rows %zu fill %s", h.sketch,
                check_dtype_name(t->type), h.dim, h.n, h.rounds, t->rows, check_fill_name(fill));
    for (int i = 0; i < 2; i++) {
        guard_free(&ids[i]);
        guard_free(&sketch[i]);
    }
    guard_free(&data);
    xp_hasher_fini(&h);
}

static void compare_hash(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 120; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            struct hash_case t;
            choose_hash_case(c, &t);
            compare_hash_case(c, plain, tested, &t, (enum check_fill)fill);
        }
}

struct hash_run {
    const struct xp_kernels *k;
    struct xp_hasher h;
    struct xp_rows in;
    uint32_t *ids;
    int16_t *sketch;
};

static void run_hash(void *arg)
{
    struct hash_run *r = arg;
    r->k->hash(&r->h, &r->in, r->ids, r->sketch);
}

static void bench_hash_shape(struct check *c, const struct xp_kernels *k, xp_dtype t, const struct xp_hasher_desc *d, size_t bytes)
{
    struct hash_run r = {.k = k};
    const size_t row_bytes = d->dim * xp_dtype_size(t), rows = bytes / row_bytes;
    char *data = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096), shape[128];

    if (!data || xp_hasher_init(&r.h, d) != XP_OK)
        exit(2);
    for (size_t i = 0; i < rows; i++) {
        if (i < 64)
            check_fill_row(c, FILL_GAUSS, t, d->dim, data + i * row_bytes);
        else
            memcpy(data + i * row_bytes, data + (i % 64) * row_bytes, row_bytes);
    }
    r.in = (struct xp_rows){.data = data, .rows = rows, .dim = d->dim, .dtype = t};
    r.ids = malloc(rows * sizeof(uint32_t));
    r.sketch = d->sketch ? malloc(rows * d->sketch * sizeof(int16_t)) : NULL;
    snprintf(shape, sizeof(shape), "%s dim %zu n %u k %u w %u rounds %u sketch %u, %zu KiB", check_dtype_name(t), d->dim, r.h.n,
             r.h.k, r.h.w, r.h.rounds, r.h.sketch, bytes >> 10);
    bench_line(c, shape, data, rows * row_bytes, run_hash, &r);
    free(r.sketch);
    free(r.ids);
    free(data);
    xp_hasher_fini(&r.h);
}

static void bench_hash(struct check *c, const struct xp_kernels *k)
{
    const size_t dram = (size_t)128 << 20, l2 = 256 << 10;

    bench_hash_shape(c, k, XP_BF16, &(struct xp_hasher_desc){.dim = 4096, .k = 1, .rounds = 3}, dram);
    bench_hash_shape(c, k, XP_BF16, &(struct xp_hasher_desc){.dim = 4096, .k = 8, .w = 64, .rounds = 3}, dram);
    bench_hash_shape(c, k, XP_BF16, &(struct xp_hasher_desc){.dim = 4096, .k = 1, .rounds = 2, .sketch = 128}, dram);
    bench_hash_shape(c, k, XP_BF16, &(struct xp_hasher_desc){.dim = 4096, .k = 1, .rounds = 3}, l2);
    bench_hash_shape(c, k, XP_BF16, &(struct xp_hasher_desc){.dim = 1024, .k = 1, .rounds = 3}, dram);
    bench_hash_shape(c, k, XP_BF16, &(struct xp_hasher_desc){.dim = 7168, .k = 1, .rounds = 3}, dram);
    bench_hash_shape(c, k, XP_BF16, &(struct xp_hasher_desc){.dim = 512, .k = 1, .rounds = 3}, dram);
    bench_hash_shape(c, k, XP_F16, &(struct xp_hasher_desc){.dim = 4096, .k = 1, .rounds = 3}, dram);
    bench_hash_shape(c, k, XP_F32, &(struct xp_hasher_desc){.dim = 4096, .k = 1, .rounds = 3}, dram);
}

/* ---- assign ---- */

static void fill_sketches(struct check *c, unsigned kind, int16_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const int16_t small = (int16_t)((int)check_below(c, 7) - 3), wide = (int16_t)check_random(c);
        const int16_t normal = (int16_t)(1400 * check_gauss(c)), extreme = check_random(c) & 1 ? INT16_MIN : INT16_MAX;
        const int16_t values[] = {small, wide, normal, extreme, INT16_MIN, 0};
        p[i] = values[kind];
    }
}

static void compare_assign(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 400; round++) {
        const unsigned s = 32 * (1 + (unsigned)check_below(c, round % 4 ? 4 : 16)), kind = (unsigned)round % 6;
        const size_t n = check_below(c, 70), K = (round % 40 ? 1 : 1000) + check_below(c, 40), gap = 2 * check_below(c, 20);
        struct guarded a = guard_alloc(n * s * 2, gap, 0), means = guard_alloc(K * s * 2, 2 * check_below(c, 20), 0);
        struct guarded out[2];

        fill_sketches(c, kind, a.p, n * s);
        fill_sketches(c, kind, means.p, K * s);
        for (int i = 0; i < 2; i++)
            out[i] = guard_alloc(n * sizeof(uint32_t), 0, 0x55);
        plain->assign(a.p, n, s, means.p, K, out[0].p);
        tested->assign(a.p, n, s, means.p, K, out[1].p);
        check_equal(c, &out[0], &out[1], "%zu sketches of %u, %zu centroids, kind %u", n, s, K, kind);
        guard_free(&out[0]);
        guard_free(&out[1]);
        guard_free(&means);
        guard_free(&a);
    }
}

static void compare_assign_listed(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 200; round++) {
        const unsigned s = 32 * (1 + (unsigned)check_below(c, round % 4 ? 4 : 16)), kind = (unsigned)round % 6;
        const size_t n = check_below(c, 40), K = 1 + check_below(c, 40), count = 1 + check_below(c, 30);
        struct guarded a = guard_alloc(n * s * 2, 2 * check_below(c, 20), 0), means = guard_alloc(K * s * 2, 2 * check_below(c, 20), 0);
        struct guarded list = guard_alloc(count * sizeof(uint32_t), 0, 0), out[2];

        fill_sketches(c, kind, a.p, n * s);
        fill_sketches(c, kind, means.p, K * s);
        for (size_t i = 0; i < count; i++)
            ((uint32_t *)list.p)[i] = (uint32_t)check_below(c, K);
        for (int i = 0; i < 2; i++)
            out[i] = guard_alloc(n * sizeof(uint32_t), 0, 0x55);
        plain->assign_listed(a.p, n, s, means.p, list.p, count, out[0].p);
        tested->assign_listed(a.p, n, s, means.p, list.p, count, out[1].p);
        check_equal(c, &out[0], &out[1], "%zu sketches of %u, %zu of %zu centroids, kind %u", n, s, count, K, kind);
        guard_free(&out[0]);
        guard_free(&out[1]);
        guard_free(&list);
        guard_free(&means);
        guard_free(&a);
    }
}

static void compare_distances(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 200; round++) {
        const unsigned s = 32 * (1 + (unsigned)check_below(c, round % 4 ? 4 : 16)), kind = (unsigned)round % 6;
        const size_t n = check_below(c, 12), K = 1 + check_below(c, 80);
        struct guarded a = guard_alloc(n * s * 2, 2 * check_below(c, 20), 0), means = guard_alloc(K * s * 2, 2 * check_below(c, 20), 0);
        struct guarded out[2];

        fill_sketches(c, kind, a.p, n * s);
        fill_sketches(c, kind, means.p, K * s);
        for (int i = 0; i < 2; i++)
            out[i] = guard_alloc(n * K * sizeof(uint32_t), 0, 0x55);
        plain->distances(a.p, n, s, means.p, K, out[0].p);
        tested->distances(a.p, n, s, means.p, K, out[1].p);
        check_equal(c, &out[0], &out[1], "%zu sketches of %u, %zu centroids, kind %u", n, s, K, kind);
        guard_free(&out[0]);
        guard_free(&out[1]);
        guard_free(&means);
        guard_free(&a);
    }
}

static void compare_closest(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 2000; round++) {
        const size_t n = check_below(c, round % 8 ? 80 : 600);
        const unsigned most = round % 3 ? XP_MOST_CLOSEST : 1 + (unsigned)check_below(c, XP_MOST_CLOSEST);
        const uint32_t range = round % 4 == 0 ? 5 : round % 4 == 1 ? 1000 : UINT32_MAX;
        struct guarded d = guard_alloc(n * sizeof(uint32_t), 4 * check_below(c, 20), 0), out[2];

        for (size_t i = 0; i < n; i++)
            ((uint32_t *)d.p)[i] = check_below(c, 9) ? (uint32_t)check_random(c) % range : UINT32_MAX;
        for (int i = 0; i < 2; i++)
            out[i] = guard_alloc((n < most ? n : most) * sizeof(uint16_t), 2 * check_below(c, 20), 0x55);
        plain->closest(d.p, n, most, out[0].p);
        tested->closest(d.p, n, most, out[1].p);
        check_equal(c, &out[0], &out[1], "%u of %zu distances below %u", most, n, range);
        guard_free(&out[0]);
        guard_free(&out[1]);
        guard_free(&d);
    }
}

static void compare_sketch_mean(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 400; round++) {
        const unsigned s = 32 * (1 + (unsigned)check_below(c, round % 4 ? 4 : 16)), kind = (unsigned)round % 6;
        const size_t rows = 1 + check_below(c, 30), n = 1 + check_below(c, round % 40 ? 30 : 10000);
        struct guarded a = guard_alloc(rows * s * 2, 2 * check_below(c, 20), 0), out[2];
        uint32_t *order = malloc(n * sizeof(*order));

        fill_sketches(c, kind, a.p, rows * s);
        for (size_t i = 0; i < n; i++)
            order[i] = (uint32_t)check_below(c, rows);
        for (int i = 0; i < 2; i++)
            out[i] = guard_alloc(s * sizeof(int16_t), 2 * check_below(c, 20), 0x55);
        plain->sketch_mean(a.p, s, order, n, out[0].p);
        tested->sketch_mean(a.p, s, order, n, out[1].p);
        check_equal(c, &out[0], &out[1], "%zu of %zu sketches of %u, kind %u", n, rows, s, kind);
        free(order);
        guard_free(&out[0]);
        guard_free(&out[1]);
        guard_free(&a);
    }
}

struct assign_run {
    const struct xp_kernels *k;
    int16_t *a, *means;
    size_t n, K;
    unsigned s;
    const uint32_t *list;
    uint32_t *out;
};

static void run_assign(void *arg)
{
    struct assign_run *r = arg;
    r->k->assign(r->a, r->n, r->s, r->means, r->K, r->out);
}

static void run_assign_listed(void *arg)
{
    struct assign_run *r = arg;
    r->k->assign_listed(r->a, r->n, r->s, r->means, r->list, r->K, r->out);
}

static void run_distances(void *arg)
{
    struct assign_run *r = arg;
    r->k->distances(r->a, r->n, r->s, r->means, r->K, r->out);
}

/* n sketches of 64, some centroids, and a list of K of these. */
static void bench_sketches(struct check *c, const struct xp_kernels *k, const char *what, size_t n, size_t K, size_t means, void (*run)(void *))
{
    struct assign_run r = {.k = k, .n = n, .K = K, .s = 64};
    uint32_t *list = malloc(K * sizeof(*list));

    r.list = list;
    r.a = malloc(n * r.s * 2);
    r.means = malloc(means * r.s * 2);
    r.out = malloc(n * K * sizeof(*r.out));
    fill_sketches(c, 2, r.a, n * r.s);
    fill_sketches(c, 2, r.means, means * r.s);
    for (size_t i = 0; i < K; i++)
        list[i] = (uint32_t)check_below(c, means);
    bench_line(c, what, r.a, n * r.s * 2, run, &r);
    free(r.a);
    free(r.means);
    free(r.out);
    free(list);
}

static void bench_assign(struct check *c, const struct xp_kernels *k)
{
    bench_sketches(c, k, "1024 sketches of 64, 256 centroids", 1024, 256, 256, run_assign);
}

static void bench_assign_listed(struct check *c, const struct xp_kernels *k)
{
    bench_sketches(c, k, "5 sketches of 64, 16 of 256 centroids", 5, 16, 256, run_assign_listed);
}

static void bench_distances(struct check *c, const struct xp_kernels *k)
{
    bench_sketches(c, k, "16 sketches of 64, 400 centroids", 16, 400, 400, run_distances);
}

static void run_closest(void *arg)
{
    struct assign_run *r = arg;
    uint16_t out[XP_MOST_CLOSEST];

    r->k->closest(r->list, r->K, XP_MOST_CLOSEST, out);
}

static void bench_closest(struct check *c, const struct xp_kernels *k)
{
    uint32_t d[400];
    struct assign_run r = {.k = k, .list = d, .K = 400};

    for (size_t i = 0; i < 400; i++)
        d[i] = (uint32_t)check_random(c);
    bench_line(c, "32 of 400", d, sizeof(d), run_closest, &r);
}

static void run_sketch_mean(void *arg)
{
    struct assign_run *r = arg;
    int16_t out[64];

    for (size_t i = 0; i < r->K; i += 5)
        r->k->sketch_mean(r->a, r->s, r->list + i, 5, out);
}

static void bench_sketch_mean(struct check *c, const struct xp_kernels *k)
{
    bench_sketches(c, k, "5 at a time of 1000 sketches of 64", 1000, 1000, 1000, run_sketch_mean);
}

#define SLOT(entry) offsetof(struct xp_kernels, entry)

const struct check_row check_hash_rows[] = {
    {"fht_i16", SLOT(fht_i16), compare_fht_i16, bench_fht_i16},
    {"fht_i32", SLOT(fht_i32), compare_fht_i32, bench_fht_i32},
    {"hash", SLOT(hash), compare_hash, bench_hash},
    {"assign", SLOT(assign), compare_assign, bench_assign},
    {"assign_listed", SLOT(assign_listed), compare_assign_listed, bench_assign_listed},
    {"distances", SLOT(distances), compare_distances, bench_distances},
    {"closest", SLOT(closest), compare_closest, bench_closest},
    {"sketch_mean", SLOT(sketch_mean), compare_sketch_mean, bench_sketch_mean},
    {NULL, 0, NULL, NULL},
};
