/*
 * pipeline.c - what the streams of a plan share: staging slots, arenas, scratch (pipeline.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/pipeline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/books.h"
#include "collectives/cost.h"
#include "collectives/rowmap.h"
#include "hash/coded_rows.h"

#define SLOTS_MIN 8
#define SLOTS_MAX 32

static size_t round64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static void *aligned(size_t bytes)
{
    return bytes ? aligned_alloc(64, round64(bytes)) : NULL;
}

static size_t next_power_of_two(size_t n)
{
    size_t p = 1;
    while (p < n)
        p *= 2;
    return p;
}

static xp_status create_slots(struct xp_pipe *p, size_t streams)
{
    p->nslots = streams * 2 < SLOTS_MIN ? SLOTS_MIN : streams * 2 > SLOTS_MAX ? SLOTS_MAX : streams * 2;
    p->slots = calloc(p->nslots, sizeof *p->slots);
    if (!p->slots)
        return XP_ERR_NO_MEMORY;
    for (size_t i = 0; i < p->nslots; i++) {
        p->slots[i].peer = -1;
        p->slots[i].buf = aligned(p->chunk_bytes);
        if (!p->slots[i].buf)
            return XP_ERR_NO_MEMORY;
    }
    return XP_OK;
}

static xp_status create_send_side(struct xp_pipe *p, const struct xp_pipe_limits *l)
{
    size_t rows = l->send_rows_staged;
    p->index_out_cap = 2 * rows;
    p->heads_out_cap = l->send_streams_staged * 64 + rows * 5;
    p->index_out = aligned(p->index_out_cap * sizeof(uint32_t));
    p->heads_out = aligned(p->heads_out_cap);
    p->dedup_map = aligned(rows * sizeof(uint32_t));
    p->dedup_work = aligned(2 * next_power_of_two(2 * rows) * sizeof(uint32_t));
    if (!p->index_out || !p->heads_out || !p->dedup_map || !p->dedup_work)
        return XP_ERR_NO_MEMORY;
    return create_slots(p, l->send_streams_staged);
}

/* A row that goes to two peers is there twice: no more than half of them are worth keeping. */
static xp_status create_numbers(struct xp_pipe *p, const struct xp_pipe_limits *l)
{
    p->own_number = aligned(2 * l->send_rows_staged * sizeof(uint32_t));
    p->part_number = aligned(p->shape->chunk_rows * sizeof(uint32_t));
    if (!p->own_number || !p->part_number)
        return XP_ERR_NO_MEMORY;
    return xp_coded_rows_create(&p->own_store, l->send_rows_staged / 2, p->shape->row_bytes);
}

static xp_status create_recv_side(struct xp_pipe *p, const struct xp_pipe_limits *l)
{
    size_t rows = l->recv_rows_staged, chunks = rows / p->shape->chunk_rows + l->recv_streams_staged;
    p->staging_cap = chunks * p->chunk_bytes;
    p->index_in_cap = 2 * rows;
    p->heads_in_cap = l->recv_streams_staged * 64 + rows * 5;
    p->staging = aligned(p->staging_cap);
    p->index_in = aligned(p->index_in_cap * sizeof(uint32_t));
    p->heads_in = aligned(p->heads_in_cap);
    p->scratch = aligned(p->shape->chunk_rows * p->shape->row_bytes);
    p->ops_cap += chunks;
    return p->staging && p->index_in && p->heads_in && p->scratch ? XP_OK : XP_ERR_NO_MEMORY;
}

xp_status xp_pipe_create(struct xp_pipe *p, const struct xp_shape *s, const struct xp_pipe_limits *l)
{
    memset(p, 0, sizeof *p);
    p->shape = s;
    p->chunk_bytes = round64(xp_frame_bound(s->dtype, s->dim, s->chunk_rows));
    p->ops_cap = l->recv_rows / s->chunk_rows + l->recv_segments;
    xp_status st = XP_OK;
    if (l->send_rows_staged)
        st = create_send_side(p, l);
    if (st == XP_OK && l->numbers_rows && l->send_rows_staged && l->send_streams_staged > 1 && s->coder && s->mode == XP_MODE_BOUNDED)
        st = create_numbers(p, l);
    if (st == XP_OK && l->recv_rows_staged)
        st = create_recv_side(p, l);
    p->ops = calloc(p->ops_cap ? p->ops_cap : 1, sizeof *p->ops);
    if (st == XP_OK && !p->ops)
        st = XP_ERR_NO_MEMORY;
    if (st != XP_OK)
        xp_pipe_destroy(p);
    return st;
}

void xp_pipe_destroy(struct xp_pipe *p)
{
    for (size_t i = 0; p->slots && i < p->nslots; i++)
        free(p->slots[i].buf);
    free(p->slots);
    free(p->scratch);
    free(p->dedup_work);
    free(p->dedup_map);
    free(p->own_number);
    free(p->part_number);
    xp_coded_rows_destroy(p->own_store);
    free(p->ops);
    free(p->staging);
    free(p->heads_in);
    free(p->heads_out);
    free(p->index_in);
    free(p->index_out);
    memset(p, 0, sizeof *p);
}

void xp_pipe_begin(struct xp_pipe *p, const struct xp_call *c, xp_stats *stats)
{
    const struct xp_shape *s = p->shape;
    p->seq = c->seq;
    p->all = (struct xp_rows){.data = c->at ? c->from : c->send, .index = c->at, .dim = s->dim, .dtype = s->dtype};
    for (int i = 0; i < s->comm->size; i++)
        p->all.rows += c->send_rows[i];
    p->early = c->ready != NULL;
    p->ahead = c->ahead != NULL;
    p->number = c->number;
    p->store = c->store;
    p->distinct = c->distinct;
    p->own_numbers = 0;
    xp_books_begin(s->books, &p->all);
    p->coding = -1;
    p->stats = stats;
    p->ops_used = p->staging_used = p->heads_in_used = p->heads_out_used = p->index_in_used = p->index_out_used = 0;
    p->coded_streams = p->framed_streams = 0;
    p->slow_first = p->slow_last = 0;
    p->slow_bytes = 0;
}

xp_status xp_pipe_reap(struct xp_pipe *p, int *moved)
{
    for (size_t i = 0; i < p->nslots; i++) {
        struct xp_slot *slot = &p->slots[i];
        if (slot->peer < 0 || slot->op.status == XP_IN_PROGRESS)
            continue;
        if (slot->op.status < 0)
            return xp_error(p->shape->comm, slot->op.status, "alltoallv: sending coded rows to rank %d failed: %s", slot->peer,
                            xp_status_string(slot->op.status));
        slot->peer = -1;
        ++*moved;
    }
    return XP_OK;
}

void xp_pipe_end(struct xp_pipe *p)
{
    const struct xp_shape *s = p->shape;
    const char *codec = p->framed_streams ? s->codec_stats->codec : p->coded_streams ? "exact" : "raw";
    snprintf(p->stats->codec, sizeof p->stats->codec, "%s", codec);
    if (s->mode != XP_MODE_RAW && !p->coded_streams)
        p->stats->bypassed++;
    xp_cost_refine(p);
    xp_books_end(s->books, p->stats);
}

int xp_pipe_idle(const struct xp_pipe *p)
{
    for (size_t i = 0; i < p->nslots; i++)
        if (p->slots[i].peer >= 0)
            return 0;
    return 1;
}

void xp_pipe_cancel(struct xp_pipe *p)
{
    for (size_t i = 0; i < p->nslots; i++) {
        struct xp_slot *slot = &p->slots[i];
        if (slot->peer >= 0 && slot->op.status == XP_IN_PROGRESS)
            xp_comm_cancel(p->shape->comm, slot->peer, &slot->op);
        slot->peer = -1;
    }
}
