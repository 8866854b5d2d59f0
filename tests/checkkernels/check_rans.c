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
    uint8_t *classes; /* [count][groups] */
};

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
    for (size_t g = 0; g < count * r.groups; g++)
        r.classes[g] = (uint8_t)((class + check_below(c, spread)) % XP_RANS_CLASSES);
    for (size_t k = 0; k < count; k++)
        for (size_t i = 0; i < n; i++)
            r.q[k * r.groups * 16 + i] = integer(c, r.classes[k * r.groups + i / 16], kind);
    return r;
}

static void free_rows(struct rows *r)
{
    free(r->q);
    free(r->classes);
}

static struct rows random_rows(struct check *c)
{
    static const size_t dims[] = {1, 2, 15, 16, 17, 47, 48, 49, 256, 300, 1000, 1024, 4080, 4095, 4096, 4097, 8192, 8200};
    const size_t n = check_random(c) & 1 ? dims[check_below(c, sizeof(dims) / sizeof(dims[0]))] : 1 + check_below(c, 9000);

    return make_rows(c, n, 1 + check_below(c, 6), (unsigned)check_below(c, 4), (unsigned)check_below(c, 64),
                     1 + (unsigned)check_below(c, check_random(c) & 1 ? 64 : 12));
}

static void *aligned(size_t bytes)
{
    return aligned_alloc(64, (bytes + 127) / 64 * 64);
}

static void compare_encode(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 150; round++) {
        struct rows r = random_rows(c);
        void *work = aligned(xp_rans_work_bytes(r.n));

        for (size_t k = 0; k < r.count; k++) {
            struct guarded q = guard_alloc(2 * r.n, 2 * check_below(c, 8), 0), out[2];
            const uint8_t *classes = r.classes + k * r.groups;
            const size_t bound = xp_rans_bound(r.n);
            size_t len, need;

            memcpy(q.p, r.q + k * r.groups * 16, 2 * r.n);
            out[0] = guard_alloc(bound, 0, 0x55);
            need = plain->rans_encode(q.p, r.n, classes, r.lanes, work, out[0].p, bound);
            guard_free(&out[0]);
            /* Just enough room, then one byte too little. */
            for (size_t cap = need; cap + 1 >= need && cap <= need; cap--) {
                for (int i = 0; i < 2; i++) {
                    out[i] = guard_alloc(cap, 0, 0x55);
                    len = (i ? tested : plain)->rans_encode(q.p, r.n, classes, r.lanes, work, out[i].p, cap);
                    if (len != (cap == need ? need : 0)) {
                        printf("# rans_encode %s: %zu bytes where %zu are needed and %zu are there (--seed %llu)\n", c->isa, len,
                               need, cap, (unsigned long long)c->seed);
                        c->failed++;
                    }
                }
                check_equal(c, &out[0], &out[1], "n %zu lanes %u class %u, room %zu of %zu", r.n, r.lanes, classes[0], cap, need);
                guard_free(&out[0]);
                guard_free(&out[1]);
            }
            guard_free(&q);
        }
        free(work);
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
        e.row[i] = calloc(1, xp_rans_bound(r->n) + XP_RANS_SLACK);
        e.len[i] = k->rans_encode(r->q + i * r->groups * 16, r->n, r->classes + i * r->groups, r->lanes, work, e.row[i],
                                  xp_rans_bound(r->n));
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
        s[i] = (struct xp_rans_stream){.in = in[i].p, .len = e->len[i], .classes = r->classes + i * r->groups, .q = q[i].p};
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
    for (int round = 0; round < 300; round++) {
        struct rows r = random_rows(c);
        struct coded e = encode_rows(&r, plain);
        const int harmed = round & 1;
        struct guarded in[8], q[2][8];
        int ok[2][8] = {{0}};

        if (harmed)
            damage(c, &e, &r);
        for (size_t i = 0; i < r.count; i++) {
            in[i] = guard_alloc(e.len[i] + XP_RANS_SLACK, 0, 0x33);
            memcpy(in[i].p, e.row[i], e.len[i]);
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

struct run {
    const struct xp_kernels *k;
    struct rows r;
    struct coded e;
    struct xp_rans_stream s[8];
    void *work;
    uint8_t *out;
};

static void run_encode(void *arg)
{
    struct run *r = arg;

    for (size_t i = 0; i < r->r.count; i++)
        r->k->rans_encode(r->r.q + i * r->r.groups * 16, r->r.n, r->r.classes + i * r->r.groups, r->r.lanes, r->work, r->out,
                          xp_rans_bound(r->r.n));
}

static void run_decode(void *arg)
{
    struct run *r = arg;

    r->k->rans_decode(r->s, r->r.count, r->r.n, r->r.lanes);
}

static void bench(struct check *c, const struct xp_kernels *k, void (*what)(void *))
{
    static const struct { size_t n; unsigned class; } shapes[] = {{4096, 8}, {4096, 15}, {4096, 23}, {768, 15}};
    char shape[64];

    for (unsigned i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        struct run r = {.k = k, .r = make_rows(c, shapes[i].n, 8, 0, shapes[i].class, 4)};
        size_t bytes = 0;

        r.e = encode_rows(&r.r, k);
        r.work = aligned(xp_rans_work_bytes(r.r.n));
        r.out = malloc(xp_rans_bound(r.r.n));
        for (size_t j = 0; j < 8; j++) {
            r.s[j] = (struct xp_rans_stream){.in = r.e.row[j], .len = r.e.len[j], .classes = r.r.classes + j * r.r.groups,
                                             .q = calloc(r.r.groups, 32)};
            bytes += r.e.len[j];
        }
        snprintf(shape, sizeof(shape), "n %zu lanes %u, %.3f of bf16", r.r.n, r.r.lanes, (double)bytes / (16.0 * (double)r.r.n));
        bench_line(c, shape, r.r.q, 8 * 2 * r.r.n, what, &r);
        for (size_t j = 0; j < 8; j++)
            free(r.s[j].q);
        free(r.work);
        free(r.out);
        free_coded(&r.e, 8);
        free_rows(&r.r);
    }
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
