/*
 * test_rowmap.c - head messages: round trips, and input that lies
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/rowmap.h"
#include "tests/harness/random.h"

enum { MAX_ROWS = 700 };

struct sample {
    uint32_t map[MAX_ROWS];
    size_t rows, distinct;
};

static struct sample random_map(struct random *r)
{
    struct sample s = {.rows = random_below(r, MAX_ROWS)};
    unsigned newness = 1 + (unsigned)random_below(r, 100);
    for (size_t i = 0; i < s.rows; i++)
        s.map[i] = (uint32_t)(s.distinct == 0 || random_below(r, 100) < newness ? s.distinct++ : random_below(r, s.distinct));
    return s;
}

Test(rowmap, round_trip)
{
    struct random r = random_start("rowmap, round_trip");
    static uint8_t buf[XP_ROWMAP_HEADER + MAX_ROWS * 5];
    uint32_t map[MAX_ROWS], first[MAX_ROWS];
    for (int t = 0; t < 500; t++) {
        struct sample s = random_map(&r);
        size_t len = xp_rowmap_write(buf, s.rows, s.distinct, s.map, t & 1), distinct;
        int mapped, framed;
        cr_assert_eq(len, xp_rowmap_bytes(s.rows, s.distinct), "%zu rows, %zu distinct", s.rows, s.distinct);
        cr_assert_leq(len, xp_rowmap_bound(s.rows));
        cr_assert_eq(xp_rowmap_read(buf, len, s.rows, &distinct, &mapped, &framed, map, first), XP_OK);
        cr_assert_eq(distinct, s.distinct);
        cr_assert(mapped && framed == (t & 1));
        cr_assert(s.rows == 0 || memcmp(map, s.map, s.rows * 4) == 0);
        for (size_t i = 0; i < s.rows; i++)
            cr_assert(first[map[i]] <= i && map[first[map[i]]] == map[i], "row %zu", i);
    }
}

Test(rowmap, no_map)
{
    uint8_t buf[64];
    size_t distinct;
    int mapped, framed;
    size_t len = xp_rowmap_write(buf, 1234, 1234, NULL, 1);
    cr_assert_eq(len, XP_ROWMAP_HEADER);
    cr_assert_eq(xp_rowmap_read(buf, len, 1234, &distinct, &mapped, &framed, NULL, NULL), XP_OK);
    cr_assert(distinct == 1234 && !mapped && framed);
    cr_assert_eq(xp_rowmap_read(buf, len, 1233, &distinct, &mapped, &framed, NULL, NULL), XP_ERR_CORRUPT);
}

/* Whatever is changed, an answer of XP_OK describes rows that exist. */
Test(rowmap, lies)
{
    struct random r = random_start("rowmap, lies");
    uint32_t map[MAX_ROWS], first[MAX_ROWS];
    for (int t = 0; t < 3000; t++) {
        struct sample s = random_map(&r);
        uint8_t *buf = malloc(xp_rowmap_bound(s.rows)); /* on the heap, so that a sanitizer sees a byte too far */
        size_t len = xp_rowmap_write(buf, s.rows, s.distinct, s.map, 0), distinct = 0, cut = len;
        int mapped = 0, framed;
        if (t % 3 == 0)
            cut = random_below(&r, len + 1);
        else
            buf[random_below(&r, t % 3 == 1 ? XP_ROWMAP_HEADER : len)] ^= (uint8_t)(1 + random_below(&r, 255));
        uint8_t *tight = malloc(cut + 1);
        memcpy(tight, buf, cut);
        if (xp_rowmap_read(tight, cut, s.rows, &distinct, &mapped, &framed, map, first) == XP_OK) {
            cr_assert(distinct <= s.rows);
            for (size_t i = 0; mapped && i < s.rows; i++)
                cr_assert(map[i] < distinct && first[map[i]] <= i);
        }
        free(tight);
        free(buf);
    }
}

Test(rowmap, may_pay_never_overlooks_copies)
{
    struct random r = random_start("rowmap, may_pay");
    enum { N = 300, DIM = 200 };
    static uint32_t work[4 * 1024];
    for (int t = 0; t < 200; t++) {
        size_t dim = 1 + random_below(&r, DIM), rows = 2 + random_below(&r, N - 2), copies = 0;
        uint8_t *x = malloc(rows * dim);
        for (size_t i = 0; i < rows * dim; i++)
            x[i] = (uint8_t)random_bits(&r);
        for (size_t i = 1; i < rows; i++)
            if (t % 2 && random_below(&r, 10) == 0) {
                memcpy(x + i * dim, x + random_below(&r, i) * dim, dim);
                copies++;
            }
        struct xp_rows in = {.data = x, .rows = rows, .dim = dim, .dtype = XP_BYTE};
        if (copies >= rows / 32 + 1)
            cr_assert(xp_rowmap_may_pay(&in, work), "%zu copies among %zu rows of %zu bytes", copies, rows, dim);
        if (t % 2 == 0 && dim >= 8)
            cr_assert(!xp_rowmap_may_pay(&in, work), "no copies among %zu rows of %zu bytes", rows, dim);
        free(x);
    }
}
