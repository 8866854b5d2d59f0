/*
 * stream_send.c - the sending end of a stream: choose the form, encode, send (pipeline.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "collectives/books.h"
#include "collectives/cost.h"
#include "collectives/pipeline.h"
#include "collectives/rowmap.h"
#include "hash/coded_rows.h"

void xp_send_begin(struct xp_send_stream *s, struct xp_pipe *p, int peer, unsigned form, struct xp_segment *seg, size_t nseg,
                   int may_code)
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
    s->ready = s->rows;
    s->prepared = !may_code || s->rows == 0;
    if (s->slow)
        p->stats->rows_unique += s->rows; /* prepare takes the copies off */
}

/* Whether the rows lie one after another; *first gets the first of them. Empty segments may point anywhere. */
static int contiguous(const struct xp_send_stream *s, const char **first)
{
    const char *next = NULL;
    int together = 1;
    for (size_t i = 0; i < s->nseg; i++) {
        if (!s->seg[i].rows)
            continue;
        if (!next)
            *first = s->seg[i].base;
        else if (s->seg[i].base != next)
            together = 0;
        next = s->seg[i].base + s->seg[i].rows * s->pipe->shape->row_bytes;
    }
    return together;
}

/* The rows of the stream as one batch. Rows of scattered segments are listed in the index arena. */
static struct xp_rows rows_of(struct xp_send_stream *s)
{
    struct xp_pipe *p = s->pipe;
    const struct xp_shape *shape = p->shape;
    if (p->all.index) {
        struct xp_rows listed = p->all;
        listed.index += s->first;
        listed.rows = s->rows;
        return listed;
    }
    const char *base = NULL;
    int together = contiguous(s, &base);
    struct xp_rows in = {.data = base, .rows = s->rows, .dim = shape->dim, .dtype = shape->dtype};
    if (together)
        return in;
    uint32_t *list = p->index_out + p->index_out_used;
    p->index_out_used += s->rows;
    size_t n = 0;
    for (size_t i = 0; i < s->nseg; i++)
        for (size_t r = 0; r < s->seg[i].rows; r++)
            list[n++] = (uint32_t)((size_t)(s->seg[i].base - base) / shape->row_bytes + r);
    in.index = list;
    return in;
}

/* Equal rows get one number, so that one that goes to several peers is coded once; not where few are equal. */
static void number_rows(struct xp_pipe *p)
{
    if (p->store || p->distinct || !p->own_store || p->all.rows < 2 || !xp_rowmap_may_pay(&p->all, p->dedup_work))
        return;
    p->own_numbers = xp_dedup(&p->all, p->own_number + p->all.rows, p->own_number, p->dedup_work);
    if (p->own_numbers > p->own_store->cap)
        return;
    xp_coded_rows_begin(p->own_store, &p->all);
    p->store = p->own_store;
    p->number = p->own_number;
}

/* Where the numbers of the rows of a stream, the first ones of a batch, are among those of all rows. */
static const uint32_t *numbers_of(const struct xp_send_stream *s, const uint32_t *number, const struct xp_rows *in)
{
    const struct xp_pipe *p = s->pipe;
    return number + (p->all.index ? s->first : (size_t)((const char *)in->data - (const char *)p->all.data) / p->shape->row_bytes);
}

/* xp_dedup for rows that have numbers: none is looked at. */
static size_t distinct_numbers(struct xp_send_stream *s, const struct xp_rows *in, uint32_t *first)
{
    struct xp_pipe *p = s->pipe;
    const uint32_t *number = numbers_of(s, p->own_number, in), *index = p->all.index ? NULL : in->index;
    uint32_t *seen = p->dedup_work; /* the place of a number among the distinct rows, plus one */
    size_t found = 0;
    memset(seen, 0, p->own_numbers * sizeof *seen);
    for (size_t r = 0; r < in->rows; r++) {
        uint32_t *place = &seen[number[index ? index[r] : r]];
        if (!*place) {
            first[found] = (uint32_t)r;
            *place = (uint32_t)++found;
        }
        p->dedup_map[r] = *place - 1;
    }
    return found;
}

/* Leaves the distinct rows of `in` in s->distinct. Returns whether leaving out the copies pays. */
static int deduplicate(struct xp_send_stream *s, const struct xp_rows *in)
{
    struct xp_pipe *p = s->pipe;
    if (!p->shape->dedup || p->ahead || in->rows < 2 || !(p->own_numbers || xp_rowmap_may_pay(in, p->dedup_work)))
        return 0;
    uint32_t *first = p->index_out + p->index_out_used;
    size_t distinct = p->own_numbers ? distinct_numbers(s, in, first) : xp_dedup(in, first, p->dedup_map, p->dedup_work);
    if (!xp_cost_dedup_pays(p->shape, in->rows, distinct))
        return 0;
    p->index_out_used += in->rows;
    if (p->all.index) {
        s->position = memcpy(first + in->rows, first, distinct * sizeof *first);
        p->index_out_used += in->rows;
    }
    for (size_t u = 0; in->index && u < distinct; u++)
        first[u] = in->index[first[u]];
    s->distinct = *in;
    s->distinct.index = first;
    s->distinct.rows = distinct;
    return 1;
}

/* The coder keeps one choice, so the first stream of a call asks for all of them. Of rows that are not known yet nothing can be asked. */
static int coding_pays(struct xp_pipe *p, const struct xp_rows *in)
{
    if (!p->shape->coder)
        return 0;
    if (p->coding < 0) {
        p->coding = p->ahead || xp_cost_coding_pays(p->shape, p->early ? in : &p->all);
        if (p->coding && !p->ahead)
            number_rows(p);
    }
    return p->coding;
}

void xp_send_prepare(struct xp_send_stream *s)
{
    struct xp_pipe *p = s->pipe;
    if (s->prepared)
        return;
    s->prepared = 1;
    struct xp_rows in = rows_of(s);
    s->distinct = in;
    s->framed = coding_pays(p, &in); /* first, for it may number the rows */
    int mapped = deduplicate(s, &in);
    if (!mapped && !s->framed)
        return; /* plain */

    s->form = XP_STREAM_CODED;
    p->coded_streams++;
    p->framed_streams += s->framed;
    p->stats->rows_unique -= s->rows - s->distinct.rows;
    s->head = p->heads_out + p->heads_out_used;
    p->heads_out_used += (xp_rowmap_bound(s->rows) + 7) & ~(size_t)7;
    s->head_len = xp_rowmap_write(s->head, s->rows, s->distinct.rows, mapped ? p->dedup_map : NULL, s->framed);
}

static void count_bytes(struct xp_send_stream *s, size_t bytes)
{
    xp_count_sent(s->pipe->shape->comm, s->pipe->stats, s->peer, bytes);
}

static xp_status send_failed(const struct xp_send_stream *s, xp_status st)
{
    return xp_error(s->pipe->shape->comm, st, "alltoallv: sending rows to rank %d failed: %s", s->peer, xp_status_string(st));
}

static xp_status reap_window(struct xp_send_stream *s, int *moved)
{
    while (s->in_flight) {
        struct xp_op *op = &s->window[s->oldest];
        if (op->status == XP_IN_PROGRESS)
            return XP_OK;
        if (op->status < 0)
            return send_failed(s, op->status);
        s->oldest = (s->oldest + 1) % XP_SEND_WINDOW;
        s->in_flight--;
        ++*moved;
    }
    return XP_OK;
}

/* Rows of a list, from here on, to the place that they leave from. */
static void gather(const struct xp_send_stream *s, char *to, size_t rows)
{
    struct xp_rows listed = s->pipe->all;
    size_t bytes = s->pipe->shape->row_bytes;
    listed.index += s->first + s->posted;
    for (size_t r = 0; r < rows; r++)
        memcpy(to + r * bytes, xp_row(&listed, r), bytes);
}

static xp_status plain_progress(struct xp_send_stream *s, int *moved)
{
    const struct xp_shape *shape = s->pipe->shape;
    xp_status st = reap_window(s, moved);
    while (st == XP_OK && s->posted < s->rows && s->in_flight < XP_SEND_WINDOW) {
        const struct xp_segment *seg = &s->seg[s->at_seg];
        if (s->at_row == seg->rows) {
            s->at_seg++;
            s->at_row = 0;
            continue;
        }
        size_t rows = seg->rows - s->at_row;
        if (rows > shape->chunk_rows)
            rows = shape->chunk_rows;
        if (s->posted + rows > s->ready)
            break;
        struct xp_op *op = &s->window[(s->oldest + s->in_flight++) % XP_SEND_WINDOW];
        if (s->pipe->all.index)
            gather(s, seg->base + s->at_row * shape->row_bytes, rows);
        xp_comm_send(shape->comm, s->peer, XP_LANE_BULK, xp_tag(shape->id, s->pipe->seq, s->form, s->chunk++),
                     seg->base + s->at_row * shape->row_bytes, rows * shape->row_bytes, op);
        count_bytes(s, rows * shape->row_bytes);
        s->at_row += rows;
        s->posted += rows;
        ++*moved;
    }
    return st;
}

static struct xp_slot *free_slot(struct xp_pipe *p)
{
    for (size_t i = 0; i < p->nslots; i++)
        if (p->slots[i].peer < 0)
            return &p->slots[i];
    return NULL;
}

/* The numbers of these rows, the next ones of the stream. NULL: there is no room for them. */
static const uint32_t *numbers_of_part(const struct xp_send_stream *s, const struct xp_rows *part)
{
    const struct xp_pipe *p = s->pipe;
    const uint32_t *number = numbers_of(s, p->number, part);
    const uint32_t *which = p->all.index ? s->position ? s->position + s->encoded : NULL : part->index;
    if (!which)
        return p->all.index ? number + s->encoded : number;
    for (size_t r = 0; p->part_number && r < part->rows; r++)
        p->part_number[r] = number[which[r]];
    return p->part_number;
}

/* A frame of these rows, the next ones of the stream. */
static xp_status encode(struct xp_send_stream *s, const struct xp_rows *part, struct xp_slot *slot, size_t *len)
{
    struct xp_pipe *p = s->pipe;
    struct xp_coder *coder = p->shape->coder;
    const uint32_t *number = p->store ? numbers_of_part(s, part) : NULL;
    if (!number)
        return xp_coder_encode(coder, part, slot->buf, p->chunk_bytes, len, p->shape->codec_stats);
    return xp_coder_encode_once(coder, part, p->store, number, slot->buf, p->chunk_bytes, len, p->shape->codec_stats);
}

/* Fills a slot with the next chunk of distinct rows: a frame, or the bare rows. */
static xp_status fill_slot(struct xp_send_stream *s, struct xp_slot *slot, size_t rows, size_t *len)
{
    struct xp_pipe *p = s->pipe;
    struct xp_rows part = s->distinct;
    part.rows = rows;
    if (part.index)
        part.index += s->encoded;
    else
        part.data = (const char *)part.data + s->encoded * p->shape->row_bytes;
    if (s->framed) {
        xp_status st = encode(s, &part, slot, len);
        if (st == XP_OK)
            xp_books_note(p->shape->books, rows, *len);
        return st;
    }
    size_t row_bytes = p->shape->row_bytes;
    for (size_t r = 0; r < rows; r++)
        memcpy(slot->buf + r * row_bytes, xp_row(&part, r), row_bytes);
    *len = rows * row_bytes;
    return XP_OK;
}

/* The head, and behind it the book where the peer lacks it: its header has come, and says what it holds. */
static void send_head(struct xp_send_stream *s)
{
    struct xp_pipe *p = s->pipe;
    const struct xp_shape *shape = p->shape;
    size_t book_len = 0;
    const uint8_t *book = s->framed ? xp_books_due(shape->books, s->peer, &book_len) : NULL;
    if (book)
        xp_rowmap_announce_book(s->head);
    xp_comm_send(shape->comm, s->peer, XP_LANE_BULK, xp_tag(shape->id, p->seq, XP_STREAM_HEAD, 0), s->head, s->head_len, &s->head_op);
    if (book)
        xp_comm_send(shape->comm, s->peer, XP_LANE_BULK, xp_tag(shape->id, p->seq, XP_STREAM_BOOK, 0), book, book_len, &s->book_op);
    s->head_sent = 1;
    s->book_sent = book != NULL;
    count_bytes(s, s->head_len + book_len);
}

static xp_status coded_progress(struct xp_send_stream *s, int *work, int *moved)
{
    struct xp_pipe *p = s->pipe;
    const struct xp_shape *shape = p->shape;
    if (!s->head_sent) {
        send_head(s);
        ++*moved;
    }
    if (s->head_op.status < 0)
        return send_failed(s, s->head_op.status);
    if (s->book_sent && s->book_op.status < 0)
        return send_failed(s, s->book_op.status);
    struct xp_slot *slot;
    if (s->encoded == s->distinct.rows || *work <= 0 || !(slot = free_slot(p)))
        return XP_OK;

    size_t rows = s->distinct.rows - s->encoded, len = 0;
    if (rows > shape->chunk_rows)
        rows = shape->chunk_rows;
    if (p->ahead && s->encoded + rows > s->ready)
        return XP_OK;
    double start = xp_now();
    xp_status st = fill_slot(s, slot, rows, &len);
    p->stats->seconds_encode += xp_now() - start;
    if (st != XP_OK)
        return xp_error(shape->comm, st, "alltoallv: encoding rows for rank %d failed: %s", s->peer, xp_status_string(st));
    slot->peer = s->peer;
    xp_comm_send(shape->comm, s->peer, XP_LANE_BULK, xp_tag(shape->id, p->seq, XP_STREAM_CODED, s->chunk++), slot->buf, len,
                 &slot->op);
    count_bytes(s, len);
    s->encoded += rows;
    --*work;
    ++*moved;
    return XP_OK;
}

xp_status xp_send_progress(struct xp_send_stream *s, int *work, int *moved)
{
    if (!s->prepared) {
        if (*work <= 0)
            return XP_OK;
        xp_send_prepare(s);
        --*work;
        ++*moved;
    }
    return s->form == XP_STREAM_CODED ? coded_progress(s, work, moved) : plain_progress(s, moved);
}

void xp_send_end(struct xp_send_stream *s, size_t rows)
{
    if (rows >= s->rows)
        return;
    if (s->slow)
        s->pipe->stats->rows_unique -= s->rows - rows;
    s->seg[0].rows = s->rows = s->distinct.rows = rows;
}

/* Slots are shared and waited for by xp_pipe_idle. Even where no row comes a head has been promised. */
int xp_send_done(const struct xp_send_stream *s)
{
    if (s->rows == 0 && s->form != XP_STREAM_CODED)
        return 1;
    if (s->form != XP_STREAM_CODED)
        return s->posted == s->rows && s->in_flight == 0;
    return s->encoded == s->distinct.rows && s->head_sent && s->head_op.status != XP_IN_PROGRESS &&
           !(s->book_sent && s->book_op.status == XP_IN_PROGRESS);
}

void xp_send_cancel(struct xp_send_stream *s)
{
    if (!s->pipe)
        return;
    struct xp_comm *c = s->pipe->shape->comm;
    for (; s->in_flight; s->in_flight--) {
        struct xp_op *op = &s->window[s->oldest];
        if (op->status == XP_IN_PROGRESS)
            xp_comm_cancel(c, s->peer, op);
        s->oldest = (s->oldest + 1) % XP_SEND_WINDOW;
    }
    if (s->head_sent && s->head_op.status == XP_IN_PROGRESS)
        xp_comm_cancel(c, s->peer, &s->head_op);
    if (s->book_sent && s->book_op.status == XP_IN_PROGRESS)
        xp_comm_cancel(c, s->peer, &s->book_op);
}
