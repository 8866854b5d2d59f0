/*
 * lsh_scratch.h - what codec lsh keeps in a coder: the hash and the memory of its clusters
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_LSH_SCRATCH_H
#define XP_LSH_SCRATCH_H

#include "hash/cluster.h"
#include "hash/coder_impl.h"
#include "hash/hasher.h"

struct xp_lsh_scratch {
    struct xp_hasher hasher;
    struct xp_clusters clusters;
    int16_t *sketch; /* hasher.sketch values a row */
};

/* Fills in the defaults of desc's lsh knobs and makes c->lsh. XP_ERR_INVALID_ARG when the knobs do not fit the rows. */
xp_status xp_lsh_create(struct xp_coder *c);

/* Room for the clusters of `rows` rows. */
xp_status xp_lsh_reserve(struct xp_coder *c, size_t rows);

/* Bits a value that the centroids of `rows` rows like these would save, less what they cost (codec_lsh.c). Memory for the rows of
 * the sample has been reserved. */
double xp_lsh_gain(struct xp_coder *c, const struct xp_rows *sample, size_t rows);

void xp_lsh_destroy(struct xp_coder *c);

#endif
