/*
 * moe_layer.h - one MoE layer of a benchmark: what it is made of, and one iteration of its exchanges
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PERF_MOE_LAYER_H
#define XP_PERF_MOE_LAYER_H

#include "perf/expert.h"
#include "perf/moe_reference.h"
#include "perf/xp_perf.h"

enum phase { ROUTE, DISPATCH, COMBINE, COMBINE_BACKWARD, DISPATCH_BACKWARD, PHASES };

struct layer {
    struct perf *p;
    const struct options *opt;
    xp_comm *comm;
    xp_plan *plan;
    xp_routing *routing;
    struct routing_source routes;
    struct expert expert;
    struct moe_case plain;  /* the reference's view */
    int rank, n;
    size_t max_recv;
    int32_t *ids;           /* [T][k] */
    float *weights, *grad_weights;
    struct memory memory;
    struct place x, y, grad;     /* [T][dim] */
    struct place rows, results;  /* [max_recv][dim] */
    int have_results;       /* of these rows: they are the same in every iteration, but for folded mode's centroids */
    double *seconds;        /* [iters][PHASES], this rank's */
};

/* p, opt, comm, memory, rank and n are set. All return 0, or 1 with p->error filled. */
int layer_open(struct layer *l);
/* The exchanges once; seconds: [PHASES]. l->routing is left to be looked at until the next time. */
int layer_iterate(struct layer *l, double *seconds);
void layer_close(struct layer *l);
/* Rows between the host and where they lie. */
int layer_put(struct layer *l, const struct place *p);
int layer_get(struct layer *l, const struct place *p);

/* Keeps the text of a call of the library that failed; returns 1. */
int layer_fail(struct layer *l, const char *what, xp_status s);

#endif
