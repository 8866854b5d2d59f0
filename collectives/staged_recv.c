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
    return (rows * s->row_bytes + STAGING_ALIGNMENT - 1) / STAGING_ALIGNMENT * STAGING_ALIGNMENT;
}

size_t xp_staged_arrival_bytes(const struct xp_shape *s)
{
    return s->max_recv_rows * s->row_bytes + xp_staged_arrivals(s) * STAGING_ALIGNMENT;
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
    xp_comm_recv(shape->comm, c->peer, XP_LANE_BULK, xp_tag(shape->id, s->call->seq, c->form, c->number), to, c->rows * shape->row_bytes, &a->op);
}

void xp_staged_recv_begin(struct xp_staged *s)
{
    const struct xp_shape *shape = s->shape;
    struct xp_arrival *a = s->arrivals;
    uint8_t *staging = s->staging;
    size_t row = 0;
    for (int peer = 0; peer < shape->comm->size; peer++) {
        size_t rows = s->call->recv_rows[peer], left = peer == shape->comm->rank ? 0 : rows;
        s->from[peer].first = s->from[peer].next = a;
        for (uint32_t number = 0; left; number++, a++) {
            size_t n = left < shape->chunk_rows ? left : shape->chunk_rows;
            a->chunk = (struct xp_chunk){.peer = peer, .form = XP_STREAM_PLAIN, .number = number, .row = row + rows - left, .rows = n};
            a->staging = xp_staged_direct(s, peer) ? NULL : staging;
            staging += room_of(shape, n);
            left -= n;
            post(s, a);
        }
        s->from[peer].end = a;
        row += rows;
    }
}

static xp_status take(struct xp_staged *s, const struct xp_arrival *a)
{
    const struct xp_chunk *c = &a->chunk;
    size_t bytes = c->rows * s->shape->row_bytes;
    int e = 0;
    if (a->op.status < 0)
        return xp_error(s->shape->comm, a->op.status == XP_ERR_MISMATCH ? XP_ERR_CORRUPT : a->op.status,
                        "alltoallv: receiving rows from rank %d failed: %s", c->peer, xp_status_string(a->op.status));
    if (a->op.len != bytes)
        return xp_error(s->shape->comm, XP_ERR_CORRUPT, "alltoallv: a chunk from rank %d is not what it claims", c->peer);
    if (a->staging)
        e = s->dev->copy(place_of(s, c), a->staging, bytes, s->in);
    return e ? xp_staged_failed(s, e, "copying rows to the device") : XP_OK;
}

xp_status xp_staged_recv_progress(struct xp_staged *s, int *moved)
{
    for (int peer = 0; peer < s->shape->comm->size; peer++) {
        struct xp_in_peer *from = &s->from[peer];
        for (; from->next < from->end && from->next->op.status != XP_IN_PROGRESS; from->next++) {
            xp_status st = take(s, from->next);
            if (st != XP_OK)
                return st;
            ++*moved;
        }
    }
    return XP_OK;
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
