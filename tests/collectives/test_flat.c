/*
 * test_flat.c - the flat all-to-all against the plain reference
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>

#include "tests/collectives/algo_cases.h"

static const struct world worlds[] = {{{1}}, {{2}}, {{1, 1}}, {{3}}, {{2, 2}, 1}, {{1, 1, 1, 1}}, {{4, 1, 3}, 1}};
static const struct algo_cases cases = {"flat", worlds, sizeof worlds / sizeof *worlds};

Test(flat, raw_every_pattern_and_type)
{
    algo_raw_every_pattern_and_type(&cases);
}

Test(flat, exact_keeps_every_bit_of_copies_and_nan)
{
    algo_exact_keeps_every_bit_of_copies_and_nan(&cases);
}

Test(flat, exact_with_a_named_codec)
{
    static const char *const codecs[] = {"pack", "exact", "raw"};
    unsigned n = 0;
    for (const struct world *w = worlds; w < worlds + sizeof worlds / sizeof *worlds; w++)
        for (unsigned c = 0; c < 3; c++, n++)
            algo_run(&cases, w, (struct exchange){.pattern = UNIFORM, .filling = n % FILLINGS, .rows = 40, .dim = 150, .dtype = XP_BF16 + n % 4,
                                     .mode = XP_MODE_EXACT, .codec = codecs[c], .seed = n});
}

Test(flat, bounded_keeps_its_promise)
{
    algo_bounded_keeps_its_promise(&cases);
}

Test(flat, many_calls_reuse_the_buffers)
{
    static const struct world w = {{2, 2}};
    for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++)
        algo_run(&cases, &w, (struct exchange){.pattern = RANDOM_SKEW, .filling = SOME_COPIES, .rows = 30, .dim = 130, .dtype = XP_BF16,
                                  .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.1 : 0, .calls = 40});
}

Test(flat, many_chunks)
{
    /* 4 MiB of rows a pair: several messages each, with a last one that is not full. */
    static const struct world w = {{1, 1, 1}};
    for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++)
        algo_run(&cases, &w, (struct exchange){.pattern = UNIFORM, .filling = SOME_COPIES, .rows = 1029, .dim = 2048, .dtype = XP_BF16,
                                  .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.05 : 0,
                                  .codec = mode == XP_MODE_BOUNDED ? "quant" : NULL});
}

Test(flat, random_cases)
{
    algo_random_cases(&cases);
}

Test(flat, over_ucx)
{
    static const struct world w = {{2, 1}, .transport = "auto"};
    algo_over_ucx(&cases, &w);
}
