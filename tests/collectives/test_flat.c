/*
 * test_flat.c - the flat all-to-all against the plain reference
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/collectives/algo_cases.h"

static const struct world worlds[] = {{{1}}, {{2}}, {{1, 1}}, {{3}}, {{2, 2}, 1}, {{1, 1, 1, 1}}, {{4, 1, 3}, 1}};
static const struct algo_cases cases = {"flat", worlds, sizeof worlds / sizeof *worlds};

Test(flat, raw_every_pattern_and_type)
{
    HOLDS(algo_raw_every_pattern_and_type(&cases));
}

Test(flat, exact_keeps_every_bit_of_copies_and_nan)
{
    HOLDS(algo_exact_keeps_every_bit_of_copies_and_nan(&cases));
}

Test(flat, exact_with_a_named_codec)
{
    static const char *const codecs[] = {"pack", "exact", "raw"};
    unsigned n = 0;
    for (const struct world *w = worlds; w < worlds + sizeof worlds / sizeof *worlds; w++)
        for (unsigned c = 0; c < 3; c++, n++)
            HOLDS(algo_run(&cases, w, (struct exchange){.pattern = UNIFORM, .filling = n % FILLINGS, .rows = 40, .dim = 150, .dtype = XP_BF16 + n % 4,
                                     .mode = XP_MODE_EXACT, .codec = codecs[c], .seed = n}));
}

Test(flat, bounded_keeps_its_promise)
{
    HOLDS(algo_bounded_keeps_its_promise(&cases));
}

Test(flat, many_calls_reuse_the_buffers)
{
    static const struct world w = {{2, 2}};
    for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++)
        HOLDS(algo_run(&cases, &w, (struct exchange){.pattern = RANDOM_SKEW, .filling = SOME_COPIES, .rows = 30, .dim = 130, .dtype = XP_BF16,
                                  .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.1 : 0, .calls = 40}));
}

Test(flat, many_chunks)
{
    /* 4 MiB of rows a pair: several messages each, with a last one that is not full. */
    static const struct world w = {{1, 1, 1}};
    for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++)
        HOLDS(algo_run(&cases, &w, (struct exchange){.pattern = UNIFORM, .filling = SOME_COPIES, .rows = 1029, .dim = 2048, .dtype = XP_BF16,
                                  .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.05 : 0,
                                  .codec = mode == XP_MODE_BOUNDED ? "quant" : NULL}));
}

/* Bytes that never are coded travel in headers up to some 2 KiB a pair, so one exchange has pairs on either side of that. */
Test(flat, few_rows_go_with_the_header)
{
    static const size_t dims[] = {1, 3, 8, 333, 2040, 2048, 2049};
    for (const struct world *w = worlds; w < worlds + sizeof worlds / sizeof *worlds; w++)
        for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
            HOLDS(algo_run(&cases, w, (struct exchange){.pattern = RANDOM_SKEW, .filling = SOME_COPIES, .rows = 1 + 2500 / dims[i], .dim = dims[i],
                                      .dtype = XP_BYTE, .mode = XP_MODE_RAW, .calls = 3, .seed = i}));
}

Test(flat, random_cases)
{
    HOLDS(algo_random_cases(&cases));
}

Test(flat, over_ucx)
{
    static const struct world w = {{2, 1}, .transport = "auto"};
    if (!algo_has_ucx())
        cr_skip_test("no UCX");
    HOLDS(algo_over_ucx(&cases, &w));
}

/* ---- a row that goes to several nodes ------------------------------------------------------------------------------- */

enum { TOKENS = 60, VALUES = 256 };

static int goes(int token, int to)
{
    return (token + to) % 5 != 0; /* every peer has rows of its own in its frames */
}

static float value_of(int rank, int token, int i)
{
    const unsigned h = ((unsigned)(rank * TOKENS + token) * VALUES + (unsigned)i) * 2654435761u;

    return 3 * sinf((float)i) + (float)(h >> 8) / (1 << 23) - 1;
}

/* seen[from * TOKENS + token]: the bits that came, summed up; 0: not sent here. */
static void one_call(xp_plan *plan, xp_comm *comm, int rank, uint32_t *seen, char *why)
{
    const int ranks = xp_comm_size(comm);
    size_t out[WORLD_MAX] = {0}, in[WORLD_MAX] = {0};
    float *send = malloc((size_t)ranks * TOKENS * VALUES * sizeof(float)), *recv = malloc((size_t)ranks * TOKENS * VALUES * sizeof(float));
    float *at = send, *row = recv;

    for (int to = 0; to < ranks; to++)
        for (int t = 0; t < TOKENS; t++) {
            out[to] += (size_t)goes(t, to);
            in[to] += (size_t)goes(t, rank);
            for (int i = 0; goes(t, to) && i < VALUES; i++)
                *at++ = value_of(rank, t, i);
        }
    if (xp_alltoallv(plan, send, out, recv, in, NULL) != XP_OK)
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
    for (int from = 0; from < ranks; from++)
        for (int t = 0; t < TOKENS; t++) {
            if (!goes(t, rank))
                continue;
            for (int i = 0; i < VALUES; i++) {
                uint32_t bits;
                memcpy(&bits, &row[i], sizeof bits);
                seen[from * TOKENS + t] = (seen[from * TOKENS + t] + bits) * 2654435761u | 1;
            }
            row += VALUES;
        }
    free(send);
    free(recv);
}

static void alike_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const int ranks = xp_comm_size(comm), n = ranks * TOKENS;
    uint32_t *seen = calloc((size_t)n, sizeof *seen), *all = calloc((size_t)(ranks * n), sizeof *all);
    xp_plan_desc d;
    xp_plan *plan;

    xp_plan_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = VALUES;
    d.max_send_rows = d.max_recv_rows = (size_t)n;
    d.mode = XP_MODE_BOUNDED;
    d.eps = 0.03;
    d.algo = "flat";
    d.codec = arg;
    if (xp_plan_create(&plan, comm, &d) != XP_OK) {
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
        return;
    }
    for (int call = 0; call < 2; call++) /* what the first one kept is not the second one's */
        one_call(plan, comm, rank, seen, why);
    if (!why[0] && xp_comm_allgather(comm, seen, all, (size_t)n * sizeof *seen) != XP_OK)
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
    for (int other = 0; other < ranks && !why[0]; other++)
        for (int i = 0; i < n; i++)
            if (i / TOKENS != rank && i / TOKENS != other && goes(i % TOKENS, rank) && goes(i % TOKENS, other) && all[other * n + i] != seen[i])
                snprintf(why, WORLD_TEXT, "token %d of rank %d is not the same at ranks %d and %d", i % TOKENS, i / TOKENS, rank, other);
    xp_plan_destroy(plan);
    free(seen);
    free(all);
}

/* Coded once, it is the same everywhere; coded for every frame, it would be coded against each frame's own mean row. */
Test(flat, a_row_is_the_same_at_all_nodes)
{
    static const struct world w = {{1, 1, 1, 1}};
    char codec[] = "quant";
    const char *why = world_run(&w, alike_body, codec);

    cr_assert(why[0] == 0, "%s", why);
}
