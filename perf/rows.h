/*
 * rows.h - the rows that a benchmark sends: real ones of a .npy file, or generated
 *
 * A source is an endless numbered sequence; row i is the same on every rank, so any rank can tell what it should receive.
 * Row i of rank r is number r * T + i, T the rows a rank sends.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PERF_ROWS_H
#define XP_PERF_ROWS_H

#include "crosspress/crosspress.h"

enum row_kind {
    ROWS_GAUSSIAN,   /* every value independent: nothing to gain but quantisation */
    ROWS_CLUSTERED,  /* 256 centres, 3 % noise */
    ROWS_DUPLICATES, /* drawn from 256 distinct rows */
    ROWS_NOISE,      /* signs, mantissas and all but a bit of the exponents at random: nothing to gain at all */
    ROWS_FILE        /* the file, then blends of its rows */
};

struct row_source {
    enum row_kind kind;
    xp_dtype dtype;
    size_t dim, row_bytes;
    uint64_t seed;
    void *file;       /* ROWS_FILE: file_rows rows */
    size_t file_rows;
    double *mean;     /* ROWS_FILE: of its rows */
    char name[64];    /* "gaussian", or the file's last path component */
};

/*
 * Reads a .npy file (2-D, C order, <f2, <f4, or <u2 holding bf16). Returns 0, or -1 with one line in err.
 *
 * Rows beyond the file's are blends of two of its rows, x = m + a (x1 - m) + b (x2 - m) with m the mean row and
 * a^2 + b^2 = 1: neither duplicates nor near-duplicates that the library could leave out or cluster, so a short file does
 * not make the exchange look better than it is.
 */
int rows_open_file(struct row_source *s, const char *path, uint64_t seed, char *err, size_t err_size);

/* Generated rows of a kind named "gaussian", "clustered" or "duplicates". Returns 0, or -1: unknown name. */
int rows_open_generated(struct row_source *s, const char *kind, xp_dtype dtype, size_t dim, uint64_t seed);

void rows_close(struct row_source *s);

/* Writes row number i. */
void rows_get(const struct row_source *s, uint64_t i, void *row);

/* Spreads T rows of `rank` evenly over n ranks, itself included; the T % n left over go to the ranks after it. */
void rows_spread(size_t T, int n, int rank, size_t *counts);

/* splitmix64: one well-mixed word for each input word. */
uint64_t rows_mix(uint64_t x);

/* Value i of a row, and storing one, rounded to the type. */
double rows_value(xp_dtype t, const void *row, size_t i);
void rows_put(xp_dtype t, void *row, size_t i, float x);

/* |got - want| / |want| in f64; 0 for equal bytes, Inf when a difference or a value is not finite. */
double rows_distance(const struct row_source *s, const void *want, const void *got);

#endif
