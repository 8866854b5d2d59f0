/*
 * cuda_fold.c - checkcuda: folded mode, forward and backward, against collectives/folded_*.c
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "checkcuda.h"
#include "collectives/folded_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};

/* A step on the host, and its arrays on the device. */
struct step {
    struct xp_folder *folder;
    struct xp_fold *fold;
    size_t tokens, dim, row_bytes, clusters;
    int topk;
    xp_dtype t;
    int32_t *expert;
    float *weight;
    char *x;
    struct xp_gpu_fold device;
    void *held[5];
};

static void make_on_host(struct check *c, struct step *s)
{
    enum { EXPERTS = 4 };
    xp_moe_desc moe;
    const struct xp_folder_desc d = {.dtype = s->t, .dim = s->dim, .max_tokens = s->tokens + 1, .experts = EXPERTS, .max_topk = s->topk, .moe = &moe,
                                     .codec = check_below(c, 2) ? "raw" : "int8", .isa = XP_ISA_C, .seed = 3};
    const size_t slots = s->tokens * (size_t)s->topk;

    xp_moe_desc_init(&moe);
    moe.experts = EXPERTS;
    moe.max_topk = s->topk;
    moe.rate = 0.4;
    moe.alpha_rule = XP_ALPHA_FIXED;
    moe.alpha = check_below(c, 3) ? 0.75 : 0;
    moe.probes = -1;
    moe.centroid = check_below(c, 2) ? XP_CENTROID_MEAN : XP_CENTROID_LEADER;
    s->device.leader = moe.centroid == XP_CENTROID_LEADER;
    s->expert = malloc(slots * 4 + 4);
    s->weight = malloc(slots * 4 + 4);
    for (size_t i = 0; i < slots; i++) {
        s->expert[i] = (int32_t)((i / (size_t)s->topk + i) % EXPERTS); /* no expert twice for a token */
        s->weight[i] = check_below(c, 8) ? (float)check_gauss(c) : 0;
        if (check_below(c, 6) == 0)
            s->expert[i] = -1;
    }
    s->x = check_rows(c, s->t, s->tokens, s->dim);
    const struct xp_fold_tokens tokens = {.tokens = s->tokens, .topk = s->topk, .expert = s->expert, .weight = s->weight};
    if (xp_folder_create(&s->folder, &d) || xp_fold_create(&s->fold, s->folder) || xp_fold_make(s->fold, &tokens, s->x)) {
        fprintf(stderr, "checkcuda: no clusters of %zu tokens\n", s->tokens);
        exit(2);
    }
    s->clusters = xp_fold_clusters(s->fold);
}

/* After combine, which sets the alphas. */
static void upload_step(struct step *s)
{
    const size_t slots = s->tokens * (size_t)s->topk;
    const void *from[5] = {xp_fold_cluster_of(s->fold), s->weight, xp_fold_alpha_of(s->fold), s->fold->start, s->fold->member};
    const size_t bytes[5] = {slots * 4, slots * 4, slots * 4, (s->clusters + 1) * 4, s->fold->start[s->clusters] * 4};

    for (int i = 0; i < 5; i++)
        s->held[i] = device_upload(from[i], bytes[i]);
    s->device = (struct xp_gpu_fold){.tokens = s->tokens, .clusters = s->clusters, .dim = s->dim, .topk = (unsigned)s->topk, .dtype = s->t,
                                     .leader = s->device.leader, .cluster_of = s->held[0], .weight = s->held[1], .alpha = s->held[2], .start = s->held[3],
                                     .member = s->held[4]};
}

static void check_typed(struct check *c, const struct step *s, const void *want, const void *device, size_t rows, const char *what)
{
    const size_t n = rows * s->dim, bytes = rows * s->row_bytes;
    char *got = malloc(bytes + 1);
    size_t at = 0;

    device_download(got, device, bytes);
    c->compared++;
    for (; at < n; at++) { /* any NaN equals any other */
        const float a = xp_load_f32(want, s->t, at), b = xp_load_f32(got, s->t, at);
        if (memcmp((const char *)want + at * xp_dtype_size(s->t), got + at * xp_dtype_size(s->t), xp_dtype_size(s->t)) && (a == a || b == b))
            break;
    }
    if (at < n) {
        printf("# %s: value %zu of row %zu of %zu %s rows of %zu, %d slots a token (--seed %llu)\n", what, at % s->dim, at / s->dim, rows,
               check_dtype_name(s->t), s->dim, s->topk, (unsigned long long)c->seed);
        c->failed++;
    }
    free(got);
}

/* Rows that lie off 16-byte boundaries now and then. */
struct moved {
    char *all, *rows;
};

static struct moved upload_rows(struct check *c, const struct step *s, const void *rows, size_t count)
{
    const size_t shift = check_below(c, 8) ? 0 : xp_dtype_size(s->t), bytes = count * s->row_bytes;
    char *copy = calloc(bytes + shift + 1, 1);
    struct moved m;

    if (rows)
        memcpy(copy + shift, rows, bytes);
    m.all = device_upload(rows ? copy : NULL, bytes + shift);
    m.rows = m.all + shift;
    free(copy);
    return m;
}

static void compare_forward(struct check *c, const struct xp_gpu *g, struct step *s, const void *results, struct moved x, struct moved seen, struct moved made)
{
    char *y = malloc(s->tokens * s->row_bytes + 1);

    xp_fold_combine(s->fold, s->x, results, y);
    upload_step(s);
    struct moved out = upload_rows(c, s, NULL, s->tokens);
    check_launched(c, xp_cuda_fold_combine(g, &s->device, x.rows, seen.rows, made.rows, out.rows), "fold combine");
    check_typed(c, s, y, out.rows, s->tokens, "combine");
    device_free(out.all);
    free(y);
}

static void compare_backward(struct check *c, const struct xp_gpu *g, struct step *s, struct moved x, struct moved seen, struct moved made)
{
    const size_t slots = s->tokens * (size_t)s->topk;
    char *grad_y = check_rows(c, s->t, s->tokens, s->dim), *jg = check_rows(c, s->t, s->clusters, s->dim);
    char *sums = malloc(s->clusters * s->row_bytes + 1), *grad_x = malloc(s->tokens * s->row_bytes + 1);
    float *grad_weight = calloc(slots + 1, sizeof(*grad_weight));
    const int weights = check_below(c, 3) > 0;

    xp_fold_combine_backward(s->fold, grad_y, s->x, sums, weights ? grad_weight : NULL);
    xp_fold_dispatch_backward(s->fold, grad_y, jg, grad_x);

    struct moved dev_grad = upload_rows(c, s, grad_y, s->tokens), dev_jg = upload_rows(c, s, jg, s->clusters);
    struct moved dev_sums = upload_rows(c, s, NULL, s->clusters), dev_x = upload_rows(c, s, NULL, s->tokens);
    float *dev_weight = device_upload(NULL, slots * 4);
    check_launched(c, xp_cuda_fold_combine_backward(g, &s->device, dev_grad.rows, x.rows, seen.rows, made.rows, dev_sums.rows, weights ? dev_weight : NULL),
                   "backward of combine");
    check_typed(c, s, sums, dev_sums.rows, s->clusters, "sums of gradients");
    if (weights)
        check_device(c, grad_weight, dev_weight, slots * 4, 1, "gradients of %zu weights, rows of %zu", slots, s->dim);
    check_launched(c, xp_cuda_fold_dispatch_backward(g, &s->device, dev_grad.rows, dev_sums.rows, dev_jg.rows, dev_x.rows), "backward of dispatch");
    check_typed(c, s, grad_x, dev_x.rows, s->tokens, "gradients of rows");
    void *all[] = {dev_grad.all, dev_jg.all, dev_sums.all, dev_x.all, dev_weight};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(grad_y);
    free(jg);
    free(sums);
    free(grad_x);
    free(grad_weight);
}

static void compare_step(struct check *c, const struct xp_gpu *g, xp_dtype t, size_t dim, size_t tokens, int topk)
{
    struct step s = {.t = t, .dim = dim, .tokens = tokens, .topk = topk, .row_bytes = dim * xp_dtype_size(t)};

    make_on_host(c, &s);
    char *results = check_rows(c, t, s.clusters, dim);
    struct moved x = upload_rows(c, &s, s.x, tokens), seen = upload_rows(c, &s, xp_fold_seen(s.fold), s.clusters);
    struct moved made = upload_rows(c, &s, results, s.clusters);
    compare_forward(c, g, &s, results, x, seen, made);
    compare_backward(c, g, &s, x, seen, made);
    for (int i = 0; i < 5; i++)
        device_free(s.held[i]);
    device_free(x.all);
    device_free(seen.all);
    device_free(made.all);
    free(results);
    free(s.x);
    free(s.expert);
    free(s.weight);
    xp_fold_destroy(s.fold);
    xp_folder_destroy(s.folder);
}

static void compare_folded(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu), *g = &few;

    (void)plain;
    compare_step(c, g, types[check_below(c, 3)], check_dim(c), check_below(c, 24), 1 + (int)check_below(c, 3));
    compare_step(c, g, types[check_below(c, 3)], 1 + check_below(c, 70), check_below(c, 60), 1 + (int)check_below(c, 4));
    if (c->compared < 8)
        compare_step(c, g, types[check_below(c, 3)], 64, 0, 2);
    if (check_below(c, 10) == 0)
        compare_step(c, g, types[check_below(c, 3)], check_below(c, 2) ? 4096 : 7168, 3, 2);
}

/* ---- probes ---- */

/* Sums in the order of the values, as folded_probes.c adds them up. */
static struct xp_gpu_probe_products multiply(const char *seen, const char *results, struct xp_gpu_probe probe, xp_dtype t, size_t dim)
{
    const size_t row = probe.row * dim, centroid = probe.centroid * dim;
    struct xp_gpu_probe_products p = {0, 0, 0, 0};

    for (size_t i = 0; i < dim; i++) {
        const double dx = (double)xp_load_f32(seen, t, row + i) - xp_load_f32(seen, t, centroid + i);
        const double y = xp_load_f32(results, t, row + i), dy = y - xp_load_f32(results, t, centroid + i);
        p.yy += dy * dy;
        p.yx += dy * dx;
        p.xx += dx * dx;
        p.ee += y * y;
    }
    return p;
}

/* Bit for bit, any NaN but for any other. */
static void check_products(struct check *c, const struct xp_gpu_probe_products *want, const void *device, size_t probes, size_t dim)
{
    const size_t n = probes * 4;
    double *got = malloc(n * sizeof(*got) + 1);
    const double *w = &want->yy;
    size_t at = 0;

    device_download(got, device, n * sizeof(*got));
    c->compared++;
    while (at < n && (memcmp(&w[at], &got[at], sizeof(*got)) == 0 || (w[at] != w[at] && got[at] != got[at])))
        at++;
    if (at < n) {
        printf("# sum %zu of probe %zu of %zu, rows of %zu (--seed %llu)\n", at % 4, at / 4, probes, dim, (unsigned long long)c->seed);
        c->failed++;
    }
    free(got);
}

static void compare_products(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    enum { ROWS = 6 };
    const struct xp_gpu few = check_gpu(c, gpu);
    const xp_dtype t = types[check_below(c, 3)];
    const size_t dim = check_dim(c), probes = check_below(c, 12), bytes = ROWS * dim * xp_dtype_size(t);
    char *seen = check_rows(c, t, ROWS, dim), *results = check_rows(c, t, ROWS, dim);
    struct xp_gpu_probe *probe = malloc((probes + 1) * sizeof(*probe));
    struct xp_gpu_probe_products *want = malloc((probes + 1) * sizeof(*want));

    (void)plain;
    for (size_t p = 0; p < probes; p++) {
        probe[p] = (struct xp_gpu_probe){(uint32_t)check_below(c, ROWS), (uint32_t)check_below(c, ROWS)};
        want[p] = multiply(seen, results, probe[p], t, dim);
    }
    void *dev_seen = device_upload(seen, bytes), *dev_results = device_upload(results, bytes), *dev_probe = device_upload(probe, probes * sizeof(*probe));
    void *out = device_upload(NULL, probes * sizeof(*want));
    check_launched(c, xp_cuda_fold_products(&few, t, dim, dev_seen, dev_results, dev_probe, probes, out), "products of probes");
    check_products(c, want, out, probes, dim);
    void *all[] = {dev_seen, dev_results, dev_probe, out};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(seen);
    free(results);
    free(probe);
    free(want);
}

struct fold_bench {
    const struct xp_gpu *g;
    struct xp_gpu_fold f;
    void *x, *seen, *results, *y;
};

static void run_combine(void *arg)
{
    const struct fold_bench *b = arg;

    xp_cuda_fold_combine(b->g, &b->f, b->x, b->seen, b->results, b->y);
}

/* Two slots a token, five slots a cluster, alpha 1. */
static void bench_folded(struct check *c, const struct xp_gpu *g)
{
    enum { DIM = 4096, TOKENS = 16384, TOPK = 2, EACH = 5, CLUSTERS = TOKENS * TOPK / EACH + 1 };
    int32_t *cluster = malloc(TOKENS * TOPK * 4);
    float *one = malloc(TOKENS * TOPK * 4);
    char *rows = calloc((size_t)TOKENS * DIM, 2);
    char shape[64];

    for (int i = 0; i < TOKENS * TOPK; i++) {
        cluster[i] = i * 7919 % CLUSTERS;
        one[i] = 1;
    }
    for (size_t i = 0; i < (size_t)TOKENS * DIM; i++)
        ((uint16_t *)(void *)rows)[i] = (uint16_t)(0x3f80 + i * 2654435761u % 128);
    struct fold_bench b = {.g = g, .x = device_upload(rows, (size_t)TOKENS * DIM * 2), .seen = device_upload(rows, (size_t)CLUSTERS * DIM * 2),
                           .results = device_upload(rows, (size_t)CLUSTERS * DIM * 2), .y = device_upload(NULL, (size_t)TOKENS * DIM * 2)};
    void *dev_cluster = device_upload(cluster, TOKENS * TOPK * 4), *dev_one = device_upload(one, TOKENS * TOPK * 4);
    b.f = (struct xp_gpu_fold){.tokens = TOKENS, .clusters = CLUSTERS, .dim = DIM, .topk = TOPK, .dtype = XP_BF16, .cluster_of = dev_cluster, .weight = dev_one,
                               .alpha = dev_one};
    snprintf(shape, sizeof(shape), "combine %d tokens, top %d", TOKENS, TOPK);
    cuda_bench_line(c, g, shape, (size_t)(2 * TOKENS + 2 * CLUSTERS) * DIM * 2, run_combine, &b);
    void *all[] = {b.x, b.seen, b.results, b.y, dev_cluster, dev_one};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(cluster);
    free(one);
    free(rows);
}

const struct cuda_case cuda_fold_cases[] = {
    {"folded", compare_folded, bench_folded},
    {"products", compare_products, NULL},
    {NULL, NULL, NULL},
};
