/*
 * moe_folded.c - a folded step: virtual tokens go out and come home in the place of tokens
 *
 * Dispatch first makes centroids and probes (folded.h) and agrees on a map for them, as xp_route does for tokens; then all four
 * operations follow that map. When a rank finds its error above the limit, the next steps of all ranks are bounded; then one step is
 * folded again to see.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <string.h>

#include "collectives/moe.h"

#define HOLD_STEPS 16 /* bounded steps before the next trial */
#define PIECE 128 /* virtual tokens whose rows are made between two looks at the messages */

int xp_folded_alarm(const struct xp_moe *m)
{
    return m->folder && m->shape.error_limit > 0 && m->fold_err > m->shape.error_limit;
}

static int fall_back(struct xp_moe *m)
{
    m->stats->fold_fallbacks++;
    return 0;
}

/* Everything that decides is in the hellos or was decided from them before, so all ranks go the same way. */
int xp_folded_step(struct xp_moe *m, struct xp_routing *r)
{
    int alarm = xp_hello_flags(m);
    r->folded = 0;
    if (!m->folder)
        return 0;
    if (m->hold > 0) {
        m->hold--;
        m->trial = m->hold == 0;
        return fall_back(m);
    }
    if (alarm && !m->trial) {
        m->hold = HOLD_STEPS - 1;
        return fall_back(m);
    }
    m->trial = 0;
    return r->folded = 1;
}

/* The entries of the virtual tokens at home. Returns whether there are no more for any rank than there were rows. */
static int make_entries(struct xp_moe *m, struct xp_routing *r)
{
    struct xp_map *map = &r->virtual_map;
    struct xp_map_level *v = &map->level[0];
    const int32_t *expert = xp_fold_expert(r->fold);
    size_t n = xp_fold_count(r->fold), ranks = (size_t)m->shape.comm->size;
    memcpy(map->rank_of, r->map.rank_of, (size_t)m->shape.experts * sizeof *map->rank_of);
    memset(map->sends, 0, ranks * sizeof *map->sends);
    if (n > m->cap[0])
        return 0;
    for (size_t i = 0; i < n; i++) {
        v->entry[i] = (struct xp_entry){.token = (uint32_t)i, .source = (uint16_t)m->shape.comm->rank, .expert = (uint16_t)expert[i], .weight = 1};
        v->row[i] = (uint32_t)i;
        map->sends[map->rank_of[expert[i]]]++;
    }
    v->entries = map->tokens = n;
    for (size_t i = 0; i < ranks; i++)
        if (map->sends[i] > r->map.sends[i])
            return 0;
    return 1;
}

int xp_folded_chosen(struct xp_moe *m, struct xp_routing *r, xp_status st)
{
    char why[80] = "";
    if (st == XP_OK && !make_entries(m, r))
        st = XP_ERR_INTERNAL;
    if (st != XP_OK)
        snprintf(why, sizeof why, "folding %zu tokens: %s", r->map.tokens, xp_status_string(st));
    xp_hello_write(m, &r->virtual_map, r->fold, st, why, 0);
    return st == XP_OK;
}

/* Counting sort by how far behind `source` an expert's rank is. */
void xp_folded_order(struct xp_moe *m, const uint16_t *rank_of, int source)
{
    const int size = m->shape.comm->size;
    uint32_t *at = m->bucket;
    memset(at, 0, ((size_t)size + 1) * sizeof *at);
    for (int e = 0; e < m->shape.experts; e++)
        at[(rank_of[e] + size - source - 1) % size + 1]++;
    for (int i = 0; i < size; i++)
        at[i + 1] += at[i];
    for (int e = 0; e < m->shape.experts; e++)
        m->order[at[(rank_of[e] + size - source - 1) % size]++] = e;
}

struct xp_fold_tokens xp_folded_tokens(struct xp_moe *m, const struct xp_routing *r)
{
    xp_folded_order(m, r->map.rank_of, m->shape.comm->rank);
    return (struct xp_fold_tokens){.tokens = r->map.tokens, .topk = r->topk, .expert = r->expert, .weight = r->weight, .sequence = r->sequence, .order = m->order};
}

void xp_folded_keep(const struct xp_moe *m, const struct xp_routing *r)
{
    if (r->map.tokens)
        memcpy(r->x, m->op.in, r->map.tokens * m->shape.row_bytes);
}

static xp_status choose_all(struct xp_moe *m, struct xp_routing *r)
{
    const struct xp_fold_tokens t = xp_folded_tokens(m, r);
    xp_fold_keep(r->fold, m->store);
    xp_folded_keep(m, r);
    m->filling.left = xp_folded_chosen(m, r, xp_fold_choose(r->fold, &t, r->x));
    m->filling.next = m->filling.averaged = 0;
    return XP_OK;
}

static xp_status choose(struct xp_moe *m, struct xp_routing *r)
{
    return xp_ahead_may(m) ? xp_ahead_choose(m, r) : choose_all(m, r);
}

xp_status xp_folded_fill(struct xp_moe *m, struct xp_routing *r)
{
    struct xp_filling *f = &m->filling;
    const size_t all = xp_fold_count(r->fold), end = f->next + PIECE < all ? f->next + PIECE : all;
    xp_status st;
    if (!f->averaged)
        xp_fold_average(r->fold, r->x, 0, xp_fold_clusters(r->fold));
    f->averaged = 1;
    st = xp_fold_fill(r->fold, f->next, end);
    f->next = end;
    f->left = end < all;
    return st == XP_OK ? XP_OK : xp_error(m->shape.comm, st, "dispatch: folding %zu tokens: %s", r->map.tokens, xp_status_string(st));
}

void xp_folded_leave(struct xp_moe *m, const struct xp_routing *r)
{
    const struct xp_map *map = &r->virtual_map;
    const struct xp_map_hop *p = &map->hop[0];
    const int *node_of = m->shape.comm->node_of;
    const char *rows = xp_fold_rows(r->fold), *seen = xp_fold_seen(r->fold);
    size_t bytes = m->shape.row_bytes;
    for (size_t i = 0; i < p->rows_out; i++) {
        size_t v = p->gather[i];
        int far = node_of[map->rank_of[map->level[0].entry[v].expert]] != m->shape.comm->node;
        memcpy(m->out + i * bytes, (far ? rows : seen) + v * bytes, bytes);
    }
}

static xp_status gradients(struct xp_moe *m, struct xp_routing *r)
{
    xp_fold_combine_backward(r->fold, m->op.in, r->x, m->virtual_rows, m->op.grad_weight);
    return XP_OK;
}

static const void *first_rows(const struct xp_moe *m)
{
    return m->op.kind == XP_MOE_DISPATCH ? xp_fold_seen(m->op.routing->fold) : m->virtual_rows;
}

static char *home_rows(const struct xp_moe *m)
{
    return m->op.kind == XP_MOE_COMBINE ? xp_fold_results(m->op.routing->fold) : m->virtual_rows;
}

void xp_folded_own_home(struct xp_moe *m, const struct xp_routing *r)
{
    const struct xp_map_level *v = &r->virtual_map.level[0];
    size_t bytes = m->shape.row_bytes;
    char *rows = home_rows(m);
    for (size_t i = 0; i < v->entries && !m->own_home; i++)
        if (xp_entry_stays(m, &r->virtual_map, &v->entry[i]))
            memcpy(rows + i * bytes, (const char *)m->op.in + v->unit[i] * bytes, bytes);
    m->own_home = 1;
}

/* in[0] has what the last hop brought, but for what the exchange has put where it belongs. */
static xp_status home(struct xp_moe *m, struct xp_routing *r)
{
    const struct xp_map_level *v = &r->virtual_map.level[0];
    size_t bytes = m->shape.row_bytes;
    char *rows = home_rows(m);
    xp_folded_own_home(m, r);
    for (size_t i = 0; i < v->entries && !m->call.place; i++)
        if (!xp_entry_stays(m, &r->virtual_map, &v->entry[i]))
            memcpy(rows + i * bytes, m->in[0] + v->unit[i] * bytes, bytes);
    if (m->op.kind == XP_MOE_COMBINE)
        xp_fold_combine(r->fold, r->x, rows, m->op.out);
    else
        xp_fold_dispatch_backward(r->fold, m->op.second, m->virtual_rows, m->op.out);
    return XP_OK;
}

/* Of dispatch; the other way out has left nothing: gradients wrote those of weights. */
static xp_status end(struct xp_moe *m, struct xp_routing *r)
{
    if (m->op.kind == XP_MOE_DISPATCH)
        xp_fold_end(r->fold, r->x);
    return XP_OK;
}

const struct xp_moe_fold_ops xp_folded_by_host = {
    .choose = choose,
    .gradients = gradients,
    .home = home,
    .end = end,
    .first_rows = first_rows,
    .home_rows = home_rows,
};

void xp_folded_stats(struct xp_moe *m, const struct xp_routing *r, xp_stats *stats)
{
    struct xp_fold_stats f = xp_fold_stats(r->fold);
    stats->rate = f.rate;
    stats->rho = f.rho;
    stats->fold_err = m->fold_err = f.fold_err;
}
