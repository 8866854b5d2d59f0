/*
 * alltoallv_grouped.c - rows in device memory, by one group of sends and receives on a stream (grouped.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/grouped.h"
#include "collectives/wire.h"

/* ---- create and destroy -------------------------------------------------------------------------------------------- */

static double grouped_score(const struct xp_shape *s)
{
    return s->device ? 0 : -1;
}

static void grouped_destroy(void *state)
{
    struct xp_grouped *g = state;
    if (!g)
        return;
    xp_device_lanes_destroy(g->dev, &g->lanes);
    if (g->group && !g->shape->shares)
        g->group->ops->close(g->group);
    xp_pool_free(&g->pinned);
    xp_pool_free(&g->memory);
    if (g->coder)
        xp_device_coder_close(g->coder);
    xp_grouped_copies_destroy(g);
    xp_counts_destroy(&g->counts);
    free(g->coder);
    free(g->head_memory);
    free(g->out);
    free(g->in);
    free(g->send.piece);
    free(g->recv.piece);
    free(g);
}

static xp_status allocate(struct xp_grouped *g)
{
    const struct xp_shape *s = g->shape;
    const size_t n = (size_t)s->comm->size, out = xp_grouped_frames(s, s->max_send_rows), in = xp_grouped_frames(s, s->max_recv_rows);
    g->out = calloc(n, sizeof *g->out);
    g->in = calloc(n, sizeof *g->in);
    g->send.piece = calloc(out + n, sizeof *g->send.piece);
    g->recv.piece = calloc(in + n, sizeof *g->recv.piece);
    if (!g->out || !g->in || !g->send.piece || !g->recv.piece)
        return XP_ERR_NO_MEMORY;
    xp_status st = xp_counts_create(&g->counts, s, 1);
    if (st != XP_OK || !(s->coder || s->dedup) || s->comm->nodes < 2)
        return st;
    g->head_memory = malloc(xp_grouped_head_bytes(s, s->max_send_rows) + xp_grouped_head_bytes(s, s->max_recv_rows));
    if (s->coder)
        g->coder = calloc(1, sizeof *g->coder);
    else
        g->copies = calloc(1, sizeof *g->copies);
    return g->head_memory && (g->coder || g->copies) ? XP_OK : XP_ERR_NO_MEMORY;
}

static int create_coder(struct xp_grouped *g)
{
    const struct xp_shape *s = g->shape;
    const size_t out = xp_grouped_frames(s, s->max_send_rows), in = xp_grouped_frames(s, s->max_recv_rows);
    int e = xp_device_coder_open(g->coder, s, out, in, s->max_recv_rows * s->row_bytes, 1);
    if (e)
        return e;
    xp_device_coder_parts(g->coder, &g->memory, &g->pinned);
    e = xp_pool_fill(&g->memory);
    if (!e)
        e = xp_pool_fill(&g->pinned);
    if (e)
        return e;
    xp_device_coder_parts(g->coder, &g->memory, &g->pinned);
    return xp_device_coder_fill(g->coder, g->lanes.in);
}

static int create_on_device(struct xp_grouped *g)
{
    int e = xp_device_lanes_create(g->dev, &g->lanes, 0);
    if (e)
        return e;
    return g->coder ? create_coder(g) : g->copies ? xp_grouped_copies_create(g) : 0;
}

static xp_status grouped_create(void **state, const struct xp_shape *shape)
{
    struct xp_grouped *g = calloc(1, sizeof *g);
    if (!g)
        return XP_ERR_NO_MEMORY;
    g->shape = shape;
    g->dev = shape->device;
    g->pinned = (struct xp_pool){.device = g->dev, .pinned = 1};
    g->memory = (struct xp_pool){.device = g->dev};
    xp_status st = allocate(g);
    int e = st == XP_OK ? create_on_device(g) : 0;
    if (e)
        st = xp_device_failed(shape, e, "setting up a plan");
    if (st != XP_OK)
        grouped_destroy(g);
    else
        *state = g;
    return st;
}

/* Opens the transport everywhere, or nowhere. */
static xp_status open_group(struct xp_grouped *g, struct xp_group_address *mine, struct xp_group_address *all)
{
    struct xp_comm *c = g->shape->comm;
    struct xp_transport_env env = {.rank = c->rank, .size = c->size, .nccl_path = c->params.nccl_path, .nccl_comm = g->shape->nccl_comm};
    size_t len = 0;
    memset(mine, 0, sizeof *mine);
    mine->status = xp_transport_nccl.open(&g->group, &env, mine->address, &len, mine->text, sizeof mine->text);
    mine->len = len;
    mine->can_alltoall = mine->status == XP_OK && g->group->ops->can_alltoall(g->group);
    g->can_alltoall = 1;
    xp_status st = xp_comm_allgather_inside(c, "connect", mine, all, sizeof *mine);
    for (int i = 0; st == XP_OK && i < c->size; i++) {
        g->can_alltoall &= all[i].can_alltoall;
        if (all[i].status != XP_OK)
            st = xp_error(c, i == c->rank ? (xp_status)all[i].status : XP_ERR_REMOTE, "plan: rank %d: transport nccl: %.159s", i, all[i].text);
    }
    return st;
}

/* The communicator of the other plan: whoever aborts it, it is gone for both. */
static void share(struct xp_grouped *g, const struct xp_grouped *other)
{
    g->group = other->group;
    g->can_alltoall = other->can_alltoall;
}

static xp_status grouped_connect(void *state)
{
    struct xp_grouped *g = state;
    if (g->shape->shares) {
        share(g, g->shape->shares);
        return XP_OK;
    }
    struct xp_comm *c = g->shape->comm;
    struct xp_group_address mine, *all = calloc((size_t)c->size, sizeof *all);
    char why[160] = "";
    xp_status st = all ? open_group(g, &mine, all) : XP_ERR_NO_MEMORY;
    if (st == XP_OK) {
        st = g->group->ops->connect(g->group, 0, all[0].address, all[0].len, why, sizeof why);
        if (st != XP_OK)
            st = xp_comm_revoke(c, st, "plan: rank %d: transport nccl: %s", c->rank, why); /* the others are inside, too */
    }
    free(all);
    return st;
}

/* ---- a call -------------------------------------------------------------------------------------------------------- */

static xp_status grouped_start(void *state, const struct xp_call *call, xp_stats *stats)
{
    struct xp_grouped *g = state;
    g->call = call;
    g->stats = stats;
    g->active = 1;
    g->phase = XP_GROUP_ENTERED;
    return xp_device_join(g->shape, call, &g->lanes);
}

static uint64_t even_rows(const struct xp_grouped *g)
{
    const struct xp_call *c = g->call;
    uint64_t rows = g->can_alltoall ? c->send_rows[0] : 0;
    for (int i = 0; i < g->shape->comm->size; i++)
        if (c->send_rows[i] != rows || c->recv_rows[i] != rows || g->out[i].rows)
            rows = 0;
    return rows;
}

/* Enqueues what the heads are made of. */
static int prepare_heads(struct xp_grouped *g)
{
    if (g->copies)
        return xp_grouped_copies_find(g);
    return g->coder && g->coder->batch[0].frames ? xp_device_encode(g->coder, &g->coder->batch[0], g->lanes.in) : 0;
}

/* XP_DEVICE_NOT_READY: it is still at work. */
static int heads_are_known(struct xp_grouped *g)
{
    if (g->copies && g->copies->frames)
        return g->dev->event_query(g->copies->known);
    return g->coder && g->coder->batch[0].frames ? g->dev->event_query(g->coder->batch[0].known) : 0;
}

/* What the last call used is free: everything is posted, rows are coded or compared, headers go out. */
static xp_status begin(struct xp_grouped *g)
{
    const struct xp_comm *c = g->shape->comm;
    int e = g->dev->event_query(g->lanes.left);
    if (e == XP_DEVICE_NOT_READY)
        return XP_IN_PROGRESS;
    if (e)
        return xp_device_failed(g->shape, e, "waiting for the last exchange");
    g->phase = XP_GROUP_COUNTS;
    if (g->coder) {
        xp_device_call_begin(g->coder, g->call);
        xp_device_batch_begin(&g->coder->batch[0], g->call);
    }
    xp_grouped_heads_begin(g);
    xp_counts_begin(&g->counts, g->call);
    g->even = even_rows(g);
    for (int i = 1; i < c->size; i++)
        xp_counts_send(&g->counts, (c->rank + i) % c->size, &g->even, 1, g->stats);
    for (int i = 0; i < c->size; i++)
        g->stats->rows_unique += c->node_of[i] != c->node ? g->call->send_rows[i] : 0; /* copies are taken off when they are known */
    e = prepare_heads(g);
    return e ? xp_device_failed(g->shape, e, "coding rows") : XP_OK;
}

/* All counts are here and agree, and the rows are coded or compared: the heads go out, and distinct rows are gathered meanwhile. */
static xp_status after_counts(struct xp_grouped *g)
{
    xp_status st = xp_counts_done(&g->counts) ? xp_counts_verdict(&g->counts) : XP_IN_PROGRESS;
    if (st != XP_OK)
        return st;
    int e = heads_are_known(g);
    if (e == XP_DEVICE_NOT_READY)
        return XP_IN_PROGRESS;
    if (e)
        return xp_device_failed(g->shape, e, "coding rows");
    if (g->coder && g->coder->batch[0].frames)
        xp_device_known(g->coder, &g->coder->batch[0]);
    xp_grouped_heads_send(g);
    g->phase = XP_GROUP_HEADS;
    e = g->copies && g->copies->gathered ? xp_grouped_copies_gather(g) : 0;
    return e ? xp_device_failed(g->shape, e, "gathering rows") : XP_OK;
}

/* Whether all ranks have the same number of rows for all. */
static int all_even(const struct xp_grouped *g)
{
    uint64_t least = g->even;
    for (int i = 0; i < g->shape->comm->size; i++) {
        const struct xp_counts_peer *p = &g->counts.peers[i];
        if (i != g->shape->comm->rank && (p->tail_words != 1 || xp_get64(p->tail) != g->even))
            least = 0;
    }
    return least > 0;
}

static xp_status transport_failed(struct xp_grouped *g, xp_status st, const char *why)
{
    return xp_error(g->shape->comm, st, "alltoallv: rank %d: transport nccl: %s", g->shape->comm->rank, why);
}

/* All heads are here: the group. */
static xp_status after_heads(struct xp_grouped *g)
{
    char why[160] = "";
    xp_status st = xp_grouped_heads_progress(g);
    if (st == XP_OK)
        st = xp_grouped_make_pieces(g);
    if (st != XP_OK)
        return st;
    g->phase = XP_GROUP_JOINING;
    if (all_even(g))
        st = g->group->ops->alltoall(g->group, g->call->send, g->call->recv, g->even * g->shape->row_bytes, g->lanes.in, why, sizeof why);
    else
        st = g->group->ops->exchange(g->group, g->send.piece, g->send.count, g->recv.piece, g->recv.count, g->lanes.in, why, sizeof why);
    if (st != XP_OK)
        return transport_failed(g, st, why);
    for (size_t i = 0; i < g->send.count; i++)
        xp_count_sent(g->shape->comm, g->stats, g->send.piece[i].peer, g->send.piece[i].len);
    return XP_OK;
}

/* The group is enqueued, which a non-blocking communicator may take its time for: behind it what decodes. */
static xp_status after_joining(struct xp_grouped *g)
{
    char why[160] = "";
    xp_status st = g->group->ops->check(g->group, why, sizeof why);
    if (st == XP_IN_PROGRESS)
        return st;
    if (st != XP_OK)
        return transport_failed(g, st, why);
    g->phase = XP_GROUP_MOVING;
    int e = g->coder ? xp_grouped_decode(g) : g->copies && g->copies->staged ? xp_grouped_copies_spread(g) : 0;
    if (!e)
        e = xp_device_lanes_leave(g->dev, &g->lanes, g->call->stream);
    return e ? xp_device_failed(g->shape, e, "decoding rows") : XP_OK;
}

/* The device is at it. */
static xp_status moving(struct xp_grouped *g)
{
    char why[160] = "";
    xp_status st = g->group->ops->check(g->group, why, sizeof why);
    if (st < 0)
        return transport_failed(g, st, why);
    int e = g->dev->event_query(g->lanes.left);
    if (e == XP_DEVICE_NOT_READY)
        return XP_IN_PROGRESS;
    if (e)
        return xp_device_failed(g->shape, e, "exchanging rows");
    g->phase = XP_GROUP_OVER;
    snprintf(g->stats->codec, sizeof g->stats->codec, "%s", g->coder ? g->shape->coder->desc.choice.name : g->copies && g->copies->gathered ? "exact" : "raw");
    return XP_OK;
}

static xp_status move(struct xp_grouped *g, int *moved)
{
    xp_status st = g->phase == XP_GROUP_ENTERED ? begin(g) : XP_OK;
    if (st == XP_OK)
        st = xp_counts_progress(&g->counts, moved);
    if (st == XP_OK && g->phase == XP_GROUP_COUNTS)
        st = after_counts(g);
    if (st == XP_OK && g->phase == XP_GROUP_HEADS)
        st = after_heads(g);
    if (st == XP_OK && g->phase == XP_GROUP_JOINING)
        st = after_joining(g);
    if (st == XP_OK && g->phase == XP_GROUP_MOVING)
        st = moving(g);
    return st;
}

static xp_status grouped_progress(void *state, int *moved)
{
    struct xp_grouped *g = state;
    int phase = (int)g->phase;
    xp_status st = move(g, moved);
    *moved += phase != (int)g->phase;
    return st;
}

static void grouped_waiting_for(void *state, char *text, size_t size)
{
    struct xp_grouped *g = state;
    text[0] = 0;
    if (g->phase == XP_GROUP_COUNTS && g->counts.missing)
        xp_counts_waiting(&g->counts, text, size);
    else if (g->phase >= XP_GROUP_JOINING)
        snprintf(text, size, "the group of NCCL");
    else
        snprintf(text, size, "%s", g->phase == XP_GROUP_HEADS ? "the heads of rows" : "the device");
}

/* A group under way is waited for by the device: only an abort ends it. */
static void grouped_finish(void *state)
{
    struct xp_grouped *g = state;
    if (!g->active)
        return;
    g->active = 0;
    if (g->phase > XP_GROUP_ENTERED) {
        xp_counts_cancel(&g->counts);
        xp_grouped_heads_cancel(g);
    }
    if (g->phase == XP_GROUP_JOINING || g->phase == XP_GROUP_MOVING)
        g->group->ops->fail(g->group, -1);
    if (g->phase != XP_GROUP_OVER)
        g->dev->stream_synchronize(g->lanes.in);
}

const struct xp_algo_ops xp_algo_grouped = {
    .size = sizeof(struct xp_algo_ops),
    .name = "nccl",
    .fuses = 1,
    .about = "rows in device memory, by NCCL",
    .score = grouped_score,
    .create = grouped_create,
    .connect = grouped_connect,
    .start = grouped_start,
    .progress = grouped_progress,
    .waiting_for = grouped_waiting_for,
    .finish = grouped_finish,
    .destroy = grouped_destroy,
};
