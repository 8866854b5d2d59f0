/*
 * test_moe.c - dispatch, combine and their backward passes against the plain reference
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/layer.h"
#include "tests/harness/random.h"

static const struct world worlds[] = {{{1}}, {{2}}, {{1, 1}}, {{3}}, {{2, 1}}, {{2, 2, 2, 2}}, {{4, 4}, 1}, {{5, 1, 3, 2}, 1}, {{3, 3, 3, 2}}};
static const char *const algorithms[] = {"flat", "hier", "leader"};

#define EACH_WORLD(w) for (const struct world *w = worlds; w < worlds + sizeof worlds / sizeof *worlds; w++)

static void run(const struct world *w, struct layer l)
{
    const char *why = world_run(w, layer_body, &l);
    cr_assert(why[0] == 0, "%s: %s", layer_text(&l, w), why);
}

Test(moe, every_world_algorithm_and_mode)
{
    unsigned n = 0;
    EACH_WORLD(w)
        for (int a = 0; a < 3; a++)
            for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++, n++)
                run(w, (struct layer){.tokens = 20, .dim = 1 + n % 4 * 50, .experts = 13, .topk = 2 + (int)(n % 3), .dtype = XP_BF16 + n % 3,
                                      .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.05 : 0, .algo = algorithms[a], .steps = 2, .seed = n});
}
