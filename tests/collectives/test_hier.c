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
    algo_raw_every_pattern_and_type(&cases);
}

Test(hier, exact_keeps_every_bit_of_copies_and_nan)
{
    algo_exact_keeps_every_bit_of_copies_and_nan(&cases);
}

Test(hier, bounded_keeps_its_promise)
{
    algo_bounded_keeps_its_promise(&cases);
}

Test(hier, many_chunks_and_calls)
{
    static const struct world w = {{2, 1, 2}, 1};
    algo_many_chunks_and_calls(&cases, &w);
}

Test(hier, random_cases)
{
    algo_random_cases(&cases);
}

Test(hier, gives_the_bits_of_flat)
{
    algo_gives_the_bits_of_flat(&cases);
}

Test(hier, copies_for_one_node_cross_once)
{
    static const struct world w = {{4, 4, 3}};
    algo_copies_cross_once("hier", &w, 0);
    algo_copies_cross_once("flat", &w, 0);
}

Test(hier, over_ucx)
{
    static const struct world w = {{2, 3}, .transport = "auto"};
    algo_over_ucx(&cases, &w);
}
