/*
 * polytope.h - what the variants of the hash kernel share
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_POLYTOPE_H
#define XP_HASH_POLYTOPE_H

#include "hash/kernels.h"

#include <float.h>
#include <math.h>

/* Step 2 of the contract: the factor that brings a row of this lane sum to h->target; 0 when it has no direction. */
static inline float xp_hash_scale(const struct xp_hasher *h, float lane_sum)
{
    const float e = lane_sum / (float)h->n;

    return e >= FLT_MIN && e <= FLT_MAX ? h->target / sqrtf(e) : 0.0f;
}

/* Code of the block of w rotated coordinates at r. */
static inline uint32_t xp_hash_block_code(const int16_t *r, unsigned w)
{
    unsigned best = 0;
    int largest = -1;

    for (unsigned i = 0; i < w; i++) {
        const int magnitude = r[i] < 0 ? -r[i] : r[i];
        if (magnitude > largest) {
            largest = magnitude;
            best = i;
        }
    }
    return 2 * best + (r[best] < 0);
}

#endif
