/*
 * test_reference.c - --check: passes what was sent, fails whatever differs by more than it may
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "perf/reference.h"

#define RANKS 3
#define ROWS 10
#define DIM 8

static float recv_rows[RANKS * ROWS][DIM];
static size_t received;
static const int counted[RANKS] = {1, 0, 1};

/* What rank 1 of 3 receives of f32 rows. */
static struct reference setup(struct row_source *rows, double eps)
{
    received = 0;
    rows_open_generated(rows, "gaussian", XP_F32, DIM, 11);
    for (int s = 0; s < RANKS; s++) {
        size_t counts[RANKS], at = (size_t)s * ROWS;

        rows_spread(ROWS, RANKS, s, counts);
        at += counts[0];
        for (size_t i = 0; i < counts[1]; i++)
            rows_get(rows, at + i, recv_rows[received++]);
    }
    return (struct reference){.rows = rows, .T = ROWS, .rank = 1, .nranks = RANKS, .eps = eps, .counted = counted};
}

/* Moves one row by `error` of its norm. */
static void move_row(float *row, float error)
{
    float norm = 0.0f;

    for (int i = 0; i < DIM; i++)
        norm += row[i] * row[i];
    row[0] += error * sqrtf(norm);
}

static uint64_t missed(const struct reference *ref, struct reference_result *out)
{
    cr_assert_eq(reference_check(ref, recv_rows, out), 0);
    cr_assert_eq(out->checked, received);
    return out->missed;
}

Test(reference, passes_what_was_sent)
{
    struct reference_result out;
    struct row_source rows;
    struct reference ref = setup(&rows, 0.0);

    cr_assert_eq(missed(&ref, &out), 0);
    cr_assert_eq(out.err_max, 0.0);
    cr_assert_eq(out.err_rows, received - ROWS / RANKS - (ROWS % RANKS > 1), "rows of rank 1 itself do not count");
}

Test(reference, one_bit_is_a_miss_without_eps_in_every_row)
{
    struct row_source rows;
    struct reference ref = setup(&rows, 0.0);

    for (size_t r = 0; r < received; r++) {
        struct reference_result out;

        ((unsigned char *)recv_rows[r])[0] ^= 1;
        cr_assert_eq(missed(&ref, &out), 1, "row %zu", r);
        cr_assert(strncmp(out.first, "rank 1: row ", 12) == 0, "%s", out.first);
        ((unsigned char *)recv_rows[r])[0] ^= 1;
    }
}

Test(reference, eps_is_the_limit)
{
    struct reference_result out;
    struct row_source rows;
    struct reference ref = setup(&rows, 0.05);

    move_row(recv_rows[0], 0.049f);
    cr_assert_eq(missed(&ref, &out), 0);
    cr_assert_float_eq(out.err_max, 0.049, 1e-4);
    move_row(recv_rows[0], 0.003f);
    cr_assert_eq(missed(&ref, &out), 1);
}

Test(reference, rows_for_oneself_must_match_even_with_eps)
{
    struct reference_result out;
    struct row_source rows;
    struct reference ref = setup(&rows, 0.05);
    size_t counts[RANKS];

    rows_spread(ROWS, RANKS, 0, counts);
    move_row(recv_rows[counts[1]], 0.01f); /* the first row of rank 1 */
    cr_assert_eq(missed(&ref, &out), 1);
}

Test(reference, what_is_not_finite_is_a_miss_and_rows_in_the_wrong_place_too)
{
    struct reference_result out;
    struct row_source rows;
    struct reference ref = setup(&rows, 0.5);
    float keep[DIM];

    recv_rows[0][3] = NAN;
    cr_assert_eq(missed(&ref, &out), 1);
    ref = setup(&rows, 0.5);
    memcpy(keep, recv_rows[0], sizeof(keep));
    memcpy(recv_rows[0], recv_rows[1], sizeof(keep));
    memcpy(recv_rows[1], keep, sizeof(keep));
    cr_assert_eq(missed(&ref, &out), 2);
}
