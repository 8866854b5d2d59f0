/*
 * layer.h - steps of a MoE layer on ranks that are threads, and the plain reference of dispatch, combine and both backward passes
 *
 * Everything of every rank follows from the case and the step's number, so each rank can compute what all others have.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TEST_LAYER_H
#define XP_TEST_LAYER_H

#include "tests/harness/world.h"

/* How tokens choose experts. */
enum choice { CHOICE_RANDOM, CHOICE_HOT, CHOICE_VARYING, CHOICE_EMPTY_RANKS, CHOICE_NONE, CHOICES };

struct layer {
    enum choice choice;
    size_t tokens, dim;
    int experts, topk;
    xp_dtype dtype;
    xp_mode mode;
    double eps;
    const char *algo, *codec;
    xp_dither dither;
    xp_combine_sum combine;
    int moving;  /* experts change ranks from step to step */
    int steps;   /* 0: 1 */
    int no_backward;
    xp_centroid centroid; /* folded mode */
    double outlier, error_limit;
    size_t wild;          /* so many rows of every rank hold Inf or NaN */
    uint64_t seed;
};

/* One rank's part of one step. */
struct layer_step {
    size_t tokens;
    int topk;
    int32_t *expert, *expert_rank; /* expert_rank NULL: blocks */
    int32_t *sequence;             /* NULL: they are not asked for */
    float *weight;
    char *x, *grad_y;
};

void layer_step_make(struct layer_step *s, const struct layer *l, int ranks, int rank, int step);
void layer_step_free(struct layer_step *s);
int layer_rank_of(const struct layer *l, const struct layer_step *s, int ranks, int expert);

/* What the experts do: out = x * (1 + e / 16) + e / 4, and the gradient of it, in the row type. */
void layer_expert(const struct layer *l, int expert, const void *x, void *out);
void layer_expert_grad(const struct layer *l, int expert, const void *grad_out, void *grad_in);

/* The reference: what rank must get, from all ranks' steps. offsets [local + 1], ids [local]: room for experts + 1. */
size_t layer_reference_rows(const struct layer *l, const struct layer_step *all, int ranks, int rank, size_t *offsets, int32_t *ids,
                            int *local, char *rows, char *grad_rows);
void layer_reference_home(const struct layer *l, const struct layer_step *s, char *y, char *grad_x, float *grad_weight);

void layer_plan(const struct layer *l, int ranks, xp_plan_desc *d, xp_moe_desc *m);
xp_status layer_route(const struct layer_step *s, xp_plan *plan, xp_routing **r);

/* A body that runs all steps and compares everything; arg is a struct layer. */
void layer_body(xp_comm *comm, int rank, void *arg, char *why);
const char *layer_text(const struct layer *l, const struct world *w);

#endif
