/*
 * rowmap.h - the head message of a coded stream: how many distinct rows travel, and which row is which
 *
 * Distinct rows are numbered in order of first appearance, so a row is either the next new one or a copy of an earlier one:
 * one bit a row says which, and copies name their number in as few bits as the largest number needs.
 *
 *   offset  bytes
 *   0       4    magic "XPRM"
 *   4       1    flags: 1 = a map follows, 2 = chunks are frames (else bare rows), 4 = a book comes before them (books.h)
 *   5       1    bits of one number
 *   6       2    0
 *   8       8    rows of the stream
 *   16      8    distinct rows
 *   24      -    with a map: (rows + 7) / 8 bytes, bit r set when row r is new; then the numbers of the copies, packed from
 *                the lowest bit up
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_ROWMAP_H
#define XP_ROWMAP_H

#include "hash/rows.h"

#define XP_ROWMAP_HEADER 24

/* Most bytes of a head message of a stream of `rows` rows. */
size_t xp_rowmap_bound(size_t rows);

/* Bytes of one with a map. */
size_t xp_rowmap_bytes(size_t rows, size_t distinct);

/* Writes a head; map NULL: every row is distinct. Returns its bytes. */
size_t xp_rowmap_write(uint8_t *out, size_t rows, size_t distinct, const uint32_t *map, int framed);

/* Says in a head that has been written that a book comes. */
void xp_rowmap_announce_book(uint8_t *head);
int xp_rowmap_has_book(const uint8_t *head);

/*
 * Reads a head of a stream of `rows` rows. With a map, map[r] gets the number of row r and first[u] the row where number u
 * first appears (room for `rows` each). XP_ERR_CORRUPT on any contradiction: what is returned XP_OK is safe to use.
 */
xp_status xp_rowmap_read(const uint8_t *in, size_t len, size_t rows, size_t *distinct, int *mapped, int *framed, uint32_t *map,
                         uint32_t *first);

/*
 * Whether so many rows can be copies that saving them may pay, from 64 bytes of every row. Equal rows have equal samples, so
 * a "no" is proven, a "yes" is not. work: as of xp_dedup.
 */
int xp_rowmap_may_pay(const struct xp_rows *in, uint32_t *work);

#endif
