/*
 * moe_staged.c - rows of a folded layer in device memory (moe_staged.h)
 *
 * One stream carries the copies of both directions, so the memory that an operation gives its rows from is free when its own rows are
 * there: the last copy out of it was before them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/moe_staged.h"

#include <stdio.h>
#include <stdlib.h>

#include "collectives/device_call.h"

struct xp_moe_stage {
    const struct xp_device *dev;
    struct xp_device_lanes lanes; /* one stream */
    void *fetched;                /* event: rows are on the host */
    struct xp_pool pinned;
    char *in, *second, *out;
    /* of the operation */
    int fetching;                 /* it has not begun yet: rows are on their way to the host */
    struct xp_call call;
    xp_stats *stats;
    void *given;                  /* device: where its rows go */
};

/* ---- life ------------------------------------------------------------------------------------------------------------ */

static void take_rows(struct xp_moe *m)
{
    struct xp_moe_stage *s = m->stage;
    const int me = m->shape.comm->rank;
    const size_t tokens = m->shape.peer_max_tokens[me], rows = m->shape.peer_max_rows[me], most = tokens > rows ? tokens : rows;
    const size_t second = m->shape.error_limit > 0 ? most : tokens; /* rows of experts only in steps that have fallen back */
    s->in = xp_pool_take(&s->pinned, most * m->shape.row_bytes + 1);
    s->second = xp_pool_take(&s->pinned, second * m->shape.row_bytes + 1);
    s->out = xp_pool_take(&s->pinned, most * m->shape.row_bytes + 1);
}

static int create_on_device(struct xp_moe *m)
{
    struct xp_moe_stage *s = m->stage;
    int e = xp_device_lanes_create(s->dev, &s->lanes, 0);
    if (!e)
        e = s->dev->event_create(&s->fetched);
    if (e)
        return e;
    take_rows(m);
    e = xp_pool_fill(&s->pinned);
    take_rows(m);
    return e;
}

static xp_status failed(const struct xp_moe *m, int error, const char *what)
{
    return xp_error(m->shape.comm, XP_ERR_SYSTEM, "moe: rank %d: %s: CUDA: %s", m->shape.comm->rank, what, m->stage->dev->text(error));
}

xp_status xp_moe_stage_create(struct xp_moe *m)
{
    struct xp_moe_stage *s = m->stage = calloc(1, sizeof *s);
    if (!s)
        return XP_ERR_NO_MEMORY;
    s->dev = m->shape.device;
    s->pinned = (struct xp_pool){.device = s->dev, .pinned = 1};
    int e = create_on_device(m);
    return e ? failed(m, e, "setting up a plan") : XP_OK;
}

void xp_moe_stage_destroy(struct xp_moe *m)
{
    struct xp_moe_stage *s = m->stage;
    if (!s)
        return;
    xp_device_lanes_destroy(s->dev, &s->lanes);
    if (s->fetched)
        s->dev->event_destroy(s->fetched);
    xp_pool_free(&s->pinned);
    free(s);
    m->stage = NULL;
}

/* ---- rows of an operation ---------------------------------------------------------------------------------------------- */

static int is_outward(const struct xp_moe *m)
{
    return m->op.kind == XP_MOE_DISPATCH || m->op.kind == XP_MOE_COMBINE_BACKWARD;
}

static size_t bytes_of(const struct xp_moe *m, int at_experts)
{
    return (at_experts ? m->map->rows : m->op.routing->map.tokens) * m->shape.row_bytes;
}

/* Whether the operation reads its second rows: folded steps have x at home since dispatch, and the experts' results since combine. */
static int reads_second(const struct xp_moe *m)
{
    if (m->op.kind == XP_MOE_COMBINE_BACKWARD)
        return !m->folded && m->op.second;
    return m->folded && m->op.kind == XP_MOE_DISPATCH_BACKWARD;
}

/* Copies what the operation takes, and lets it find it there. */
static int fetch(struct xp_moe *m, void *stream)
{
    struct xp_moe_stage *s = m->stage;
    int e = xp_device_lanes_enter(s->dev, &s->lanes, stream);
    if (!e)
        e = s->dev->copy(s->in, m->op.in, bytes_of(m, !is_outward(m)), s->lanes.in);
    if (!e && reads_second(m))
        e = s->dev->copy(s->second, m->op.second, bytes_of(m, m->op.kind == XP_MOE_COMBINE_BACKWARD), s->lanes.in);
    m->op.in = s->in;
    if (reads_second(m))
        m->op.second = s->second;
    s->given = m->op.out;
    m->op.out = s->out;
    return e ? e : s->dev->event_record(s->fetched, s->lanes.in);
}

static xp_status give(struct xp_moe *m)
{
    struct xp_moe_stage *s = m->stage;
    int e = s->dev->copy(s->given, s->out, bytes_of(m, is_outward(m)), s->lanes.in);
    if (!e)
        e = xp_device_lanes_leave(s->dev, &s->lanes, s->call.stream);
    return e ? failed(m, e, "copying rows to the device") : XP_OK;
}

/* ---- what request.c drives ------------------------------------------------------------------------------------------------ */

static xp_status staged_start(void *state, const struct xp_call *call, xp_stats *stats)
{
    struct xp_moe *m = state;
    struct xp_moe_stage *s = m->stage;
    if (!xp_moe_moves_rows(m))
        return xp_moe_ops.start(m, call, stats);
    s->call = *call;
    s->stats = stats;
    s->fetching = 1;
    int e = fetch(m, call->stream);
    return e ? failed(m, e, "copying rows to the host") : XP_OK;
}

/* Whether the operation has begun; it begins when its rows are on the host. */
static xp_status begin(struct xp_moe *m, int *moved)
{
    struct xp_moe_stage *s = m->stage;
    int e = s->dev->event_query(s->fetched);
    if (e == XP_DEVICE_NOT_READY)
        return XP_IN_PROGRESS;
    s->fetching = 0;
    ++*moved;
    return e ? failed(m, e, "copying rows to the host") : xp_moe_ops.start(m, &s->call, s->stats);
}

static xp_status staged_progress(void *state, int *moved)
{
    struct xp_moe *m = state;
    xp_status st = m->stage->fetching ? begin(m, moved) : XP_OK;
    if (st == XP_OK)
        st = xp_moe_ops.progress(m, moved);
    return st == XP_OK && xp_moe_moves_rows(m) ? give(m) : st;
}

static void staged_waiting_for(void *state, char *text, size_t size)
{
    struct xp_moe *m = state;
    if (m->stage->fetching)
        snprintf(text, size, "the device");
    else
        xp_moe_ops.waiting_for(m, text, size);
}

/* After an operation that never began the device may still be at work on the caller's rows. */
static void staged_finish(void *state)
{
    struct xp_moe *m = state;
    struct xp_moe_stage *s = m->stage;
    if (s->fetching)
        s->dev->stream_synchronize(s->lanes.in);
    s->fetching = 0;
    xp_moe_ops.finish(m);
}

static void staged_destroy(void *state)
{
    xp_moe_destroy(state);
}

const struct xp_algo_ops xp_moe_staged_ops = {
    .size = sizeof(struct xp_algo_ops),
    .name = "moe",
    .about = "dispatch and combine over inner plans, rows copied from the device and back",
    .start = staged_start,
    .progress = staged_progress,
    .waiting_for = staged_waiting_for,
    .finish = staged_finish,
    .destroy = staged_destroy,
};
