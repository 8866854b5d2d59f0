/*
 * alltoallv_staged.c - rows in device memory, every pair of ranks directly, through the transports of the host (staged.h)
 *
 * As alltoallv_flat.c: receives from everybody are posted, then headers go out; a pair that disagrees moves no rows, all other
 * rows move, and the call ends with the error on every rank.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/staged.h"

int xp_staged_direct(const struct xp_staged *s, int peer)
{
    const struct xp_transport *t = s->shape->comm->route[peer];
    return t && t->takes_device_memory;
}

/* ---- create and destroy -------------------------------------------------------------------------------------------- */

static double staged_score(const struct xp_shape *s)
{
    return s->device ? 0 : -1;
}

static void staged_destroy(void *state)
{
    struct xp_staged *s = state;
    if (!s)
        return;
    for (size_t i = 0; s->slots && i < s->nslots; i++)
        if (s->slots[i].event)
            s->dev->event_destroy(s->slots[i].event);
    xp_device_lanes_destroy(s->dev, &s->lanes);
    xp_pool_free(&s->pinned);
    xp_pool_free(&s->memory);
    if (s->coder)
        xp_device_coder_close(s->coder);
    xp_counts_destroy(&s->counts);
    free(s->to);
    free(s->from);
    free(s->slots);
    free(s->arrivals);
    free(s->run);
    for (int i = 0; i < XP_DEVICE_BATCHES; i++)
        free(s->batch[i].chunks);
    free(s->coder);
    free(s);
}

/* The parts of the pools; run once to count and once to take. */
static void take_parts(struct xp_staged *s)
{
    for (size_t i = 0; i < s->nslots; i++)
        s->slots[i].buf = xp_pool_take(&s->pinned, xp_staged_chunk_bytes(s->shape, s->shape->chunk_rows, s->coder != NULL));
    s->staging = xp_pool_take(&s->pinned, xp_staged_arrival_bytes(s->shape));
    if (s->coder)
        xp_device_coder_parts(s->coder, &s->memory, &s->pinned);
}

/* The coder, where chunks go to other nodes. */
static xp_status create_coder(struct xp_staged *s)
{
    const struct xp_shape *shape = s->shape;
    if (!shape->coder || shape->comm->nodes < 2)
        return XP_OK;
    s->coder = calloc(1, sizeof *s->coder);
    s->run = calloc(xp_staged_arrivals(shape), sizeof *s->run);
    if (!s->coder || !s->run)
        return XP_ERR_NO_MEMORY;
    int e = xp_device_coder_open(s->coder, shape, shape->max_send_rows / shape->chunk_rows + (size_t)shape->comm->size, xp_staged_arrivals(shape),
                                 xp_staged_arrival_bytes(shape), 0);
    if (e)
        return xp_device_failed(s->shape, e, "setting up a plan");
    for (int i = 0; i < XP_DEVICE_BATCHES; i++) {
        s->batch[i].coded = &s->coder->batch[i];
        s->batch[i].chunks = calloc(s->coder->batch_frames, sizeof *s->batch[i].chunks);
        if (!s->batch[i].chunks)
            return XP_ERR_NO_MEMORY;
    }
    return XP_OK;
}

static int create_on_device(struct xp_staged *s)
{
    int e = xp_device_lanes_create(s->dev, &s->lanes, 1);
    for (size_t i = 0; !e && i < s->nslots; i++)
        e = s->dev->event_create(&s->slots[i].event);
    if (e)
        return e;
    take_parts(s);
    e = xp_pool_fill(&s->pinned);
    if (!e)
        e = xp_pool_fill(&s->memory);
    if (e)
        return e;
    take_parts(s);
    return s->coder ? xp_device_coder_fill(s->coder, s->lanes.out) : 0;
}

static xp_status staged_create(void **state, const struct xp_shape *shape)
{
    size_t n = (size_t)shape->comm->size;
    struct xp_staged *s = calloc(1, sizeof *s);
    if (!s)
        return XP_ERR_NO_MEMORY;
    s->shape = shape;
    s->dev = shape->device;
    s->pinned = (struct xp_pool){.device = s->dev, .pinned = 1};
    s->memory = (struct xp_pool){.device = s->dev};
    s->nslots = xp_staged_slots(shape);
    s->to = calloc(n, sizeof *s->to);
    s->from = calloc(n, sizeof *s->from);
    s->slots = calloc(s->nslots, sizeof *s->slots);
    s->arrivals = calloc(xp_staged_arrivals(shape), sizeof *s->arrivals);
    xp_status st = s->to && s->from && s->slots && s->arrivals ? XP_OK : XP_ERR_NO_MEMORY;
    if (st == XP_OK)
        st = xp_counts_create(&s->counts, shape, 0);
    if (st == XP_OK)
        st = create_coder(s);
    if (st == XP_OK) {
        int e = create_on_device(s);
        if (e)
            st = xp_device_failed(s->shape, e, "setting up a plan");
    }
    if (st != XP_OK) {
        staged_destroy(s);
        return st;
    }
    *state = s;
    return XP_OK;
}

/* ---- a call -------------------------------------------------------------------------------------------------------- */

static xp_status staged_start(void *state, const struct xp_call *call, xp_stats *stats)
{
    struct xp_staged *s = state;
    s->call = call;
    s->stats = stats;
    s->active = 1;
    s->begun = 0;
    return xp_device_join(s->shape, call, &s->lanes);
}

/* Whether the memory that receives write to is free: the last call's copies from pinned memory, and, where a transport writes to
 * the device itself, what the caller's stream had to do. XP_IN_PROGRESS: not yet. */
static xp_status is_free(struct xp_staged *s)
{
    int e = s->dev->event_query(s->lanes.left), direct = 0;
    for (int i = 0; i < s->shape->comm->size; i++)
        direct |= xp_staged_direct(s, i);
    if (!e && direct)
        e = s->dev->event_query(s->lanes.entered);
    if (e == XP_DEVICE_NOT_READY)
        return XP_IN_PROGRESS;
    return e ? xp_device_failed(s->shape, e, "waiting for the last exchange") : XP_OK;
}

static void begin(struct xp_staged *s)
{
    const struct xp_comm *c = s->shape->comm;
    s->begun = 1;
    xp_counts_begin(&s->counts, s->call);
    xp_staged_send_begin(s);
    xp_staged_recv_begin(s);
    for (int i = 1; i < c->size; i++)
        xp_counts_send(&s->counts, (c->rank + i) % c->size, NULL, 0, s->stats);
}

/* Acts on headers that have come: a pair that disagrees moves nothing. */
static void settle(struct xp_staged *s)
{
    for (int i = 0; i < s->shape->comm->size; i++) {
        if (i == s->shape->comm->rank || s->to[i].settled || !xp_counts_here(&s->counts, i))
            continue;
        s->to[i].settled = 1;
        if (xp_counts_agree(&s->counts, i))
            continue;
        s->to[i].left = 0;
        s->to[i].refused = 1;
        xp_staged_recv_refuse(s, i);
    }
}

static int all_moved(const struct xp_staged *s)
{
    for (int i = 0; i < s->shape->comm->size; i++)
        if (i != s->shape->comm->rank && !(s->to[i].settled && xp_staged_send_done(s, i) && xp_staged_recv_done(s, i)))
            return 0;
    return xp_counts_done(&s->counts);
}

static xp_status end(struct xp_staged *s)
{
    xp_status st = xp_counts_verdict(&s->counts);
    int e = st == XP_OK && s->call->result ? xp_device_result(s->coder, s->call, s->lanes.in) : 0;
    if (!e)
        e = xp_device_lanes_leave(s->dev, &s->lanes, s->call->stream);
    if (e)
        return xp_device_failed(s->shape, e, "handing over to the caller's stream");
    snprintf(s->stats->codec, sizeof s->stats->codec, "%s", s->coder ? s->shape->coder->desc.choice.name : "raw");
    return st;
}

static xp_status staged_progress(void *state, int *moved)
{
    struct xp_staged *s = state;
    xp_status st = s->begun ? XP_OK : is_free(s);
    if (st != XP_OK)
        return st;
    if (!s->begun)
        begin(s);
    st = xp_counts_progress(&s->counts, moved);
    if (st != XP_OK)
        return st;
    settle(s);
    st = xp_staged_send_progress(s, moved);
    if (st == XP_OK)
        st = xp_staged_recv_progress(s, moved);
    if (st != XP_OK)
        return st;
    return all_moved(s) ? end(s) : XP_IN_PROGRESS;
}

static void staged_waiting_for(void *state, char *text, size_t size)
{
    struct xp_staged *s = state;
    text[0] = 0;
    if (!s->begun) {
        snprintf(text, size, "the device");
        return;
    }
    size_t len = xp_counts_waiting(&s->counts, text, size);
    for (int i = 0; i < s->shape->comm->size && len + 1 < size; i++) {
        if (i == s->shape->comm->rank || !s->to[i].settled)
            continue;
        if (!xp_staged_recv_done(s, i))
            len += (size_t)snprintf(text + len, size - len, "%srows of rank %d", len ? ", " : "", i);
        else if (!xp_staged_send_done(s, i))
            len += (size_t)snprintf(text + len, size - len, "%srank %d to take rows", len ? ", " : "", i);
    }
}

/* After an exchange that went wrong the device may still be at work on the caller's rows. */
static void staged_finish(void *state)
{
    struct xp_staged *s = state;
    if (!s->active)
        return;
    s->active = 0;
    const int all = s->begun && all_moved(s);
    if (s->begun) {
        xp_counts_cancel(&s->counts);
        xp_staged_send_cancel(s);
        xp_staged_recv_cancel(s);
    }
    if (!all) {
        s->dev->stream_synchronize(s->lanes.out);
        s->dev->stream_synchronize(s->lanes.in);
    }
}

const struct xp_algo_ops xp_algo_staged = {
    .size = sizeof(struct xp_algo_ops),
    .name = "staged",
    .fuses = 1,
    .about = "rows in device memory, every pair of ranks directly",
    .score = staged_score,
    .create = staged_create,
    .start = staged_start,
    .progress = staged_progress,
    .waiting_for = staged_waiting_for,
    .finish = staged_finish,
    .destroy = staged_destroy,
};
