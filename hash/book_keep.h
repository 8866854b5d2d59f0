/*
 * book_keep.h - books that are kept: fitted on the rows of past calls, shipped once, known to both ends by their version
 *
 * The sender owns a fitter: some rows of every call go into its reservoir, and when a book is wanted it is fitted in steps
 * of a fraction of a millisecond, while the one before is in use. A finished book is a candidate until it is decided on.
 * A receiver keeps the last two versions of each sender on a shelf.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_BOOK_KEEP_H
#define XP_HASH_BOOK_KEEP_H

#include "hash/book_rows.h"
#include "hash/cluster.h"
#include "hash/hasher.h"

/* Rows of so many values may have directions. Of longer ones they are not known to save anything, and a fit takes three times as long. */
#define XP_BOOK_DIRECTIONS_LEAST 64
#define XP_BOOK_DIRECTIONS_MOST 1024

/* Values of the sketch by which rows find their centroids: at most. */
#define XP_BOOK_SKETCH 64
#define XP_BOOK_SKETCH_DIRECTIONS 128

#define XP_BOOK_CHECK 8 /* bytes of checksum behind a book that travels apart from frames */

/* Most bytes of a book that travels apart. */
size_t xp_book_most_bytes(size_t dim, unsigned centroids, unsigned rank);

/* ---- fitting ---- */

struct xp_book_fit_desc {
    xp_dtype dtype;
    size_t dim;
    size_t rows;        /* of the reservoir; 0 = 4096, or as many as 32 MiB hold */
    unsigned centroids; /* 0 = one for 16 rows of the reservoir, at most 256 */
    unsigned rank;      /* directions: 0, 16 or 32; 0 beyond XP_BOOK_RANK_DIM */
    uint64_t seed;
};

/* A finished book on its sender: the book as a reader has it, its bytes, and how rows find their centroids. */
struct xp_book_writer {
    const struct xp_kernels *k;
    struct xp_book book;
    uint8_t *bytes;
    size_t len;
    int16_t *sketch; /* [centroids][sketch] */
    struct xp_hasher hasher;
    float *mean, *weighed, *weight; /* NULL without directions; by channel: the mean row [pad], what book_nearest.c makes of centroids
                                     * [centroids][pad], and [centroids] their own weighed energy */
};

struct xp_book_fitter;

/* k must outlive the fitter. XP_ERR_INVALID_ARG, XP_ERR_NO_MEMORY. All memory is taken here. Destroy accepts NULL. */
xp_status xp_book_fitter_create(struct xp_book_fitter **out, const struct xp_kernels *k, const struct xp_book_fit_desc *d);
void xp_book_fitter_destroy(struct xp_book_fitter *f);
size_t xp_book_fitter_bytes(const struct xp_book_fitter *f); /* memory it holds */

/* Shows the rows of a call to the reservoir: `most` of them at equal distances go in, in the place of random ones when it is
 * full, so that it holds recent rows. Not while a book is being fitted. */
void xp_book_fitter_add(struct xp_book_fitter *f, const struct xp_rows *in, size_t most);
/* Empties the reservoir, unless a book is being fitted. */
void xp_book_fitter_forget(struct xp_book_fitter *f);
size_t xp_book_fitter_rows(const struct xp_book_fitter *f); /* rows in the reservoir */
size_t xp_book_fitter_room(const struct xp_book_fitter *f); /* rows it can hold */

/* Starts to fit a book of at most so many centroids (0: as many as the fitter was made for) on the reservoir. XP_ERR_STATE: fitting
 * already, a candidate waits, or fewer than 64 rows. */
xp_status xp_book_fitter_begin(struct xp_book_fitter *f, uint32_t version, unsigned centroids);

/* One step. XP_IN_PROGRESS; XP_OK when a candidate waits; XP_ERR_STATE: nothing is being fitted, or too few rows were fit
 * for it. The book does not depend on when its steps are taken. */
xp_status xp_book_fitter_step(struct xp_book_fitter *f);
int xp_book_fitter_busy(const struct xp_book_fitter *f);

/* The book in use, and the one that waits to be; NULL: none. Both stay as they are until the next decision. */
const struct xp_book_writer *xp_book_fitter_current(const struct xp_book_fitter *f);
const struct xp_book_writer *xp_book_fitter_candidate(const struct xp_book_fitter *f);

/* The candidate becomes the book in use, or is dropped. */
void xp_book_fitter_decide(struct xp_book_fitter *f, int adopt);

/* ---- which centroid a row is coded against (book_nearest.c) ---- */

/* The centroid of every row. of: [rows]; room: book.pad floats. */
void xp_book_assign(const struct xp_book_writer *w, const struct xp_rows *in, float *room, uint32_t *of);

/* For a book with directions: readies centroid i, the first one before others. room: 2 * book.pad floats. */
void xp_book_weigh(struct xp_book_writer *w, unsigned i, float *room);

/* ---- the receiver's shelf ---- */

struct xp_book_shelf {
    struct xp_book book[2];
    int have[2], last;
};

/* Books of more centroids will be refused. */
xp_status xp_book_shelf_init(struct xp_book_shelf *s, size_t dim, unsigned max_centroids);
void xp_book_shelf_fini(struct xp_book_shelf *s);

/* Reads a book (of exactly len bytes) and puts it in the place of the older one. XP_ERR_CORRUPT leaves the shelf as it was,
 * less the older book. */
xp_status xp_book_shelf_put(struct xp_book_shelf *s, const uint8_t *in, size_t len, const char **why);

/* NULL: this version is not here; the sender must send it again. */
const struct xp_book *xp_book_shelf_find(const struct xp_book_shelf *s, uint32_t version);

/* The versions here, the newer first; 0: none. */
void xp_book_shelf_versions(const struct xp_book_shelf *s, uint32_t versions[2]);
void xp_book_shelf_clear(struct xp_book_shelf *s);

#endif
