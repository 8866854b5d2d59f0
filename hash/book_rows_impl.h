/*
 * book_rows_impl.h - what the two ends of coding rows with a book share (book_search.c, book_encode.c, book_decode.c)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_BOOK_ROWS_IMPL_H
#define XP_HASH_BOOK_ROWS_IMPL_H

#include "hash/anywhere.h"
#include "hash/book_rows.h"

#define XP_BOOK_COLUMNS_HEAD 10
#define XP_BOOK_STEPS_PER_OCTAVE 64
#define XP_BOOK_SMALL_CHANGE 2 /* a correction of the step that is not measured again before the row is decoded */
#define XP_BOOK_STEP_TRIES 12
#define XP_BOOK_NOTHING 96 /* steps beyond full cells, for a row of which nothing needs to be sent: few values are not 0, and the column stays narrow */
#define XP_BOOK_STEPS_BACK(i) ((i) < 8 ? 1 : 1 << ((i) - 7)) /* at least, after try i: errors of short rows may not fall for several steps */
#define XP_BOOK_LARGER_STEPS 3 /* tried for rows of fewer values than XP_BOOK_LONG_ROW */
#define XP_BOOK_LONG_ROW 2048
#define XP_BOOK_RUN 64 /* rows of a call that begin their search where one of them ended: runs can be coded side by side */
#define XP_BOOK_ROUNDING_BF16 2.8e-6 /* squared error of rounding to a type, in units of the row's energy, about */
#define XP_BOOK_ROUNDING_F16 4.4e-8
#define XP_BOOK_LARGEST_STEP 7600 /* 2^118.75: steps and their reciprocals are normal numbers */
#define XP_BOOK_LARGEST_OFFSET 63
#define XP_BOOK_KIND_RAW 0 /* offsets of rows without a step */
#define XP_BOOK_KIND_ZERO 1

/* The columns of numbers in front of the rows. */
enum { XP_BOOK_STEP, XP_BOOK_OFFSET, XP_BOOK_CENTROID, XP_BOOK_LENGTH };

struct xp_book_columns {
    int step_least, offset_least;
    uint32_t length_least;
    unsigned width[4];
};

/* Dither makes small values larger: which distribution is the best for those of a scale class (Gaussian and Laplace as in rans_tables.py);
 * a digit for each of the classes from 0, that of class 0 the last. Larger classes stay, as do the low bits of all. */
#define XP_BOOK_DITHERED_CLASSES 14
XP_ANYWHERE unsigned xp_book_dithered_class(unsigned class_of)
{
    return class_of < XP_BOOK_DITHERED_CLASSES ? (unsigned)(UINT64_C(0xddcbaa98877766) >> (4 * class_of)) & 15 : class_of;
}

/* Begins coding with another book, dithered or not: what was filled for the last one is forgotten. */
void xp_book_begin(struct xp_book_room *m, const struct xp_book_dither *d);

/* The dither of row r, which is put into room, NULL where there is none. */
const float *xp_book_dither_of(const struct xp_book_room *m, const struct xp_book *b, size_t r, float *room);

/* 2^(i / 64) for i < 64. */
void xp_book_fill_mantissas(float *mantissa);

float xp_book_step_size(const struct xp_book_room *m, int step);

/* Integers of a row: coordinates, then values. */
size_t xp_book_symbols(const struct xp_book *b);

/* Fills classes and widths of the cell of zero for rows of this offset. Returns their place. */
int xp_book_use_offset(struct xp_book_room *m, const struct xp_book *b, int offset);

/* What a row is coded against: its centroid or the mean, and, with which it is put into room, its coordinates along the directions. */
const float *xp_book_base_of(const struct xp_book_room *m, const struct xp_book *b, uint32_t centroid, const int16_t *coordinate, float *room);

/* What came of a row. */
struct xp_book_found {
    int coded;               /* 0: it has no step that keeps the promise */
    int step, offset;        /* offset: its place, from 0 */
    double error, ref_error; /* what was reached, beside the row's norm and the reference */
};

/* Finds steps for rows [r, r + n), n at most a batch; centroid: of all rows, NULL for a book without. The integers go into m->q[0 .. n). */
void xp_book_search(struct xp_book_room *m, const struct xp_book *b, const struct xp_book_promise *p, const struct xp_rows *in,
                    const uint32_t *centroid, size_t r, size_t n, struct xp_book_found *out);

#endif
