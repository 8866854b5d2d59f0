/*
 * assign.c - nearest centroid of a sketch (C variants)
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

/* Among the centroids of a list; NULL: the first `count`. */
static void assign_among(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t count, uint32_t *assign)
{
    for (size_t r = 0; r < n; r++) {
        uint32_t nearest = UINT32_MAX;

        assign[r] = list ? list[0] : 0;
        for (size_t i = 0; i < count; i++) {
            const uint32_t k = list ? list[i] : (uint32_t)i, d = distance(sketch + r * s, centroids + (size_t)k * s, s);
            if (d < nearest) {
                nearest = d;
                assign[r] = k;
            }
        }
    }
}

void xp_assign_c(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *assign)
{
    assign_among(sketch, n, s, centroids, NULL, K, assign);
}

void xp_assign_listed_c(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t count, uint32_t *assign)
{
    assign_among(sketch, n, s, centroids, list, count, assign);
}

void xp_distances_c(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *out)
{
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < K; k++)
            out[r * K + k] = distance(sketch + r * s, centroids + k * s, s);
}

void xp_closest_c(const uint32_t *d, size_t n, unsigned most, uint16_t *out)
{
    uint32_t best[XP_MOST_CLOSEST];

    for (size_t h = 0; h < n; h++) {
        unsigned at = h < most ? (unsigned)h : most - 1;

        if (h >= most && d[h] >= best[at])
            continue;
        for (; at > 0 && d[h] < best[at - 1]; at--) {
            best[at] = best[at - 1];
            out[at] = out[at - 1];
        }
        best[at] = d[h];
        out[at] = (uint16_t)h;
    }
}
