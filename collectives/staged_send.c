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

size_t xp_staged_chunk_bytes(const struct xp_shape *s, size_t rows, int coded)
{
    return coded ? xp_frame_bound(s->dtype, s->dim, rows) : rows * s->row_bytes;
}

void xp_staged_send_begin(struct xp_staged *s)
{
    size_t row = 0;
    if (s->coder)
        xp_device_call_begin(s->coder, s->call);
    s->turn[0] = s->turn[1] = s->shape->comm->rank;
    for (int i = 0; i < s->shape->comm->size; i++) {
        size_t rows = s->call->send_rows[i];
        s->to[i] = (struct xp_out_peer){.row = row, .left = i == s->shape->comm->rank ? 0 : rows, .coded = xp_device_codes(s->shape, i)};
        row += rows;
    }
    for (size_t i = 0; i < s->nslots; i++)
        s->slots[i].state = XP_SLOT_FREE;
    for (int i = 0; i < XP_DEVICE_BATCHES; i++)
        s->batch[i].state = XP_BATCH_FREE;
}

/* The next chunk, from the peers in turn, so that all of them get something to do. Returns whether there is one. Coding does not
 * wait for headers. */
static int deal(struct xp_staged *s, int coded, struct xp_chunk *chunk)
{
    const struct xp_shape *shape = s->shape;
    for (int i = 1; i <= shape->comm->size; i++) {
        int peer = (s->turn[coded] + i) % shape->comm->size;
        struct xp_out_peer *to = &s->to[peer];
        if (!to->left || to->coded != coded || !(coded || to->settled))
            continue;
        size_t rows = to->left < shape->chunk_rows ? to->left : shape->chunk_rows;
        *chunk = (struct xp_chunk){.peer = peer, .form = coded ? XP_STREAM_CODED : XP_STREAM_PLAIN,
                                   .number = to->number++, .row = to->row, .rows = rows};
        to->row += rows;
        to->left -= rows;
        s->turn[coded] = peer;
        return 1;
    }
    return 0;
}

/* ---- batches ------------------------------------------------------------------------------------------------------- */

static xp_status start_batch(struct xp_staged *s, struct xp_out_batch *b, int *moved)
{
    struct xp_device_batch *coded = b->coded;
    xp_device_batch_begin(coded, s->call);
    while (coded->frames < s->coder->batch_frames && deal(s, 1, &b->chunks[coded->frames]))
        xp_device_batch_add(s->coder, coded, b->chunks[coded->frames].row, b->chunks[coded->frames].rows);
    if (!coded->frames)
        return XP_OK;
    b->next = 0;
    b->open = coded->frames;
    b->state = XP_BATCH_CODING;
    ++*moved;
    int e = xp_device_encode(s->coder, coded, s->lanes.out);
    return e ? xp_device_failed(s->shape, e, "coding rows") : XP_OK;
}

static xp_status advance_batch(struct xp_staged *s, struct xp_out_batch *b, int *moved)
{
    if (b->state == XP_BATCH_CODED && !b->open)
        b->state = XP_BATCH_FREE;
    if (b->state == XP_BATCH_FREE)
        return start_batch(s, b, moved);
    if (b->state != XP_BATCH_CODING)
        return XP_OK;
    int e = s->dev->event_query(b->coded->known);
    if (e == XP_DEVICE_NOT_READY)
        return XP_OK;
    b->state = XP_BATCH_CODED;
    ++*moved;
    xp_device_known(s->coder, b->coded);
    return e ? xp_device_failed(s->shape, e, "coding rows") : XP_OK;
}

/* ---- slots --------------------------------------------------------------------------------------------------------- */

/* Starts the copy of a coded chunk's bytes to a free slot. Returns whether there was one. */
static int fetch_coded(struct xp_staged *s, struct xp_out_slot *slot, int *error)
{
    for (int i = 0; s->coder && i < XP_DEVICE_BATCHES; i++) {
        struct xp_out_batch *b = &s->batch[i];
        if (b->state != XP_BATCH_CODED || b->next == b->coded->frames)
            continue;
        slot->batch = b;
        slot->frame = b->next++;
        slot->chunk = b->chunks[slot->frame];
        slot->from = slot->buf;
        *error = xp_device_fetch(s->coder, b->coded, slot->frame, slot->buf, s->lanes.out);
        return 1;
    }
    return 0;
}

/* The same for plain rows. */
static int fetch_plain(struct xp_staged *s, struct xp_out_slot *slot, int *error)
{
    if (!deal(s, 0, &slot->chunk))
        return 0;
    slot->batch = NULL;
    slot->from = (const char *)s->call->send + slot->chunk.row * s->shape->row_bytes;
    slot->len = slot->chunk.rows * s->shape->row_bytes;
    if (!xp_staged_direct(s, slot->chunk.peer)) {
        *error = s->dev->copy(slot->buf, slot->from, slot->len, s->lanes.out);
        slot->from = slot->buf;
    }
    return 1;
}

static xp_status fill(struct xp_staged *s, struct xp_out_slot *slot, int *moved)
{
    int e = 0;
    if (!fetch_coded(s, slot, &e) && !fetch_plain(s, slot, &e))
        return XP_OK;
    if (!e)
        e = s->dev->event_record(slot->event, s->lanes.out);
    slot->state = XP_SLOT_COPYING;
    ++*moved;
    return e ? xp_device_failed(s->shape, e, "copying rows to the host") : XP_OK;
}

/* What was copied is complete as it is, or becomes a frame. */
static void complete(struct xp_staged *s, struct xp_out_slot *slot)
{
    slot->state = XP_SLOT_READY;
    if (!slot->batch)
        return;
    slot->len = xp_device_close(s->coder, slot->batch->coded, slot->frame, slot->buf);
    slot->batch->open--;
}

static void send_slot(struct xp_staged *s, struct xp_out_slot *slot)
{
    const struct xp_shape *shape = s->shape;
    const struct xp_chunk *c = &slot->chunk;
    slot->state = XP_SLOT_SENDING;
    xp_comm_send(shape->comm, c->peer, XP_LANE_BULK, xp_tag(shape->id, s->call->seq, c->form, c->number), slot->from, slot->len, &slot->op);
    xp_count_sent(shape->comm, s->stats, c->peer, slot->len);
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
            return xp_device_failed(s->shape, e, "copying rows to the host");
        complete(s, slot);
    }
    if (slot->state == XP_SLOT_READY && s->to[slot->chunk.peer].refused)
        slot->state = XP_SLOT_FREE;
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
    for (int i = 0; st == XP_OK && s->coder && i < XP_DEVICE_BATCHES; i++)
        st = advance_batch(s, &s->batch[i], moved);
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
    for (int i = 0; s->coder && i < XP_DEVICE_BATCHES; i++)
        for (size_t k = s->batch[i].next; s->batch[i].state != XP_BATCH_FREE && k < s->batch[i].coded->frames; k++)
            if (s->batch[i].chunks[k].peer == peer)
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
    for (int i = 0; i < XP_DEVICE_BATCHES; i++)
        s->batch[i].state = XP_BATCH_FREE;
}
