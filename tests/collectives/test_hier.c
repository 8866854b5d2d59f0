/*
 * test_hier.c - the hierarchical all-to-all: against the plain reference, against flat, and what crosses the slow hop
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>

#include "tests/collectives/algo_cases.h"

static const struct world worlds[] = {{{1}},       {{3}},          {{1, 1}},       {{2, 2}},          {{2, 2}, 1},
                                      {{1, 2, 1}}, {{3, 1, 2}, 1}, {{2, 2, 2, 2}}, {{5, 1, 1, 2}, 1}};
static const struct algo_cases cases = {"hier", worlds, sizeof worlds / sizeof *worlds};

Test(hier, raw_every_pattern_and_type)
{
    HOLDS(algo_raw_every_pattern_and_type(&cases));
}

Test(hier, exact_keeps_every_bit_of_copies_and_nan)
{
    HOLDS(algo_exact_keeps_every_bit_of_copies_and_nan(&cases));
}

Test(hier, bounded_keeps_its_promise)
{
    HOLDS(algo_bounded_keeps_its_promise(&cases));
}

Test(hier, many_chunks_and_calls)
{
    static const struct world w = {{2, 1, 2}, 1};
    HOLDS(algo_many_chunks_and_calls(&cases, &w));
}

Test(hier, random_cases)
{
    HOLDS(algo_random_cases(&cases));
}

Test(hier, gives_the_bits_of_flat)
{
    HOLDS(algo_gives_the_bits_of_flat(&cases));
}

static int once_a_node(const xp_comm *comm, int rank)
{
    (void)rank;
    return xp_comm_nodes(comm) - 1;
}

static int once_a_rank(const xp_comm *comm, int rank)
{
    int far = 0;
    for (int i = 0; i < xp_comm_size(comm); i++)
        far += xp_comm_node_of(comm, i) != xp_comm_node_of(comm, rank);
    return far;
}

Test(hier, copies_for_one_node_cross_once)
{
    static const struct world w = {{4, 4, 3}};
    HOLDS(algo_copies_cross("hier", &w, 0, once_a_node));
    HOLDS(algo_copies_cross("flat", &w, 0, once_a_rank)); /* what there is to save */
}

Test(hier, over_ucx)
{
    static const struct world w = {{2, 3}, .transport = "auto"};
    if (!algo_has_ucx())
        cr_skip_test("no UCX");
    HOLDS(algo_over_ucx(&cases, &w));
}
