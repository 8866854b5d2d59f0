/*
 * kept_book.h - codec book with a book that both ends keep, as plans have one after some calls (xp_codec stats, xp_perf codec)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TOOLS_KEPT_BOOK_H
#define XP_TOOLS_KEPT_BOOK_H

#include "hash/book_keep.h"
#include "hash/codec.h"

/* A book, and what a receiver has of it. */
struct kept_book {
    struct xp_kernels kernels;
    struct xp_book_fitter *fitter;
    struct xp_book_shelf shelf;
};

/* Learns a book from the rows, which may go afterwards. rank: directions, 0 none. XP_ERR_STATE: too few rows. kept_book_fini in any case. */
xp_status kept_book_learn(struct kept_book *k, const struct xp_rows *rows, unsigned rank, enum xp_isa isa);
void kept_book_fini(struct kept_book *k);

/* A coder that writes and reads with the book; to be destroyed before it. The desc's choice is set here. */
xp_status kept_book_coder(struct kept_book *k, struct xp_coder_desc *d, struct xp_coder **out);

#endif
