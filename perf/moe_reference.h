/*
 * moe_reference.h - the plain reference of a layer's exchanges: what experts must have seen, and what must have come home
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PERF_MOE_REFERENCE_H
#define XP_PERF_MOE_REFERENCE_H

#include "perf/reference.h"
#include "perf/routing.h"

/* Runs expert `id` on rows; in and out are rows of the source's type. */
typedef void (*moe_expert_fn)(const void *expert, int id, const void *in, size_t rows, void *out);

/* A layer as all ranks know it: token t of rank r is row and token number r * T + t; experts lie in blocks over the ranks. */
struct moe_case {
    const struct row_source *rows;
    const struct routing_source *routing;
    size_t T;
    int rank, nranks;
    moe_expert_fn run;
    const void *expert;
    int identity;       /* run returns its rows */
    int sums;           /* raw and exact: partial sums came home, rounded */
    xp_mode mode;
    double eps;         /* bounded */
    double fold_limit;  /* folded: allowed distance from the formula, to the larger of the result's norm and its centroids' results' */
};

/* Rank of an expert. */
int moe_rank_of(const struct moe_case *c, int expert);

/* (token, expert) pairs that rank `from` sends to rank `to`. */
size_t moe_pairs(const struct moe_case *c, int from, int to);

/* Rows that experts were given, in expert layout (xp_dispatch): every (token, expert) pair there, in order, as promised. */
int moe_check_rows(const struct moe_case *c, const void *rows, size_t got, struct reference_result *out);

/*
 * Results at home (xp_combine) against sum over k of weight * E(x), in f32, slots ascending. out->err_* measure the distance from
 * it; a row counts as missed where the mode promises more: raw and exact the same bits, bounded with identity experts the
 * sum of both ways' eps.
 */
int moe_check_results(const struct moe_case *c, const void *y, struct reference_result *out);

/*
 * Folded: results at home against sum over k of weight * (E(c_j) + alpha (x - c_j)), from the library's own clusters: centroids
 * [clusters][dim], cluster and alpha [T][k]. Distances go into `out` as missed rows only.
 */
int moe_check_folded(const struct moe_case *c, const void *y, const void *centroids, size_t clusters, const int32_t *cluster,
                     const float *alpha, struct reference_result *out);

#endif
