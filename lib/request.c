/*
 * request.c - an exchange under way: rounds, deadline, end
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "collectives/books.h"
#include "lib/plan.h"

static void account(struct xp_request *r, double now)
{
    struct xp_plan *p = r->plan;
    int me = p->shape.comm->rank;
    uint64_t rows = 0;
    if (!r->counted)
        return;
    for (int i = 0; i < p->shape.comm->size; i++)
        rows += i == me ? 0 : r->send_rows[i];
    p->stats.calls++;
    p->stats.rows_sent += rows;
    p->stats.raw_bytes += rows * p->shape.row_bytes;
    p->stats.seconds_total += now - r->started;
}

/*
 * Ends the exchange. Counts that disagree leave the comm usable, because every rank learns of them and nothing is left under
 * way; after any other error peers may wait for messages that will never come, so the comm ends for all.
 */
static xp_status end(struct xp_request *r, xp_status st)
{
    struct xp_plan *p = r->plan;
    struct xp_comm *c = p->shape.comm;
    struct xp_device_before before = xp_plan_enter(p);
    if (r->begun)
        p->algo->finish(p->state);
    xp_plan_leave(p, before);
    r->active = 0;
    r->status = st;
    if (st == XP_OK) {
        account(r, xp_now());
    } else if (st != XP_ERR_MISMATCH && xp_comm_health(c) == XP_OK) {
        char text[sizeof c->error];
        memcpy(text, c->error, sizeof text);
        r->status = xp_comm_revoke(c, st, "%s", text);
    }
    return r->status;
}

static xp_status begin(struct xp_request *r)
{
    struct xp_plan *p = r->plan;
    struct xp_device_before before = xp_plan_enter(p);
    r->begun = 1;
    xp_status st = p->algo->start(p->state, &r->call, &p->stats);
    xp_plan_leave(p, before);
    return st == XP_OK ? XP_OK : end(r, st);
}

static xp_status set_up(struct xp_plan *p, const char *what, const void *send, const size_t *send_rows, void *recv, const size_t *recv_rows)
{
    struct xp_request *r = p->request;
    struct xp_comm *c = p->shape.comm;
    size_t bytes = (size_t)c->size * sizeof *send_rows;
    xp_status st = xp_comm_health(c);
    if (st != XP_OK)
        return st;
    r->what = what;
    r->counted = send_rows && recv_rows;
    if (r->counted) {
        memcpy(r->send_rows, send_rows, bytes);
        memcpy(r->recv_rows, recv_rows, bytes);
    }
    r->call = (struct xp_call){
        .send = send, .send_rows = r->send_rows, .recv = recv, .recv_rows = r->recv_rows, .seq = p->calls++, .stream = p->stream};
    r->active = 1;
    r->begun = r->unready = 0;
    r->status = XP_IN_PROGRESS;
    r->idle = 0;
    r->started = r->last_moved = xp_now();
    r->deadline = r->started + c->params.timeout;
    return XP_OK;
}

xp_status xp_request_start(struct xp_plan *p, const char *what, const void *send, const size_t *send_rows, void *recv,
                           const size_t *recv_rows)
{
    xp_status st = set_up(p, what, send, send_rows, recv, recv_rows);
    return st == XP_OK ? begin(p->request) : st;
}

/* In bounded mode all rows are looked at when a call begins. */
static int begins_early(const struct xp_plan *p)
{
    return p->algo->heeds_ready && p->shape.mode != XP_MODE_BOUNDED;
}

xp_status xp_request_start_early(struct xp_plan *p, const char *what, const void *send, const size_t *send_rows, void *recv,
                                 const size_t *recv_rows)
{
    struct xp_request *r = p->request;
    xp_status st = set_up(p, what, send, send_rows, recv, recv_rows);
    if (st != XP_OK)
        return st;
    for (int i = 0; i < p->shape.comm->size; i++) {
        r->ready[i] = send_rows[i] == 0;
        r->unready += send_rows[i] != 0;
    }
    r->call.ready = r->ready;
    return begins_early(p) ? begin(r) : XP_OK;
}

static xp_status deadline_passed(struct xp_request *r)
{
    struct xp_plan *p = r->plan;
    char waiting[300] = "its own rows to be written";
    if (!r->unready) {
        waiting[0] = 0;
        p->algo->waiting_for(p->state, waiting, sizeof waiting);
    }
    return end(r, xp_error(p->shape.comm, XP_ERR_TIMEOUT, "%s: rank %d waited %.3g s for %s", r->what, p->shape.comm->rank,
                           p->shape.comm->params.timeout, waiting[0] ? waiting : "its own messages to leave"));
}

static xp_status move(struct xp_plan *p, int *moved)
{
    struct xp_device_before before = xp_plan_enter(p);
    xp_status st = p->algo->progress(p->state, moved);
    xp_plan_leave(p, before);
    return st;
}

/* One round of the algorithm, or its start once all rows are there. */
static xp_status advance(struct xp_request *r, int *moved)
{
    if (r->begun)
        return move(r->plan, moved);
    if (r->unready)
        return XP_IN_PROGRESS;
    ++*moved;
    xp_status st = begin(r);
    return st == XP_OK ? XP_IN_PROGRESS : st;
}

xp_status xp_request_round(struct xp_request *r)
{
    struct xp_comm *c = r->plan->shape.comm;
    if (!r->active)
        return r->status;
    xp_status st = xp_comm_health(c);
    if (st != XP_OK)
        return end(r, st);
    int moved = xp_comm_progress(c);
    st = advance(r, &moved);
    if (st != XP_IN_PROGRESS)
        return r->active ? end(r, st) : st;
    if (moved) {
        if (r->idle) {
            double now = xp_now();
            r->plan->stats.seconds_wait += now - r->last_moved;
        }
        r->idle = 0;
        return XP_IN_PROGRESS;
    }
    double now = xp_now();
    if (r->idle++ == 0)
        r->last_moved = now;
    if (now > r->deadline)
        return deadline_passed(r);
    if (xp_books_work(r->plan->shape.books, XP_BOOKS_IDLE))
        r->idle = 1;
    return XP_IN_PROGRESS;
}

xp_status xp_request_finish(struct xp_request *r)
{
    xp_status st;
    while ((st = xp_request_round(r)) == XP_IN_PROGRESS)
        if (r->idle)
            xp_comm_idle(r->plan->shape.comm, r->idle);
    return st;
}

xp_status xp_request_answer(struct xp_plan *p, xp_request **req)
{
    if (!req)
        return xp_request_finish(p->request);
    p->request->held = 1;
    *req = p->request;
    return XP_OK;
}

void xp_request_abandon(struct xp_request *r)
{
    if (!r->active)
        return;
    struct xp_comm *c = r->plan->shape.comm;
    end(r, xp_error(c, XP_ERR_STATE, "%s: rank %d destroyed a plan with an exchange under way", r->what, c->rank));
}
