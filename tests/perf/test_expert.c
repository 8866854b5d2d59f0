/*
 * test_expert.c - the experts of the benchmarks: the identity, and networks against the plain formula
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "perf/expert.h"
#include "tests/perf/npy_file.h"

#define D 3
#define H 5

static char folder[] = "/tmp/xp_test_expert.XXXXXX";

static void npy(const char *name, const char *shape, const float *values, size_t n)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    npy_file(path, "<f4", shape, values, n);
}

static void clean(void)
{
    static const char *const names[] = {"w1", "w2", "b1", "b2"};
    char path[128];

    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static void fill(float *v, size_t n, float step)
{
    for (size_t i = 0; i < n; i++)
        v[i] = sinf(step * (float)(i + 1));
}

Test(expert, identity_is_the_default)
{
    float x[2 * D] = {1, 2, 3, 4, 5, 6}, y[2 * D] = {0};
    struct expert e;
    char err[256];

    cr_assert_eq(expert_open(&e, NULL, 4, XP_F32, D, err, sizeof(err)), 0);
    cr_assert(expert_is_identity(&e));
    expert_run(&e, 3, x, 2, y);
    cr_assert_arr_eq(x, y, sizeof(x));
    expert_close(&e);
}

Test(expert, a_network_for_each_expert)
{
    float w1[2 * D * H], w2[2 * H * D], x[20 * D], y[20 * D], one[D];
    char spec[256], err[256] = "";
    struct expert e;

    cr_assert_not_null(mkdtemp(folder));
    fill(w1, 2 * D * H, 0.7f);
    fill(w2, 2 * H * D, 1.3f);
    fill(x, 20 * D, 0.9f);
    npy("w1", "2, 3, 5", w1, 2 * D * H);
    npy("w2", "2, 5, 3", w2, 2 * H * D);
    snprintf(spec, sizeof(spec), "%s/w1,%s/w2", folder, folder);
    cr_assert_eq(expert_open(&e, spec, 2, XP_F32, D, err, sizeof(err)), 0, "%s", err);
    expert_run(&e, 1, x, 20, y);
    for (int r = 0; r < 20; r++) {
        double want[D] = {0};

        for (int h = 0; h < H; h++) {
            double v = 0;

            for (int i = 0; i < D; i++)
                v += (double)x[r * D + i] * (double)w1[D * H + i * H + h];
            v = 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
            for (int i = 0; i < D; i++)
                want[i] += v * (double)w2[H * D + h * D + i];
        }
        for (int i = 0; i < D; i++)
            cr_assert_float_eq(y[r * D + i], want[i], 1e-5, "row %d value %d", r, i);
        expert_run(&e, 1, x + r * D, 1, one); /* the same bits alone */
        cr_assert_arr_eq(one, y + r * D, sizeof(one));
    }
    expert_close(&e);
    cr_assert_eq(expert_open(&e, spec, 3, XP_F32, D, err, sizeof(err)), -1); /* three experts, weights of two */
    cr_assert_eq(expert_open(&e, spec, 2, XP_F32, 4, err, sizeof(err)), -1);
    clean();
}

Test(expert, one_network_with_biases)
{
    float w1[H * D], w2[D * H], b1[H], b2[D], x[D], y[D];
    char spec[400], err[256] = "";
    struct expert e;

    cr_assert_not_null(mkdtemp(folder));
    fill(w1, H * D, 0.7f);
    fill(w2, D * H, 1.3f);
    fill(b1, H, 0.2f);
    fill(b2, D, 0.4f);
    fill(x, D, 0.9f);
    npy("w1", "5, 3", w1, H * D);
    npy("w2", "3, 5", w2, D * H);
    npy("b1", "5,", b1, H);
    npy("b2", "3,", b2, D);
    snprintf(spec, sizeof(spec), "%s/w1,%s/w2,%s/b1,%s/b2", folder, folder, folder, folder);
    cr_assert_eq(expert_open(&e, spec, 16, XP_F32, D, err, sizeof(err)), 0, "%s", err);
    expert_run(&e, 9, x, 1, y);
    for (int i = 0; i < D; i++) {
        double want = b2[i];

        for (int h = 0; h < H; h++) {
            double v = b1[h];

            for (int c = 0; c < D; c++)
                v += (double)x[c] * (double)w1[h * D + c];
            want += (double)w2[i * H + h] * 0.5 * v * (1 + erf(v / sqrt(2)));
        }
        cr_assert_float_eq(y[i], want, 1e-5, "value %d", i);
    }
    expert_close(&e);
    cr_assert_eq(expert_open(&e, "a,b,c", 1, XP_F32, D, err, sizeof(err)), -1);
    clean();
}
