/*
 * test_topology.c - which ranks share a node
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "lib/comm.h"
#include "lib/topology.h"

/* Builds the tables for ranks whose nodes are named by the letters of a text. */
static void build(struct xp_comm *c, struct xp_place *places, const char *letters, int rank)
{
    memset(c, 0, sizeof(*c));
    c->size = (int)strlen(letters);
    c->rank = rank;
    for (int r = 0; r < c->size; r++) {
        memset(&places[r], 0, sizeof(places[r]));
        snprintf(places[r].node, sizeof(places[r].node), "node %c", letters[r]);
    }
    cr_assert(xp_topology_build(c, places));
}

Test(topology, nodes_are_numbered_by_their_lowest_rank)
{
    const int node_of[] = {0, 1, 0, 2, 1, 0}, index[] = {0, 0, 1, 0, 1, 2}, size[] = {3, 2, 1}, ranks[] = {0, 2, 5, 1, 4, 3},
              start[] = {0, 3, 5, 6};
    struct xp_place places[6];
    struct xp_comm c;

    build(&c, places, "zazmaz", 4);
    cr_assert_eq(c.nodes, 3);
    cr_assert_eq(c.node, 1);
    cr_assert_arr_eq(c.node_of, node_of, sizeof(node_of));
    cr_assert_arr_eq(c.local_index, index, sizeof(index));
    cr_assert_arr_eq(c.node_size, size, sizeof(size));
    cr_assert_arr_eq(c.node_ranks, ranks, sizeof(ranks));
    cr_assert_arr_eq(c.node_start, start, sizeof(start));
    xp_topology_free(&c);
}

Test(topology, one_rank)
{
    struct xp_place places[1];
    struct xp_comm c;

    build(&c, places, "a", 0);
    cr_assert_eq(c.nodes, 1);
    cr_assert_eq(c.node_start[1], 1);
    cr_assert(xp_topology_one_machine(places, 1));
    xp_topology_free(&c);
}

Test(topology, every_table_is_consistent)
{
    static const char *const shapes[] = {"ab", "aabb", "abab", "abcdefgh", "aaaaaaaa", "abbbbbbbc", "abcabcabcab"};

    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        struct xp_place places[16];
        struct xp_comm c;

        build(&c, places, shapes[i], 1);
        for (int r = 0; r < c.size; r++) {
            int node = c.node_of[r];
            cr_assert(node >= 0 && node < c.nodes, "%s", shapes[i]);
            cr_assert_eq(c.node_ranks[c.node_start[node] + c.local_index[r]], r, "%s rank %d", shapes[i], r);
            for (int q = 0; q < c.size; q++)
                cr_assert_eq(c.node_of[q] == node, shapes[i][q] == shapes[i][r], "%s", shapes[i]);
        }
        for (int node = 0; node < c.nodes; node++)
            cr_assert_eq(c.node_start[node + 1] - c.node_start[node], c.node_size[node]);
        xp_topology_free(&c);
    }
}

Test(topology, a_place_without_a_name_is_the_machine)
{
    struct xp_place a, b;

    xp_place_read(&a, NULL);
    xp_place_read(&b, "");
    cr_assert_str_eq(a.node, b.node);
    cr_assert(strlen(a.host.boot) >= 8, "\"%s\"", a.host.boot);
    cr_assert_neq(a.host.netns, 0);
    xp_place_read(&b, "rack 7");
    cr_assert_str_eq(b.node, "rack 7");
}

Test(topology, machines_and_kernels)
{
    struct xp_place places[2];
    struct xp_comm c;

    build(&c, places, "ab", 0);
    cr_assert(xp_topology_one_machine(places, 2));
    cr_assert(xp_topology_nodes_share_kernel(&c, places), "simulated nodes are on one kernel");
    places[1].host.netns = 9;
    cr_assert(!xp_topology_one_machine(places, 2), "another network namespace has another loopback");
    cr_assert(xp_topology_nodes_share_kernel(&c, places));
    snprintf(places[1].host.boot, sizeof(places[1].host.boot), "another");
    cr_assert(!xp_topology_one_machine(places, 2));
    cr_assert(!xp_topology_nodes_share_kernel(&c, places));
    xp_topology_free(&c);
}
