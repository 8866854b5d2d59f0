/*
 * book_rows.h - rows coded with a book: each row a stream of its own, within its promise (FORMAT.md, "Book rows")
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_BOOK_ROWS_H
#define XP_HASH_BOOK_ROWS_H

#include "crosspress/codec.h"
#include "hash/book.h"

#define XP_BOOK_BATCH 128 /* most rows that are coded side by side */
#define XP_BOOK_SIDE 8    /* most of them whose steps are searched in turns */
#define XP_BOOK_OFFSETS 127

/* What every row owes: |x' - x| <= eps * |x|, or with mean set eps * min(|x|, |x - mean|), as quant_rows.h. */
struct xp_book_promise {
    double eps;
    int to_mean;
};

/* Dither (kernels.h): row r of a frame of this key gets the numbers of row r. */
struct xp_book_dither {
    int on;
    uint64_t key;
};

/* Scratch for one shape of rows. */
struct xp_book_room {
    const struct xp_kernels *k;
    xp_dtype dtype;
    size_t dim, row_bytes, pad;
    size_t most_symbols; /* dim and the most coordinates, in whole groups */
    float mantissa[64];  /* 2^(i / 64) */
    float *half;       /* 1/2 for each group */
    uint8_t *restored; /* decoding: a row in book order */

    /* Rows whose steps are searched in turns; of the first two decoding needs the first. */
    size_t side;
    float *base[XP_BOOK_SIDE], *dither[XP_BOOK_SIDE]; /* what a row with coordinates is coded against; its dither */
    float *rest[XP_BOOK_SIDE];                        /* what is left to code */
    uint8_t *typed[XP_BOOK_SIDE];                     /* the row in book order */
    int16_t *spare[XP_BOOK_SIDE];                     /* its integers with another step: changes places with one of q */

    /* Rows side by side. */
    size_t batch;
    int16_t *q[XP_BOOK_BATCH];
    uint8_t *bytes[XP_BOOK_BATCH]; /* encoding: a coded row; decoding: a row at the end of the input, with slack */
    void *work[XP_BOOK_BATCH];     /* of the entropy coder */

    /* By offset, filled when one is met: rows of equal offset share them. */
    uint8_t filled[XP_BOOK_OFFSETS];
    uint8_t *classes[XP_BOOK_OFFSETS];
    float *bias[XP_BOOK_OFFSETS];

    struct xp_book_dither dithers; /* of the rows being coded */
    double above; /* encoding: how far the step of the first row of a run that was searched for lay above that of full cells */
    int above_known;
    size_t cap_rows;
    uint32_t *column[4];         /* encoding: step, offset, centroid, length of each row */
    unsigned width[4];           /* encoding: of the last call's columns, in bits: most likely the next one's are as wide */
    void *memory, *columns;
};

/* XP_ERR_INVALID_ARG, XP_ERR_NO_MEMORY. Fini accepts zeroed room. k must outlive the room. */
xp_status xp_book_room_init(struct xp_book_room *m, const struct xp_kernels *k, xp_dtype t, size_t dim);
void xp_book_room_fini(struct xp_book_room *m);

/* Encoding needs it for the rows of one call. */
xp_status xp_book_room_reserve(struct xp_book_room *m, size_t rows);

/* Encoding a few rows at a time. */
struct xp_book_encoder {
    struct xp_book_room *m;
    const struct xp_book *b;
    const struct xp_book_promise *p;
    const struct xp_rows *in;
    const uint32_t *centroid; /* centroid[r] is row r's; NULL for a book without centroids */
    uint8_t *out;
    size_t cap;
    size_t ahead;             /* rows that far ahead will be read soon, by others too, and may be fetched; 0: none */
    xp_codec_stats *st;       /* added to: rows_raw, err_mean (a sum over rows), err_max, err_ref_max */
    size_t next, first, at, room; /* the next row; where rows begin, and the next one does; bytes that rows may still take */
};

/* d: NULL: no dither. XP_ERR_UNSUPPORTED: they will not fit. */
xp_status xp_book_encode_begin(struct xp_book_encoder *e, const struct xp_book_dither *d);
/* The next rows, whose centroids must be known by now. XP_ERR_UNSUPPORTED: they do not fit. */
xp_status xp_book_encode_some(struct xp_book_encoder *e, size_t rows);
/* After the last row. *len gets the bytes, at most cap. */
void xp_book_encode_end(struct xp_book_encoder *e, size_t *len);

/* All of that. */
xp_status xp_book_encode_rows(struct xp_book_room *m, const struct xp_book *b, const struct xp_book_promise *p,
                              const struct xp_book_dither *d, const struct xp_rows *in, const uint32_t *centroid, uint8_t *out,
                              size_t cap, size_t *len, xp_codec_stats *st);

/* Decodes exactly `rows` rows from exactly len bytes. Any bytes are safe. XP_ERR_CORRUPT, *why says what. */
xp_status xp_book_decode_rows(struct xp_book_room *m, const struct xp_book *b, const struct xp_book_dither *d, const uint8_t *in,
                              size_t len, size_t rows, void *out, const char **why);

#endif
