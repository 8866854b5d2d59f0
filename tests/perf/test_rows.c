/*
 * test_rows.c - the rows of the benchmarks: the same on every rank, spread evenly, not better than real ones
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "perf/rows.h"

static struct row_source open_kind(const char *kind, xp_dtype t, size_t dim)
{
    struct row_source s;

    cr_assert_eq(rows_open_generated(&s, kind, t, dim, 7), 0);
    return s;
}

Test(rows, spread_sums_to_all_and_differs_by_one_at_most)
{
    for (int n = 1; n <= 9; n++) {
        for (size_t T = 0; T < 40; T++) {
            for (int rank = 0; rank < n; rank++) {
                size_t counts[9], sum = 0;

                rows_spread(T, n, rank, counts);
                for (int p = 0; p < n; p++) {
                    sum += counts[p];
                    cr_assert(counts[p] == T / (size_t)n || counts[p] == T / (size_t)n + 1, "n %d T %zu rank %d", n, T, rank);
                }
                cr_assert_eq(sum, T, "n %d T %zu rank %d", n, T, rank);
            }
        }
    }
}

Test(rows, a_row_depends_on_its_number_and_the_seed_only)
{
    struct row_source a = open_kind("gaussian", XP_BF16, 64), b = open_kind("gaussian", XP_BF16, 64);
    uint16_t x[64], y[64];

    rows_get(&a, 1000, x);
    rows_get(&b, 3, y);
    rows_get(&b, 1000, y);
    cr_assert_arr_eq(x, y, sizeof(x));
    rows_get(&b, 1001, y);
    cr_assert(memcmp(x, y, sizeof(x)) != 0);
    b.seed = 8;
    rows_get(&b, 1000, y);
    cr_assert(memcmp(x, y, sizeof(x)) != 0);
}

Test(rows, gaussian_values_have_mean_0_and_variance_1)
{
    struct row_source s = open_kind("gaussian", XP_F32, 1000);
    double sum = 0.0, squares = 0.0;
    float x[1000];

    for (uint64_t i = 0; i < 200; i++) {
        rows_get(&s, i, x);
        for (int c = 0; c < 1000; c++) {
            sum += (double)x[c];
            squares += (double)x[c] * (double)x[c];
        }
    }
    cr_assert_lt(fabs(sum / 200000), 0.01, "mean %g", sum / 200000);
    cr_assert_lt(fabs(squares / 200000 - 1.0), 0.02, "variance %g", squares / 200000);
}

Test(rows, types_hold_the_same_values_up_to_rounding)
{
    struct row_source f32 = open_kind("clustered", XP_F32, 50), bf16 = open_kind("clustered", XP_BF16, 50), f16 = open_kind("clustered", XP_F16, 50);
    float x[50], back[50];
    uint16_t h[50];

    rows_get(&f32, 5, x);
    rows_get(&bf16, 5, h);
    for (int i = 0; i < 50; i++) {
        uint32_t u = (uint32_t)h[i] << 16;

        memcpy(&back[i], &u, sizeof(u));
    }
    cr_assert_lt(rows_distance(&f32, x, back), 0.004);
    rows_get(&f16, 5, h);
    for (int i = 0; i < 50; i++)
        cr_assert_float_eq((float)ldexp(1024 + (h[i] & 1023), (h[i] >> 10 & 31) - 25) * (h[i] & 0x8000 ? -1.0f : 1.0f), x[i], 0.002f * fabsf(x[i]) + 1e-4f);
}

Test(rows, duplicates_come_from_256_rows)
{
    struct row_source s = open_kind("duplicates", XP_BF16, 16);
    uint16_t (*seen)[16] = calloc(2000, sizeof(*seen));
    int distinct = 0;

    for (uint64_t i = 0; i < 2000; i++) {
        int known = 0;

        rows_get(&s, i, seen[distinct]);
        for (int k = 0; k < distinct && !known; k++)
            known = memcmp(seen[k], seen[distinct], sizeof(*seen)) == 0;
        distinct += !known;
    }
    free(seen);
    cr_assert(distinct > 200 && distinct <= 256, "%d distinct rows", distinct);
}

/* 200 rows of 32 gaussian values, values 0 .. 31 off centre by their number. */
static struct row_source small_file(void)
{
    struct row_source g = open_kind("gaussian", XP_F32, 32), s = g;

    s.kind = ROWS_FILE;
    s.file_rows = 200;
    s.file = malloc(200 * s.row_bytes);
    s.mean = calloc(32, sizeof(*s.mean));
    for (uint64_t r = 0; r < 200; r++) {
        float *row = (float *)s.file + r * 32;
        rows_get(&g, r, row);
        for (int c = 0; c < 32; c++) {
            row[c] += (float)c;
            s.mean[c] += row[c] / 200.0;
        }
    }
    return s;
}

Test(rows, beyond_the_file_come_blends_that_are_near_no_row_of_it)
{
    struct row_source s = small_file();
    float row[32];

    for (uint64_t i = 0; i < 200; i++) {
        rows_get(&s, i, row);
        cr_assert_arr_eq(row, (float *)s.file + i * 32, sizeof(row));
        rows_get(&s, i + 200, row);
        for (int r = 0; r < 200; r++)
            cr_assert_gt(rows_distance(&s, (float *)s.file + r * 32, row), 0.01);
    }
    rows_close(&s);
}

Test(rows, blends_keep_mean_and_variance)
{
    struct row_source s = small_file();
    double variance = 0, file_variance = 0;
    float row[32];

    for (uint64_t i = 0; i < 200 + 10000; i++) {
        double sum = 0;
        rows_get(&s, i, row);
        for (int c = 0; c < 32; c++)
            sum += (row[c] - s.mean[c]) * (row[c] - s.mean[c]);
        *(i < 200 ? &file_variance : &variance) += sum / (i < 200 ? 200 : 10000);
    }
    cr_assert_float_eq(variance / file_variance, 1.0, 0.03, "%g", variance / file_variance);
    rows_close(&s);
}

Test(rows, distance_is_relative_and_strict_about_what_is_not_finite)
{
    struct row_source s = {.dtype = XP_F32, .dim = 2, .row_bytes = 8};
    const float a[] = {3, 4}, b[] = {3, 4.5f}, nan_row[] = {NAN, 1}, other_nan[] = {NAN, 2}, zero[] = {0, 0};

    cr_assert_eq(rows_distance(&s, a, a), 0.0);
    cr_assert_float_eq(rows_distance(&s, a, b), 0.1, 1e-12);
    cr_assert_eq(rows_distance(&s, nan_row, nan_row), 0.0);
    cr_assert(isinf(rows_distance(&s, nan_row, other_nan)));
    cr_assert(isinf(rows_distance(&s, a, nan_row)));
    cr_assert(isinf(rows_distance(&s, zero, a)));
}
