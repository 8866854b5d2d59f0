/*
 * test_centroid.c - mean rows: equal rows give themselves, long clusters keep their precision, empty ones are zeros
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hash/kernels.h"
#include "tests/harness/random.h"
#include "tests/harness/values.h"

Test(centroid, mean_of_equal_bf16_rows_is_the_row)
{
    struct random rng = random_start("centroid_equal");
    static const uint32_t counts[] = { 1, 2, 3, 7, 1000, 4096, 4097, 10000 };
    static uint32_t order[10000];
    unsigned char row[2 * 77];
    float mean[77];

    for (size_t i = 0; i < 77; i++)
        value_put(row, XP_BF16, i, random_normal(&rng));
    const struct xp_rows in = { .data = row, .rows = 1, .dim = 77, .dtype = XP_BF16 };
    for (int isa = XP_ISA_C; isa <= (int)xp_cpu_isa(); isa++) {
        struct xp_kernels k;
        xp_kernels_init(&k, (enum xp_isa)isa);
        for (size_t n = 0; n < sizeof(counts) / sizeof(counts[0]); n++) {
            const uint32_t start[] = { 0, counts[n] };
            k.centroid(&in, order, start, 1, mean);
            for (size_t i = 0; i < 77; i++)
                cr_assert_eq(mean[i], value_get(row, XP_BF16, i), "%s, %u rows", k.isa, counts[n]);
        }
    }
}

Test(centroid, means_of_clusters_are_near_the_true_mean)
{
    struct random rng = random_start("centroid");
    enum { ROWS = 9000, DIM = 41, K = 4 };
    static const uint32_t start[K + 1] = { 0, 3, 3, 8000, ROWS };
    static unsigned char data[ROWS * DIM * 4];
    static uint32_t order[ROWS];
    float mean[K * DIM];

    for (int t = XP_BF16; t <= XP_F32; t++) {
        const struct xp_rows in = { .data = data, .rows = ROWS, .dim = DIM, .dtype = (xp_dtype)t };
        for (size_t i = 0; i < ROWS * DIM; i++)
            value_put(data, (xp_dtype)t, i, 3 + random_normal(&rng));
        for (size_t r = 0; r < ROWS; r++)
            order[r] = (uint32_t)random_below(&rng, ROWS);
        for (int isa = XP_ISA_C; isa <= (int)xp_cpu_isa(); isa++) {
            struct xp_kernels k;
            xp_kernels_init(&k, (enum xp_isa)isa);
            memset(mean, 0xff, sizeof(mean));
            k.centroid(&in, order, start, K, mean);
            for (size_t c = 0; c < K; c++)
                for (size_t i = 0; i < DIM; i++) {
                    double sum = 0;
                    for (uint32_t r = start[c]; r < start[c + 1]; r++)
                        sum += value_get(data, (xp_dtype)t, order[r] * (size_t)DIM + i);
                    const double expected = start[c + 1] > start[c] ? sum / (start[c + 1] - start[c]) : 0;
                    cr_assert_float_eq(mean[c * DIM + i], expected, 1e-4, "%s cluster %zu: %g, not %g", k.isa, c, (double)mean[c * DIM + i], expected);
                }
        }
    }
}
