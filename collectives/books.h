/*
 * books.h - the kept books of a plan: learned from the rows of its calls, shipped to peers, kept of peers
 *
 * A rank learns one book of the rows that it sends, in the background of its calls (hash/book_keep.h), and each of its peers keeps the
 * last two versions. Nobody has to remember who has which:
 *
 *   - the header that opens a call (counts.h) says which versions of the receiver's books its sender holds,
 *   - rows for a peer leave after its header has come (algo.h), so the sender knows: when the peer lacks the book of this call, the
 *     head of the coded stream says that a book comes, and it follows in a message of its own, before the first frame,
 *   - the book of a call is chosen when it starts and stays until it ends.
 *
 * So a peer that has lost its books, or a new plan, says "none" and gets the book again. With hier the rank that takes a
 * stream in for its node is the one that holds the books.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_BOOKS_H
#define XP_BOOKS_H

#include "collectives/algo.h"
#include "hash/book_keep.h"

#define XP_BOOKS_SAY 8 /* bytes in a header */

struct xp_books;

/* Books for a plan whose coder may use them; *out is NULL when they would be of no use. All memory is taken here, and that for the
 * books of peers is bounded by fewer centroids where there are many. */
xp_status xp_books_create(struct xp_books **out, const struct xp_shape *s);
void xp_books_destroy(struct xp_books *b);

/* All of the following accept b == NULL. */

/* A call that sends these rows: decides on a book that has been finished, takes rows to learn from. Nothing is known of peers. */
void xp_books_begin(struct xp_books *b, const struct xp_rows *rows);
/* The call went well: work that found no idle moment is made up for, in a small part of the call's time. */
void xp_books_end(struct xp_books *b, xp_stats *stats);
#define XP_BOOKS_IDLE 100e-6 /* between two looks at whether anything has come */

/* Background work for about so many seconds. Returns whether there was any. */
int xp_books_work(struct xp_books *b, double seconds);

/* Headers: what this rank holds of a peer's books, into XP_BOOKS_SAY bytes; what the peer says to hold of this rank's. */
void xp_books_say(const struct xp_books *b, int peer, uint8_t *out);
void xp_books_hear(struct xp_books *b, int peer, const uint8_t *in);

/* Sending: the bytes of the book of this call when the peer lacks it, else NULL. They stay until the call has ended. */
const uint8_t *xp_books_due(struct xp_books *b, int peer, size_t *len);
/* Frames of this call: how many bytes their rows took. */
void xp_books_note(struct xp_books *b, size_t rows, size_t bytes);

/* Receiving: room for a book of a peer (NULL: none is expected), and taking it in when it has come. */
uint8_t *xp_books_room(struct xp_books *b, int peer, size_t *cap);
xp_status xp_books_take(struct xp_books *b, int peer, size_t len);
/* What frames of this peer are read with. */
const struct xp_book_shelf *xp_books_of(const struct xp_books *b, int peer);
/* Loses the books of all peers, as a rank does that starts anew. */
void xp_books_lose(struct xp_books *b);

#endif
