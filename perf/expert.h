/*
 * expert.h - the experts of a benchmark's layer: the identity, or a real feed-forward network
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PERF_EXPERT_H
#define XP_PERF_EXPERT_H

#include "crosspress/crosspress.h"

struct expert {
    xp_dtype dtype;     /* of the rows */
    size_t dim, hidden; /* hidden 0: the identity */
    int networks;       /* 1: all experts are the same network */
    int tanh_gelu;
    float *w1, *w2;     /* [networks][dim][hidden], [networks][hidden][dim] */
    float *b1, *b2;     /* [hidden], [dim] or NULL */
    float *work;        /* of expert_run: one block of rows */
    char name[64];
};

/*
 * Opens experts for rows of dim values. spec: NULL or "identity"; "W1.npy,W2.npy" with W1 [experts][dim][hidden], W2
 * [experts][hidden][dim]: expert e is gelu_tanh(x W1[e]) W2[e]; "W1.npy,W2.npy,b1.npy,b2.npy" with W1 [hidden][dim], W2 [dim][hidden]: every
 * expert is W2 gelu(W1 x + b1) + b2. Values <f2 or <f4. Returns 0, or -1 with one line in err.
 */
int expert_open(struct expert *e, const char *spec, int experts, xp_dtype dtype, size_t dim, char *err, size_t err_size);
void expert_close(struct expert *e);

int expert_is_identity(const struct expert *e);
const char *expert_name(const struct expert *e);

/* out[rows][dim] = expert `id` of in[rows][dim]. In f32; a row's result does not depend on the rows beside it.
 * One thread at a time. */
void expert_run(const struct expert *e, int id, const void *in, size_t rows, void *out);

#endif
