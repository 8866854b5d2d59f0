/*
 * check_rans.c - checkkernels' rows for the entropy coder
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "check.h"
#include "hash/rans.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A batch of rows of integers whose spread follows their classes, more or less. */
struct rows {
    size_t n, count, groups;
    unsigned lanes;
    int16_t *q;       /* [count][groups * 16] */
    uint8_t *classes; /* [count][groups], of which the rows use some */
    size_t *uses;     /* [count] the array of classes that a row uses */
};

#define MOST_ROWS 70

static const uint8_t *classes_of(const struct rows *r, size_t k)
{
    return r->classes + r->uses[k] * r->groups;
}

static int16_t integer(struct check *c, unsigned class, unsigned kind)
{
    const double s = exp2(((double)class - XP_RANS_UNIT_CLASS) / 4);
    double v = check_gauss(c) * s;

    if (kind == 1 && !check_below(c, 40)) /* heavy tails escape */
        v *= 30;
    if (kind == 2) /* classes that tell nothing */
        v = ((double)check_below(c, 2 * XP_RANS_MAX_Q + 1)) - XP_RANS_MAX_Q;
    if (kind == 3)
        v = 0;
    return (int16_t)rint(fmin(fmax(v, -XP_RANS_MAX_Q), XP_RANS_MAX_Q));
}

static struct rows make_rows(struct check *c, size_t n, size_t count, unsigned kind, unsigned class, unsigned spread)
{
    struct rows r = {.n = n, .count = count, .groups = (n + 15) / 16, .lanes = xp_rans_lanes(n)};

    r.q = calloc(count * r.groups * 16 + 1, sizeof(*r.q));
    r.classes = calloc(count * r.groups + 1, 1);
    r.uses = calloc(count + 1, sizeof(*r.uses));
    const size_t kinds = 1 + check_below(c, check_random(c) & 1 || count < 2 ? count : 2); /* rows that share classes go side by side */
    for (size_t k = 0; k < count; k++)
        r.uses[k] = check_below(c, kinds);
    for (size_t g = 0; g < count * r.groups; g++)
        r.classes[g] = (uint8_t)((class + check_below(c, spread)) % XP_RANS_CLASSES);
    for (size_t k = 0; k < count; k++)
        for (size_t i = 0; i < n; i++)
            r.q[k * r.groups * 16 + i] = integer(c, classes_of(&r, k)[i / 16], kind);
    return r;
}

static void free_rows(struct rows *r)
{
    free(r->q);
    free(r->classes);
    free(r->uses);
}

static struct rows random_rows(struct check *c)
{
    static const size_t dims[] = {1, 2, 15, 16, 17, 47, 48, 49, 256, 300, 1000, 1024, 2048, 2056, 3000, 4080, 4095, 4096, 4097, 8192, 8200};
    const size_t n = check_random(c) & 1 ? dims[check_below(c, sizeof(dims) / sizeof(dims[0]))] : 1 + check_below(c, 9000);

    return make_rows(c, n, 1 + check_below(c, n > 4200 ? 9 : n > 2000 ? 30 : MOST_ROWS), (unsigned)check_below(c, 4), (unsigned)check_below(c, 64),
                     1 + (unsigned)check_below(c, check_random(c) & 1 ? 64 : 12));
}

static void *aligned(size_t bytes)
{
    return aligned_alloc(64, (bytes + 127) / 64 * 64);
}

/* Encodes all rows together into buffers of cap[k] bytes that are watched. */
static void encode_with(const struct xp_kernels *k, const struct rows *r, const struct guarded *q, const size_t *cap,
                        struct guarded *out, size_t *len)
{
    struct xp_rans_source *s = calloc(r->count, sizeof(*s));

    for (size_t i = 0; i < r->count; i++) {
        out[i] = guard_alloc(cap[i], 0, 0x55);
        s[i] = (struct xp_rans_source){.q = q[i].p, .classes = classes_of(r, i), .work = aligned(xp_rans_work_bytes(r->n)),
                                       .out = out[i].p, .cap = cap[i], .read_next = i % 2 ? q[i].p : NULL};
    }
    k->rans_encode(s, r->count, r->n, r->lanes);
    for (size_t i = 0; i < r->count; i++) {
        len[i] = s[i].len;
        free(s[i].work);
    }
    free(s);
}

/* First with just enough room, then with one byte too little here and there. */
static void compare_rooms(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested, const struct rows *r,
                          const struct guarded *q, const size_t *need)
{
    struct guarded out[2][MOST_ROWS];
    size_t cap[MOST_ROWS], len[2][MOST_ROWS];

    for (int tight = 0; tight < 2; tight++) {
        for (size_t i = 0; i < r->count; i++)
            cap[i] = need[i] - (tight && check_random(c) & 1);
        encode_with(plain, r, q, cap, out[0], len[0]);
        encode_with(tested, r, q, cap, out[1], len[1]);
        for (size_t i = 0; i < r->count; i++) {
            if (len[1][i] != len[0][i] || len[0][i] != (cap[i] == need[i] ? need[i] : 0)) {
                printf("# rans_encode %s: %zu bytes where %zu are needed and %zu are there (--seed %llu)\n", c->isa, len[1][i],
                       need[i], cap[i], (unsigned long long)c->seed);
                c->failed++;
            }
            check_equal(c, &out[0][i], &out[1][i], "n %zu lanes %u row %zu of %zu, room %zu of %zu", r->n, r->lanes, i, r->count,
                        cap[i], need[i]);
            guard_free(&out[0][i]);
            guard_free(&out[1][i]);
        }
    }
}

static void compare_encode(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 60; round++) {
        struct rows r = random_rows(c);
        struct guarded q[MOST_ROWS], out[MOST_ROWS];
        size_t cap[MOST_ROWS], need[MOST_ROWS];

        for (size_t i = 0; i < r.count; i++) {
            q[i] = guard_alloc(2 * r.n, 2 * check_below(c, 8), 0);
            memcpy(q[i].p, r.q + i * r.groups * 16, 2 * r.n);
            cap[i] = xp_rans_bound(r.n);
        }
        encode_with(plain, &r, q, cap, out, need);
        for (size_t i = 0; i < r.count; i++)
            guard_free(&out[i]);
        compare_rooms(c, plain, tested, &r, q, need);
        for (size_t i = 0; i < r.count; i++)
            guard_free(&q[i]);
        free_rows(&r);
    }
}

/* Encoded rows, each followed by room that may be read. */
struct coded {
    uint8_t **row;
    size_t *len;
};

static struct coded encode_rows(const struct rows *r, const struct xp_kernels *k)
{
    struct coded e = {calloc(r->count, sizeof(*e.row)), calloc(r->count, sizeof(*e.len))};
    void *work = aligned(xp_rans_work_bytes(r->n));

    for (size_t i = 0; i < r->count; i++) {
        struct xp_rans_source s = {.q = r->q + i * r->groups * 16, .classes = classes_of(r, i), .work = work,
                                   .cap = xp_rans_bound(r->n)};

        s.out = e.row[i] = calloc(1, s.cap + XP_RANS_SLACK);
        k->rans_encode(&s, 1, r->n, r->lanes);
        e.len[i] = s.len;
    }
    free(work);
    return e;
}

static void free_coded(struct coded *e, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(e->row[i]);
    free(e->row);
    free(e->len);
}

static void damage(struct check *c, struct coded *e, const struct rows *r)
{
    for (size_t i = 0; i < r->count; i++) {
        if (check_random(c) & 1)
            e->row[i][check_below(c, e->len[i])] ^= (uint8_t)(1 + check_below(c, 255));
        if (!check_below(c, 4))
            e->len[i] = check_below(c, e->len[i] + 1);
        if (!check_below(c, 4)) /* bad, though what is missing lies behind the end */
            e->len[i] -= check_below(c, e->len[i] < XP_RANS_SLACK ? e->len[i] + 1 : XP_RANS_SLACK + 1);
        if (!check_below(c, 8))
            for (size_t b = 0; b < e->len[i]; b++)
                e->row[i][b] = (uint8_t)check_random(c);
    }
}

/* Decodes with one table into guarded rows; verdicts go where the integers of a bad row would be. */
static void decode_with(const struct xp_kernels *k, const struct rows *r, const struct coded *e, struct guarded *in,
                        struct guarded *q, int *ok)
{
    struct xp_rans_stream *s = calloc(r->count, sizeof(*s));

    for (size_t i = 0; i < r->count; i++)
        s[i] = (struct xp_rans_stream){.in = in[i].p, .len = e->len[i], .classes = classes_of(r, i), .q = q[i].p,
                                       .read_next = i % 2 ? in[i].p : NULL, .write_next = i % 3 ? q[i].p : NULL};
    k->rans_decode(s, r->count, r->n, r->lanes);
    for (size_t i = 0; i < r->count; i++) {
        ok[i] = s[i].ok;
        if (!ok[i])
            memset(q[i].p, 0x77, q[i].size);
    }
    free(s);
}

static void compare_decode(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 120; round++) {
        struct rows r = random_rows(c);
        struct coded e = encode_rows(&r, plain);
        const int harmed = round & 1;
        struct guarded in[MOST_ROWS], q[2][MOST_ROWS];
        int ok[2][MOST_ROWS] = {{0}};

        if (harmed)
            damage(c, &e, &r);
        for (size_t i = 0; i < r.count; i++) {
            in[i] = guard_alloc(e.len[i] + XP_RANS_SLACK, 0, 0x33);
            memcpy(in[i].p, e.row[i], e.len[i] + (harmed ? XP_RANS_SLACK : 0));
            q[0][i] = guard_alloc(r.groups * 32, 0, 0x55);
            q[1][i] = guard_alloc(r.groups * 32, 0, 0x55);
        }
        decode_with(plain, &r, &e, in, q[0], ok[0]);
        decode_with(tested, &r, &e, in, q[1], ok[1]);
        for (size_t i = 0; i < r.count; i++) {
            if (ok[0][i] != ok[1][i] || (!harmed && !ok[0][i]) ||
                (!harmed && memcmp(q[0][i].p, r.q + i * r.groups * 16, 2 * r.n))) {
                printf("# rans_decode %s: row %zu of %zu, n %zu lanes %u harmed %d: ok %d and %d (--seed %llu)\n", c->isa, i,
                       r.count, r.n, r.lanes, harmed, ok[0][i], ok[1][i], (unsigned long long)c->seed);
                c->failed++;
            }
            check_equal(c, &q[0][i], &q[1][i], "n %zu lanes %u row %zu harmed %d ok %d", r.n, r.lanes, i, harmed, ok[0][i]);
            guard_free(&in[i]);
            guard_free(&q[0][i]);
            guard_free(&q[1][i]);
        }
        free_coded(&e, r.count);
        free_rows(&r);
    }
}

/* ---- speed: GB/s of bf16 values ---- */

#define BENCH_ROWS 24

struct run {
    const struct xp_kernels *k;
    struct rows r;
    struct coded e;
    struct xp_rans_stream stream[BENCH_ROWS];
    struct xp_rans_source source[BENCH_ROWS];
};

static void run_encode(void *arg)
{
    struct run *r = arg;

    r->k->rans_encode(r->source, r->r.count, r->r.n, r->r.lanes);
}

static void run_decode(void *arg)
{
    struct run *r = arg;

    r->k->rans_decode(r->stream, r->r.count, r->r.n, r->r.lanes);
}

static void bench_shape(struct check *c, const struct xp_kernels *k, void (*what)(void *), size_t n, unsigned class)
{
    struct run r = {.k = k, .r = make_rows(c, n, BENCH_ROWS, 0, class, 4)};
    size_t bytes = 0;
    char shape[64];

    for (size_t i = 0; i < BENCH_ROWS; i++) /* three kinds, as batches of real rows have */
        r.r.uses[i] %= 3;
    r.e = encode_rows(&r.r, k);
    for (size_t i = 0; i < BENCH_ROWS; i++) {
        r.stream[i] = (struct xp_rans_stream){.in = r.e.row[i], .len = r.e.len[i], .classes = classes_of(&r.r, i),
                                              .q = calloc(r.r.groups, 32)};
        r.source[i] = (struct xp_rans_source){.q = r.r.q + i * r.r.groups * 16, .classes = classes_of(&r.r, i),
                                              .work = aligned(xp_rans_work_bytes(n)), .out = malloc(xp_rans_bound(n)),
                                              .cap = xp_rans_bound(n)};
        bytes += r.e.len[i];
    }
    snprintf(shape, sizeof(shape), "n %zu lanes %u, %.3f of bf16", n, r.r.lanes, (double)bytes / (double)(2 * BENCH_ROWS * n));
    bench_line(c, shape, r.r.q, BENCH_ROWS * 2 * n, what, &r);
    for (size_t i = 0; i < BENCH_ROWS; i++) {
        free(r.stream[i].q);
        free(r.source[i].work);
        free(r.source[i].out);
    }
    free_coded(&r.e, BENCH_ROWS);
    free_rows(&r.r);
}

static void bench(struct check *c, const struct xp_kernels *k, void (*what)(void *))
{
    static const struct { size_t n; unsigned class; } shapes[] = {{4096, 8}, {4096, 15}, {4096, 23}, {2048, 15}, {1536, 15},
                                                                  {768, 15}, {768, 23}, {256, 15}};

    for (unsigned i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        bench_shape(c, k, what, shapes[i].n, shapes[i].class);
}

static void bench_encode(struct check *c, const struct xp_kernels *k)
{
    bench(c, k, run_encode);
}

static void bench_decode(struct check *c, const struct xp_kernels *k)
{
    bench(c, k, run_decode);
}

const struct check_row check_rans_rows[] = {
    {"rans_encode", offsetof(struct xp_kernels, rans_encode), compare_encode, bench_encode},
    {"rans_decode", offsetof(struct xp_kernels, rans_decode), compare_decode, bench_decode},
    {NULL, 0, NULL, NULL},
};
