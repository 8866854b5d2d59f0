/*
 * stream_recv.c - the receiving end of a stream: receives posted ahead, rows put in their places (pipeline.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "collectives/books.h"
#include "collectives/pipeline.h"
#include "collectives/rowmap.h"

static size_t chunks_of(size_t rows, size_t chunk_rows)
{
    return (rows + chunk_rows - 1) / chunk_rows;
}

static struct xp_op *take_ops(struct xp_pipe *p, size_t n)
{
    struct xp_op *ops = p->ops + p->ops_used;
    p->ops_used += n;
    return ops;
}

static void post(const struct xp_recv_stream *s, unsigned form, size_t chunk, void *buf, size_t cap, struct xp_op *op)
{
    const struct xp_shape *shape = s->pipe->shape;
    xp_comm_recv(shape->comm, s->peer, XP_LANE_BULK, xp_tag(shape->id, s->pipe->seq, form, chunk), buf, cap, op);
}

static void post_plain(struct xp_recv_stream *s)
{
    const struct xp_shape *shape = s->pipe->shape;
    for (size_t i = 0; i < s->nseg; i++)
        s->nplain += chunks_of(s->seg[i].rows, shape->chunk_rows);
    s->plain = take_ops(s->pipe, s->nplain);
    size_t chunk = 0;
    for (size_t i = 0; i < s->nseg; i++) {
        for (size_t row = 0; row < s->seg[i].rows; chunk++) {
            size_t rows = s->seg[i].rows - row < shape->chunk_rows ? s->seg[i].rows - row : shape->chunk_rows;
            post(s, s->form, chunk, s->seg[i].base + row * shape->row_bytes, rows * shape->row_bytes, &s->plain[chunk]);
            row += rows;
        }
    }
}

static void post_coded(struct xp_recv_stream *s)
{
    struct xp_pipe *p = s->pipe;
    s->head_cap = xp_rowmap_bound(s->rows);
    s->head = p->heads_in + p->heads_in_used;
    p->heads_in_used += (s->head_cap + 7) & ~(size_t)7;
    s->map = p->index_in + p->index_in_used;
    s->first = s->map + s->rows;
    p->index_in_used += 2 * s->rows;
    s->ncoded = chunks_of(s->rows, p->shape->chunk_rows);
    s->coded = take_ops(p, s->ncoded);
    s->staging = p->staging + p->staging_used;
    p->staging_used += s->ncoded * p->chunk_bytes;
    post(s, XP_STREAM_HEAD, 0, s->head, s->head_cap, &s->head_op);
    for (size_t i = 0; i < s->ncoded; i++)
        post(s, XP_STREAM_CODED, i, s->staging + i * p->chunk_bytes, p->chunk_bytes, &s->coded[i]);
}

void xp_recv_begin(struct xp_recv_stream *s, struct xp_pipe *p, int peer, unsigned form, struct xp_segment *seg, size_t nseg,
                   int may_be_coded)
{
    const struct xp_comm *c = p->shape->comm;
    memset(s, 0, sizeof *s);
    s->pipe = p;
    s->peer = peer;
    s->slow = c->node_of[peer] != c->node_of[c->rank];
    s->form = form;
    s->seg = seg;
    s->nseg = nseg;
    for (size_t i = 0; i < nseg; i++)
        s->rows += seg[i].rows;
    if (s->rows == 0)
        return;
    s->posted = 1;
    post_plain(s);
    if (may_be_coded)
        post_coded(s);
    else
        s->state = XP_RECV_PLAIN;
}

static void cancel_ops(struct xp_recv_stream *s, struct xp_op *ops, size_t from, size_t n)
{
    for (size_t i = from; ops && i < n; i++)
        if (ops[i].status == XP_IN_PROGRESS)
            xp_comm_cancel(s->pipe->shape->comm, s->peer, &ops[i]);
}

static xp_status recv_failed(const struct xp_recv_stream *s, xp_status st, const char *what)
{
    if (st == XP_ERR_MISMATCH) /* longer than the room for it; the counts had been agreed on */
        st = XP_ERR_CORRUPT;
    return xp_error(s->pipe->shape->comm, st, "alltoallv: %s rank %d failed: %s", what, s->peer, xp_status_string(st));
}

static xp_status corrupt(const struct xp_recv_stream *s, const char *what)
{
    return xp_error(s->pipe->shape->comm, XP_ERR_CORRUPT, "alltoallv: %s from rank %d is not what it claims", what, s->peer);
}

/* How fast the slow hop delivers: bytes after the first arrival, over the time since (cost.c reads it). */
static void note_arrival(struct xp_recv_stream *s, size_t bytes)
{
    struct xp_pipe *p = s->pipe;
    if (!s->slow || p->ahead) /* then what has come is looked at late */
        return;
    p->slow_last = xp_now();
    if (p->slow_first == 0)
        p->slow_first = p->slow_last;
    else
        p->slow_bytes += bytes;
}

/* Books come so rarely that no receive waits for them: it is posted when the head has announced one. */
static int post_book(struct xp_recv_stream *s)
{
    size_t cap;
    uint8_t *room = xp_books_room(s->pipe->shape->books, s->peer, &cap);
    if (!room)
        return 0;
    post(s, XP_STREAM_BOOK, 0, room, cap, &s->book_op);
    s->book = XP_BOOK_COMES;
    return 1;
}

/* Takes in a book that has come. Frames wait for it. */
static xp_status take_book(struct xp_recv_stream *s, int *moved)
{
    if (s->book_op.status == XP_IN_PROGRESS)
        return XP_OK;
    if (s->book_op.status < 0)
        return recv_failed(s, s->book_op.status, "receiving a book from");
    note_arrival(s, s->book_op.len);
    if (xp_books_take(s->pipe->shape->books, s->peer, s->book_op.len) != XP_OK)
        return corrupt(s, "a book");
    s->book = XP_BOOK_HERE;
    ++*moved;
    return XP_OK;
}

static xp_status read_head(struct xp_recv_stream *s)
{
    int mapped;
    xp_status st = xp_rowmap_read(s->head, s->head_op.len, s->rows, &s->distinct, &mapped, &s->framed, s->map, s->first);
    if (st != XP_OK || (s->framed && !s->pipe->shape->coder))
        return corrupt(s, "the head of a stream");
    if (!mapped)
        s->map = s->first = NULL;
    if (xp_rowmap_has_book(s->head) && !post_book(s))
        return corrupt(s, "the head of a stream");
    cancel_ops(s, s->plain, 0, s->nplain);
    size_t needed = chunks_of(s->distinct, s->pipe->shape->chunk_rows);
    cancel_ops(s, s->coded, needed, s->ncoded);
    s->ncoded = needed;
    s->state = XP_RECV_CODED;
    note_arrival(s, s->head_op.len);
    return XP_OK;
}

/* The first message tells which form the sender chose. */
static xp_status open_stream(struct xp_recv_stream *s, int *moved)
{
    if (s->plain[0].status < 0)
        return recv_failed(s, s->plain[0].status, "receiving rows from");
    if (s->head_op.status < 0)
        return recv_failed(s, s->head_op.status, "receiving rows from");
    if (s->head_op.status == XP_OK) {
        ++*moved;
        return read_head(s);
    }
    if (s->plain[0].status != XP_OK)
        return XP_OK;
    cancel_ops(s, &s->head_op, 0, 1);
    cancel_ops(s, s->coded, 0, s->ncoded);
    s->state = XP_RECV_PLAIN;
    ++*moved;
    return XP_OK;
}

/* Plain rows that have come go on to their places. */
static void put(struct xp_recv_stream *s, const char *rows, size_t n)
{
    size_t bytes = s->pipe->shape->row_bytes;
    for (size_t r = 0; r < n; r++)
        memcpy(s->to + s->place[s->complete + r] * bytes, rows + r * bytes, bytes);
}

static xp_status plain_progress(struct xp_recv_stream *s, int *moved)
{
    const struct xp_shape *shape = s->pipe->shape;
    while (s->next < s->nplain) {
        struct xp_op *op = &s->plain[s->next];
        if (op->status == XP_IN_PROGRESS)
            return XP_OK;
        if (op->status < 0)
            return recv_failed(s, op->status, "receiving rows from");
        while (s->at_row == s->seg[s->at_seg].rows) {
            s->at_seg++;
            s->at_row = 0;
        }
        size_t rows = s->seg[s->at_seg].rows - s->at_row;
        if (rows > shape->chunk_rows)
            rows = shape->chunk_rows;
        if (op->len != rows * shape->row_bytes)
            return corrupt(s, "a chunk");
        note_arrival(s, op->len);
        if (s->place)
            put(s, s->seg[s->at_seg].base + s->at_row * shape->row_bytes, rows);
        s->at_row += rows;
        s->complete += rows;
        s->next++;
        ++*moved;
    }
    return XP_OK;
}

static char *place_of(const struct xp_recv_stream *s, size_t row)
{
    const struct xp_segment *seg = s->seg;
    if (s->place)
        return s->to + s->place[row] * s->pipe->shape->row_bytes;
    while (row >= seg->rows)
        row -= seg++->rows;
    return seg->base + row * s->pipe->shape->row_bytes;
}

/* Where rows [row, row + n) lie one after another, or NULL when they straddle segments or are in a list. */
static char *straight_place(const struct xp_recv_stream *s, size_t row, size_t n)
{
    const struct xp_segment *seg = s->seg;
    if (s->place)
        return NULL;
    while (row >= seg->rows)
        row -= seg++->rows;
    return row + n <= seg->rows ? seg->base + row * s->pipe->shape->row_bytes : NULL;
}

/*
 * Puts rows [s->complete, end) in place: new ones come from `fresh` in order, copies from the place of their first appearance,
 * which is earlier in the stream and so already right.
 */
static void scatter(struct xp_recv_stream *s, const char *fresh, size_t end)
{
    size_t row_bytes = s->pipe->shape->row_bytes;
    for (size_t r = s->complete; r < end; r++) {
        if (!s->map || s->first[s->map[r]] == r) {
            memcpy(place_of(s, r), fresh, row_bytes);
            fresh += row_bytes;
        } else {
            memcpy(place_of(s, r), place_of(s, s->first[s->map[r]]), row_bytes);
        }
    }
}

static xp_status place_chunk(struct xp_recv_stream *s, const uint8_t *chunk, size_t len, size_t rows, size_t end)
{
    struct xp_pipe *p = s->pipe;
    const struct xp_shape *shape = p->shape;
    if (!s->framed) {
        if (len != rows * shape->row_bytes)
            return corrupt(s, "a chunk");
        scatter(s, (const char *)chunk, end);
        return XP_OK;
    }
    xp_coder_read_with(shape->coder, xp_books_of(shape->books, s->peer));
    const int listed = s->place && !s->map;
    char *straight = end - s->complete == rows ? straight_place(s, s->complete, rows) : NULL;
    xp_status st = listed ? xp_coder_decode_to(shape->coder, chunk, len, s->to, s->place + s->complete, rows, p->scratch)
                          : xp_coder_decode(shape->coder, chunk, len, straight ? straight : p->scratch, rows);
    if (st != XP_OK)
        return st == XP_ERR_CORRUPT ? corrupt(s, "a frame") : recv_failed(s, st, "decoding rows from");
    if (!straight && !listed)
        scatter(s, p->scratch, end);
    return XP_OK;
}

static xp_status coded_progress(struct xp_recv_stream *s, int *work, int *moved)
{
    struct xp_pipe *p = s->pipe;
    size_t chunk_rows = p->shape->chunk_rows;
    if (s->book == XP_BOOK_COMES) {
        xp_status st = take_book(s, moved);
        if (st != XP_OK || s->book == XP_BOOK_COMES)
            return st;
    }
    while (s->next < s->ncoded && *work > 0) {
        struct xp_op *op = &s->coded[s->next];
        if (op->status == XP_IN_PROGRESS)
            return XP_OK;
        if (op->status < 0)
            return recv_failed(s, op->status, "receiving coded rows from");
        note_arrival(s, op->len);
        size_t done = s->next * chunk_rows, rows = s->distinct - done < chunk_rows ? s->distinct - done : chunk_rows;
        size_t end = done + rows;
        if (s->map)
            end = end == s->distinct ? s->rows : s->first[end];
        double start = xp_now();
        xp_status st = place_chunk(s, s->staging + s->next * p->chunk_bytes, op->len, rows, end);
        p->stats->seconds_decode += xp_now() - start;
        if (st != XP_OK)
            return st;
        s->complete = end;
        s->next++;
        --*work;
        ++*moved;
    }
    return XP_OK;
}

xp_status xp_recv_end(struct xp_recv_stream *s, size_t rows, char *to, const uint32_t *place)
{
    struct xp_op *ops = s->state == XP_RECV_PLAIN ? s->plain : s->coded;
    size_t *n = s->state == XP_RECV_PLAIN ? &s->nplain : &s->ncoded;
    const size_t chunks = chunks_of(rows, s->pipe->shape->chunk_rows);
    if (s->posted && s->state == XP_RECV_OPEN)
        return XP_IN_PROGRESS;
    if (rows > s->rows || s->map)
        return corrupt(s, "the head of a stream");
    cancel_ops(s, ops, chunks, *n);
    *n = chunks;
    s->seg[0].rows = s->rows = s->distinct = rows;
    s->to = to;
    s->place = place;
    s->ahead = 0;
    return XP_OK;
}

void xp_recv_take(struct xp_recv_stream *s, const char *rows)
{
    size_t bytes = s->pipe->shape->row_bytes;
    xp_recv_cancel(s);
    s->nplain = 0;
    for (; s->complete < s->rows; s->complete++)
        memcpy(place_of(s, s->complete), rows + s->complete * bytes, bytes);
}

xp_status xp_recv_progress(struct xp_recv_stream *s, int *work, int *moved)
{
    if (!s->posted)
        return XP_OK;
    if (s->state == XP_RECV_OPEN) {
        xp_status st = open_stream(s, moved);
        if (st != XP_OK || s->state == XP_RECV_OPEN)
            return st;
    }
    if (s->ahead)
        return XP_OK;
    return s->state == XP_RECV_PLAIN ? plain_progress(s, moved) : coded_progress(s, work, moved);
}

int xp_recv_done(const struct xp_recv_stream *s)
{
    return !s->posted || (s->state != XP_RECV_OPEN && !s->ahead && s->complete == s->rows);
}

void xp_recv_cancel(struct xp_recv_stream *s)
{
    if (!s->pipe || !s->posted)
        return;
    s->posted = 0;
    cancel_ops(s, s->plain, 0, s->nplain);
    if (s->coded) {
        cancel_ops(s, &s->head_op, 0, 1);
        cancel_ops(s, s->coded, 0, s->ncoded);
    }
    if (s->book == XP_BOOK_COMES)
        cancel_ops(s, &s->book_op, 0, 1);
}
