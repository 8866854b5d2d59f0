/*
 * grouped_heads.c - heads of rows, and the pieces of device memory that follow from them (grouped.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/grouped.h"

#include <string.h>

#include "collectives/rowmap.h"
#include "hash/bytes.h"

enum { KIND_RAW = 0, KIND_CODED = 1 };
#define KIND_AND_SEED 9 /* most bytes before the head of a payload */

size_t xp_grouped_frames(const struct xp_shape *s, size_t rows)
{
    return rows / s->chunk_rows + (size_t)s->comm->size;
}

/* Whether rows to and from this peer have a head. */
static int has_head(const struct xp_shape *s, int peer, size_t rows)
{
    if (!s->dedup)
        return xp_device_codes(s, peer) && rows > 0;
    return s->comm->node_of[peer] != s->comm->node && rows > s->chunk_rows;
}

size_t xp_grouped_head_bytes(const struct xp_shape *s, size_t rows)
{
    if (s->dedup)
        return (size_t)s->comm->size * xp_rowmap_bound(1) + xp_rowmap_bound(rows);
    return xp_grouped_frames(s, rows) * (KIND_AND_SEED + XP_QUANT_PREFIX + s->row_bytes) + rows;
}

/* Rows of frame i of a peer's. */
static size_t frame_rows(const struct xp_shape *s, const struct xp_heads *h, size_t i)
{
    const size_t left = h->rows - i * s->chunk_rows;
    return left < s->chunk_rows ? left : s->chunk_rows;
}

static size_t head_bytes(const struct xp_shape *s, const struct xp_heads *h)
{
    if (s->dedup)
        return h->rows ? xp_rowmap_bound(h->rows) : 0;
    return h->frames * (KIND_AND_SEED + XP_QUANT_PREFIX + s->row_bytes) + h->rows;
}

static void set_up(struct xp_grouped *g, struct xp_heads *all, const size_t *rows, uint8_t *memory)
{
    const struct xp_shape *s = g->shape;
    size_t row = 0, frame = 0;
    for (int i = 0; i < s->comm->size; i++) {
        struct xp_heads *h = &all[i];
        memset(h, 0, sizeof *h);
        h->row = row;
        h->rows = has_head(s, i, rows[i]) ? rows[i] : 0;
        h->distinct = rows[i];
        h->frame = frame;
        h->frames = g->coder ? (h->rows + s->chunk_rows - 1) / s->chunk_rows : 0;
        h->bytes = memory;
        h->cap = head_bytes(s, h);
        memory += h->cap;
        frame += h->frames;
        row += rows[i];
    }
}

static uint64_t tag_of(const struct xp_grouped *g)
{
    return xp_tag(g->shape->id, g->call->seq, XP_STREAM_CODED, 0);
}

void xp_grouped_heads_begin(struct xp_grouped *g)
{
    const struct xp_shape *s = g->shape;
    set_up(g, g->out, g->call->send_rows, g->head_memory);
    set_up(g, g->in, g->call->recv_rows, g->head_memory + xp_grouped_head_bytes(s, s->max_send_rows));
    for (int i = 0; i < s->comm->size; i++) {
        struct xp_heads *out = &g->out[i], *in = &g->in[i];
        for (size_t f = 0; f < out->frames; f++)
            xp_device_batch_add(g->coder, &g->coder->batch[0], out->row + f * s->chunk_rows, frame_rows(s, out, f));
        if (in->rows)
            xp_comm_recv(s->comm, i, XP_LANE_BULK, tag_of(g), in->bytes, in->cap, &in->op);
    }
}

void xp_grouped_heads_send(struct xp_grouped *g)
{
    const struct xp_shape *s = g->shape;
    for (int i = 0; i < s->comm->size; i++) {
        struct xp_heads *h = &g->out[i];
        if (!h->rows)
            continue;
        for (size_t f = 0; f < h->frames; f++)
            h->len += xp_device_write_head(g->coder, &g->coder->batch[0], h->frame + f, h->bytes + h->len);
        if (g->copies)
            h->len = xp_grouped_copies_write(g, h);
        xp_comm_send(s->comm, i, XP_LANE_BULK, tag_of(g), h->bytes, h->len, &h->op);
        xp_count_sent(s->comm, g->stats, i, h->len);
    }
}

static xp_status state_of(const struct xp_grouped *g, const struct xp_heads *h, int peer, const char *what)
{
    if (!h->rows || h->op.status == XP_OK)
        return XP_OK;
    if (h->op.status == XP_IN_PROGRESS)
        return XP_IN_PROGRESS;
    return xp_error(g->shape->comm, h->op.status == XP_ERR_MISMATCH ? XP_ERR_CORRUPT : h->op.status, "alltoallv: %s rank %d failed: %s", what, peer,
                    xp_status_string(h->op.status));
}

xp_status xp_grouped_heads_progress(struct xp_grouped *g)
{
    xp_status all = XP_OK;
    for (int i = 0; i < g->shape->comm->size; i++) {
        xp_status out = state_of(g, &g->out[i], i, "sending the heads of rows to"), in = state_of(g, &g->in[i], i, "receiving the heads of rows from");
        if (out < 0 || in < 0)
            return out < 0 ? out : in;
        if (out == XP_IN_PROGRESS || in == XP_IN_PROGRESS)
            all = XP_IN_PROGRESS;
    }
    return all;
}

void xp_grouped_heads_cancel(struct xp_grouped *g)
{
    for (int i = 0; i < g->shape->comm->size; i++) {
        if (g->out[i].len && g->out[i].op.status == XP_IN_PROGRESS)
            xp_comm_cancel(g->shape->comm, i, &g->out[i].op);
        if (g->in[i].rows && g->in[i].op.status == XP_IN_PROGRESS)
            xp_comm_cancel(g->shape->comm, i, &g->in[i].op);
    }
}

/* ---- pieces -------------------------------------------------------------------------------------------------------- */

/* Bytes at buf, joined to the last piece when they are of the same kind and peer. kind_before: of the last frame, -1: of another peer. */
static void add_piece(struct xp_piece_list *list, int peer, int kind, int *kind_before, void *buf, size_t len)
{
    if (kind == *kind_before) {
        list->piece[list->count - 1].len += len;
        return;
    }
    *kind_before = kind;
    list->piece[list->count++] = (struct xp_piece){peer, buf, len};
}

/* Where rows are of which some may travel for others: in these buffers, or, where some do, in the memory for those that travel. */
static void *place_of(const struct xp_heads *h, const void *rows, char *distinct, size_t row_bytes)
{
    return h->distinct < h->rows ? distinct + h->place * row_bytes : (char *)(uintptr_t)rows + h->row * row_bytes;
}

static int pieces_to(struct xp_grouped *g, int peer)
{
    const struct xp_shape *s = g->shape;
    const struct xp_heads *h = &g->out[peer];
    int kind = -1, e = 0;
    if (!h->frames)
        add_piece(&g->send, peer, KIND_RAW, &kind, place_of(h, g->call->send, g->copies ? g->copies->dev.rows : NULL, s->row_bytes), h->distinct * s->row_bytes);
    for (size_t f = 0; !e && f < h->frames; f++) {
        const void *raw;
        size_t len;
        void *payload = xp_device_payload(g->coder, &g->coder->batch[0], h->frame + f, &len);
        if (payload) {
            add_piece(&g->send, peer, KIND_CODED, &kind, payload, len);
            continue;
        }
        e = xp_device_raw_rows(g->coder, &g->coder->batch[0], h->frame + f, g->lanes.in, &raw);
        add_piece(&g->send, peer, KIND_RAW, &kind, (void *)(uintptr_t)raw, frame_rows(s, h, f) * s->row_bytes);
    }
    return e;
}

/* Reads the head of frame f at *at, and moves on. Returns whether it is one; p->formats NULL: raw rows. */
static int read_head(struct xp_grouped *g, const struct xp_heads *h, size_t f, size_t *at, struct xp_quant_parts *p)
{
    const size_t rows = frame_rows(g->shape, h, f), left = h->op.len - *at;
    if (left < 1 || h->bytes[*at] > KIND_CODED)
        return 0;
    const int kind = h->bytes[(*at)++];
    *p = (struct xp_quant_parts){.length = rows * g->shape->row_bytes};
    if (kind == KIND_RAW)
        return 1;
    const size_t seed = g->coder->sign_words ? sizeof(uint64_t) : 0;
    if (left - 1 < seed)
        return 0;
    p->seed = seed ? xp_get64(h->bytes + *at) : 0;
    *at += seed;
    const size_t head = xp_quant_read_head(g->coder->coder, &g->coder->plan, h->bytes + *at, left - 1 - seed, rows, p);
    *at += head;
    return head > 0 && p->length <= rows * g->shape->row_bytes;
}

static xp_status bad_heads(const struct xp_grouped *g, int peer)
{
    return xp_error(g->shape->comm, XP_ERR_CORRUPT, "alltoallv: the heads of rows from rank %d are not what they claim", peer);
}

/* staging: where the coded bytes of this peer begin in the staging memory; moved on. */
static xp_status pieces_from(struct xp_grouped *g, int peer, size_t *staging)
{
    const struct xp_shape *s = g->shape;
    struct xp_heads *h = &g->in[peer];
    char *rows = g->call->recv;
    size_t at = 0;
    int kind = -1;
    if (g->copies && h->rows && !xp_grouped_copies_read(g, h))
        return bad_heads(g, peer);
    if (!h->frames) {
        add_piece(&g->recv, peer, KIND_RAW, &kind, place_of(h, rows, g->copies ? g->copies->dev.staging : NULL, s->row_bytes), h->distinct * s->row_bytes);
        return XP_OK;
    }
    for (size_t f = 0; f < h->frames; f++) {
        struct xp_quant_parts p;
        if (!read_head(g, h, f, &at, &p))
            return bad_heads(g, peer);
        if (p.formats)
            add_piece(&g->recv, peer, KIND_CODED, &kind, g->coder->staging + *staging, p.length);
        else
            add_piece(&g->recv, peer, KIND_RAW, &kind, rows + (h->row + f * s->chunk_rows) * s->row_bytes, p.length);
        *staging += p.formats ? p.length : 0;
    }
    return at == h->op.len ? XP_OK : xp_error(s->comm, XP_ERR_CORRUPT, "alltoallv: the heads of rows from rank %d are too long", peer);
}

xp_status xp_grouped_make_pieces(struct xp_grouped *g)
{
    xp_status st = XP_OK;
    size_t staging = 0;
    g->send.count = g->recv.count = 0;
    for (int i = 0; st == XP_OK && i < g->shape->comm->size; i++) {
        if (i == g->shape->comm->rank)
            continue;
        int e = pieces_to(g, i);
        st = e ? xp_device_failed(g->shape, e, "gathering rows") : pieces_from(g, i, &staging);
    }
    return st;
}

/* ---- decode -------------------------------------------------------------------------------------------------------- */

/* Frames [first, end) of a peer, all coded, as one run. */
static int decode_run(struct xp_grouped *g, const struct xp_heads *h, size_t first, size_t end, size_t *at, size_t *staging)
{
    const struct xp_shape *s = g->shape;
    const size_t row = first * s->chunk_rows, rows = (end == h->frames ? h->rows : end * s->chunk_rows) - row;
    struct xp_device_run run;
    xp_device_run_begin(g->coder, &run, rows, end - first);
    for (size_t f = first; f < end; f++) {
        struct xp_quant_parts p;
        read_head(g, h, f, at, &p);
        xp_device_run_add(g->coder, &run, &p, frame_rows(s, h, f), *staging);
        *staging += p.length;
    }
    return xp_device_run_end(g->coder, &run, (char *)g->call->recv + (h->row + row) * s->row_bytes, g->lanes.in);
}

static int decode_peer(struct xp_grouped *g, const struct xp_heads *h, size_t *staging)
{
    size_t at = 0, f = 0;
    int e = 0;
    while (!e && f < h->frames) {
        size_t end = f, ahead = at;
        struct xp_quant_parts p;
        while (end < h->frames && h->bytes[ahead] == KIND_CODED && read_head(g, h, end, &ahead, &p))
            end++;
        if (end > f)
            e = decode_run(g, h, f, end, &at, staging);
        else
            at++, end++; /* raw rows are where they belong */
        f = end;
    }
    return e;
}

/* For a result the rows stay as they came. */
static void keep_peer(struct xp_grouped *g, const struct xp_heads *h, size_t *staging)
{
    size_t at = 0;
    for (size_t f = 0; f < h->frames; f++) {
        struct xp_quant_parts p;
        read_head(g, h, f, &at, &p);
        if (!p.formats)
            continue;
        xp_device_keep(g->coder, &p, h->row + f * g->shape->chunk_rows, frame_rows(g->shape, h, f), *staging);
        *staging += p.length;
    }
}

int xp_grouped_decode(struct xp_grouped *g)
{
    size_t staging = 0;
    int e = 0;
    xp_device_decode_begin(g->coder, g->call);
    for (int i = 0; !e && i < g->shape->comm->size; i++) {
        if (g->call->result)
            keep_peer(g, &g->in[i], &staging);
        else
            e = decode_peer(g, &g->in[i], &staging);
    }
    return e || !g->call->result ? e : xp_device_result(g->coder, g->call, g->lanes.in);
}
