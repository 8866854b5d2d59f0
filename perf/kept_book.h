/*
 * kept_book.h - codec book with a book that both ends keep, as plans have one after some calls (bench_codec.c)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PERF_KEPT_BOOK_H
#define XP_PERF_KEPT_BOOK_H

#include "hash/codec.h"

struct kept_book;

/* Learns a book from the rows, which may go afterwards. The desc's codec is not looked at. XP_ERR_STATE: too few rows. Destroy accepts NULL. */
xp_status kept_book_create(struct kept_book **out, const xp_codec_desc *d, const struct xp_rows *learn);
void kept_book_destroy(struct kept_book *k);

xp_status kept_book_encode(struct kept_book *k, const struct xp_rows *in, void *frame, size_t cap, size_t *len, xp_codec_stats *st);
xp_status kept_book_decode(struct kept_book *k, const void *frame, size_t len, void *out, size_t rows);

#endif
