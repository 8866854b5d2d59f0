/*
 * alltoallv_hosted.c - rows in device memory that an algorithm of the host exchanges, for what only the host does to rows
 *
 * In exact mode copies of rows are found, and rows packed, on the host. So the rows for other ranks are copied to pinned memory, rank by
 * rank in the order in which flat sends them; the plan's algorithm exchanges them there; and what has come is copied to its place, piece by
 * piece where the algorithm says how far it is. The rank's own rows are copied on the device.
 *
 * The host never waits for the device but by asking again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/device_call.h"

struct hosted {
    const struct xp_shape *shape;
    const struct xp_device *dev;
    const struct xp_algo_ops *ops; /* the algorithm, */
    void *state;                   /* its own, */
    struct xp_call inner;          /* and its call: rows of the host */
    struct xp_device_lanes lanes;
    void **fetched;                /* [size] events: the rows for a rank are on the host */
    struct xp_pool pinned;
    char *send, *recv;
    size_t *counts;                /* [3 size] of the inner call, and rows of every rank that have been given on */
    size_t *given;
    char *ready;                   /* [size] */
    /* of the call */
    const struct xp_call *call;
    xp_stats *stats;
    int active, begun, done, unready; /* begun: the algorithm has been started; unready: ranks whose rows are not on the host yet */
};

/* ---- create and destroy -------------------------------------------------------------------------------------------- */

static void hosted_destroy(void *state)
{
    struct hosted *h = state;
    if (!h)
        return;
    xp_device_lanes_destroy(h->dev, &h->lanes);
    for (int i = 0; h->fetched && i < h->shape->comm->size; i++)
        if (h->fetched[i])
            h->dev->event_destroy(h->fetched[i]);
    if (h->state)
        h->ops->destroy(h->state);
    xp_pool_free(&h->pinned);
    free(h->fetched);
    free(h->counts);
    free(h->ready);
    free(h);
}

static void take_parts(struct hosted *h)
{
    h->send = xp_pool_take(&h->pinned, h->shape->max_send_rows * h->shape->row_bytes + 1);
    h->recv = xp_pool_take(&h->pinned, h->shape->max_recv_rows * h->shape->row_bytes + 1);
}

static int create_on_device(struct hosted *h)
{
    int e = xp_device_lanes_create(h->dev, &h->lanes, 1);
    for (int i = 0; !e && i < h->shape->comm->size; i++)
        e = h->dev->event_create(&h->fetched[i]);
    if (e)
        return e;
    take_parts(h);
    e = xp_pool_fill(&h->pinned);
    take_parts(h);
    return e;
}

static xp_status hosted_create(void **state, const struct xp_shape *shape)
{
    size_t n = (size_t)shape->comm->size;
    struct hosted *h = calloc(1, sizeof *h);
    if (!h)
        return XP_ERR_NO_MEMORY;
    h->shape = shape;
    h->dev = shape->device;
    h->ops = shape->by_host;
    h->pinned = (struct xp_pool){.device = h->dev, .pinned = 1};
    h->fetched = calloc(n, sizeof *h->fetched);
    h->counts = calloc(3 * n, sizeof *h->counts);
    h->ready = calloc(n, 1);
    xp_status st = h->fetched && h->counts && h->ready ? h->ops->create(&h->state, shape) : XP_ERR_NO_MEMORY;
    if (st == XP_OK) {
        int e = create_on_device(h);
        if (e)
            st = xp_device_failed(shape, e, "setting up a plan");
    }
    if (st != XP_OK) {
        hosted_destroy(h);
        return st;
    }
    h->given = h->counts + 2 * n;
    *state = h;
    return XP_OK;
}

/* ---- rows between device and host -------------------------------------------------------------------------------------- */

/* The algorithm's call. Own rows are not in it unless their counts disagree, which it reports. */
static void describe(struct hosted *h)
{
    const size_t n = (size_t)h->shape->comm->size, me = (size_t)h->shape->comm->rank;
    size_t *send = h->counts, *recv = h->counts + n;
    memcpy(send, h->call->send_rows, n * sizeof *send);
    memcpy(recv, h->call->recv_rows, n * sizeof *recv);
    if (send[me] == recv[me])
        send[me] = recv[me] = 0;
    h->inner = *h->call;
    h->inner.send = h->send;
    h->inner.send_rows = send;
    h->inner.recv = h->recv;
    h->inner.recv_rows = recv;
    h->inner.ready = h->ops->heeds_ready ? h->ready : NULL;
}

/* Where the rows of a rank begin, in bytes. */
static size_t place_of(const struct hosted *h, const size_t *rows, int rank)
{
    size_t row = 0;
    for (int i = 0; i < rank; i++)
        row += rows[i];
    return row * h->shape->row_bytes;
}

static int fetch(struct hosted *h, int rank)
{
    const char *from = (const char *)h->call->send + place_of(h, h->call->send_rows, rank);
    int e = h->dev->copy(h->send + place_of(h, h->inner.send_rows, rank), from, h->inner.send_rows[rank] * h->shape->row_bytes, h->lanes.out);
    return e ? e : h->dev->event_record(h->fetched[rank], h->lanes.out);
}

static int fetch_all(struct hosted *h)
{
    const struct xp_comm *c = h->shape->comm;
    int e = 0;
    h->unready = 0;
    for (int i = 1; i <= c->size; i++) {
        int to = (c->rank + i) % c->size;
        h->ready[to] = h->inner.send_rows[to] == 0;
        h->unready += !h->ready[to];
        if (!e && !h->ready[to])
            e = fetch(h, to);
    }
    return e;
}

/* Rows that have come to the host since this was asked last are ready. */
static xp_status look_for_rows(struct hosted *h, int *moved)
{
    const struct xp_comm *c = h->shape->comm;
    for (int i = 1; h->unready && i <= c->size; i++) {
        int to = (c->rank + i) % c->size;
        if (h->ready[to])
            continue;
        int e = h->dev->event_query(h->fetched[to]);
        if (e == XP_DEVICE_NOT_READY)
            break; /* one stream copies them all */
        if (e)
            return xp_device_failed(h->shape, e, "copying rows to the host");
        h->ready[to] = 1;
        h->unready--;
        ++*moved;
    }
    return XP_OK;
}

/* Copies the rows [given, rows) of a rank to the device. */
static int give(struct hosted *h, int from, size_t rows)
{
    const size_t bytes = h->shape->row_bytes, first = h->given[from] * bytes;
    char *to = (char *)h->call->recv + place_of(h, h->call->recv_rows, from) + first;
    int e = h->dev->copy(to, h->recv + place_of(h, h->inner.recv_rows, from) + first, (rows - h->given[from]) * bytes, h->lanes.in);
    h->given[from] = rows;
    return e;
}

/* What has come, in pieces of some size; at the end, all. */
static xp_status give_rows(struct hosted *h, int all)
{
    int e = 0;
    for (int i = 0; !e && (all || h->ops->arrived) && i < h->shape->comm->size; i++) {
        size_t rows = all ? h->inner.recv_rows[i] : h->ops->arrived(h->state, i);
        if (rows > h->given[i] && (all || rows - h->given[i] >= h->shape->chunk_rows))
            e = give(h, i, rows);
    }
    return e ? xp_device_failed(h->shape, e, "copying rows to the device") : XP_OK;
}

/* ---- a call -------------------------------------------------------------------------------------------------------- */

static xp_status hosted_start(void *state, const struct xp_call *call, xp_stats *stats)
{
    struct hosted *h = state;
    h->call = call;
    h->stats = stats;
    h->active = 1;
    h->begun = h->done = 0;
    memset(h->given, 0, (size_t)h->shape->comm->size * sizeof *h->given);
    describe(h);
    xp_status st = xp_device_join(h->shape, call, &h->lanes);
    int e = st == XP_OK ? fetch_all(h) : 0;
    return e ? xp_device_failed(h->shape, e, "copying rows to the host") : st;
}

/* Starts the algorithm when the last call's rows have left the memory that it receives in, and when what it must have is here. */
static xp_status begin(struct hosted *h, int *moved)
{
    int e = h->dev->event_query(h->lanes.left);
    if (e == XP_DEVICE_NOT_READY || (h->unready && !h->ops->heeds_ready))
        return XP_IN_PROGRESS;
    if (e)
        return xp_device_failed(h->shape, e, "waiting for the last exchange");
    h->begun = 1;
    ++*moved;
    return h->ops->start(h->state, &h->inner, h->stats);
}

static xp_status end(struct hosted *h)
{
    xp_status st = give_rows(h, 1);
    if (st != XP_OK)
        return st;
    int e = xp_device_lanes_leave(h->dev, &h->lanes, h->call->stream);
    h->done = !e;
    return e ? xp_device_failed(h->shape, e, "handing over to the caller's stream") : XP_OK;
}

static xp_status hosted_progress(void *state, int *moved)
{
    struct hosted *h = state;
    xp_status st = look_for_rows(h, moved);
    if (st == XP_OK && !h->begun)
        st = begin(h, moved);
    if (st == XP_OK)
        st = h->ops->progress(h->state, moved);
    if (st == XP_OK)
        return end(h);
    if (st != XP_IN_PROGRESS || !h->begun)
        return st;
    st = give_rows(h, 0);
    return st == XP_OK ? XP_IN_PROGRESS : st;
}

static void hosted_waiting_for(void *state, char *text, size_t size)
{
    struct hosted *h = state;
    if (h->begun && !h->unready)
        h->ops->waiting_for(h->state, text, size);
    else
        snprintf(text, size, "the device");
}

/* After an exchange that went wrong the device may still be at work on the caller's rows. */
static void hosted_finish(void *state)
{
    struct hosted *h = state;
    if (!h->active)
        return;
    h->active = 0;
    if (h->begun)
        h->ops->finish(h->state);
    if (h->done)
        return;
    h->dev->stream_synchronize(h->lanes.out);
    h->dev->stream_synchronize(h->lanes.in);
}

const struct xp_algo_ops xp_algo_hosted = {
    .size = sizeof(struct xp_algo_ops),
    .name = "hosted",
    .about = "rows in device memory, by an algorithm of the host",
    .create = hosted_create,
    .start = hosted_start,
    .progress = hosted_progress,
    .waiting_for = hosted_waiting_for,
    .finish = hosted_finish,
    .destroy = hosted_destroy,
};
