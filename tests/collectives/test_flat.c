/*
 * test_flat.c - the flat all-to-all against the plain reference
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>

#include "lib/transport/transport.h"
#include "tests/harness/random.h"
#include "tests/harness/world.h"

static const struct world worlds[] = {{{1}}, {{2}}, {{1, 1}}, {{3}}, {{2, 2}, 1}, {{1, 1, 1, 1}}, {{4, 1, 3}, 1}};

static void run(const struct world *w, struct exchange e)
{
    e.algo = "flat";
    const char *why = world_run(w, exchange_body, &e);
    cr_assert(why[0] == 0, "%s: %s", exchange_text(&e, w), why);
}

#define EACH_WORLD(w) for (const struct world *w = worlds; w < worlds + sizeof worlds / sizeof *worlds; w++)

Test(flat, raw_every_pattern_and_type)
{
    static const size_t dims[] = {1, 3, 129, 768};
    unsigned n = 0;
    EACH_WORLD(w)
        for (enum pattern p = 0; p < PATTERNS; p++, n++)
            run(w, (struct exchange){.pattern = p, .rows = 9, .dim = dims[n % 4], .dtype = XP_BF16 + n % 4, .mode = XP_MODE_RAW});
}

Test(flat, exact_keeps_every_bit_of_copies_and_nan)
{
    unsigned n = 0;
    EACH_WORLD(w)
        for (enum filling f = 0; f < FILLINGS; f++, n++)
            run(w, (struct exchange){.pattern = RANDOM_SKEW, .filling = f, .rows = 60, .dim = 64, .dtype = XP_BF16 + n % 4,
                                     .mode = XP_MODE_EXACT, .seed = n});
}

Test(flat, exact_with_a_named_codec)
{
    static const char *const codecs[] = {"pack", "exact", "raw"};
    unsigned n = 0;
    EACH_WORLD(w)
        for (unsigned c = 0; c < 3; c++, n++)
            run(w, (struct exchange){.pattern = UNIFORM, .filling = n % FILLINGS, .rows = 40, .dim = 150, .dtype = XP_BF16 + n % 4,
                                     .mode = XP_MODE_EXACT, .codec = codecs[c], .seed = n});
}

Test(flat, bounded_keeps_its_promise)
{
    unsigned n = 0;
    EACH_WORLD(w)
        for (enum filling f = 0; f < FILLINGS; f++, n++)
            run(w, (struct exchange){.pattern = UNIFORM, .filling = f, .rows = 50, .dim = 200, .dtype = XP_BF16 + n % 3,
                                     .mode = XP_MODE_BOUNDED, .eps = 0.03, .codec = n % 2 ? "quant" : NULL, .seed = n});
}

Test(flat, many_calls_reuse_the_buffers)
{
    static const struct world w = {{2, 2}};
    for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++)
        run(&w, (struct exchange){.pattern = RANDOM_SKEW, .filling = SOME_COPIES, .rows = 30, .dim = 130, .dtype = XP_BF16,
                                  .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.1 : 0, .calls = 40});
}

Test(flat, many_chunks)
{
    /* 4 MiB of rows a pair: several messages each, with a last one that is not full. */
    static const struct world w = {{1, 1, 1}};
    for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++)
        run(&w, (struct exchange){.pattern = UNIFORM, .filling = SOME_COPIES, .rows = 1029, .dim = 2048, .dtype = XP_BF16,
                                  .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.05 : 0,
                                  .codec = mode == XP_MODE_BOUNDED ? "quant" : NULL});
}

Test(flat, random_cases)
{
    struct random r = random_start("flat, random_cases");
    for (int i = 0; i < 60; i++) {
        const struct world *w = &worlds[random_below(&r, sizeof worlds / sizeof *worlds)];
        xp_mode mode = XP_MODE_RAW + (xp_mode)random_below(&r, 3);
        run(w, (struct exchange){.pattern = random_below(&r, PATTERNS), .filling = random_below(&r, FILLINGS),
                                 .rows = random_below(&r, 80), .dim = 1 + random_below(&r, 300),
                                 .dtype = XP_BF16 + random_below(&r, mode == XP_MODE_BOUNDED ? 3 : 4), .mode = mode,
                                 .eps = mode == XP_MODE_BOUNDED ? 0.01 + 0.2 * random_unit(&r) : 0, .seed = random_bits(&r),
                                 .calls = 3});
    }
}

/* The slow hop over UCX, as it is in use. */
Test(flat, over_ucx)
{
    char why_not[200] = "";
    static const struct world w = {{2, 1}, .transport = "auto"};
    if (!xp_transport_ucx.available(why_not, sizeof why_not))
        cr_skip_test("no UCX: %s", why_not);
    for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++)
        run(&w, (struct exchange){.pattern = RANDOM_SKEW, .filling = SOME_COPIES, .rows = 300, .dim = 1000, .dtype = XP_BF16,
                                  .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.05 : 0, .calls = 4,
                                  .codec = mode == XP_MODE_BOUNDED ? "quant" : NULL});
}
