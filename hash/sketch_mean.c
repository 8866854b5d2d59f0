/*
 * sketch_mean.c - mean of sketches (C variant)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "hash/variants.h"

#define FEW 8192  /* twice the sum of so many and their number fit, too */
#define RUN 32768 /* 16-bit values whose sum fits 32 bits */

/* floor(sum / n + 1/2) */
static int16_t rounded_mean(int64_t sum, int64_t n)
{
    const int64_t a = 2 * sum + n, b = 2 * n;
    const int64_t q = a / b;

    return (int16_t)(q - (a % b < 0));
}

static void mean_of_few(const int16_t *sketch, unsigned s, const uint32_t *order, size_t count, int16_t *out)
{
    const double n = (double)count, half = n * (32768 + 0.5) + 0.25, inverse = 1 / n;
    int32_t sum[XP_HASH_MAX_WIDTH];

    memset(sum, 0, s * sizeof(*sum));
    for (size_t i = 0; i < count; i++) {
        const int16_t *row = sketch + (size_t)order[i] * s;
        for (unsigned j = 0; j < s; j++)
            sum[j] += row[j];
    }
    /* Divisions are slow. A product will do, as a quarter keeps what is cut off far from whole numbers: sum / n + 1/2 is a multiple of
     * 1 / 2n, and so off by at least 1 / 4n. The 2^15 makes it positive. */
    for (unsigned j = 0; j < s; j++)
        out[j] = (int16_t)((int32_t)((sum[j] + half) * inverse) - 32768);
}

void xp_sketch_mean_c(const int16_t *sketch, unsigned s, const uint32_t *order, size_t n, int16_t *out)
{
    int64_t sum[XP_HASH_MAX_WIDTH];

    if (n <= FEW) {
        mean_of_few(sketch, s, order, n, out);
        return;
    }
    memset(sum, 0, s * sizeof(*sum));
    for (size_t i = 0; i < n; i += RUN) {
        int32_t part[XP_HASH_MAX_WIDTH];

        memset(part, 0, s * sizeof(*part));
        for (size_t q = i; q < n && q < i + RUN; q++) {
            const int16_t *row = sketch + (size_t)order[q] * s;
            for (unsigned j = 0; j < s; j++)
                part[j] += row[j];
        }
        for (unsigned j = 0; j < s; j++)
            sum[j] += part[j];
    }
    for (unsigned j = 0; j < s; j++)
        out[j] = rounded_mean(sum[j], (int64_t)n);
}
