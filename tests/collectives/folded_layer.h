/*
 * folded_layer.h - a layer on one rank, as the tests of folded mode fill and run it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_FOLDED_LAYER_H
#define XP_FOLDED_LAYER_H

#include "collectives/folded.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/random.h"
#include "tests/harness/values.h"

struct layer {
    struct xp_folder_desc d;
    xp_moe_desc m;
    struct xp_folder *folder;
    struct xp_fold *fold;
    struct xp_fold_tokens t;
    size_t row_bytes;
    int32_t *expert, *sequence;
    float *weight;
    char *x, *y, *results;
};

static inline void layer_open(struct layer *l)
{
    cr_assert_eq(xp_folder_create(&l->folder, &l->d), XP_OK);
    cr_assert_eq(xp_fold_create(&l->fold, l->folder), XP_OK);
}

static inline void layer_init(struct layer *l, xp_dtype t, size_t tokens, size_t dim, int experts, int topk)
{
    const size_t slots = tokens * (size_t)topk;

    memset(l, 0, sizeof(*l));
    l->m.size = sizeof(l->m);
    l->m.experts = experts;
    l->m.max_topk = topk;
    l->d = (struct xp_folder_desc){ .dtype = t, .dim = dim, .max_tokens = tokens, .experts = experts, .max_topk = topk, .moe = &l->m,
                                    .codec = "raw", .isa = xp_cpu_isa(), .seed = 7 };
    l->row_bytes = dim * xp_dtype_size(t);
    l->expert = calloc(slots + 1, sizeof(*l->expert));
    l->weight = calloc(slots + 1, sizeof(*l->weight));
    l->sequence = calloc(tokens + 1, sizeof(*l->sequence));
    l->x = calloc(tokens + 1, l->row_bytes);
    l->y = calloc(tokens + 1, l->row_bytes);
    l->results = calloc(slots + 1, l->row_bytes);
    l->t = (struct xp_fold_tokens){ .tokens = tokens, .topk = topk, .expert = l->expert, .weight = l->weight, .sequence = l->sequence };
}

static inline void layer_close(struct layer *l)
{
    xp_fold_destroy(l->fold);
    xp_folder_destroy(l->folder);
    free(l->expert);
    free(l->weight);
    free(l->sequence);
    free(l->x);
    free(l->y);
    free(l->results);
}

/* Different experts for the slots of a token, one slot in `holes` without any; weights that sum to 1; sequences in turn of 16 rows. */
static inline void fill_routing(struct layer *l, struct random *r, size_t holes)
{
    for (size_t t = 0; t < l->t.tokens; t++) {
        float sum = 0;

        l->sequence[t] = (int32_t)(t / 16) * 1000 - 5;
        for (int k = 0; k < l->t.topk; k++) {
            const size_t at = t * (size_t)l->t.topk + (size_t)k;
            int again = 1;

            while (again) {
                l->expert[at] = (int32_t)random_below(r, (size_t)l->d.experts);
                again = 0;
                for (int j = 0; j < k; j++)
                    again |= l->expert[at] == l->expert[at - (size_t)k + (size_t)j];
            }
            l->weight[at] = (float)(0.1 + random_unit(r));
            sum += l->weight[at];
        }
        for (int k = 0; k < l->t.topk; k++) {
            l->weight[t * (size_t)l->t.topk + (size_t)k] /= sum;
            if (holes && random_below(r, holes) == 0)
                l->expert[t * (size_t)l->t.topk + (size_t)k] = -1;
        }
    }
}

/* Rows about `centres` centres, with a common offset. */
static inline void fill_rows(struct layer *l, struct random *r, size_t centres, double noise)
{
    const size_t dim = l->d.dim;
    double *centre = malloc(centres * dim * sizeof(*centre));

    for (size_t i = 0; i < centres * dim; i++)
        centre[i] = 1 + random_normal(r);
    for (size_t t = 0; t < l->t.tokens; t++) {
        const double *c = centre + random_below(r, centres) * dim;
        for (size_t i = 0; i < dim; i++)
            value_put(l->x + t * l->row_bytes, l->d.dtype, i, c[i] + noise * random_normal(r));
    }
    free(centre);
}

static inline double get(const struct layer *l, const void *rows, size_t r, size_t i)
{
    return value_get((const char *)rows + r * l->row_bytes, l->d.dtype, i);
}

typedef double (*expert_fn)(int expert, size_t i, double x);

/* Experts that work on each value alone. */
static inline double wavy(int e, size_t i, double x)
{
    return sin(x * (0.5 + 0.1 * e)) + 0.01 * (double)(i % 7);
}

static inline double identity(int e, size_t i, double x)
{
    (void)e;
    (void)i;
    return x;
}

static inline double planted(int e, size_t i, double x)
{
    return (0.1 * e + 0.25) * x + 0.3 * (double)(i % 5);
}

static inline void run_experts(struct layer *l, expert_fn e, const void *rows)
{
    for (size_t v = 0; v < xp_fold_count(l->fold); v++)
        for (size_t i = 0; i < l->d.dim; i++)
            value_put(l->results + v * l->row_bytes, l->d.dtype, i, e(xp_fold_expert(l->fold)[v], i, get(l, rows, v, i)));
}

static inline void make(struct layer *l)
{
    cr_assert_eq(xp_fold_make(l->fold, &l->t, l->x), XP_OK);
}

static inline void forward(struct layer *l, expert_fn e)
{
    make(l);
    run_experts(l, e, xp_fold_seen(l->fold));
    xp_fold_combine(l->fold, l->x, l->results, l->y);
}

/* Half a step of the type at this size. */
static inline double half_ulp(xp_dtype t, double v)
{
    const int bits = t == XP_BF16 ? 8 : t == XP_F16 ? 11 : 24;
    int exponent;

    frexp(v, &exponent);
    if (t == XP_F16 && exponent < -13) /* denormals */
        exponent = -13;
    return ldexp(0.5, exponent - bits);
}

#endif
