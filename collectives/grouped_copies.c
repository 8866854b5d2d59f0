/*
 * grouped_copies.c - exact mode: rows for other nodes of which copies are left out of the group (grouped.h)
 *
 * The device finds the copies among the rows for each peer, and the host makes of that what it sends: a head with the row map (rowmap.h) and,
 * where leaving copies out pays, the distinct rows, which the device gathers while heads are on their way. At the other end they come to
 * staging memory and are put in their places from there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>

#include "collectives/cost.h"
#include "collectives/grouped.h"
#include "collectives/rowmap.h"

/* ---- memory -------------------------------------------------------------------------------------------------------- */

/* Run once to count and once to take. */
static void take_parts(struct xp_grouped *g)
{
    const struct xp_shape *s = g->shape;
    struct xp_copies *c = g->copies;
    const size_t out = s->max_send_rows, in = s->max_recv_rows, most = out > in ? out : in;
    c->frame = xp_pool_take(&g->pinned, (size_t)s->comm->size * sizeof *c->frame);
    c->copy_of = xp_pool_take(&g->pinned, out * sizeof *c->copy_of);
    c->index = xp_pool_take(&g->pinned, out * sizeof *c->index);
    c->spread = xp_pool_take(&g->pinned, in * sizeof *c->spread);
    c->map = xp_pool_take(&g->pinned, most * sizeof *c->map);
    c->dev.frame = xp_pool_take(&g->memory, (size_t)s->comm->size * sizeof *c->dev.frame);
    c->dev.scratch = xp_pool_take(&g->memory, g->dev->kernels->row_copies_scratch(out));
    c->dev.copy_of = xp_pool_take(&g->memory, out * sizeof *c->dev.copy_of);
    c->dev.index = xp_pool_take(&g->memory, out * sizeof *c->dev.index);
    c->dev.spread = xp_pool_take(&g->memory, in * sizeof *c->dev.spread);
    c->dev.rows = xp_pool_take(&g->memory, out * s->row_bytes);
    c->dev.staging = xp_pool_take(&g->memory, in * s->row_bytes);
}

int xp_grouped_copies_create(struct xp_grouped *g)
{
    int e = xp_device_describe(g->dev, &g->copies->gpu);
    if (!e)
        e = g->dev->event_create(&g->copies->known);
    if (e)
        return e;
    g->copies->gpu.stream = g->lanes.in;
    take_parts(g);
    e = xp_pool_fill(&g->memory);
    if (!e)
        e = xp_pool_fill(&g->pinned);
    take_parts(g);
    return e;
}

void xp_grouped_copies_destroy(struct xp_grouped *g)
{
    if (g->copies && g->copies->known)
        g->dev->event_destroy(g->copies->known);
    free(g->copies);
}

/* ---- the sending end ----------------------------------------------------------------------------------------------- */

/* The rows for each peer that has a head. Returns the end of the last. */
static size_t list_frames(struct xp_grouped *g)
{
    struct xp_copies *c = g->copies;
    size_t end = 0;
    c->frames = c->gathered = c->staged = 0;
    for (int i = 0; i < g->shape->comm->size; i++) {
        const struct xp_heads *h = &g->out[i];
        if (!h->rows)
            continue;
        c->frame[c->frames++] = (struct xp_gpu_frame){(uint32_t)h->row, (uint32_t)h->rows};
        end = h->row + h->rows;
    }
    return end;
}

int xp_grouped_copies_find(struct xp_grouped *g)
{
    const struct xp_shape *s = g->shape;
    struct xp_copies *c = g->copies;
    const struct xp_rows in = {.data = g->call->send, .rows = list_frames(g), .dim = s->dim, .dtype = s->dtype};
    void *stream = g->lanes.in;
    if (!c->frames)
        return 0;
    int e = g->dev->copy(c->dev.frame, c->frame, c->frames * sizeof *c->frame, stream);
    if (!e)
        e = g->dev->zero(c->dev.scratch, g->dev->kernels->row_copies_scratch(in.rows), stream);
    if (!e)
        e = g->dev->kernels->row_copies(&c->gpu, &in, c->dev.frame, c->frames, c->dev.scratch, c->dev.copy_of);
    for (size_t i = 0; !e && i < c->frames; i++) {
        const struct xp_gpu_frame *f = &c->frame[i];
        e = g->dev->copy(c->copy_of + f->first, c->dev.copy_of + f->first, f->rows * sizeof *c->copy_of, stream);
    }
    return e ? e : g->dev->event_record(c->known, stream);
}

size_t xp_grouped_copies_write(struct xp_grouped *g, struct xp_heads *h)
{
    struct xp_copies *c = g->copies;
    const uint32_t *copy_of = c->copy_of + h->row;
    uint32_t *index = c->index + c->gathered;
    size_t distinct = 0;
    for (size_t r = 0; r < h->rows; r++) {
        const size_t first = copy_of[r] - h->row;
        c->map[r] = first == r ? (uint32_t)distinct : c->map[first];
        if (first == r)
            index[distinct++] = (uint32_t)(h->row + r);
    }
    const int mapped = xp_cost_dedup_pays(g->shape, h->rows, distinct);
    h->distinct = mapped ? distinct : h->rows;
    h->place = c->gathered;
    c->gathered += mapped ? distinct : 0;
    g->stats->rows_unique -= h->rows - h->distinct;
    return xp_rowmap_write(h->bytes, h->rows, h->distinct, mapped ? c->map : NULL, 0);
}

int xp_grouped_copies_gather(struct xp_grouped *g)
{
    const struct xp_shape *s = g->shape;
    struct xp_copies *c = g->copies;
    const struct xp_rows in = {.data = g->call->send, .index = c->dev.index, .rows = c->gathered, .dim = s->dim, .dtype = s->dtype};
    int e = g->dev->copy(c->dev.index, c->index, c->gathered * sizeof *c->index, g->lanes.in);
    return e ? e : g->dev->kernels->rows_gather(&c->gpu, &in, NULL, c->dev.rows);
}

/* ---- the receiving end --------------------------------------------------------------------------------------------- */

int xp_grouped_copies_read(struct xp_grouped *g, struct xp_heads *h)
{
    struct xp_copies *c = g->copies;
    uint32_t *spread = c->spread + h->row;
    int mapped, framed;
    if (xp_rowmap_read(h->bytes, h->op.len, h->rows, &h->distinct, &mapped, &framed, spread, c->map) != XP_OK || framed)
        return 0;
    if (h->distinct == h->rows)
        return 1;
    h->place = c->staged;
    c->staged += h->distinct;
    for (size_t r = 0; r < h->rows; r++)
        spread[r] += (uint32_t)h->place;
    return 1;
}

/* Rows [first, end) of those received. */
static int spread(struct xp_grouped *g, size_t first, size_t end)
{
    const struct xp_shape *s = g->shape;
    struct xp_copies *c = g->copies;
    const struct xp_rows in = {.data = c->dev.staging, .index = c->dev.spread + first, .rows = end - first, .dim = s->dim, .dtype = s->dtype};
    int e = g->dev->copy(c->dev.spread + first, c->spread + first, in.rows * sizeof *c->spread, g->lanes.in);
    return e ? e : g->dev->kernels->rows_gather(&c->gpu, &in, NULL, (char *)g->call->recv + first * s->row_bytes);
}

/* The rows of ranks that follow one another in one launch. */
int xp_grouped_copies_spread(struct xp_grouped *g)
{
    size_t first = 0, end = 0;
    int e = 0;
    for (int i = 0; !e && i < g->shape->comm->size; i++) {
        const struct xp_heads *h = &g->in[i];
        if (h->distinct >= h->rows)
            continue;
        if (h->row != end) {
            e = spread(g, first, end);
            first = h->row;
        }
        end = h->row + h->rows;
    }
    return e ? e : spread(g, first, end);
}
