/*
 * path.c - the ways from home to an expert: flat, hier, leader
 *
 *   flat    home -> expert
 *   hier    home -> the rank of the same local index on the expert's node -> expert
 *   leader  home -> lowest rank of the own node -> lowest rank of the expert's node -> expert
 *
 * What stays on its node waits at home and goes to the expert's rank in the last hop.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "collectives/moe.h"

int xp_path_hops(enum xp_moe_path path)
{
    return path == XP_PATH_FLAT ? 1 : path == XP_PATH_HIER ? 2 : 3;
}

int xp_path_slow_hop(enum xp_moe_path path)
{
    return path == XP_PATH_LEADER ? 1 : 0;
}

static int leader_of(const struct xp_comm *c, int rank)
{
    return c->node_ranks[c->node_start[c->node_of[rank]]];
}

/* The rank of dest's node that takes what source sends to this node. */
static int partner_of(const struct xp_comm *c, int source, int dest)
{
    int node = c->node_of[dest];
    return c->node_ranks[c->node_start[node] + c->local_index[source] % c->node_size[node]];
}

int xp_path_at(const struct xp_comm *c, enum xp_moe_path path, int source, int dest, int level)
{
    if (level == 0)
        return source;
    if (level == xp_path_hops(path))
        return dest;
    if (c->node_of[source] == c->node_of[dest])
        return source;
    if (path == XP_PATH_HIER)
        return partner_of(c, source, dest);
    return leader_of(c, level == 1 ? source : dest);
}

int xp_path_copies(const struct xp_moe_shape *s)
{
    const struct xp_comm *c = s->comm;
    int far = 0;
    for (int i = 0; i < c->size; i++)
        far += c->node_of[i] != c->node;
    return s->path == XP_PATH_FLAT ? far > 1 : s->path == XP_PATH_HIER && c->nodes > 2;
}

/* Every entry at a level belongs to one pair (source, dest); a pair has no more entries than either end allows. */
size_t xp_path_most(const struct xp_moe_shape *s, int level)
{
    const struct xp_comm *c = s->comm;
    size_t from_sources = 0, to_dests = 0;
    for (int i = 0; i < c->size; i++) {
        int passes_from = 0, passes_to = 0;
        for (int k = 0; k < c->size && !(passes_from && passes_to); k++) {
            passes_from |= xp_path_at(c, s->path, i, k, level) == c->rank;
            passes_to |= xp_path_at(c, s->path, k, i, level) == c->rank;
        }
        from_sources += passes_from ? s->peer_max_tokens[i] * (size_t)s->max_topk : 0;
        to_dests += passes_to ? s->peer_max_rows[i] : 0;
    }
    return from_sources < to_dests ? from_sources : to_dests;
}

int xp_path_choose(const struct xp_comm *c, xp_mode mode, const char *name)
{
    static const char *const names[] = {"flat", "hier", "leader"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    if (strcmp(name, "auto") != 0)
        return -1;
    /* With one rank a node there is nothing to fan out; raw mode sends as many rows either way. */
    return mode == XP_MODE_RAW || c->nodes == 1 || c->nodes == c->size ? XP_PATH_FLAT : XP_PATH_HIER;
}
