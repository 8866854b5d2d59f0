/*
 * check.h - the frame of checkkernels: rows of tests, guarded buffers, random numbers, timing
 *
 * One struct check_row for each entry of struct xp_kernels. A row compares a table with the C table, and times a table.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TESTS_CHECK_H
#define XP_TESTS_CHECK_H

#include "hash/kernels.h"

struct check {
    uint64_t seed, state;        /* of the random numbers */
    size_t compared;             /* comparisons of the variant under test */
    size_t failed;
    const char *kernel, *isa;    /* under test */
    double seconds;              /* budget of one timing */
};

/* A kernel as checkkernels sees it. */
struct check_row {
    const char *name;
    size_t slot; /* offset in struct xp_kernels */
    /* Calls check_equal for many inputs: plain is the C table, tested the table that holds the variant. */
    void (*compare)(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested);
    /* Calls bench_line once for each shape. */
    void (*bench)(struct check *c, const struct xp_kernels *k);
};

/* The rows, ended by a name of NULL. */
extern const struct check_row check_hash_rows[], check_rans_rows[], check_uniform_rows[], check_typed_rows[], check_fold_rows[], check_quant_rows[];

/* ---- random numbers ---- */
uint64_t check_random(struct check *c);
size_t check_below(struct check *c, size_t n); /* 0 .. n - 1 */
double check_gauss(struct check *c);

/* ---- buffers whose both sides are watched: the end touches an unreadable page, the rest holds canaries ---- */
struct guarded {
    void *p;
    size_t size;
    unsigned char *map;
    size_t map_size;
};

/* size bytes that end `gap` bytes before the unreadable page (gap shifts the alignment); filled with `fill`. */
struct guarded guard_alloc(size_t size, size_t gap, int fill);
/* 1 when the canaries are whole. */
int guard_intact(const struct guarded *g);
void guard_free(struct guarded *g);

/* ---- verdicts ---- */

/* Compares two outputs byte by byte and the canaries of the tested one. what is printed on a miss. */
int check_equal(struct check *c, const struct guarded *expected, const struct guarded *got, const char *what, ...)
    __attribute__((format(printf, 4, 5)));

/* ---- typed rows: what the values look like ---- */
enum check_fill {
    FILL_GAUSS,
    FILL_OUTLIERS, /* a few channels 50 times larger */
    FILL_SPARSE,   /* mostly zeros, both signs of zero */
    FILL_SPIKE,    /* one value: after a rotation all magnitudes are equal */
    FILL_DENORMAL,
    FILL_HUGE, /* near the largest finite value */
    FILL_MAX,
    FILL_MIN,
    FILL_ZERO,
    FILL_NAN,  /* normal values with a NaN or an infinity among them */
    FILL_BITS, /* any bits */
    FILL_COUNT
};
const char *check_fill_name(enum check_fill f);
void check_fill_row(struct check *c, enum check_fill f, xp_dtype t, size_t dim, void *row);
const char *check_dtype_name(xp_dtype t);

/* ---- timing ---- */

/* Prints kernel, isa, GB/s of `bytes`, and the ratio to memcpy of as many bytes, both the minimum of many repeats
 * taken in turn. src: the bytes that run reads, at least `bytes` long. */
void bench_line(struct check *c, const char *shape, const void *src, size_t bytes, void (*run)(void *arg), void *arg);

#endif
