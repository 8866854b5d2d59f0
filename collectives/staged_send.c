/*
 * staged_send.c - chunks from device memory to the transports (staged.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "collectives/staged.h"

#define SLOTS_MIN 8
#define SLOTS_MAX 32

size_t xp_staged_slots(const struct xp_shape *s)
{
    size_t most = 2 * (size_t)s->comm->size;
    return most < SLOTS_MIN ? SLOTS_MIN : most > SLOTS_MAX ? SLOTS_MAX : most;
}

size_t xp_staged_slot_bytes(const struct xp_shape *s)
{
    return s->chunk_rows * s->row_bytes;
}

void xp_staged_send_begin(struct xp_staged *s)
{
    size_t row = 0;
    s->turn = s->shape->comm->rank;
    for (int i = 0; i < s->shape->comm->size; i++) {
        size_t rows = s->call->send_rows[i];
        s->to[i] = (struct xp_out_peer){.row = row, .left = i == s->shape->comm->rank ? 0 : rows};
        row += rows;
    }
    for (size_t i = 0; i < s->nslots; i++)
        s->slots[i].state = XP_SLOT_FREE;
}

/* The next chunk, from the peers in turn, so that all of them get something to do. Returns whether there is one. */
static int deal(struct xp_staged *s, struct xp_chunk *chunk)
{
    const struct xp_shape *shape = s->shape;
    for (int i = 1; i <= shape->comm->size; i++) {
        int peer = (s->turn + i) % shape->comm->size;
        struct xp_out_peer *to = &s->to[peer];
        if (!to->left || !to->settled)
            continue;
        size_t rows = to->left < shape->chunk_rows ? to->left : shape->chunk_rows;
        *chunk = (struct xp_chunk){.peer = peer, .form = XP_STREAM_PLAIN, .number = to->number++, .row = to->row, .rows = rows};
        to->row += rows;
        to->left -= rows;
        s->turn = peer;
        return 1;
    }
    return 0;
}

/* Starts the copy of the next chunk to a free slot. */
static xp_status fill(struct xp_staged *s, struct xp_out_slot *slot, int *moved)
{
    const struct xp_shape *shape = s->shape;
    int e = 0;
    if (!deal(s, &slot->chunk))
        return XP_OK;
    slot->from = (const char *)s->call->send + slot->chunk.row * shape->row_bytes;
    slot->len = slot->chunk.rows * shape->row_bytes;
    if (!xp_staged_direct(s, slot->chunk.peer)) {
        e = s->dev->copy(slot->buf, slot->from, slot->len, s->out);
        slot->from = slot->buf;
    }
    if (!e)
        e = s->dev->event_record(slot->event, s->out);
    slot->state = XP_SLOT_COPYING;
    ++*moved;
    return e ? xp_staged_failed(s, e, "copying rows to the host") : XP_OK;
}

static void send_slot(struct xp_staged *s, struct xp_out_slot *slot)
{
    const struct xp_shape *shape = s->shape;
    const struct xp_chunk *c = &slot->chunk;
    slot->state = XP_SLOT_SENDING;
    xp_comm_send(shape->comm, c->peer, XP_LANE_BULK, xp_tag(shape->id, s->call->seq, c->form, c->number), slot->from, slot->len, &slot->op);
    xp_staged_count(s, c->peer, slot->len);
}

/* One step of a slot. */
static xp_status advance(struct xp_staged *s, struct xp_out_slot *slot, int *moved)
{
    if (slot->state == XP_SLOT_FREE)
        return fill(s, slot, moved);
    if (slot->state == XP_SLOT_COPYING) {
        int e = s->dev->event_query(slot->event);
        if (e == XP_DEVICE_NOT_READY)
            return XP_OK;
        if (e)
            return xp_staged_failed(s, e, "copying rows to the host");
        slot->state = XP_SLOT_READY;
    }
    if (slot->state == XP_SLOT_READY && s->to[slot->chunk.peer].settled) {
        send_slot(s, slot);
        ++*moved;
    }
    if (slot->state != XP_SLOT_SENDING || slot->op.status == XP_IN_PROGRESS)
        return XP_OK;
    if (slot->op.status < 0)
        return xp_error(s->shape->comm, slot->op.status, "alltoallv: sending rows to rank %d failed: %s", slot->chunk.peer,
                        xp_status_string(slot->op.status));
    slot->state = XP_SLOT_FREE;
    ++*moved;
    return XP_OK;
}

xp_status xp_staged_send_progress(struct xp_staged *s, int *moved)
{
    xp_status st = XP_OK;
    for (size_t i = 0; st == XP_OK && i < s->nslots; i++)
        st = advance(s, &s->slots[i], moved);
    return st;
}

int xp_staged_send_done(const struct xp_staged *s, int peer)
{
    if (s->to[peer].left)
        return 0;
    for (size_t i = 0; i < s->nslots; i++)
        if (s->slots[i].state != XP_SLOT_FREE && s->slots[i].chunk.peer == peer)
            return 0;
    return 1;
}

void xp_staged_send_cancel(struct xp_staged *s)
{
    for (size_t i = 0; i < s->nslots; i++) {
        struct xp_out_slot *slot = &s->slots[i];
        if (slot->state == XP_SLOT_SENDING && slot->op.status == XP_IN_PROGRESS)
            xp_comm_cancel(s->shape->comm, slot->chunk.peer, &slot->op);
        slot->state = XP_SLOT_FREE;
    }
}
