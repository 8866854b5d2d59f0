/*
 * routing.h - which experts a benchmark's tokens go to: a real trace, or drawn from a distribution
 *
 * Like rows (rows.h), tokens are an endless numbered sequence; token i is routed the same on every rank. Beyond a trace's
 * end it begins again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PERF_ROUTING_H
#define XP_PERF_ROUTING_H

#include <stddef.h>
#include <stdint.h>

#define ROUTING_MAX_K 64

enum routing_kind { ROUTING_FILE, ROUTING_UNIFORM, ROUTING_ZIPF };

struct routing_source {
    enum routing_kind kind;
    int k, experts;
    uint64_t seed;
    size_t tokens;     /* ROUTING_FILE */
    int32_t *expert;   /* [tokens][k] */
    float *weight;     /* [tokens][k], of a token they add up to 1 */
    char name[64];
};

/*
 * Reads a trace: expert numbers [tokens][k] (<i4, <i8; -1 = none), or gate logits [tokens][experts] (<f4), of which the k largest
 * count (ties: the lowest expert), with the softmax over them as weights. weights: NULL, or a file [tokens][k] of <f4; without
 * it the experts of a token weigh the same. k: 0 = all columns of a trace, 2 of logits. Returns 0, or -1 with one line in err.
 */
int routing_open_file(struct routing_source *s, const char *path, const char *weights, int k, int experts, char *err, size_t err_size);

/* Draws k different experts for every token: "uniform", or "zipf" (expert e with a chance of 1 / (e + 1)). Returns 0, or -1: unknown name. */
int routing_open_generated(struct routing_source *s, const char *kind, int k, int experts, uint64_t seed);

void routing_close(struct routing_source *s);

/* Experts and weights [k] of token number i. */
void routing_get(const struct routing_source *s, uint64_t i, int32_t *expert, float *weight);

#endif
