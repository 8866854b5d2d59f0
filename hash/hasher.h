/*
 * hasher.h - makes the tables that the hash kernel works from
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_HASHER_H
#define XP_HASH_HASHER_H

#include "hash/kernels.h"

struct xp_hasher_desc {
    size_t dim;
    unsigned k;      /* concatenated hashes; 0 = 1 */
    unsigned w;      /* argmax width; 0 = widest that k leaves: the largest power of two <= n / k */
    unsigned rounds; /* 0 = 2 */
    unsigned sketch; /* values of the sketch; rounded down to n where larger */
    uint64_t seed;
};

/* The rotation width of rows of dim values. */
unsigned xp_hash_width(size_t dim);

/* Returns XP_OK; XP_ERR_INVALID_ARG (dim 0, k, w, rounds or sketch outside kernels.h's limits); XP_ERR_NO_MEMORY. */
xp_status xp_hasher_init(struct xp_hasher *h, const struct xp_hasher_desc *d);
void xp_hasher_fini(struct xp_hasher *h);

/* Hashes rows minus this row of dim values from now on; NULL: no centring. */
void xp_hasher_set_mean(struct xp_hasher *h, const float *mean);

#endif
