/*
 * test_dedup.c - equal rows are found, and only equal rows
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <string.h>

#include "hash/codec.h"
#include "tests/harness/random.h"

#define MOST 600

static uint32_t first[MOST], map[MOST], work[4096];

/* The same by comparing every pair. */
static size_t plain(const struct xp_rows *in, uint32_t *f, uint32_t *m)
{
    size_t found = 0;

    for (size_t r = 0; r < in->rows; r++) {
        size_t u = 0;

        while (u < found && memcmp(xp_row(in, f[u]), xp_row(in, r), xp_row_bytes(in)))
            u++;
        if (u == found)
            f[found++] = (uint32_t)r;
        m[r] = (uint32_t)u;
    }
    return found;
}

static void compare(const struct xp_rows *in)
{
    uint32_t f[MOST], m[MOST];
    size_t want = plain(in, f, m), got;

    memset(work, 0xff, sizeof(work));
    got = xp_dedup(in, first, map, work);
    cr_assert_eq(got, want, "%zu distinct rows of %zu, found %zu", want, in->rows, got);
    cr_assert_arr_eq(first, f, want * sizeof(*f));
    cr_assert_arr_eq(map, m, in->rows * sizeof(*m));
}

Test(dedup, agrees_with_comparing_every_pair)
{
    struct random rng = random_start("dedup");
    static uint16_t rows[MOST][5];

    for (int round = 0; round < 60; round++) {
        struct xp_rows in = { .data = rows, .rows = random_below(&rng, MOST + 1), .dim = 1 + random_below(&rng, 5), .dtype = XP_BF16 };
        size_t kinds = 1 + random_below(&rng, round % 2 ? 4 : 1000);

        for (size_t i = 0; i < MOST * 5; i++)
            rows[i / 5][i % 5] = (uint16_t)random_below(&rng, kinds);
        compare(&in);
    }
}

Test(dedup, follows_an_index_and_takes_single_bytes)
{
    static const char rows[] = "abcab";
    static const uint32_t index[] = { 4, 4, 0, 1, 2, 3 };
    struct xp_rows in = { .data = rows, .index = index, .rows = 6, .dim = 1, .dtype = XP_BYTE };

    cr_assert_eq(xp_dedup(&in, first, map, work), 3);
    cr_assert(map[0] == 0 && map[1] == 0 && map[2] == 1 && map[3] == 0 && map[4] == 2 && map[5] == 1);
    compare(&in);
}

Test(dedup, zeros_of_both_signs_differ_and_equal_nans_are_equal)
{
    static const uint32_t rows[] = { 0x80000000u, 0, 0x7fc00001u, 0x7fc00001u };
    struct xp_rows in = { .data = rows, .rows = 4, .dim = 1, .dtype = XP_F32 };

    cr_assert_eq(xp_dedup(&in, first, map, work), 3);
}

Test(dedup, no_rows)
{
    struct xp_rows in = { .dim = 3, .dtype = XP_F32 };

    cr_assert_eq(xp_dedup(&in, first, map, work), 0);
}
