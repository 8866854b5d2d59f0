/*
 * book.h - what both ends know of the rows before a row is coded: mean row, centroids, directions, spread per channel
 *
 * A row is coded as the nearest centroid's index, its coordinates along a few directions of large spread, and integers for
 * what is left (book_search.c). Channels are kept in book order: every window of 256 sorted by spread, so that 16 neighbours
 * share a table of the entropy coder (windows: sorting a row then costs a few shuffles of registers). A book is fitted on rows (book_fit.c), and can be written and read (FORMAT.md, "Book").
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_BOOK_H
#define XP_HASH_BOOK_H

#include "hash/kernels.h"
#include "hash/rans.h"

#define XP_BOOK_MAX_CENTROIDS 1024
#define XP_BOOK_MAX_RANK 32     /* directions; a multiple of 16 */
#define XP_BOOK_RANK_DIM 16384  /* longer rows have none */
#define XP_BOOK_COARSE 3.5f     /* step of the coordinates in deviations of what is left: costs least bits */
#define XP_BOOK_MAX_CLASS 63    /* of a channel; 4 classes are an octave of spread, class 0 is the least */

struct xp_book {
    uint32_t version;
    size_t dim, pad;      /* pad: dim rounded up to 16, and 16 more, so that kernels may use whole vectors */
    size_t groups;        /* of 16 channels */
    unsigned centroids;   /* 0: every row is coded against the mean */
    unsigned rank;        /* directions */
    int has_mean, has_spread;
    float coordinate_step;/* of the coordinates along the directions */
    uint8_t coordinate_class[XP_BOOK_MAX_RANK / XP_RANS_GROUP];

    uint8_t *channel;     /* [dim + 32] place i of book order holds channel channel[i], counted from the window's first */
    uint8_t *place;       /* [dim + 32] the reverse */
    uint8_t *channel_class;/* [dim] by channel, not by place */
    uint8_t *group_class; /* [groups] */
    float *weight;        /* [groups] 2^(-group_class / 4) */
    float *mean;          /* [pad] in book order, as are the next two; zeros behind dim */
    float *centroid;      /* [centroids][pad] mean included */
    float *direction;     /* [rank][pad] */

    unsigned max_centroids, max_rank;
    void *memory;
};

/* Room for a book of these maxima. XP_ERR_INVALID_ARG, XP_ERR_NO_MEMORY. Fini accepts a zeroed book. */
xp_status xp_book_init(struct xp_book *b, size_t dim, unsigned max_centroids, unsigned max_rank);
void xp_book_fini(struct xp_book *b);

/* Derives order, group classes and weights from channel_class; call after setting it. */
void xp_book_sort(struct xp_book *b);

/* Puts values by channel into book order; zeros behind dim. */
void xp_book_order(const struct xp_book *b, const float *by_channel, float *out);

/* floor(4 * log2(v) + 1/2) for normal v > 0, the same on every machine. */
int xp_quarter_log2(float v);

/* 2^(k / 4), exact to f32. */
float xp_quarter_exp2(int k);

/* A book that knows nothing: no mean, all channels alike. */
void xp_book_clear(struct xp_book *b);

/* ---- as bytes ---- */

/* Writing rounds (mean to bf16, vectors to 8 bits): what is coded with a book is coded with one that was read, at both ends. */
size_t xp_book_bytes(const struct xp_book *b);
void xp_book_write(const struct xp_book *b, uint8_t *out);
/* In parts: what comes before the vectors, then vector i (directions, then centroids). Both return their bytes. */
size_t xp_book_write_head(const struct xp_book *b, uint8_t *out);
size_t xp_book_write_vector(const struct xp_book *b, unsigned i, uint8_t *out);

/* Reads a book at in; *used gets its bytes. Any bytes are safe: XP_ERR_CORRUPT (*why says what) leaves b as after
 * xp_book_clear. */
xp_status xp_book_read(struct xp_book *b, const uint8_t *in, size_t len, size_t *used, const char **why);

/* ---- fitting ---- */

struct xp_book_sample {
    const struct xp_rows *in;
    const uint32_t *order; /* the rows to fit on, finite and of moderate energy (xp_book_pick) */
    size_t count;
    /* Rows are coded against centroids: row i of order against centroid of[i]; by channel, [centroids][in->dim]. NULL: none. */
    const uint32_t *of;
    const float *centroid;
    unsigned centroids;
    const float *mean; /* NULL: taken of these rows */
};

/* Fills order with up to `most` rows of `in`, evenly spread, that are fit for fitting. Returns how many. */
size_t xp_book_pick(const struct xp_kernels *k, const struct xp_rows *in, uint32_t *order, size_t most);

/* Floats of scratch that fitting on `count` rows with `rank` directions takes. */
size_t xp_book_fit_floats(size_t dim, size_t count, unsigned rank);

/*
 * Mean, spread, and `rank` directions of the sample (of at least max(rank, 2) rows). Centroids are taken over. What would not pay for
 * its bytes when `rows` rows are coded with it is left out. work: xp_book_fit_floats floats.
 */
void xp_book_fit(struct xp_book *b, const struct xp_kernels *k, const struct xp_book_sample *s, unsigned rank, size_t rows,
                 float *work);

/* The same in steps of a fraction of a millisecond. sample, kernels and work must stay. */
enum xp_fit_stage {
    XP_FIT_MEAN, XP_FIT_NORMALISE, XP_FIT_ITERATE, XP_FIT_MEASURE, XP_FIT_COORDINATES, XP_FIT_SPREAD, XP_FIT_CENTROIDS, XP_FIT_DONE
};

struct xp_book_fit {
    struct xp_book *book;
    const struct xp_kernels *k;
    struct xp_book_sample sample;
    size_t dim, pad, count, uses; /* uses: rows that will be coded with it */
    unsigned rank;
    enum xp_fit_stage stage;
    size_t at;                    /* next row, or centroid */
    unsigned iteration;
    int mean_dropped;
    int again;                    /* the directions begin as those of the fit before, which had the same work */
    double energy, along, coordinate_energy[XP_BOOK_MAX_RANK / XP_RANS_GROUP];
    float step;

    float *rows;      /* [count][pad] normalised, by channel */
    float *direction; /* [rank][pad] by channel */
    float *next;      /* [rank][pad] of the next iteration */
    float *mean, *spread;
    float *scale;     /* [count] a row's norm a value */
};

void xp_book_fit_begin(struct xp_book_fit *f, struct xp_book *b, const struct xp_kernels *k, const struct xp_book_sample *s,
                       unsigned rank, size_t rows, float *work);
/* Returns whether more is to be done. */
int xp_book_fit_step(struct xp_book_fit *f);

#endif
