/*
 * moe_folded_device.c - a folded step whose rows are in device memory: the operations of folded_device.h on the operation's stream
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/folded_device.h"
#include "collectives/moe.h"
#include "lib/device.h"

/* What an operation of folded_device.h, or a query, has said. */
static xp_status status_of(const struct xp_moe *m, int error)
{
    const struct xp_comm *c = m->shape.comm;
    if (error == XP_DEVICE_NOT_READY)
        return XP_IN_PROGRESS;
    return error ? xp_error(m->shape.comm, XP_ERR_SYSTEM, "moe: rank %d: folding rows: CUDA: %s", c->rank, m->shape.device->text(error)) : XP_OK;
}

/* The survey takes several turns; when it is over, or the tokens are none, everything is chosen, and the rows' launches are enqueued. */
static int choose_and_make(struct xp_moe *m, struct xp_routing *r)
{
    const struct xp_fold_tokens t = xp_folded_tokens(m, r);
    int e = xp_fold_device_survey(m->fold_device, r->map.tokens, m->op.in, m->stream);
    if (!e)
        e = xp_fold_device_free(r->fold_rows);
    if (e || !xp_folded_chosen(m, r, xp_fold_device_choose(r->fold_rows, &t)))
        return e;
    return xp_fold_device_make(r->fold_rows, m->op.in, m->stream);
}

static xp_status choose(struct xp_moe *m, struct xp_routing *r)
{
    return status_of(m, choose_and_make(m, r));
}

static xp_status gradients(struct xp_moe *m, struct xp_routing *r)
{
    return status_of(m, xp_fold_device_combine_backward(r->fold_rows, m->op.in, m->op.grad_weight != NULL, m->stream));
}

static const void *first_rows(const struct xp_moe *m)
{
    const struct xp_fold_rows *rows = m->op.routing->fold_rows;
    return m->op.kind == XP_MOE_DISPATCH ? xp_fold_rows_made(rows) : xp_fold_rows_sums(rows);
}

static char *home_rows(const struct xp_moe *m)
{
    return m->op.kind == XP_MOE_COMBINE ? xp_fold_rows_results(m->op.routing->fold_rows) : xp_fold_device_gradients(m->fold_device);
}

/* Called again while the device is asked what the probes say. */
static xp_status home(struct xp_moe *m, struct xp_routing *r)
{
    if (!m->own_home)
        m->rows->units_home(m, m->map, 0, SIZE_MAX);
    m->own_home = 1;
    return status_of(m, m->op.kind == XP_MOE_COMBINE ? xp_fold_device_combine(r->fold_rows, m->op.out, m->stream)
                                                     : xp_fold_device_dispatch_backward(r->fold_rows, m->op.second, m->op.out, m->stream));
}

static xp_status end(struct xp_moe *m, struct xp_routing *r)
{
    int e = m->op.kind == XP_MOE_DISPATCH ? xp_fold_device_end(r->fold_rows)
            : m->op.grad_weight           ? xp_fold_device_weights(r->fold_rows, m->op.grad_weight)
                                          : 0;
    return status_of(m, e);
}

const struct xp_moe_fold_ops xp_folded_by_device = {
    .choose = choose,
    .gradients = gradients,
    .home = home,
    .end = end,
    .first_rows = first_rows,
    .home_rows = home_rows,
};
