/*
 * pipeline.h - streams: the rows for one peer, cut into chunks, coded and sent while others are under way
 *
 * A stream goes from one rank to another and carries the rows of a list of segments, in order. It takes one of two forms,
 * which the sender chooses and the tags tell apart; the receiver is ready for both:
 *
 *   plain   every segment cut into chunks of chunk_rows rows, straight from the sender's memory into the receiver's
 *   coded   a head message (rowmap.h: how many distinct rows, which row is which), a book where the head says so (books.h),
 *           then the distinct rows in chunks of chunk_rows, each a frame of the coder, or bare rows when the plan has no coder
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PIPELINE_H
#define XP_PIPELINE_H

#include "collectives/algo.h"

/* What a BULK tag says besides plan, call and chunk (cost.c probes the link before the first call). Relay streams (hier) add the rank the rows come from. */
enum xp_stream_form { XP_STREAM_HEAD = 0, XP_STREAM_PLAIN = 1, XP_STREAM_CODED = 2, XP_STREAM_PROBE = 3, XP_STREAM_BOOK = 4, XP_STREAM_RELAY = 16 };

#define XP_STREAM_MAX_RANKS (4096 - XP_STREAM_RELAY)
#define XP_STREAM_MAX_CHUNKS ((size_t)1 << 20)

/* plan: 14 bits, call: 2 bits (a rank is never more than one call ahead), form: 12 bits, chunk: 20 bits. */
static inline uint64_t xp_tag(uint32_t plan, uint32_t seq, unsigned form, size_t chunk)
{
    return (uint64_t)(plan & 0x3fff) << 34 | (uint64_t)(seq & 3) << 32 | (uint64_t)form << 20 | chunk;
}

/* Rows that lie one after another in memory. */
struct xp_segment {
    char *base;
    size_t rows;
};

/* A staging buffer with the send that reads it. */
struct xp_slot {
    uint8_t *buf;
    struct xp_op op;
    int peer; /* -1: free */
};

/* What the streams of one plan share: staging, scratch, counters. One thread, no locks. */
struct xp_pipe {
    const struct xp_shape *shape;
    xp_stats *stats;
    uint32_t seq;
    size_t chunk_bytes;    /* most bytes of one coded chunk */
    struct xp_slot *slots; /* NULL when the plan never stages */
    size_t nslots;
    char *scratch;         /* chunk_rows decoded rows, on their way to their places */
    uint32_t *dedup_work, *dedup_map;
    struct xp_op *ops;     /* receives; carved per call */
    size_t ops_cap, ops_used;
    uint8_t *staging;      /* coded chunks as they arrive; carved per call */
    size_t staging_cap, staging_used;
    uint8_t *heads_in, *heads_out; /* head messages; carved per call */
    size_t heads_in_cap, heads_in_used, heads_out_cap, heads_out_used;
    uint32_t *index_in, *index_out; /* row lists; carved per call */
    size_t index_in_cap, index_in_used, index_out_cap, index_out_used;
    struct xp_rows all;    /* all rows that this call sends, with an index where the caller has them in a list; */
    int early;             /* some may still be written when others are sent, */
    int ahead;             /* or chosen */
    const uint32_t *number; /* of these rows, and */
    struct xp_coded_rows *store; /* where they are kept when coded; NULL: nowhere */
    int distinct;          /* of them none goes to two ranks of other nodes */
    uint32_t *own_number, *part_number; /* for calls that do not bring numbers: of all rows, with as much room behind; of the rows of one chunk */
    size_t own_numbers;                 /* of this call: how many numbers its rows have; 0: they have none */
    struct xp_coded_rows *own_store;    /* NULL: equal rows are not looked for across streams */
    int coding;            /* of this call: -1 not yet decided, else whether coding pays */
    int coded_streams, framed_streams; /* of this call */
    double slow_first, slow_last; /* this call's arrivals over the slow hop: when, and how much after the first */
    uint64_t slow_bytes;
};

/* Most rows and streams of one call, in each direction. staged: of these, those that may be coded. */
struct xp_pipe_limits {
    size_t send_rows_staged, send_streams_staged;
    size_t recv_rows, recv_segments;
    size_t recv_rows_staged, recv_streams_staged;
    int numbers_rows; /* equal rows may go to several peers: they are coded once */
};
xp_status xp_pipe_create(struct xp_pipe *p, const struct xp_shape *s, const struct xp_pipe_limits *l);
void xp_pipe_destroy(struct xp_pipe *p);
/* Before the streams of a call are set up: all staging is free again. */
void xp_pipe_begin(struct xp_pipe *p, const struct xp_call *c, xp_stats *stats);
/* Frees slots whose sends are done. Returns how many, or the error of one that failed. */
xp_status xp_pipe_reap(struct xp_pipe *p, int *moved);
/* After a call that went well: what it used, for the statistics and the cost model. */
void xp_pipe_end(struct xp_pipe *p);
int xp_pipe_idle(const struct xp_pipe *p); /* no send of a slot is under way */
void xp_pipe_cancel(struct xp_pipe *p);

#define XP_SEND_WINDOW 8 /* plain chunks under way per stream */

struct xp_send_stream {
    struct xp_pipe *pipe;
    int peer, slow;
    unsigned form;            /* PLAIN or RELAY + rank, until prepared; then maybe CODED */
    struct xp_segment *seg;
    size_t nseg, rows;
    size_t first;             /* rows in a list: where in it those of this stream begin; */
    const uint32_t *position; /* coded without copies: where the distinct rows are from there on; NULL: all are */
    int prepared, framed;     /* framed: chunks are frames of the coder */
    size_t at_seg, at_row;    /* plain: the next row */
    size_t ready;             /* plain, and coded in a call that goes ahead: rows of the stream that may be sent (a relay's grow) */
    size_t posted;            /* plain: rows handed to the transport */
    size_t chunk;             /* next chunk */
    struct xp_rows distinct;  /* coded: what travels */
    size_t encoded;           /* of these, encoded so far */
    uint8_t *head;
    size_t head_len;
    struct xp_op head_op, book_op;
    int head_sent, book_sent; /* book_sent: one had to be */
    struct xp_op window[XP_SEND_WINDOW];
    unsigned in_flight, oldest;
};

/* Sets up a stream of the rows in seg (kept by the caller). may_code: the receiver is ready for the coded form. */
void xp_send_begin(struct xp_send_stream *s, struct xp_pipe *p, int peer, unsigned form, struct xp_segment *seg, size_t nseg,
                   int may_code);
/* There are so many rows in this stream of a call that goes ahead, no more than it began with. */
void xp_send_end(struct xp_send_stream *s, size_t rows);
/* Chooses the form: deduplicates, asks the coder. Needs no permission of the peer. One call is one piece of work. */
void xp_send_prepare(struct xp_send_stream *s);
/* Sends what the window admits; encodes at most one chunk, and only when *work > 0 (then *work is decreased). */
xp_status xp_send_progress(struct xp_send_stream *s, int *work, int *moved);
int xp_send_done(const struct xp_send_stream *s);
void xp_send_cancel(struct xp_send_stream *s);

struct xp_recv_stream {
    struct xp_pipe *pipe;
    int peer, slow;
    unsigned form;          /* of the plain chunks: PLAIN or RELAY + rank */
    struct xp_segment *seg;
    size_t nseg, rows;
    char *to;               /* rows belong here, */
    const uint32_t *place;  /* [rows] at these places; NULL: where the segments are */
    int posted;             /* messages are awaited */
    int ahead;              /* how many rows there are, and where they belong, is not known yet */
    enum { XP_RECV_OPEN, XP_RECV_PLAIN, XP_RECV_CODED } state;
    struct xp_op *plain, *coded, head_op; /* coded NULL: the coded form is not expected */
    size_t nplain, ncoded, next; /* next: chunk that is looked at */
    size_t at_seg, at_row;  /* plain: first row of chunk `next` */
    size_t complete;        /* plain, or coded without a map: leading rows that are in place */
    uint8_t *head, *staging;
    size_t head_cap;
    size_t distinct;        /* coded: rows that travel */
    int framed;
    enum { XP_BOOK_NONE, XP_BOOK_COMES, XP_BOOK_HERE } book;
    struct xp_op book_op;
    uint32_t *map, *first;  /* coded with a map: row r of the stream is distinct row map[r]; NULL: they are the rows */
};

/* Posts all receives of a stream. */
void xp_recv_begin(struct xp_recv_stream *s, struct xp_pipe *p, int peer, unsigned form, struct xp_segment *seg, size_t nseg,
                   int may_be_coded);
/* Takes in what has come; decodes at most one chunk, and only when *work > 0. */
xp_status xp_recv_progress(struct xp_recv_stream *s, int *work, int *moved);
/* Of a stream of a call that goes ahead, with ahead set until then: what is known now. Returns XP_IN_PROGRESS until its head is here, and XP_ERR_CORRUPT. */
xp_status xp_recv_end(struct xp_recv_stream *s, size_t rows, char *to, const uint32_t *place);
/* All rows of a stream that is never coded, which came by another way: no message is waited for. */
void xp_recv_take(struct xp_recv_stream *s, const char *rows);
int xp_recv_done(const struct xp_recv_stream *s);
void xp_recv_cancel(struct xp_recv_stream *s);

#endif
