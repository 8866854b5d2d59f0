/*
 * moe_api.c - the public functions of routing, dispatch, combine and their backward passes: arguments checked, then one operation
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "collectives/device_call.h"
#include "collectives/folded_device.h"
#include "collectives/moe.h"
#include "lib/plan.h"

void xp_moe_desc_init(xp_moe_desc *d)
{
    if (!d)
        return;
    memset(d, 0, sizeof *d);
    d->size = sizeof *d;
}

void xp_route_desc_init(xp_route_desc *r)
{
    if (!r)
        return;
    memset(r, 0, sizeof *r);
    r->size = sizeof *r;
}

static int is_moe_plan(const xp_plan *p)
{
    return p && p->magic == XP_PLAN_MAGIC && p->moe;
}

static xp_status check_free(struct xp_plan *p, const char *what)
{
    struct xp_comm *c = p->shape.comm;
    if (p->request->active)
        return xp_error(c, XP_ERR_STATE, "%s: rank %d: an operation of this plan is under way", what, c->rank);
    if (p->request->held)
        return xp_error(c, XP_ERR_STATE, "%s: rank %d: the last request of this plan has not been freed", what, c->rank);
    return XP_OK;
}

/* ---- routing ------------------------------------------------------------------------------------------------------- */

static xp_status run(struct xp_plan *p, const struct xp_moe_op *op)
{
    xp_moe_prepare(p->state, op);
    xp_status st = xp_request_start(p, "route", NULL, NULL, NULL, NULL);
    return st == XP_OK ? xp_request_finish(p->request) : st;
}

/* Bad arguments are told to all ranks, so that all return alike. */
static xp_status route(struct xp_plan *p, const xp_route_desc *d, xp_routing **out)
{
    struct xp_moe *m = p->state;
    struct xp_routing *r = xp_routing_get(m);
    char why[160] = "";
    xp_status bad = XP_OK;
    if (!r) {
        bad = XP_ERR_NO_MEMORY;
        memcpy(why, "no memory for a routing", sizeof "no memory for a routing");
    } else if (!out || !d) {
        bad = XP_ERR_INVALID_ARG;
        memcpy(why, "description and out must be given", sizeof "description and out must be given");
    } else {
        bad = xp_routing_take(r, d, why, sizeof why);
    }
    xp_hello_write(m, r ? &r->map : NULL, NULL, bad, why, xp_folded_alarm(m));
    xp_status st = run(p, &(struct xp_moe_op){.kind = XP_MOE_AGREE, .routing = r});
    if (st == XP_OK)
        st = xp_hello_verdict(m, r ? &r->map : NULL);
    if (st == XP_OK && xp_folded_step(m, r))
        xp_map_no_rows(m, &r->map);
    else if (st == XP_OK)
        st = run(p, &(struct xp_moe_op){.kind = XP_MOE_RECORDS, .routing = r});
    if (st == XP_OK)
        *out = r;
    else if (r)
        xp_routing_put(r);
    return st;
}

xp_status xp_route(xp_plan *plan, const xp_route_desc *d, xp_routing **out)
{
    if (!is_moe_plan(plan))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "route: not a plan with moe set");
    struct xp_comm *c = plan->shape.comm;
    xp_status st = xp_comm_enter(c);
    if (st != XP_OK)
        return st;
    st = check_free(plan, "route");
    if (st == XP_OK)
        st = route(plan, d, out);
    xp_comm_leave(c);
    return st;
}

void xp_routing_destroy(xp_routing *r)
{
    if (r)
        xp_routing_put(r);
}

/* What there is at the experts: in folded mode, once it has been dispatched, virtual tokens. */
static const struct xp_map *map_of(const xp_routing *r)
{
    return r->folded && r->stage >= XP_DISPATCHED ? &r->virtual_map : &r->map;
}

size_t xp_routing_rows(const xp_routing *r)
{
    return r ? map_of(r)->rows : 0;
}

int xp_routing_local_experts(const xp_routing *r)
{
    return r ? map_of(r)->local_experts : 0;
}

const int32_t *xp_routing_expert_ids(const xp_routing *r)
{
    return r ? map_of(r)->expert_ids : NULL;
}

const size_t *xp_routing_offsets(const xp_routing *r)
{
    return r ? map_of(r)->offsets : NULL;
}

static xp_status copy_centroids(const xp_routing *r, void *centroid, size_t n)
{
    const struct xp_moe_shape *s = &r->moe->shape;
    if (!r->fold_rows) {
        memcpy(centroid, xp_fold_seen(r->fold), n * s->row_bytes);
        return XP_OK;
    }
    struct xp_device_before before = xp_device_enter(s->device, s->device_number);
    int e = xp_fold_device_centroids(r->fold_rows, centroid);
    xp_device_leave(s->device, s->device_number, before);
    return e ? xp_error(s->comm, XP_ERR_SYSTEM, "clusters: CUDA: %s", s->device->text(e)) : XP_OK;
}

xp_status xp_routing_clusters(const xp_routing *r, int32_t *cluster, float *alpha, void *centroid, size_t *clusters)
{
    if (!r || !clusters || (!cluster && r->map.tokens && r->topk))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "clusters: routing, cluster and clusters must be given");
    if (!r->moe || !r->folded || r->stage < XP_DISPATCHED)
        return xp_error(NULL, XP_ERR_STATE, "clusters: the step is not folded, or not dispatched yet");
    size_t slots = r->map.tokens * (size_t)r->topk, n = xp_fold_clusters(r->fold);
    if (slots)
        memcpy(cluster, xp_fold_cluster_of(r->fold), slots * sizeof *cluster);
    if (alpha && slots)
        memcpy(alpha, xp_fold_alpha_of(r->fold), slots * sizeof *alpha);
    *clusters = n;
    return centroid && n ? copy_centroids(r, centroid, n) : XP_OK;
}

/* ---- operations ------------------------------------------------------------------------------------------------------ */

static xp_status check_buffer(struct xp_comm *c, const char *what, const char *name, const void *buf, size_t rows)
{
    if (rows && !buf)
        return xp_error(c, XP_ERR_INVALID_ARG, "%s: rank %d: %s is NULL, but there are %zu rows", what, c->rank, name, rows);
    return XP_OK;
}

/* The order of a folded step's operations, and what they need at home. */
static xp_status check_folded(struct xp_comm *c, const char *what, const struct xp_moe_op *op)
{
    static const char *const done[] = {"", "dispatched", "combined", "combined backward"};
    const struct xp_routing *r = op->routing;
    int needs = op->kind == XP_MOE_DISPATCH ? XP_ROUTED : op->kind == XP_MOE_COMBINE ? XP_DISPATCHED
              : op->kind == XP_MOE_COMBINE_BACKWARD ? XP_COMBINED : XP_COMBINED_BACKWARD;
    if ((int)r->stage < needs)
        return xp_error(c, XP_ERR_STATE, "%s: rank %d: the folded step has not been %s", what, c->rank, done[needs]);
    if ((op->kind == XP_MOE_COMBINE || op->kind == XP_MOE_DISPATCH_BACKWARD) && r->map.tokens && !op->second)
        return xp_error(c, XP_ERR_INVALID_ARG, "%s: rank %d: folded mode needs %s", what, c->rank,
                        op->kind == XP_MOE_COMBINE ? "x" : "grad_y");
    return XP_OK;
}

/* outward: tokens in, expert rows out; else the other way round. */
static xp_status check_operation(struct xp_plan *p, const char *what, const struct xp_moe_op *op, int outward)
{
    struct xp_comm *c = p->shape.comm;
    struct xp_routing *r = op->routing;
    if (!r)
        return xp_error(c, XP_ERR_INVALID_ARG, "%s: rank %d: routing is NULL", what, c->rank);
    if (r->moe != p->state)
        return xp_error(c, XP_ERR_STATE, "%s: rank %d: the routing is of another plan", what, c->rank);
    xp_status st = r->folded ? check_folded(c, what, op) : XP_OK;
    if (st != XP_OK)
        return st;
    size_t rows = op->kind == XP_MOE_DISPATCH ? r->map.rows : xp_routing_rows(r); /* a folded step may be dispatched anew */
    if (op->scalars && ((rows && !op->second) || (r->map.tokens && r->topk && !op->grad_weight)))
        return xp_error(c, XP_ERR_INVALID_ARG, "%s: rank %d: rows and grad_weight are given together", what, c->rank);
    size_t in = outward ? r->map.tokens : rows, out = outward ? rows : r->map.tokens, bytes = p->shape.row_bytes;
    st = check_buffer(c, what, "the input", op->in, in);
    if (st == XP_OK)
        st = check_buffer(c, what, "the output", op->out, out);
    if (st == XP_OK && xp_overlap(op->in, in * bytes, op->out, out * bytes))
        st = xp_error(c, XP_ERR_INVALID_ARG, "%s: rank %d: input and output overlap", what, c->rank);
    if (st == XP_OK)
        st = check_free(p, what);
    return st == XP_OK && p->shape.device ? xp_device_takes(&p->shape, what, p->stream) : st;
}

static xp_status operate(struct xp_plan *p, const char *what, const struct xp_moe_op *op, int outward, xp_request **req)
{
    xp_status st = check_operation(p, what, op, outward);
    if (st != XP_OK)
        return st;
    const struct xp_map *map = &op->routing->map;
    xp_moe_prepare(p->state, op);
    st = xp_request_start(p, what, NULL, outward ? map->sends : map->gets, NULL, outward ? map->gets : map->sends);
    return st == XP_OK ? xp_request_answer(p, req) : st;
}

static xp_status enter(xp_plan *plan, const char *what, const struct xp_moe_op *op, int outward, xp_request **req)
{
    if (!is_moe_plan(plan))
        return xp_error(NULL, XP_ERR_INVALID_ARG, "%s: not a plan with moe set", what);
    struct xp_comm *c = plan->shape.comm;
    xp_status st = xp_comm_enter(c);
    if (st != XP_OK)
        return st;
    st = operate(plan, what, op, outward, req);
    xp_comm_leave(c);
    return st;
}

xp_status xp_dispatch(xp_plan *plan, xp_routing *routing, const void *x, void *rows, xp_request **req)
{
    struct xp_moe_op op = {.kind = XP_MOE_DISPATCH, .routing = routing, .in = x, .out = rows};
    return enter(plan, "dispatch", &op, 1, req);
}

xp_status xp_combine(xp_plan *plan, xp_routing *routing, const void *rows, const void *x, void *y, xp_request **req)
{
    struct xp_moe_op op = {.kind = XP_MOE_COMBINE, .routing = routing, .in = rows, .second = x, .out = y};
    return enter(plan, "combine", &op, 0, req);
}

xp_status xp_combine_backward(xp_plan *plan, xp_routing *routing, const void *grad_y, const void *rows, void *grad_rows,
                              float *grad_weight, xp_request **req)
{
    struct xp_moe_op op = {.kind = XP_MOE_COMBINE_BACKWARD, .routing = routing, .in = grad_y, .second = rows, .out = grad_rows,
                           .grad_weight = grad_weight, .scalars = rows || grad_weight};
    return enter(plan, "combine_backward", &op, 1, req);
}

xp_status xp_dispatch_backward(xp_plan *plan, xp_routing *routing, const void *grad_rows, const void *grad_y, void *grad_x,
                               xp_request **req)
{
    struct xp_moe_op op = {.kind = XP_MOE_DISPATCH_BACKWARD, .routing = routing, .in = grad_rows, .second = grad_y, .out = grad_x};
    return enter(plan, "dispatch_backward", &op, 0, req);
}
