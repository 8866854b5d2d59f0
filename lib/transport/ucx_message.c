/*
 * ucx_message.c - one message of the contract over UCX: segments under one tag
 *
 * A message of n bytes travels as n / SEGMENT + 1 segments, all under one tag (UCX keeps their order): the one that is not full
 * ends it, so a receive needs no length beforehand. A segment is one packet of UCX's tcp transport. UCX matches and copies
 * it in one go, so a receive that is cancelled is never half under way: its buffer is free at once. (A message handed over whole would
 * go on being written after the cancel, for as long as its sender lives.)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/transport/ucx_state.h"

#include <stdlib.h>
#include <string.h>

#define SLAB 64 /* records allocated at a time */

struct xp_ucx_request *xp_ucx_request_new(struct xp_ucx *t)
{
    if (t->spare == NULL) {
        struct slab {
            void *next;
            struct xp_ucx_request r[SLAB];
        } *s = calloc(1, sizeof *s);

        if (s == NULL)
            return NULL;
        s->next = t->slabs;
        t->slabs = s;
        for (int i = 0; i + 1 < SLAB; i++)
            s->r[i].next = &s->r[i + 1];
        t->spare = s->r;
    }
    struct xp_ucx_request *r = t->spare;
    t->spare = r->next;
    memset(r, 0, sizeof *r);
    for (int i = 0; i < XP_UCX_WINDOW; i++)
        r->segment[i].request = r;
    return r;
}

static void unlink_request(struct xp_ucx *t, struct xp_ucx_request *r)
{
    struct xp_ucx_list *l = &t->peer[r->peer].under_way[r->lane];

    if (r->prev != NULL)
        r->prev->next = r->next;
    else
        l->first = r->next;
    if (r->next != NULL)
        r->next->prev = r->prev;
    if (r->lane == XP_LANE_BULK)
        t->bulk_under_way--;
}

static void end_op(struct xp_ucx_request *r, xp_status s)
{
    r->op->len = r->sending ? r->len : r->got;
    r->op->impl = NULL;
    r->op->status = s;
    r->op = NULL;
}

/* All segments are back: the operation ends, the record is free. */
static void finish(struct xp_ucx *t, struct xp_ucx_request *r)
{
    if (r->op != NULL) {
        unlink_request(t, r);
        end_op(r, r->status == XP_IN_PROGRESS ? XP_OK : r->status);
    }
    r->next = t->spare;
    t->spare = r;
}

static void finish_if_over(struct xp_ucx *t, struct xp_ucx_request *r)
{
    if (!r->ready && r->done == r->posted && (r->status != XP_IN_PROGRESS || r->posted >= r->segments))
        finish(t, r);
}

static size_t segment_bytes(const struct xp_ucx_request *r, size_t i)
{
    size_t at = i * XP_UCX_SEGMENT;

    return r->len - at < XP_UCX_SEGMENT ? r->len - at : XP_UCX_SEGMENT;
}

static xp_status status_of(ucs_status_t s)
{
    switch (s) {
    case UCS_OK: return XP_OK;
    case UCS_ERR_MESSAGE_TRUNCATED: return XP_ERR_MISMATCH;
    case UCS_ERR_NO_MEMORY: return XP_ERR_NO_MEMORY;
    case UCS_ERR_CANCELED: return XP_ERR_STATE;
    default: return XP_ERR_REMOTE;
    }
}

/* Takes back receives of segments from number `from` on. Their callbacks come at once, unless they have matched. */
static void cancel_segments(struct xp_ucx *t, struct xp_ucx_request *r, size_t from)
{
    r->posted++; /* keeps the record until all of them have been looked at */
    for (int i = 0; i < XP_UCX_WINDOW; i++) {
        if (r->segment[i].handle != NULL && r->segment[i].number >= from)
            t->lib->ucp_request_cancel(t->worker[r->lane], r->segment[i].handle);
    }
    r->posted--;
}

/* One segment is back. The record stays. */
static void take_back(struct xp_ucx *t, struct xp_ucx_segment *g, ucs_status_t s, size_t len)
{
    struct xp_ucx_request *r = g->request;

    g->handle = NULL;
    g->back = 1;
    r->done++;
    if (r->status != XP_IN_PROGRESS || g->number >= r->segments)
        return;
    if (s != UCS_OK) {
        r->status = status_of(s);
        r->segments = 0;
    } else if (!r->sending) {
        r->got += len;
        if (len < XP_UCX_SEGMENT)
            r->segments = g->number + 1;
    }
    if (!r->sending && r->posted > r->segments)
        cancel_segments(t, r, r->segments);
}

/* UCX's tcp lets a send from inside this callback overtake those that wait in its queue: the next segment is sent later. */
static void sent(void *handle, ucs_status_t s, void *user)
{
    struct xp_ucx_segment *g = user;
    struct xp_ucx_request *r = g->request;
    struct xp_ucx *t = r->transport;

    take_back(t, g, s, 0);
    t->lib->ucp_request_free(handle);
    if (!r->ready) {
        r->ready = 1;
        r->next_ready = t->ready;
        t->ready = r;
    }
}

static void received(void *handle, ucs_status_t s, const ucp_tag_recv_info_t *info, void *user)
{
    struct xp_ucx_segment *g = user;
    struct xp_ucx_request *r = g->request;
    struct xp_ucx *t = r->transport;

    take_back(t, g, s, info->length);
    t->lib->ucp_request_free(handle);
    if (!r->posting)
        xp_ucx_advance(t, r);
}

/* UCX matches by tag alone, so the tag carries the sender: 16 bits of rank, 48 of tag. */
static ucp_tag_t wire_tag(const struct xp_ucx_request *r, int from)
{
    return (ucp_tag_t)(unsigned)from << XP_TAG_BITS | (r->tag & (((uint64_t)1 << XP_TAG_BITS) - 1));
}

static ucs_status_ptr_t post_send(struct xp_ucx *t, struct xp_ucx_segment *g)
{
    struct xp_ucx_request *r = g->request;
    ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                             .cb.send = sent, .user_data = g};

    return t->lib->ucp_tag_send_nbx(t->peer[r->peer].ep[r->lane], r->buf + g->number * XP_UCX_SEGMENT, segment_bytes(r, g->number),
                                    wire_tag(r, t->env.rank), &p);
}

/* UCX 1.13 does not fill in the length of a message that was there already: it always has to call back. */
static ucs_status_ptr_t post_recv(struct xp_ucx *t, struct xp_ucx_segment *g)
{
    struct xp_ucx_request *r = g->request;
    ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
                             .cb.recv = received, .user_data = g};

    return t->lib->ucp_tag_recv_nbx(t->worker[r->lane], r->buf + g->number * XP_UCX_SEGMENT, segment_bytes(r, g->number),
                                    wire_tag(r, r->peer), ~(ucp_tag_t)0, &p);
}

/* The next segment; 0: all places are taken. */
static int post_segment(struct xp_ucx *t, struct xp_ucx_request *r)
{
    struct xp_ucx_segment *g = r->segment;

    while (g < r->segment + XP_UCX_WINDOW && g->handle != NULL)
        g++;
    if (g == r->segment + XP_UCX_WINDOW)
        return 0;
    g->number = r->posted++;
    g->back = 0;
    r->posting = 1;
    ucs_status_ptr_t h = r->sending ? post_send(t, g) : post_recv(t, g);
    r->posting = 0;
    if (!UCS_PTR_IS_PTR(h))
        take_back(t, g, UCS_PTR_RAW_STATUS(h), 0);
    else if (!g->back)
        g->handle = h;
    return 1;
}

void xp_ucx_advance(struct xp_ucx *t, struct xp_ucx_request *r)
{
    while (r->status == XP_IN_PROGRESS && r->posted < r->segments && post_segment(t, r))
        continue;
    finish_if_over(t, r);
}

void xp_ucx_advance_ready(struct xp_ucx *t)
{
    struct xp_ucx_request *r;

    while ((r = t->ready) != NULL) {
        t->ready = r->next_ready;
        r->ready = 0;
        xp_ucx_advance(t, r);
    }
}

void xp_ucx_give_up(struct xp_ucx *t, struct xp_ucx_request *r, xp_status s)
{
    if (r->status == XP_IN_PROGRESS)
        r->status = s;
    r->posted++;
    if (!r->sending)
        cancel_segments(t, r, 0);
    r->posted--;
    finish_if_over(t, r);
}

void xp_ucx_abandon(struct xp_ucx *t, struct xp_ucx_request *r)
{
    unlink_request(t, r);
    end_op(r, r->status);
}
