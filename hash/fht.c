/*
 * fht.c - fast Hadamard transform in wrapping integers
 *
 * Source: the usual in-place butterfly; natural (Hadamard) order, unnormalised.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"

/* Sums are taken in unsigned types: wrapping is part of the contract, signed overflow is not C. */

static void fht_row_i16(int16_t *x, size_t n)
{
    for (size_t half = 1; half < n; half *= 2)
        for (size_t base = 0; base < n; base += 2 * half)
            for (size_t i = base; i < base + half; i++) {
                const uint16_t a = (uint16_t)x[i], b = (uint16_t)x[i + half];
                x[i] = (int16_t)(uint16_t)(a + b);
                x[i + half] = (int16_t)(uint16_t)(a - b);
            }
}

static void fht_row_i32(int32_t *x, size_t n)
{
    for (size_t half = 1; half < n; half *= 2)
        for (size_t base = 0; base < n; base += 2 * half)
            for (size_t i = base; i < base + half; i++) {
                const uint32_t a = (uint32_t)x[i], b = (uint32_t)x[i + half];
                x[i] = (int32_t)(a + b);
                x[i + half] = (int32_t)(a - b);
            }
}

void xp_fht_i16_c(int16_t *x, unsigned log2n, size_t nrows)
{
    const size_t n = (size_t)1 << log2n;

    for (size_t r = 0; r < nrows; r++)
        fht_row_i16(x + r * n, n);
}

void xp_fht_i32_c(int32_t *x, unsigned log2n, size_t nrows)
{
    const size_t n = (size_t)1 << log2n;

    for (size_t r = 0; r < nrows; r++)
        fht_row_i32(x + r * n, n);
}
