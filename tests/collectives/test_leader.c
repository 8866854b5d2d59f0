/*
 * test_leader.c - the all-to-all through the leaders of the nodes: against the plain reference, against flat, and what crosses the slow hop
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>

#include "tests/collectives/algo_cases.h"

static const struct world worlds[] = {{{1}},       {{3}},          {{1, 1}},       {{2, 2}},          {{2, 2}, 1},
                                      {{1, 2, 1}}, {{3, 1, 2}, 1}, {{2, 2, 2, 2}}, {{5, 1, 1, 2}, 1}};
static const struct algo_cases cases = {"leader", worlds, sizeof worlds / sizeof *worlds};

Test(leader, raw_every_pattern_and_type)
{
    HOLDS(algo_raw_every_pattern_and_type(&cases));
}

Test(leader, exact_keeps_every_bit_of_copies_and_nan)
{
    HOLDS(algo_exact_keeps_every_bit_of_copies_and_nan(&cases));
}

Test(leader, bounded_keeps_its_promise)
{
    HOLDS(algo_bounded_keeps_its_promise(&cases));
}

Test(leader, many_chunks_and_calls)
{
    static const struct world w = {{2, 1, 2}, 1};
    HOLDS(algo_many_chunks_and_calls(&cases, &w));
}

Test(leader, random_cases)
{
    HOLDS(algo_random_cases(&cases));
}

Test(leader, gives_the_bits_of_flat)
{
    HOLDS(algo_gives_the_bits_of_flat(&cases));
}

/* The first rank of a node sends them for all. */
static int once_a_node_by_the_leader(const xp_comm *comm, int rank)
{
    int leads = rank == 0 || xp_comm_node_of(comm, rank - 1) != xp_comm_node_of(comm, rank);
    return leads ? xp_comm_nodes(comm) - 1 : 0;
}

Test(leader, copies_of_a_whole_node_cross_once)
{
    static const struct world w = {{4, 4, 3}};
    HOLDS(algo_copies_cross("leader", &w, 1, once_a_node_by_the_leader));
}

Test(leader, over_ucx)
{
    static const struct world w = {{2, 3}, .transport = "auto"};
    if (!algo_has_ucx())
        cr_skip_test("no UCX");
    HOLDS(algo_over_ucx(&cases, &w));
}
