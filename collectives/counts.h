/*
 * counts.h - the headers that open a call: who sends how many rows, checked on both ends
 *
 * Every pair of ranks exchanges one header on the CTRL lane before any row moves. A header says what the sender of it will
 * send and what it expects, so both ends see a disagreement. It is also the permission to send to its sender: that one has
 * posted its receives. Bytes, little endian:
 *
 *   offset  bytes
 *   0       4    magic "XPCT"
 *   4       4    plan id
 *   8       4    number of the call within the plan
 *   12      4    words of the tail; the highest bit: gradients of gate weights follow the rows (MoE)
 *   16      8    hash of the plan's settings
 *   24      8    rows this rank sends to the receiver of the header
 *   32      8    rows this rank expects of it
 *   40      8    sum over all peers of a hash of (from, to, rows sent)
 *   48      8    the same over rows expected: the sums over all ranks are equal exactly when all pairs agree
 *   56      8    versions of the receiver's books that this rank holds, 4 bytes each, 0 = none (books.h)
 *   64      8 w  tail: what the algorithm adds
 *
 * The two sums let ranks that are in no pair that disagrees learn that there is one, without another round.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_COUNTS_H
#define XP_COUNTS_H

#include "collectives/algo.h"

#define XP_COUNTS_HEADER 64

struct xp_counts_peer {
    uint8_t *out, *in;
    struct xp_op send, recv;
    enum { XP_COUNTS_WAITING, XP_COUNTS_HERE } state;
    int sent;
    uint64_t sends, expects; /* what the peer says */
    const uint8_t *tail;     /* words of the peer's tail, still as bytes */
    uint32_t tail_words;
};

struct xp_counts {
    const struct xp_shape *shape;
    struct xp_call call;
    size_t header_max;
    uint8_t *buffers;
    struct xp_counts_peer *peers; /* [size]; the own entry is unused */
    int missing;                  /* headers that have not come */
    uint64_t sum_sent, sum_expected, own_sent, own_expected;
    int disagree;                 /* some pair disagrees, or a header was refused */
    int no_room;                  /* the algorithm's to set: more rows are expected than the plan's maxima allow, so some pair must disagree */
};

/* max_tail: most words of a tail. */
xp_status xp_counts_create(struct xp_counts *k, const struct xp_shape *s, size_t max_tail);
void xp_counts_destroy(struct xp_counts *k);

/* Begins a call: posts the receives of all headers. */
void xp_counts_begin(struct xp_counts *k, const struct xp_call *c);
/* Sends the own header to a peer. All receives of what the peer may send must be posted. Adds its bytes to stats. */
void xp_counts_send(struct xp_counts *k, int peer, const uint64_t *tail, size_t words, xp_stats *stats);
/* Takes in headers. A header of another call or plan is an error; counts that differ are not (see xp_counts_verdict). */
xp_status xp_counts_progress(struct xp_counts *k, int *moved);

/* Whether the header of a peer is here. */
int xp_counts_here(const struct xp_counts *k, int peer);
/* Whether this rank and the peer agree on what they send each other (its header is here). */
int xp_counts_agree(const struct xp_counts *k, int peer);
/* Whether all headers have come and all own ones have left. */
int xp_counts_done(const struct xp_counts *k);
/* With all headers here: XP_OK; XP_ERR_MISMATCH with the text of the first pair of this rank that disagrees; XP_ERR_INTERNAL: no_room, though all agree. */
xp_status xp_counts_verdict(const struct xp_counts *k);

/* Appends the ranks whose headers are missing to text ("counts of ranks 2, 5"). Returns the length of text. */
size_t xp_counts_waiting(const struct xp_counts *k, char *text, size_t size);
void xp_counts_cancel(struct xp_counts *k);

#endif
