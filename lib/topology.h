/*
 * topology.h - which ranks share a node
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TOPOLOGY_H
#define XP_TOPOLOGY_H

#include "lib/host.h"

struct xp_comm;

/* What every rank tells the others about its place. */
struct xp_place {
    char node[128]; /* ranks of equal text share a node */
    struct xp_host host;
};

/* This rank's place: the node text given, or else boot id and network namespace. */
void xp_place_read(struct xp_place *p, const char *node);

/*
 * Fills the comm's node tables from the places of all ranks ([c->size]). Nodes are numbered by their lowest rank.
 * Returns 0 without memory.
 */
int xp_topology_build(struct xp_comm *c, const struct xp_place *places);
void xp_topology_free(struct xp_comm *c);

/* All ranks run on one machine, so that shared memory and loopback reach everybody. */
int xp_topology_one_machine(const struct xp_place *places, int n);

/* Some ranks of different nodes run on the same kernel (simulated nodes, containers, test hosts): what a fast transport finds
 * out by itself about "the same host" is then wrong. */
int xp_topology_nodes_share_kernel(const struct xp_comm *c, const struct xp_place *places);

#endif
