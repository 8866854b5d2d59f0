/*
 * algo.c - the list of algorithms, which one serves a plan, and what all of them count
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/algo.h"

#include <string.h>

static const struct xp_algo_ops *const algorithms[] = {&xp_algo_flat, &xp_algo_hier, &xp_algo_leader, NULL};

const struct xp_algo_ops *const *xp_algo_list(void)
{
    return algorithms;
}

const struct xp_algo_ops *xp_algo_choose(const struct xp_shape *s, const char *name)
{
    const struct xp_algo_ops *best = NULL;
    double least = 0;
    for (const struct xp_algo_ops *const *a = algorithms; *a; a++) {
        double score = (*a)->score(s);
        if (score < 0 || (strcmp(name, "auto") != 0 && strcmp(name, (*a)->name) != 0))
            continue;
        if (!best || score < least) {
            best = *a;
            least = score;
        }
    }
    return best;
}

void xp_count_sent(const struct xp_comm *c, xp_stats *stats, int peer, size_t bytes)
{
    if (c->node_of[peer] == c->node)
        stats->wire_bytes_fast += bytes;
    else
        stats->wire_bytes_slow += bytes;
}
