/*
 * test_fht.c - laws of the Hadamard transform
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/kernels.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define MAX_LOG2 14

static struct xp_kernels kernels(int isa)
{
    struct xp_kernels k;

    xp_kernels_init(&k, (enum xp_isa)isa);
    return k;
}

/* Entry (i, j) of the Hadamard matrix in natural order. */
static int entry(unsigned i, unsigned j)
{
    return __builtin_popcount(i & j) & 1 ? -1 : 1;
}

Test(fht, equals_the_matrix)
{
    for (int isa = XP_ISA_C; isa <= (int)xp_cpu_isa(); isa++) {
        const struct xp_kernels k = kernels(isa);
        for (unsigned log2n = 0; log2n <= 10; log2n++) {
            const unsigned n = 1u << log2n;
            int16_t x[1024], y[1024];
            int32_t z[1024];
            srand(log2n + 1);
            for (unsigned i = 0; i < n; i++)
                z[i] = y[i] = x[i] = (int16_t)(rand() % 61 - 30);
            k.fht_i16(y, log2n, 1);
            k.fht_i32(z, log2n, 1);
            for (unsigned i = 0; i < n; i++) {
                int sum = 0;
                for (unsigned j = 0; j < n; j++)
                    sum += entry(i, j) * x[j];
                cr_assert_eq(y[i], sum, "%s i16 n %u row %u: %d, not %d", k.isa, n, i, y[i], sum);
                cr_assert_eq(z[i], sum, "%s i32 n %u row %u: %d, not %d", k.isa, n, i, z[i], sum);
            }
        }
    }
}

/* H H x = n x, also where the sums wrap. */
Test(fht, twice_is_n_times)
{
    int16_t *x = malloc(3 * (sizeof(*x) << MAX_LOG2)), *y = malloc(3 * (sizeof(*y) << MAX_LOG2));
    int32_t *u = malloc(3 * (sizeof(*u) << MAX_LOG2)), *v = malloc(3 * (sizeof(*v) << MAX_LOG2));

    for (int isa = XP_ISA_C; isa <= (int)xp_cpu_isa(); isa++) {
        const struct xp_kernels k = kernels(isa);
        for (unsigned log2n = 0; log2n <= MAX_LOG2; log2n++) {
            const size_t n = (size_t)3 << log2n;
            for (size_t i = 0; i < n; i++) {
                y[i] = x[i] = (int16_t)rand();
                v[i] = u[i] = (int32_t)((uint32_t)rand() << 8);
            }
            for (int twice = 0; twice < 2; twice++) {
                k.fht_i16(y, log2n, 3);
                k.fht_i32(v, log2n, 3);
            }
            for (size_t i = 0; i < n; i++) {
                cr_assert_eq((uint16_t)y[i], (uint16_t)((uint32_t)x[i] << log2n), "%s log2n %u value %zu", k.isa, log2n, i);
                cr_assert_eq((uint32_t)v[i], (uint32_t)u[i] << log2n, "%s log2n %u value %zu", k.isa, log2n, i);
            }
        }
    }
    free(x);
    free(y);
    free(u);
    free(v);
}
