/*
 * cluster.h - rows with equal bucket ids become clusters; Lloyd rounds on the sketches make them better
 *
 * Everything is deterministic: clusters are numbered by the first row that belongs to them, and the rows of a cluster
 * keep their order.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_CLUSTER_H
#define XP_HASH_CLUSTER_H

#include "hash/kernels.h"

struct xp_clusters {
    size_t rows, count; /* of the last grouping: rows, clusters */
    uint32_t *of;       /* [rows] cluster of a row */
    uint32_t *start;    /* [count + 1] where a cluster begins in order */
    uint32_t *order;    /* [rows] the rows, cluster by cluster */
    uint32_t *seed;     /* which clusters xp_clusters_seed took the means of */
    int16_t *centroids; /* [count][sketch] mean sketches, valid after xp_clusters_refine */

    xp_sketch_mean_fn mean; /* the kernel; C until somebody puts a better one here */
    size_t max_rows;
    unsigned max_sketch;
    uint32_t *table; /* scratch: open addressing, renumbering */
    void *memory;
};

/* Room for max_rows rows (below 2^31) with sketches of up to max_sketch values. XP_ERR_INVALID_ARG, XP_ERR_NO_MEMORY. */
xp_status xp_clusters_init(struct xp_clusters *c, size_t max_rows, unsigned max_sketch);
void xp_clusters_fini(struct xp_clusters *c);

/* One cluster for each distinct id; rows <= max_rows. */
void xp_clusters_group(struct xp_clusters *c, const uint32_t *ids, size_t rows);

/*
 * Lloyd rounds on the sketches [rows][s] of the rows that were grouped: centroids are integer means (halves go up),
 * rows go to the nearest one, clusters that lost all their rows vanish. With max_clusters > 0 only the largest that
 * many clusters (the first of equals) are seeds; rounds is then at least 1. c->centroids are the means at the end.
 */
void xp_clusters_refine(struct xp_clusters *c, const struct xp_kernels *k, const int16_t *sketch, unsigned s,
                        unsigned rounds, size_t max_clusters);

/*
 * The parts of a round, for callers that spread it over time: means of the clusters (of the largest max_clusters; 0: all)
 * into c->centroids, returning how many; then the caller assigns every row, into c->of; then the clusters are those.
 */
size_t xp_clusters_seed(struct xp_clusters *c, const int16_t *sketch, unsigned s, size_t max_clusters);
void xp_clusters_regroup(struct xp_clusters *c, size_t seeds);

/* Splits the largest clusters (the first of equals) in two, rows with a negative coordinate apart from the others: one coordinate of
 * the sketches a pass, in turn from `first` on, until there are `count` clusters or every coordinate has had its pass. c->centroids are
 * not valid afterwards. */
void xp_clusters_split(struct xp_clusters *c, const int16_t *sketch, unsigned s, unsigned first, size_t count);

/* Sum over the rows of |sketch - mean sketch of its cluster|^2, with the means of c->centroids. */
uint64_t xp_clusters_distortion(const struct xp_clusters *c, const int16_t *sketch, unsigned s);

#endif
