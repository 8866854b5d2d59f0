/*
 * topology.c - which ranks share a node
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/comm.h"
#include "lib/topology.h"

void xp_place_read(struct xp_place *p, const char *node)
{
    memset(p, 0, sizeof(*p));
    xp_host_read(&p->host);
    if (node && node[0])
        snprintf(p->node, sizeof(p->node), "%s", node);
    else
        snprintf(p->node, sizeof(p->node), "%s/%llu", p->host.boot, (unsigned long long)p->host.netns);
}

/* Fills node_of and returns the number of nodes. */
static int number_nodes(int *node_of, const struct xp_place *places, int n)
{
    int nodes = 0;

    for (int r = 0; r < n; r++) {
        int first = 0;

        while (first < r && strcmp(places[first].node, places[r].node) != 0)
            first++;
        node_of[r] = first < r ? node_of[first] : nodes++;
    }
    return nodes;
}

int xp_topology_build(struct xp_comm *c, const struct xp_place *places)
{
    size_t n = (size_t)c->size;
    int at = 0;

    c->node_of = malloc(n * sizeof(int));
    c->local_index = malloc(n * sizeof(int));
    c->node_size = calloc(n, sizeof(int));
    c->node_ranks = malloc(n * sizeof(int));
    c->node_start = malloc((n + 1) * sizeof(int));
    if (!c->node_of || !c->local_index || !c->node_size || !c->node_ranks || !c->node_start)
        return 0;
    c->nodes = number_nodes(c->node_of, places, c->size);
    for (int node = 0; node < c->nodes; node++) {
        c->node_start[node] = at;
        for (int r = 0; r < c->size; r++) {
            if (c->node_of[r] != node)
                continue;
            c->local_index[r] = c->node_size[node]++;
            c->node_ranks[at++] = r;
        }
    }
    c->node_start[c->nodes] = at;
    c->node = c->node_of[c->rank];
    return 1;
}

void xp_topology_free(struct xp_comm *c)
{
    free(c->node_of);
    free(c->local_index);
    free(c->node_size);
    free(c->node_ranks);
    free(c->node_start);
}

int xp_topology_one_machine(const struct xp_place *places, int n)
{
    for (int r = 1; r < n; r++)
        if (strcmp(places[r].host.boot, places[0].host.boot) != 0 || places[r].host.netns != places[0].host.netns)
            return 0;
    return 1;
}

int xp_topology_nodes_share_kernel(const struct xp_comm *c, const struct xp_place *places)
{
    for (int a = 0; a < c->size; a++)
        for (int b = 0; b < a; b++)
            if (c->node_of[a] != c->node_of[b] && strcmp(places[a].host.boot, places[b].host.boot) == 0)
                return 1;
    return 0;
}
