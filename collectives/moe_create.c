/*
 * moe_create.c - the memory of a MoE layer
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/moe_device.h"
#include "collectives/moe_staged.h"
#include "hash/coded_rows.h"
#include "hash/pages.h"

#include <stdlib.h>
#include <string.h>

size_t xp_moe_most_rows(const struct xp_moe_shape *shape)
{
    size_t most = 0;
    for (int l = 0; l <= xp_path_hops(shape->path); l++) {
        size_t n = xp_path_most(shape, l);
        most = n > most ? n : most;
    }
    return most;
}

static void no_lists(struct xp_moe *m, const struct xp_routing *r)
{
}

static xp_status nothing_to_begin(struct xp_moe *m, const struct xp_routing *r, void *stream)
{
    return XP_OK;
}

static void nothing_to_end(struct xp_moe *m)
{
}

static xp_status always_well(struct xp_moe *m)
{
    return XP_OK;
}

static const struct xp_moe_row_ops host_rows = {
    .piecewise = 1,
    .leave = xp_rows_leave,
    .arrive = xp_rows_arrive,
    .units_leave = xp_units_leave,
    .units_home = xp_units_home,
    .map_known = no_lists,
    .begin = nothing_to_begin,
    .end = nothing_to_end,
    .dots_known = always_well,
    .error = always_well,
};

static xp_status allocate_rows(struct xp_moe *m)
{
    size_t rows = m->cap_most + 1;
    const int on_device = m->shape.device && !m->shape.staged;
    m->rows = on_device ? &xp_moe_device_rows : &host_rows;
    m->fold = on_device ? &xp_folded_by_device : &xp_folded_by_host;
    if (on_device)
        return xp_moe_device_create(m);
    m->out = xp_pages_alloc(rows * m->shape.row_bytes);
    m->in[0] = xp_pages_alloc(rows * m->shape.row_bytes);
    m->in[1] = xp_pages_alloc(rows * m->shape.row_bytes);
    m->dots = malloc(rows * sizeof *m->dots);
    return m->out && m->in[0] && m->in[1] && m->dots ? XP_OK : XP_ERR_NO_MEMORY;
}

static xp_status allocate(struct xp_moe *m)
{
    size_t n = (size_t)m->shape.comm->size, experts = (size_t)m->shape.experts, rows = m->cap_most + 1;
    size_t bytes;
    if (__builtin_mul_overflow(rows, m->shape.row_bytes + XP_MOE_RECORD, &bytes) || m->cap_most > UINT32_MAX - 1)
        return XP_ERR_NO_MEMORY;
    int bad = 0;
    bad |= !(m->maxima = malloc(2 * n * sizeof *m->maxima));
    for (int i = 0; i < 2; i++)
        bad |= !(m->scalars[i] = malloc(rows * sizeof *m->scalars[i]));
    bad |= !(m->records_out = malloc(rows * XP_MOE_RECORD));
    bad |= !(m->records_in = malloc(rows * XP_MOE_RECORD));
    bad |= !(m->hello_out = malloc(n * m->hello_bytes));
    bad |= !(m->hello_in = malloc(n * m->hello_bytes));
    bad |= !(m->ones = malloc(n * sizeof *m->ones));
    bad |= !(m->order = malloc(experts * sizeof *m->order));
    bad |= !(m->going.most_to = malloc(4 * n * sizeof *m->going.most_to));
    m->going.most_from = m->going.most_to + n;
    m->going.first = m->going.most_to + 2 * n;
    m->going.made = m->going.most_to + 3 * n;
    bad |= !(m->going.list = malloc(rows * sizeof *m->going.list));
    bad |= !(m->sort = malloc(rows * sizeof *m->sort));
    bad |= !(m->sort2 = malloc(rows * sizeof *m->sort2));
    bad |= !(m->intake.first = malloc(3 * n * sizeof *m->intake.first));
    m->intake.entry = m->intake.first + n;
    m->intake.entry_end = m->intake.first + 2 * n;
    bad |= !(m->term = malloc(((size_t)m->shape.max_topk + 1) * sizeof *m->term));
    bad |= !(m->bucket = malloc(((n > experts ? n : experts) + 1) * sizeof *m->bucket));
    return bad ? XP_ERR_NO_MEMORY : allocate_rows(m);
}

xp_status xp_moe_create(struct xp_moe **out, const struct xp_moe_shape *shape, const struct xp_channel *channels,
                        const struct xp_folder_desc *folder)
{
    size_t n = (size_t)shape->comm->size;
    struct xp_moe *m = calloc(1, sizeof *m);
    if (!m)
        return XP_ERR_NO_MEMORY;
    m->shape = *shape;
    int isa = xp_isa_parse(shape->comm->params.isa[0] ? shape->comm->params.isa : NULL);
    xp_kernels_init(&m->kernels, isa < 0 ? XP_ISA_C : (enum xp_isa)isa);
    m->hops = xp_path_hops(shape->path);
    m->slow_hop = xp_path_slow_hop(shape->path);
    m->hello_bytes = xp_moe_hello_bytes(shape);
    for (int l = 0; l <= m->hops; l++)
        m->cap[l] = xp_path_most(shape, l);
    m->cap_most = xp_moe_most_rows(shape);
    xp_status st = allocate(m);
    if (st == XP_OK && !m->device && m->slow_hop == 0 && (folder ? shape->comm->nodes > 1 : shape->mode == XP_MODE_BOUNDED && xp_path_copies(shape)))
        st = xp_coded_rows_create(&m->store, shape->peer_max_tokens[shape->comm->rank] * (folder ? (size_t)shape->max_topk : 1), shape->row_bytes);
    if (st == XP_OK && folder)
        st = xp_folder_create(&m->folder, folder);
    if (st == XP_OK && folder && m->device)
        st = xp_moe_device_fold(m);
    else if (st == XP_OK && folder && !(m->virtual_rows = xp_pages_alloc((m->cap[0] + 1) * shape->row_bytes)))
        st = XP_ERR_NO_MEMORY;
    if (st == XP_OK && shape->staged)
        st = xp_moe_stage_create(m);
    if (st != XP_OK) {
        xp_moe_destroy(m);
        return st;
    }
    memcpy(m->maxima, shape->peer_max_tokens, n * sizeof *m->maxima);
    memcpy(m->maxima + n, shape->peer_max_rows, n * sizeof *m->maxima);
    m->shape.peer_max_tokens = m->maxima;
    m->shape.peer_max_rows = m->maxima + n;
    memcpy(m->channel, channels, sizeof m->channel);
    for (size_t i = 0; i < n; i++)
        m->ones[i] = 1;
    *out = m;
    return XP_OK;
}

/* Routings that the user still holds live on without a plan until they are given back. */
static void drop_routings(struct xp_moe *m)
{
    for (struct xp_routing *r = m->routings, *next; r; r = next) {
        next = r->next;
        r->moe = NULL;
        xp_fold_destroy(r->fold);
        r->fold = NULL;
        if (!r->used)
            xp_routing_free(r);
    }
}

void xp_moe_destroy(struct xp_moe *m)
{
    if (!m)
        return;
    xp_moe_device_destroy(m);
    xp_moe_stage_destroy(m);
    drop_routings(m);
    xp_folder_destroy(m->folder);
    free(m->scalars[0]);
    free(m->scalars[1]);
    xp_coded_rows_destroy(m->store);
    free(m->virtual_rows);
    free(m->maxima);
    free(m->out);
    free(m->in[0]);
    free(m->in[1]);
    free(m->records_out);
    free(m->records_in);
    free(m->dots);
    free(m->hello_out);
    free(m->hello_in);
    free(m->ones);
    free(m->order);
    free(m->going.most_to);
    free(m->going.list);
    free(m->sort);
    free(m->sort2);
    free(m->bucket);
    free(m->term);
    free(m->intake.first);
    free(m);
}
