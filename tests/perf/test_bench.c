/*
 * test_bench.c - order statistics and JSON lines
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>

#include "perf/bench.h"

Test(bench, best_and_median)
{
    double odd[] = {5, 1, 3}, even[] = {4, 1, 3, 2}, one[] = {7};

    cr_assert_eq(bench_best(odd, 3), 1);
    cr_assert_eq(bench_median(odd, 3), 3);
    cr_assert_eq(bench_median(even, 4), 2.5);
    cr_assert_eq(bench_median(one, 1), 7);
}

Test(bench, json_is_escaped_and_has_no_nan)
{
    struct json j = {0};

    json_open(&j);
    json_text(&j, "name", "a \"b\" \\ \n");
    json_real(&j, "x", 0.25);
    json_real(&j, "y", (double)NAN);
    json_whole(&j, "n", 18446744073709551615u);
    json_pair(&j, "shape", 3, 4);
    json_close(&j);
    cr_assert_str_eq(j.text, "{\"name\": \"a \\\"b\\\" \\\\ \\u000a\", \"x\": 0.25, \"y\": null, \"n\": 18446744073709551615, \"shape\": [3, 4]}\n");
    json_free(&j);
}
