/*
 * ucx.c - the transport between nodes: UCX over tcp, or over whatever else UCX finds
 *
 * ucx_lib.c loads UCX, ucx_open.c makes workers and endpoints, ucx_message.c cuts messages into segments; this file is the table:
 * posting, progress, ending.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config.h"
#include "lib/transport/transport.h"

#include <stdio.h>

#if XP_HAVE_UCX

#include "lib/transport/ucx_state.h"

#include <sched.h>

#define ROUNDS 8            /* of a worker's progress in one call */
#define DRAIN_SECONDS 1.0   /* for UCX to let go of cancelled buffers, all of them together */
#define DRAIN_AGAIN 5.0     /* seconds after which a cancel may wait anew */

static int ucx_available(char *why, size_t why_size)
{
    return xp_ucx_load(why, why_size) != NULL;
}

static void ucx_settled(struct xp_transport *base)
{
    (void)base; /* UCX has no names to drop */
}

/* ------------------------------------------------------------------ posting */

static xp_status refuse(struct xp_op *op, xp_status s)
{
    op->len = 0;
    op->impl = op->impl2 = NULL;
    return op->status = s;
}

static xp_status post(struct xp_ucx *t, int peer, enum xp_lane lane, uint64_t tag, const void *buf, size_t len, int sending,
                      struct xp_op *op)
{
    if (peer < 0 || peer >= t->env.size || !t->peer[peer].connected || (sending && lane == XP_LANE_CTRL && len > XP_CTRL_MAX))
        return refuse(op, XP_ERR_INVALID_ARG);
    struct xp_ucx_peer *p = &t->peer[peer];
    if (sending && (p->ended[lane] || p->broken[lane]))
        return refuse(op, XP_ERR_REMOTE);
    struct xp_ucx_request *r = xp_ucx_request_new(t);
    if (r == NULL)
        return refuse(op, XP_ERR_NO_MEMORY);
    struct xp_ucx_list *l = &p->under_way[lane];

    p->sent_to[lane] |= sending;
    op->len = 0;
    op->status = XP_IN_PROGRESS;
    op->impl = r;
    r->transport = t;
    r->op = op;
    r->buf = (unsigned char *)buf;
    r->tag = tag;
    r->len = len;
    r->segments = len / XP_UCX_SEGMENT + 1;
    r->status = XP_IN_PROGRESS;
    r->peer = peer;
    r->lane = lane;
    r->sending = sending;
    r->next = l->first;
    if (l->first != NULL)
        l->first->prev = r;
    l->first = r;
    if (lane == XP_LANE_BULK)
        t->bulk_under_way++;
    xp_ucx_advance(t, r);
    if (p->ended[lane] && op->status == XP_IN_PROGRESS) /* UCX does not have it: it will not come any more */
        xp_ucx_give_up(t, r, XP_ERR_REMOTE);
    return op->status;
}

static xp_status ucx_send(struct xp_transport *base, int peer, enum xp_lane lane, uint64_t tag, const void *buf, size_t len,
                          struct xp_op *op)
{
    return post((struct xp_ucx *)base, peer, lane, tag, buf, len, 1, op);
}

static xp_status ucx_recv(struct xp_transport *base, int peer, enum xp_lane lane, uint64_t tag, void *buf, size_t cap, struct xp_op *op)
{
    return post((struct xp_ucx *)base, peer, lane, tag, buf, cap, 0, op);
}

/* ------------------------------------------------------------------ progress */

int xp_ucx_progress_workers(struct xp_ucx *t)
{
    int moved = 0;

    for (int i = 0; i < ROUNDS; i++) {
        unsigned n = t->lib->ucp_worker_progress(t->worker[XP_LANE_CTRL]);

        if (t->bulk_under_way > 0 || t->closing > 0 || t->flushing > 0)
            n += t->lib->ucp_worker_progress(t->worker[XP_LANE_BULK]);
        if (t->ready != NULL)
            xp_ucx_advance_ready(t);
        if (n == 0)
            break;
        moved += (int)n;
    }
    return moved;
}

static void end_lane(struct xp_ucx *t, int peer, int lane, xp_status s)
{
    struct xp_ucx_peer *p = &t->peer[peer];

    p->broken[lane] = 0;
    if (p->ended[lane])
        return;
    p->ended[lane] = 1;
    for (struct xp_ucx_request *r = p->under_way[lane].first, *next; r != NULL; r = next) {
        next = r->next;
        xp_ucx_give_up(t, r, s);
    }
    xp_ucx_close_endpoint(t, peer, lane); /* gives the sends back */
    p->ended_at = xp_ucx_now();
    t->ending_peers++;
}

/* One lane at a time: of a peer that has left, the small lane ends while its last rows still wait to be read from the other. */
static void end_broken_lanes(struct xp_ucx *t)
{
    for (int peer = 0; peer < t->env.size; peer++) {
        struct xp_ucx_peer *p = &t->peer[peer];

        for (int lane = 0; lane < 2; lane++) {
            if (!p->broken[lane])
                continue;
            if (t->env.log != NULL)
                t->env.log(t->env.comm, XP_LOG_INFO, "ucx: the %s connection to rank %d ended: %s", xp_ucx_lane_name(lane), peer,
                           t->lib->ucs_status_string(p->why));
            end_lane(t, peer, lane, XP_ERR_REMOTE);
        }
    }
    t->broken_lanes = 0;
}

/* Whether UCX still has operations of a lane that has ended. */
static int holds_on(const struct xp_ucx_peer *p, int lane)
{
    return p->ended[lane] && p->under_way[lane].first != NULL;
}

/* What UCX does not give back although the peer's endpoints are gone ends without it. */
static void finish_ending_peers(struct xp_ucx *t)
{
    double now = xp_ucx_now();

    t->ending_peers = 0;
    for (int peer = 0; peer < t->env.size; peer++) {
        struct xp_ucx_peer *p = &t->peer[peer];

        if (!holds_on(p, XP_LANE_CTRL) && !holds_on(p, XP_LANE_BULK))
            continue;
        if (now < p->ended_at + DRAIN_SECONDS) {
            t->ending_peers++;
            continue;
        }
        if (t->env.log != NULL)
            t->env.log(t->env.comm, XP_LOG_WARN, "ucx: operations with rank %d, which is gone, were left behind", peer);
        xp_ucx_abandon_all(t, peer);
    }
}

static int ucx_progress(struct xp_transport *base)
{
    struct xp_ucx *t = (struct xp_ucx *)base;
    int moved = xp_ucx_progress_workers(t);

    if (t->broken_lanes > 0) {
        end_broken_lanes(t);
        moved++;
    }
    if (t->ending_peers > 0)
        finish_ending_peers(t);
    return moved;
}

/* ------------------------------------------------------------------ ending */

void xp_ucx_end_peer(struct xp_ucx *t, int peer, xp_status s)
{
    end_lane(t, peer, XP_LANE_CTRL, s);
    end_lane(t, peer, XP_LANE_BULK, s);
}

void xp_ucx_abandon_all(struct xp_ucx *t, int peer)
{
    for (int lane = 0; lane < 2; lane++) {
        while (holds_on(&t->peer[peer], lane))
            xp_ucx_abandon(t, t->peer[peer].under_way[lane].first);
    }
}

static void ucx_fail(struct xp_transport *base, int peer)
{
    struct xp_ucx *t = (struct xp_ucx *)base;

    if (peer >= 0 && peer < t->env.size)
        xp_ucx_end_peer(t, peer, XP_ERR_REMOTE);
}

/* Waits until UCX has let go of the operation, within what is left of the time for all. */
static int drain(struct xp_ucx *t, struct xp_op *op)
{
    double now = xp_ucx_now();

    if (now > t->drain_until + DRAIN_AGAIN)
        t->drain_until = now + DRAIN_SECONDS;
    while (op->status == XP_IN_PROGRESS && xp_ucx_now() < t->drain_until) {
        if (xp_ucx_progress_workers(t) == 0)
            sched_yield();
    }
    return op->status != XP_IN_PROGRESS;
}

static void ucx_cancel(struct xp_transport *base, struct xp_op *op)
{
    struct xp_ucx *t = (struct xp_ucx *)base;
    struct xp_ucx_request *r = op->impl;

    if (op->status != XP_IN_PROGRESS || r == NULL)
        return;
    int peer = r->peer;
    xp_ucx_give_up(t, r, XP_ERR_STATE);
    if (op->status != XP_IN_PROGRESS || drain(t, op))
        return;
    if (t->env.log != NULL)
        t->env.log(t->env.comm, XP_LOG_WARN, "ucx: rank %d does not take what was sent to it: connection closed", peer);
    xp_ucx_end_peer(t, peer, XP_ERR_REMOTE);
    for (double end = xp_ucx_now() + DRAIN_SECONDS; op->status == XP_IN_PROGRESS && xp_ucx_now() < end;)
        xp_ucx_progress_workers(t);
    if (op->status == XP_IN_PROGRESS)
        xp_ucx_abandon(t, r);
}

const struct xp_transport_ops xp_transport_ucx = {
    .size = sizeof(struct xp_transport_ops),
    .name = "ucx",
    .about = "UCX between nodes: tcp, RDMA where UCX finds it",
    .available = ucx_available,
    .open = xp_ucx_open,
    .connect = xp_ucx_connect,
    .settled = ucx_settled,
    .send = ucx_send,
    .recv = ucx_recv,
    .progress = ucx_progress,
    .cancel = ucx_cancel,
    .fail = ucx_fail,
    .flushed = xp_ucx_flushed,
    .close = xp_ucx_close,
};

#else /* a build without UCX keeps the entry, so that every list says why it is not there */

static int absent(char *why, size_t why_size)
{
    snprintf(why, why_size, "UCX not in this build");
    return 0;
}

static xp_status absent_open(struct xp_transport **out, const struct xp_transport_env *env, void *address, size_t *address_len,
                             char *err, size_t err_size)
{
    absent(err, err_size);
    return XP_ERR_UNSUPPORTED;
}

static xp_status absent_connect(struct xp_transport *t, int peer, const void *address, size_t address_len, char *err, size_t err_size)
{
    absent(err, err_size);
    return XP_ERR_UNSUPPORTED;
}

static void absent_void(struct xp_transport *t)
{
    (void)t;
}

static xp_status absent_send(struct xp_transport *t, int peer, enum xp_lane lane, uint64_t tag, const void *buf, size_t len, struct xp_op *op)
{
    return op->status = XP_ERR_UNSUPPORTED;
}

static xp_status absent_recv(struct xp_transport *t, int peer, enum xp_lane lane, uint64_t tag, void *buf, size_t cap, struct xp_op *op)
{
    return op->status = XP_ERR_UNSUPPORTED;
}

static int absent_progress(struct xp_transport *t)
{
    return 0;
}

static void absent_cancel(struct xp_transport *t, struct xp_op *op)
{
    op->status = XP_ERR_STATE;
}

static void absent_fail(struct xp_transport *t, int peer)
{
    (void)peer;
}

const struct xp_transport_ops xp_transport_ucx = {
    .size = sizeof(struct xp_transport_ops),
    .name = "ucx",
    .about = "UCX between nodes (left out of this build)",
    .available = absent,
    .open = absent_open,
    .connect = absent_connect,
    .settled = absent_void,
    .send = absent_send,
    .recv = absent_recv,
    .progress = absent_progress,
    .cancel = absent_cancel,
    .fail = absent_fail,
    .flushed = absent_progress,
    .close = absent_void,
};

#endif
