/*
 * moe_ahead.c - a folded dispatch whose first rows leave before the last ones are chosen
 *
 * Most of the time before the first row can leave goes to clustering. So where one hop leads to the experts, the exchange begins before it: with the
 * rows that would travel unfolded, which all ranks know since xp_route, as the most that there may be. Experts of the next rank are clustered
 * first, and its rows leave while those of the next but one are chosen. What arrives waits, coded, until hellos have told all counts.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/moe.h"

#define TOGETHER 4 /* experts, at most, whose means are made in one go */
#define PIECE 128  /* virtual tokens whose rows are coded between two looks at the messages */

/* Virtual tokens are never more than tokens, for which xp_route has found room. */
int xp_ahead_may(const struct xp_moe *m)
{
    const struct xp_channel *ch = &m->channel[XP_CHANNEL_FOLDED];
    return m->folder && !m->device && xp_hello_tells_all(&m->shape) && ch->ops->goes_ahead && (ch->shape->coder || !ch->shape->dedup);
}

static xp_status begin(struct xp_moe *m, const struct xp_routing *r)
{
    struct xp_going_ahead *g = &m->going;
    const int size = m->shape.comm->size;
    size_t before = 0;
    g->stage = XP_AHEAD_CLUSTERS;
    g->averaged = g->filled = 0;
    g->ahead = (struct xp_ahead){.made = g->made};
    for (int i = 0; i < size; i++) {
        const int other = i != m->shape.comm->rank;
        g->most_to[i] = other ? r->map.sends[i] : 0;
        g->most_from[i] = other ? r->map.gets[i] : 0;
        g->first[i] = before;
        g->made[i] = 0;
        before += g->most_to[i];
    }
    m->call = (struct xp_call){.send = m->out, .send_rows = g->most_to, .recv = m->in[0], .recv_rows = g->most_from, .from = xp_fold_seen(r->fold),
                               .at = g->list, .store = m->store, .number = m->store ? g->list : NULL, .ahead = &g->ahead};
    return xp_moe_start_call(m, XP_CHANNEL_FOLDED);
}

static int rank_of(const struct xp_routing *r, size_t v)
{
    return r->map.rank_of[xp_fold_expert(r->fold)[v]];
}

/* Rows of the next virtual tokens are coded, and may leave. */
static xp_status fill(struct xp_moe *m, const struct xp_routing *r)
{
    struct xp_going_ahead *g = &m->going;
    const size_t end = g->filled + PIECE < g->averaged ? g->filled + PIECE : g->averaged;
    const xp_status st = xp_fold_fill(r->fold, g->filled, end);
    for (; st == XP_OK && g->filled < end; g->filled++) {
        const int to = rank_of(r, g->filled);
        if (to == m->shape.comm->rank)
            continue;
        if (g->made[to] == g->most_to[to])
            return XP_ERR_INTERNAL;
        g->list[g->first[to] + g->made[to]++] = (uint32_t)g->filled;
    }
    return st;
}

/* Means of several experts of a rank are made in one go, but not so many that messages wait for them. */
static int next_goes_along(const struct xp_moe *m, const struct xp_routing *r, size_t chosen)
{
    return chosen < (size_t)m->shape.experts && chosen % TOGETHER && r->map.rank_of[m->order[chosen]] == r->map.rank_of[m->order[chosen - 1]];
}

static xp_status survey(struct xp_moe *m, struct xp_routing *r)
{
    const struct xp_fold_tokens t = xp_folded_tokens(m, r);
    const xp_status st = begin(m, r);
    xp_fold_keep(r->fold, m->store);
    xp_folded_keep(m, r);
    return st == XP_OK ? xp_fold_begin(r->fold, &t, r->x) : st;
}

static xp_status piece(struct xp_moe *m, struct xp_routing *r)
{
    struct xp_going_ahead *g = &m->going;
    const size_t chosen = xp_fold_chosen(r->fold);
    if (g->stage == XP_AHEAD_NONE)
        return survey(m, r);
    if (g->filled < g->averaged)
        return fill(m, r);
    if (g->averaged < xp_fold_clusters(r->fold) && !next_goes_along(m, r, chosen)) {
        xp_fold_average(r->fold, r->x, g->averaged, xp_fold_clusters(r->fold));
        g->averaged = xp_fold_clusters(r->fold);
        return XP_OK;
    }
    if (chosen < (size_t)m->shape.experts)
        return xp_fold_choose_next(r->fold, r->x);
    xp_fold_choose_probes(r->fold, r->x);
    g->averaged = xp_fold_count(r->fold);
    g->stage = XP_AHEAD_PROBES;
    return XP_OK;
}

xp_status xp_ahead_choose(struct xp_moe *m, struct xp_routing *r)
{
    struct xp_going_ahead *g = &m->going;
    xp_status st = piece(m, r);
    if (st == XP_OK && (g->stage != XP_AHEAD_PROBES || g->filled < g->averaged))
        return XP_IN_PROGRESS;
    if (!xp_folded_chosen(m, r, st)) /* rows have left that nobody can take back */
        return xp_comm_revoke(m->shape.comm, st == XP_OK ? XP_ERR_INTERNAL : st, "dispatch: rank %d: folding %zu tokens: %s", m->shape.comm->rank,
                              r->map.tokens, xp_status_string(st == XP_OK ? XP_ERR_INTERNAL : st));
    g->ahead.send_rows = g->made;
    g->stage = XP_AHEAD_TOLD;
    return XP_OK;
}

xp_status xp_ahead_progress(struct xp_moe *m, int *moved)
{
    const struct xp_channel *ch = &m->channel[XP_CHANNEL_FOLDED];
    return m->going.stage == XP_AHEAD_NONE ? XP_IN_PROGRESS : ch->ops->progress(ch->state, moved);
}

xp_status xp_ahead_agreed(struct xp_moe *m)
{
    struct xp_going_ahead *g = &m->going;
    for (int i = 0; i < m->shape.comm->size; i++)
        if (m->call.recv_rows[i] > g->most_from[i])
            return xp_comm_revoke(m->shape.comm, XP_ERR_CORRUPT, "route: the hello of rank %d is damaged", i);
    g->ahead.recv_rows = m->call.recv_rows;
    g->ahead.to = m->call.to;
    g->ahead.place = m->call.place;
    g->stage = XP_AHEAD_NONE;
    return XP_OK;
}

void xp_ahead_finish(struct xp_moe *m)
{
    const struct xp_channel *ch = &m->channel[XP_CHANNEL_FOLDED];
    if (m->going.stage != XP_AHEAD_NONE)
        ch->ops->finish(ch->state);
    m->going.stage = XP_AHEAD_NONE;
}
