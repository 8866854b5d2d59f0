/*
 * test_routing.c - the routings of the benchmarks: different experts for a token, real traces, logits
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "perf/routing.h"
#include "tests/perf/npy_file.h"

/* A .npy file of 32-bit values; the path is static. */
static const char *npy(const char *descr, size_t rows, size_t columns, const void *values)
{
    static char path[64];
    char shape[64];

    snprintf(path, sizeof(path), "/tmp/xp_test_routing.%d.npy", (int)getpid());
    snprintf(shape, sizeof(shape), "%zu, %zu", rows, columns);
    npy_file(path, descr, shape, values, rows * columns);
    return path;
}

Test(routing, drawn_experts_differ_and_the_same_token_is_routed_the_same)
{
    static const char *const kinds[] = {"uniform", "zipf"};

    for (int kind = 0; kind < 2; kind++) {
        struct routing_source s;
        int count[16] = {0};

        cr_assert_eq(routing_open_generated(&s, kinds[kind], 8, 16, 3), 0);
        for (uint64_t t = 0; t < 2000; t++) {
            int32_t id[8], again[8];
            float weight[8], sum = 0;
            unsigned seen = 0;

            routing_get(&s, t, id, weight);
            routing_get(&s, t + 1, again, weight);
            routing_get(&s, t, again, weight);
            cr_assert_arr_eq(id, again, sizeof(id));
            for (int j = 0; j < 8; j++) {
                cr_assert(id[j] >= 0 && id[j] < 16 && !(seen >> id[j] & 1), "token %d slot %d", (int)t, j);
                seen |= 1u << id[j];
                count[id[j]]++;
                sum += weight[j];
            }
            cr_assert_float_eq(sum, 1.0f, 1e-5);
        }
        /* uniform: 1000 each; zipf: the first much busier than the last */
        if (kind == 0)
            cr_assert(count[0] > 850 && count[0] < 1150 && count[15] > 850, "%d %d", count[0], count[15]);
        else
            cr_assert(count[0] > 2 * count[15], "%d %d", count[0], count[15]);
    }
}

Test(routing, unknown_kind)
{
    struct routing_source s;

    cr_assert_eq(routing_open_generated(&s, "nope", 1, 1, 1), -1);
}

Test(routing, logits_become_their_largest)
{
    const float logits[2][4] = {{0, 2, 1, 2}, {5, 0, 0, 1}};
    const char *path = npy("<f4", 2, 4, logits);
    struct routing_source s;
    char err[256] = "";
    int32_t id[2];
    float weight[2];

    cr_assert_eq(routing_open_file(&s, path, NULL, 2, 4, err, sizeof(err)), 0, "%s", err);
    routing_get(&s, 0, id, weight);
    cr_assert(id[0] == 1 && id[1] == 3 && weight[0] == 0.5f);
    routing_get(&s, 3, id, weight); /* begins again */
    cr_assert(id[0] == 0 && id[1] == 3);
    cr_assert_float_eq(weight[0], 1 / (1 + exp(-4.0)), 1e-6);
    routing_close(&s);
    cr_assert_eq(routing_open_file(&s, path, NULL, 2, 5, err, sizeof(err)), -1);
    cr_assert(strstr(err, "logit for every expert") != NULL, "%s", err);
    unlink(path);
}

Test(routing, traces_with_holes_and_wrong_ones)
{
    const int32_t trace[3][2] = {{3, -1}, {0, 1}, {-1, -1}};
    const char *path = npy("<i4", 3, 2, trace);
    struct routing_source s;
    char err[256] = "";
    int32_t id[2];
    float weight[2];

    cr_assert_eq(routing_open_file(&s, path, NULL, 0, 4, err, sizeof(err)), 0, "%s", err);
    cr_assert_eq(s.k, 2);
    routing_get(&s, 0, id, weight);
    cr_assert(id[0] == 3 && id[1] == -1 && weight[0] == 1.0f && weight[1] == 0.0f);
    routing_close(&s);
    cr_assert_eq(routing_open_file(&s, path, NULL, 0, 3, err, sizeof(err)), -1);
    cr_assert(strstr(err, "token 0 goes to expert 3") != NULL, "%s", err);
    cr_assert_eq(routing_open_file(&s, path, NULL, 3, 4, err, sizeof(err)), -1);
    cr_assert_eq(routing_open_file(&s, path, path, 0, 4, err, sizeof(err)), -1); /* weights must be <f4 */
    unlink(path);
    cr_assert_eq(routing_open_file(&s, path, NULL, 0, 4, err, sizeof(err)), -1);
}
