/*
 * book_keep.h - books that are kept: fitted on the rows of past calls, shipped once, known to both ends by their version
 *
 * The sender owns a fitter: rows of every call go into its reservoir, and when a book is wanted each call does one stage of
 * the work. A finished book is a string of bytes for the receivers, and a writer's book with which rows find their
 * centroids. A receiver keeps the last two versions on a shelf, since frames coded with the one before may still come.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_BOOK_KEEP_H
#define XP_HASH_BOOK_KEEP_H

#include "hash/book_rows.h"
#include "hash/cluster.h"
#include "hash/hasher.h"

/* ---- fitting ---- */

struct xp_book_fit_desc {
    xp_dtype dtype;
    size_t dim;
    size_t rows;        /* of the reservoir; 0 = 4096 */
    unsigned centroids; /* 0 = one for 16 rows of the reservoir, at most 256 */
    unsigned rank;      /* directions: 0, 16 or 32; 0 beyond XP_BOOK_RANK_DIM */
    uint64_t seed;
};

struct xp_book_fitter;

/* k must outlive the fitter. XP_ERR_INVALID_ARG, XP_ERR_NO_MEMORY. All memory is taken here. Destroy accepts NULL. */
xp_status xp_book_fitter_create(struct xp_book_fitter **out, const struct xp_kernels *k, const struct xp_book_fit_desc *d);
void xp_book_fitter_destroy(struct xp_book_fitter *f);
size_t xp_book_fitter_bytes(const struct xp_book_fitter *f); /* memory it holds */

/* Shows the rows of a call to the reservoir: every row ever shown is in it with equal probability. Copies at most `most` rows.
 * Between begin and the end of fitting rows are not taken. */
void xp_book_fitter_add(struct xp_book_fitter *f, const struct xp_rows *in, size_t most);
size_t xp_book_fitter_rows(const struct xp_book_fitter *f); /* rows in the reservoir */

/* Starts to fit a book on the reservoir. XP_ERR_STATE: fitting already, or fewer than 64 rows. */
xp_status xp_book_fitter_begin(struct xp_book_fitter *f, uint32_t version);

/* One stage: hash, each Lloyd round, means, spread and directions. XP_IN_PROGRESS, or XP_OK when the book is done. */
xp_status xp_book_fitter_step(struct xp_book_fitter *f);

/* The bytes of the finished book; valid until the next one is done. NULL before the first. */
const uint8_t *xp_book_fitter_book(const struct xp_book_fitter *f, size_t *len);

/* ---- finding centroids: the sender's side of the finished book ---- */

/* The book as a reader has it; NULL before the first is finished. */
const struct xp_book *xp_book_fitter_own(const struct xp_book_fitter *f);

/* Nearest centroid of every row, by its sketch. of: [rows]. */
void xp_book_fitter_assign(struct xp_book_fitter *f, const struct xp_rows *in, uint32_t *of);

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

#endif
