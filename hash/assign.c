/*
 * assign.c - nearest centroid of a sketch
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"

static uint32_t distance(const int16_t *a, const int16_t *c, unsigned s)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < s; i++) {
        const uint32_t d = (uint32_t)(a[i] - c[i]);
        sum += d * d;
    }
    return sum;
}

void xp_assign_c(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *assign)
{
    for (size_t r = 0; r < n; r++) {
        uint32_t nearest = UINT32_MAX;

        assign[r] = 0;
        for (size_t k = 0; k < K; k++) {
            const uint32_t d = distance(sketch + r * s, centroids + k * s, s);
            if (d < nearest) {
                nearest = d;
                assign[r] = (uint32_t)k;
            }
        }
    }
}

void xp_assign_listed_c(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t count, uint32_t *assign)
{
    for (size_t r = 0; r < n; r++) {
        uint32_t nearest = UINT32_MAX;

        assign[r] = list[0];
        for (size_t k = 0; k < count; k++) {
            const uint32_t d = distance(sketch + r * s, centroids + (size_t)list[k] * s, s);
            if (d < nearest) {
                nearest = d;
                assign[r] = list[k];
            }
        }
    }
}

void xp_distances_c(const int16_t *a, unsigned s, const int16_t *centroids, size_t K, uint32_t *out)
{
    for (size_t k = 0; k < K; k++)
        out[k] = distance(a, centroids + k * s, s);
}
