/*
 * check_fold.c - checkkernels' rows for folded mode: means of clusters, sums of results
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "check_typed.h"

#define MOST_TERMS 9

/* ---- fold_sums ---- */

/* Rows of one type, side by side, of fills. */
static struct guarded typed_rows(struct check *c, enum check_fill fill, xp_dtype t, size_t rows, size_t dim)
{
    struct guarded g = guard_alloc(rows * dim * xp_dtype_size(t), xp_dtype_size(t) * check_below(c, 20), 0);

    for (size_t r = 0; r < rows; r++)
        check_fill_row(c, check_below(c, 4) ? FILL_GAUSS : fill, t, dim, (char *)g.p + r * dim * xp_dtype_size(t));
    return g;
}

#define MOST_CLUSTERS 12
#define MOST_TOKENS 6

static void compare_fold_sums(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 40; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            const size_t dim = check_dim(c), clusters = 1 + check_below(c, MOST_CLUSTERS), tokens = check_below(c, MOST_TOKENS + 1);
            const xp_dtype t = check_types[check_below(c, 3)];
            struct xp_fold_sums s = {.dtype = t, .dim = dim, .clusters = clusters, .tokens = tokens, .topk = check_below(c, MOST_TERMS + 1)};
            struct guarded x = typed_rows(c, (enum check_fill)fill, t, tokens, dim), out[2], work = guard_alloc(clusters * XP_TILE * 4, 0, 0);
            struct guarded rows[2];
            int32_t cluster_of[MOST_TOKENS * MOST_TERMS];
            float weight[MOST_TOKENS * MOST_TERMS], alpha[MOST_CLUSTERS], scale[MOST_TOKENS];

            for (int i = 0; i < 2; i++) {
                rows[i] = typed_rows(c, (enum check_fill)fill, t, clusters, dim);
                out[i] = guard_alloc(tokens * dim * xp_dtype_size(t), xp_dtype_size(t) * check_below(c, 20), 0x55);
            }
            for (size_t i = 0; i < tokens * s.topk; i++) {
                cluster_of[i] = (int32_t)check_below(c, clusters + 1) - 1;
                weight[i] = (float)check_gauss(c);
            }
            for (size_t i = 0; i < clusters; i++)
                alpha[i] = check_below(c, 3) ? (float)check_gauss(c) : 0;
            for (size_t i = 0; i < tokens; i++)
                scale[i] = check_below(c, 3) ? (float)check_gauss(c) : 0;
            s.results = rows[0].p;
            s.centroids = rows[1].p;
            s.cluster_of = cluster_of;
            s.weight = weight;
            s.alpha = alpha;
            s.scale = scale;
            plain->fold_sums(&s, x.p, work.p, out[0].p);
            tested->fold_sums(&s, x.p, work.p, out[1].p);
            for (int i = 0; i < 2; i++)
                check_same_nan_typed(&out[i], t);
            check_equal(c, &out[0], &out[1], "%s dim %zu, %zu tokens of %zu terms, fill %s", check_dtype_name(t), dim, tokens, s.topk,
                        check_fill_name((enum check_fill)fill));
            for (int i = 0; i < 2; i++) {
                guard_free(&rows[i]);
                guard_free(&out[i]);
            }
            guard_free(&work);
            guard_free(&x);
        }
}

/* ---- means ---- */

static void compare_means(struct check *c, const struct xp_kernels *plain, const struct xp_kernels *tested)
{
    for (int round = 0; round < 40; round++)
        for (int fill = 0; fill < FILL_COUNT; fill++) {
            const size_t dim = check_dim(c), n = 1 + check_below(c, MOST_CLUSTERS), K = check_below(c, MOST_TOKENS), long_run = round == 0 && fill == 0;
            const xp_dtype t = check_types[check_below(c, 3)];
            struct guarded in = typed_rows(c, (enum check_fill)fill, t, n, dim), work = guard_alloc(n * XP_TILE * 4, 0, 0), out[2];
            const struct xp_rows rows = {.data = in.p, .rows = n, .dim = dim, .dtype = t};
            uint32_t start[MOST_TOKENS + 1] = {0}, *order;

            for (size_t k = 0; k < K; k++)
                start[k + 1] = start[k] + (uint32_t)check_below(c, long_run ? 9000 : 6);
            order = malloc((start[K] + 1) * sizeof(*order));
            for (size_t i = 0; i < start[K]; i++)
                order[i] = (uint32_t)check_below(c, n);
            for (int i = 0; i < 2; i++)
                out[i] = guard_alloc(K * dim * xp_dtype_size(t), xp_dtype_size(t) * check_below(c, 20), 0x55);
            plain->means(&rows, order, start, K, work.p, out[0].p);
            tested->means(&rows, order, start, K, work.p, out[1].p);
            for (int i = 0; i < 2; i++)
                check_same_nan_typed(&out[i], t);
            check_equal(c, &out[0], &out[1], "%s dim %zu, %zu clusters of %zu rows, fill %s", check_dtype_name(t), dim, K, n,
                        check_fill_name((enum check_fill)fill));
            free(order);
            for (int i = 0; i < 2; i++)
                guard_free(&out[i]);
            guard_free(&work);
            guard_free(&in);
        }
}

/* ---- timing ---- */

/* A rank's tokens, and four slots of each in some cluster. */
#define TOKENS 2048
#define SLOTS (4 * TOKENS)
#define DIM 768

struct fold_run {
    const struct xp_kernels *k;
    struct xp_rows rows;
    struct xp_fold_sums sums;
    uint32_t order[SLOTS], start[TOKENS + 1];
    int32_t cluster_of[SLOTS];
    float weight[SLOTS], alpha[TOKENS], scale[TOKENS];
    float *tile;
    void *out;
};

static void run_means(void *arg)
{
    struct fold_run *r = arg;
    r->k->means(&r->rows, r->order, r->start, TOKENS, r->tile, r->out);
}

static void run_fold_sums(void *arg)
{
    struct fold_run *r = arg;
    r->k->fold_sums(&r->sums, r->rows.data, r->tile, r->out);
}

static void bench(struct check *c, const struct xp_kernels *k, void (*run)(void *))
{
    struct check_rows in = check_make_rows(c, k, XP_BF16, DIM);
    struct fold_run *r = malloc(sizeof(*r));

    *r = (struct fold_run){.k = k, .rows = {.data = in.data, .rows = TOKENS, .dim = DIM, .dtype = XP_BF16}, .out = in.other};
    r->tile = aligned_alloc(64, TOKENS * XP_TILE * sizeof(float));
    for (size_t i = 0; i < SLOTS; i++) {
        r->order[i] = (uint32_t)check_below(c, TOKENS);
        r->cluster_of[i] = (int32_t)check_below(c, TOKENS);
        r->weight[i] = 0.25f;
    }
    for (size_t i = 0; i < TOKENS; i++) {
        r->start[i + 1] = (uint32_t)(i + 1) * (SLOTS / TOKENS);
        r->alpha[i] = r->scale[i] = 0.5f;
    }
    r->sums = (struct xp_fold_sums){.dtype = XP_BF16, .dim = DIM, .clusters = TOKENS, .tokens = TOKENS, .topk = SLOTS / TOKENS, .results = in.data,
                                    .centroids = in.data, .alpha = r->alpha, .cluster_of = r->cluster_of, .weight = r->weight, .scale = r->scale};
    bench_line(c, "bf16 dim 768, four rows a cluster or clusters a row", in.data, (size_t)SLOTS * DIM * 2, run, r);
    free(r->tile);
    free(r);
    check_free_rows(&in);
}

static void bench_means(struct check *c, const struct xp_kernels *k)
{
    bench(c, k, run_means);
}

static void bench_fold_sums(struct check *c, const struct xp_kernels *k)
{
    bench(c, k, run_fold_sums);
}

#define SLOT(entry) offsetof(struct xp_kernels, entry)

const struct check_row check_fold_rows[] = {
    {"means", SLOT(means), compare_means, bench_means},
    {"fold_sums", SLOT(fold_sums), compare_fold_sums, bench_fold_sums},
    {NULL, 0, NULL, NULL},
};
