/*
 * api.c - the public functions of plans, exchanges, requests and statistics: arguments checked, then one internal call
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/device_call.h"
#include "lib/plan.h"

static int is_plan(const xp_plan *p)
{
    return p && p->magic == XP_PLAN_MAGIC;
}

static int is_request(const xp_request *r)
{
    return r && r->magic == XP_REQUEST_MAGIC;
}

/* ---- plan -------------------------------------------------------------------------------------------------------- */

void xp_plan_desc_init(xp_plan_desc *d)
{
    if (!d)
        return;
    memset(d, 0, sizeof *d);
    d->size = sizeof *d;
}

xp_status xp_plan_create(xp_plan **out, xp_comm *comm, const xp_plan_desc *d)
{
    if (!out || !comm || !d)
        return xp_error(comm, XP_ERR_INVALID_ARG, "plan: out, comm and description must be given");
    if (d->size != sizeof *d)
        return xp_error(comm, XP_ERR_INVALID_ARG, "plan: the description was not filled by xp_plan_desc_init (size %zu, not %zu)",
                        d->size, sizeof *d);
    xp_status st = xp_comm_enter(comm);
    if (st != XP_OK)
        return st;
    st = xp_plan_open(out, comm, d);
    xp_comm_leave(comm);
    return st;
}

void xp_plan_destroy(xp_plan *plan)
{
    if (is_plan(plan))
        xp_plan_close(plan);
}

xp_status xp_plan_set_stream(xp_plan *plan, void *stream)
{
    if (!is_plan(plan))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "stream: not a plan");
    struct xp_comm *c = plan->shape.comm;
    if (!plan->shape.device)
        return xp_error(c, XP_ERR_INVALID_ARG, "stream: rank %d: the rows of this plan are in host memory", c->rank);
    if (plan->request->active)
        return xp_error(c, XP_ERR_STATE, "stream: rank %d: an exchange of this plan is under way", c->rank);
    plan->stream = stream;
    return XP_OK;
}

/* ---- exchange ------------------------------------------------------------------------------------------------------ */

/* Sums counts; -1 when the sum, or its bytes, do not fit size_t. */
static int sum_rows(const size_t *rows, int n, size_t row_bytes, size_t *sum)
{
    size_t bytes;
    *sum = 0;
    for (int i = 0; i < n; i++)
        if (__builtin_add_overflow(*sum, rows[i], sum))
            return -1;
    return __builtin_mul_overflow(*sum, row_bytes, &bytes) ? -1 : 0;
}

int xp_overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
    return a_bytes && b_bytes && x < y + b_bytes && y < x + a_bytes;
}

static xp_status check_side(struct xp_plan *p, const char *verb, const void *buf, const size_t *rows, size_t max, size_t *sum)
{
    struct xp_comm *c = p->shape.comm;
    if (!rows)
        return xp_error(c, XP_ERR_INVALID_ARG, "alltoallv: rank %d: %s_rows is NULL", c->rank, verb);
    if (sum_rows(rows, c->size, p->shape.row_bytes, sum) != 0)
        return xp_error(c, XP_ERR_INVALID_ARG, "alltoallv: rank %d: the sum of %s_rows overflows", c->rank, verb);
    if (*sum > max)
        return xp_error(c, XP_ERR_INVALID_ARG, "alltoallv: rank %d: %zu rows in %s_rows, but the plan's max_%s_rows is %zu", c->rank,
                        *sum, verb, verb, max);
    if (*sum && !buf)
        return xp_error(c, XP_ERR_INVALID_ARG, "alltoallv: rank %d: %s is NULL, but %s_rows has %zu rows", c->rank, verb, verb, *sum);
    return XP_OK;
}

static xp_status check_call(struct xp_plan *p, const void *send, const size_t *send_rows, const void *recv, const size_t *recv_rows)
{
    const struct xp_shape *s = &p->shape;
    size_t sent = 0, expected = 0;
    if (p->moe)
        return xp_error(s->comm, XP_ERR_INVALID_ARG, "alltoallv: rank %d: a plan with moe set serves xp_route only", s->comm->rank);
    xp_status st = check_side(p, "send", send, send_rows, s->max_send_rows, &sent);
    if (st == XP_OK)
        st = check_side(p, "recv", recv, recv_rows, s->max_recv_rows, &expected);
    if (st != XP_OK)
        return st;
    if (xp_overlap(send, sent * s->row_bytes, recv, expected * s->row_bytes))
        return xp_error(s->comm, XP_ERR_INVALID_ARG, "alltoallv: rank %d: send and recv overlap", s->comm->rank);
    if (p->request->active)
        return xp_error(s->comm, XP_ERR_STATE, "alltoallv: rank %d: an exchange of this plan is under way", s->comm->rank);
    if (p->request->held)
        return xp_error(s->comm, XP_ERR_STATE, "alltoallv: rank %d: the last request of this plan has not been freed", s->comm->rank);
    return s->device ? xp_device_takes(s, "alltoallv", p->stream) : XP_OK;
}

static xp_status exchange(struct xp_plan *p, const void *send, const size_t *send_rows, void *recv, const size_t *recv_rows,
                          xp_request **req)
{
    xp_status st = check_call(p, send, send_rows, recv, recv_rows);
    if (st == XP_OK)
        st = xp_request_start(p, "alltoallv", send, send_rows, recv, recv_rows);
    return st == XP_OK ? xp_request_answer(p, req) : st;
}

static xp_status exchange_early(struct xp_plan *p, const void *send, const size_t *send_rows, void *recv, const size_t *recv_rows,
                                xp_request **req)
{
    struct xp_comm *c = p->shape.comm;
    if (!req)
        return xp_error(c, XP_ERR_INVALID_ARG, "alltoallv: rank %d: rows that are not ready need a request", c->rank);
    if (p->shape.device)
        return xp_error(c, XP_ERR_UNSUPPORTED, "alltoallv: rank %d: rows in device memory are ready in the order of their stream", c->rank);
    xp_status st = check_call(p, send, send_rows, recv, recv_rows);
    if (st == XP_OK)
        st = xp_request_start_early(p, "alltoallv", send, send_rows, recv, recv_rows);
    return st == XP_OK ? xp_request_answer(p, req) : st;
}

typedef xp_status (*exchange_fn)(struct xp_plan *p, const void *send, const size_t *send_rows, void *recv, const size_t *recv_rows,
                                 xp_request **req);

static xp_status enter_exchange(struct xp_plan *plan, exchange_fn how, const void *send, const size_t *send_rows, void *recv,
                                const size_t *recv_rows, xp_request **req)
{
    if (!is_plan(plan))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "alltoallv: not a plan");
    struct xp_comm *c = plan->shape.comm;
    xp_status st = xp_comm_enter(c);
    if (st != XP_OK)
        return st;
    st = how(plan, send, send_rows, recv, recv_rows, req);
    xp_comm_leave(c);
    return st;
}

xp_status xp_alltoallv(xp_plan *plan, const void *send, const size_t *send_rows, void *recv, const size_t *recv_rows,
                       xp_request **req)
{
    return enter_exchange(plan, exchange, send, send_rows, recv, recv_rows, req);
}

xp_status xp_alltoallv_early(xp_plan *plan, const void *send, const size_t *send_rows, void *recv, const size_t *recv_rows,
                             xp_request **req)
{
    return enter_exchange(plan, exchange_early, send, send_rows, recv, recv_rows, req);
}

xp_status xp_alltoall(xp_plan *plan, const void *send, void *recv, size_t rows_per_rank, xp_request **req)
{
    if (!is_plan(plan))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "alltoall: not a plan");
    struct xp_comm *c = plan->shape.comm;
    xp_status st = xp_comm_enter(c);
    if (st != XP_OK)
        return st;
    for (int i = 0; i < c->size; i++)
        plan->equal_rows[i] = rows_per_rank;
    st = exchange(plan, send, plan->equal_rows, recv, plan->equal_rows, req);
    xp_comm_leave(c);
    return st;
}

/* ---- requests ------------------------------------------------------------------------------------------------------ */

/* A stream may be captured after an exchange has begun on it: the exchange stays where it is until that is over. */
static xp_status go_on(struct xp_request *r, xp_status (*how)(struct xp_request *))
{
    const struct xp_shape *s = &r->plan->shape;
    xp_status st = r->active && s->device ? xp_device_takes(s, r->what, r->call.stream) : XP_OK;
    return st == XP_OK ? how(r) : st;
}

static xp_status check_request(const xp_request *req)
{
    if (!is_request(req) || !req->held)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "request: not a request");
    return req->plan ? XP_OK : xp_error(NULL, XP_ERR_STATE, "request: its plan was destroyed");
}

static xp_status advance(xp_request *req, xp_status (*how)(struct xp_request *))
{
    xp_status st = check_request(req);
    if (st != XP_OK)
        return st;
    struct xp_comm *c = req->plan->shape.comm;
    st = xp_comm_enter(c);
    if (st != XP_OK)
        return st;
    st = go_on(req, how);
    xp_comm_leave(c);
    return st;
}

xp_status xp_request_test(xp_request *req)
{
    return advance(req, xp_request_round);
}

xp_status xp_request_wait(xp_request *req)
{
    return advance(req, xp_request_finish);
}

xp_status xp_request_ready(xp_request *req, int rank)
{
    xp_status st = check_request(req);
    if (st != XP_OK)
        return st;
    struct xp_comm *c = req->plan->shape.comm;
    if (!req->call.ready || rank < 0 || rank >= c->size)
        return xp_error(c, XP_ERR_INVALID_ARG, "request: rank %d: no rows for rank %d are waited for", c->rank, rank);
    req->unready -= !req->ready[rank];
    req->ready[rank] = 1;
    return XP_OK;
}

size_t xp_request_arrived(const xp_request *req, int rank)
{
    const struct xp_plan *p = is_request(req) && req->held ? req->plan : NULL;
    if (!p || p->moe || rank < 0 || rank >= p->shape.comm->size)
        return 0;
    if (!req->active)
        return req->status == XP_OK ? req->recv_rows[rank] : 0;
    return req->begun && p->algo->arrived ? p->algo->arrived(p->state, rank) : 0;
}

int xp_request_idle(const xp_request *req)
{
    return is_request(req) && req->active && req->idle < INT_MAX ? (int)req->idle : 0;
}

void xp_request_free(xp_request *req)
{
    if (!is_request(req) || !req->held)
        return;
    if (req->plan) {
        if (req->active)
            xp_request_wait(req);
        req->held = req->active; /* when the wait was refused */
        return;
    }
    req->magic = 0;
    free(req);
}

/* ---- statistics ---------------------------------------------------------------------------------------------------- */

xp_status xp_plan_stats(const xp_plan *plan, xp_stats *out)
{
    if (!is_plan(plan) || !out || out->size != sizeof *out)
        return xp_error(NULL, XP_ERR_INVALID_ARG, "stats: a plan and a struct with its size set must be given");
    *out = plan->stats;
    out->size = sizeof *out;
    out->rows_raw = plan->codec_stats.rows_raw;
    out->err_mean = plan->codec_stats.err_mean;
    out->err_max = plan->codec_stats.err_max;
    out->err_ref_max = plan->codec_stats.err_ref_max;
    return XP_OK;
}

void xp_plan_stats_reset(xp_plan *plan)
{
    if (!is_plan(plan))
        return;
    char algo[sizeof plan->stats.algo];
    memcpy(algo, plan->stats.algo, sizeof algo);
    memset(&plan->stats, 0, sizeof plan->stats);
    memcpy(plan->stats.algo, algo, sizeof algo);
    memset(&plan->codec_stats, 0, sizeof plan->codec_stats);
    plan->codec_stats.size = sizeof plan->codec_stats;
}
