/*
 * staged_recv.c - chunks from the transports to device memory (staged.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/staged.h"

size_t xp_staged_arrivals(const struct xp_shape *s)
{
    return s->max_recv_rows / s->chunk_rows + (size_t)s->comm->size;
}

#define STAGING_ALIGNMENT 64

static size_t room_of(const struct xp_shape *s, size_t rows)
{
    return (xp_staged_chunk_bytes(s, rows, s->coder != NULL) + STAGING_ALIGNMENT - 1) / STAGING_ALIGNMENT * STAGING_ALIGNMENT;
}

/* As the chunks of a call together: what a frame needs besides its rows is less than two units of alignment. */
size_t xp_staged_arrival_bytes(const struct xp_shape *s)
{
    return xp_staged_chunk_bytes(s, s->max_recv_rows, s->coder != NULL) + xp_staged_arrivals(s) * 2 * STAGING_ALIGNMENT;
}

static char *place_of(const struct xp_staged *s, const struct xp_chunk *c)
{
    return (char *)s->call->recv + c->row * s->shape->row_bytes;
}

static void post(struct xp_staged *s, struct xp_arrival *a)
{
    const struct xp_shape *shape = s->shape;
    const struct xp_chunk *c = &a->chunk;
    void *to = a->staging ? (void *)a->staging : place_of(s, c);
    xp_comm_recv(shape->comm, c->peer, XP_LANE_BULK, xp_tag(shape->id, s->call->seq, c->form, c->number), to,
                 xp_staged_chunk_bytes(shape, c->rows, c->form == XP_STREAM_CODED), &a->op);
}

void xp_staged_recv_begin(struct xp_staged *s)
{
    const struct xp_shape *shape = s->shape;
    struct xp_arrival *a = s->arrivals;
    uint8_t *staging = s->staging;
    size_t row = 0;
    if (s->coder)
        xp_device_decode_begin(s->coder, s->call);
    for (int peer = 0; peer < shape->comm->size; peer++) {
        size_t rows = s->call->recv_rows[peer], left = peer == shape->comm->rank ? 0 : rows;
        s->from[peer].first = s->from[peer].next = a;
        for (uint32_t number = 0; left; number++, a++) {
            size_t n = left < shape->chunk_rows ? left : shape->chunk_rows;
            a->chunk = (struct xp_chunk){.peer = peer, .form = xp_device_codes(s->shape, peer) ? XP_STREAM_CODED : XP_STREAM_PLAIN,
                                         .number = number, .row = row + rows - left, .rows = n};
            a->staging = xp_staged_direct(s, peer) && a->chunk.form == XP_STREAM_PLAIN ? NULL : staging;
            staging += room_of(shape, n);
            left -= n;
            post(s, a);
        }
        s->from[peer].end = a;
        row += rows;
    }
}

static xp_status corrupt(const struct xp_staged *s, int peer, const char *what)
{
    return xp_error(s->shape->comm, XP_ERR_CORRUPT, "alltoallv: %s from rank %d is not what it claims", what, peer);
}

static xp_status take_plain(struct xp_staged *s, const struct xp_arrival *a)
{
    size_t bytes = a->chunk.rows * s->shape->row_bytes;
    if (a->op.len != bytes)
        return corrupt(s, a->chunk.peer, "a chunk");
    int e = a->staging ? s->dev->copy(place_of(s, &a->chunk), a->staging, bytes, s->lanes.in) : 0;
    return e ? xp_device_failed(s->shape, e, "copying rows to the device") : XP_OK;
}

/* Frames [first, end) of one peer, whose rows follow one another. */
static xp_status take_coded(struct xp_staged *s, const struct xp_arrival *first, const struct xp_arrival *end)
{
    int e;
    for (const struct xp_arrival *a = first; a < end; a++)
        s->run[a - first] = (struct xp_device_frame){a->staging, a->op.len, a->chunk.rows, (size_t)(a->staging - s->staging)};
    xp_status st = xp_device_decode(s->coder, s->call, s->run, (size_t)(end - first), first->chunk.row, s->lanes.in, &e);
    if (st != XP_OK)
        return corrupt(s, first->chunk.peer, "a frame");
    return e ? xp_device_failed(s->shape, e, "decoding rows") : XP_OK;
}

/* All chunks of a peer that have come, in order. */
static xp_status take(struct xp_staged *s, struct xp_in_peer *from, int *moved)
{
    struct xp_arrival *first = from->next, *end = first;
    for (; end < from->end && end->op.status == XP_OK; end++)
        ++*moved;
    if (end < from->end && end->op.status < 0)
        return xp_error(s->shape->comm, end->op.status == XP_ERR_MISMATCH ? XP_ERR_CORRUPT : end->op.status,
                        "alltoallv: receiving rows from rank %d failed: %s", end->chunk.peer, xp_status_string(end->op.status));
    from->next = end;
    if (first < end && first->chunk.form == XP_STREAM_CODED)
        return take_coded(s, first, end);
    xp_status st = XP_OK;
    for (; st == XP_OK && first < end; first++)
        st = take_plain(s, first);
    return st;
}

xp_status xp_staged_recv_progress(struct xp_staged *s, int *moved)
{
    xp_status st = XP_OK;
    for (int peer = 0; st == XP_OK && peer < s->shape->comm->size; peer++)
        st = take(s, &s->from[peer], moved);
    return st;
}

int xp_staged_recv_done(const struct xp_staged *s, int peer)
{
    return s->from[peer].next == s->from[peer].end;
}

void xp_staged_recv_refuse(struct xp_staged *s, int peer)
{
    struct xp_in_peer *from = &s->from[peer];
    for (struct xp_arrival *a = from->next; a < from->end; a++)
        if (a->op.status == XP_IN_PROGRESS)
            xp_comm_cancel(s->shape->comm, peer, &a->op);
    from->next = from->end;
}

void xp_staged_recv_cancel(struct xp_staged *s)
{
    for (int peer = 0; peer < s->shape->comm->size; peer++)
        xp_staged_recv_refuse(s, peer);
}
