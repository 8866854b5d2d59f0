/*
 * cuda_moe.c - checkcuda: rows of a MoE layer gathered, summed and multiplied, against the C entry and collectives/rowmath.h
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "collectives/rowmath.h"

#include "checkcuda.h"

#include <stdio.h>
#include <stdlib.h>

static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};

/* Some rows in device memory, now and then off 16-byte boundaries. */
struct layer {
    xp_dtype t;
    size_t rows, dim, row_bytes, shift;
    char *host, *device, *memory;
};

static struct layer make_layer(struct check *c, xp_dtype t, size_t rows, size_t dim)
{
    struct layer l = {.t = t, .rows = rows, .dim = dim, .row_bytes = dim * xp_dtype_size(t)};

    l.shift = check_below(c, 8) ? 0 : xp_dtype_size(t);
    l.host = check_rows(c, t, rows, dim);
    char *shifted = calloc(l.shift + rows * l.row_bytes + 1, 1);
    memcpy(shifted + l.shift, l.host, rows * l.row_bytes);
    l.memory = device_upload(shifted, l.shift + rows * l.row_bytes);
    l.device = l.memory + l.shift;
    free(shifted);
    return l;
}

static void drop_layer(struct layer *l)
{
    device_free(l->memory);
    free(l->host);
}

static const char *row_of(const struct layer *l, size_t row)
{
    return l->host + row * l->row_bytes;
}

/* Rows that were computed: any NaN equals any other. */
static void check_sums(struct check *c, const struct layer *l, const void *want, const char *device, size_t rows, const char *what)
{
    const size_t n = rows * l->dim, size = xp_dtype_size(l->t);
    char *got = malloc(n * size + 1);
    size_t at = 0;

    device_download(got, device, n * size);
    c->compared++;
    for (; at < n; at++) {
        const float a = xp_load_f32(want, l->t, at), b = xp_load_f32(got, l->t, at);
        if (memcmp((const char *)want + at * size, got + at * size, size) && (a == a || b == b))
            break;
    }
    if (at < n) {
        printf("# %s: value %zu of row %zu of %zu %s rows of %zu (--seed %llu)\n", what, at % l->dim, at / l->dim, rows, check_dtype_name(l->t), l->dim,
               (unsigned long long)c->seed);
        c->failed++;
    }
    free(got);
}

static uint32_t *random_numbers(struct check *c, size_t n, size_t below)
{
    uint32_t *v = malloc((n + 1) * sizeof(*v));

    for (size_t i = 0; i < n; i++)
        v[i] = (uint32_t)check_below(c, below);
    return v;
}

static float *random_weights(struct check *c, size_t n)
{
    float *v = malloc((n + 1) * sizeof(*v));

    for (size_t i = 0; i < n; i++)
        v[i] = check_below(c, 6) ? (float)check_gauss(c) : check_below(c, 2) ? 0.0f : -1.0f;
    return v;
}

static void compare_gather(struct check *c, const struct xp_gpu *g, const struct layer *l, size_t rows)
{
    uint32_t *index = random_numbers(c, rows, l->rows);
    float *weight = random_weights(c, rows), *acc = malloc(l->dim * sizeof(*acc));
    char *want = malloc(rows * l->row_bytes + 1), *scaled = malloc(rows * l->row_bytes + 1);

    for (size_t r = 0; r < rows; r++) {
        memcpy(want + r * l->row_bytes, row_of(l, index[r]), l->row_bytes);
        for (size_t i = 0; i < l->dim; i++)
            acc[i] = -0.0f;
        xp_row_add(acc, row_of(l, index[r]), l->t, 0, l->dim, weight[r]);
        xp_row_store(scaled + r * l->row_bytes, l->t, 0, l->dim, acc);
    }
    uint32_t *dev_index = device_upload(index, rows * 4);
    float *dev_weight = device_upload(weight, rows * 4);
    char *out = device_upload(NULL, l->shift + rows * l->row_bytes);
    const struct xp_rows in = {.data = l->device, .index = dev_index, .rows = rows, .dim = l->dim, .dtype = l->t};
    check_launched(c, xp_cuda_rows_gather(g, &in, NULL, out + l->shift), "gather");
    check_device(c, want, out + l->shift, rows * l->row_bytes, 0, "%zu rows of %zu gathered", rows, l->dim);
    check_launched(c, xp_cuda_rows_gather(g, &in, dev_weight, out + l->shift), "gather");
    check_sums(c, l, scaled, out + l->shift, rows, "rows times weights");
    device_free(dev_index);
    device_free(dev_weight);
    device_free(out);
    free(index);
    free(weight);
    free(acc);
    free(want);
    free(scaled);
}

/* Rows of bytes are gathered, too: here those that the layer's memory has when it is read so. */
static void compare_bytes_gathered(struct check *c, const struct xp_gpu *g, const struct layer *l, size_t rows)
{
    uint32_t *index = random_numbers(c, rows, l->rows), *dev_index = device_upload(index, rows * 4);
    const size_t dim = check_below(c, 2) ? l->row_bytes : 1 + check_below(c, l->row_bytes), shift = check_below(c, 2) ? l->shift : 0;
    char *want = malloc(rows * dim + 1), *out = device_upload(NULL, shift + rows * dim);
    const struct xp_rows in = {.data = l->device, .index = dev_index, .rows = rows, .dim = dim, .dtype = XP_BYTE};

    for (size_t r = 0; r < rows; r++)
        memcpy(want + r * dim, l->host + index[r] * dim, dim);
    check_launched(c, xp_cuda_rows_gather(g, &in, NULL, out + shift), "gather");
    check_device(c, want, out + shift, rows * dim, 0, "%zu rows of %zu bytes gathered", rows, dim);
    device_free(dev_index);
    device_free(out);
    free(index);
    free(want);
}

/* Up to nine terms a row in parts; some rows are copies, some have none. */
struct terms {
    uint32_t *first, *row;
    float *weight;
    uint8_t *how;
    int weighted;
};

static struct terms random_terms(struct check *c, const struct layer *l, size_t rows)
{
    struct terms t = {.first = malloc((rows + 1) * 4), .row = random_numbers(c, rows * 9, l->rows), .weight = random_weights(c, rows * 9),
                      .how = calloc(rows * 9 + 1, 1), .weighted = (int)check_below(c, 3)};
    uint32_t n = 0;

    for (size_t r = 0; r < rows; r++) {
        const uint32_t many = (uint32_t)check_below(c, 10);
        t.first[r] = n;
        for (uint32_t k = 0; k < many; k++)
            t.how[n + k] = k + 1 == many || check_below(c, 3) == 0 ? XP_GPU_TERM_LAST : 0;
        if (many && check_below(c, 4) == 0)
            t.how[n] = XP_GPU_TERM_COPY;
        n += many;
    }
    t.first[rows] = n;
    return t;
}

static void sum_on_host(const struct xp_kernels *plain, const struct layer *l, const struct terms *t, size_t r, char *out)
{
    const uint32_t begin = t->first[r], n = t->first[r + 1] - begin;
    struct xp_sum_term term[9];

    for (uint32_t i = 0; i < n; i++)
        term[i] = (struct xp_sum_term){row_of(l, t->row[begin + i]), t->weighted ? t->weight[begin + i] : 1, t->how[begin + i] & XP_GPU_TERM_LAST};
    if (n && t->how[begin] & XP_GPU_TERM_COPY)
        memcpy(out, term[0].row, l->row_bytes);
    else
        plain->row_sum(term, n, l->t, l->dim, out);
}

static void compare_sums(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain, const struct layer *l, size_t rows)
{
    struct terms t = random_terms(c, l, rows);
    const uint32_t n = t.first[rows];
    char *want = malloc(rows * l->row_bytes + 1), *out = device_upload(NULL, l->shift + rows * l->row_bytes);
    void *first = device_upload(t.first, (rows + 1) * 4), *row = device_upload(t.row, n * 4), *weight = device_upload(t.weight, n * 4);
    void *how = device_upload(t.how, n);
    const struct xp_rows in = {.data = l->device, .rows = rows, .dim = l->dim, .dtype = l->t};
    const struct xp_gpu_terms terms = {first, row, t.weighted ? weight : NULL, how};

    for (size_t r = 0; r < rows; r++)
        sum_on_host(plain, l, &t, r, want + r * l->row_bytes);
    check_launched(c, xp_cuda_rows_sums(g, &in, &terms, out + l->shift), "sums");
    check_sums(c, l, want, out + l->shift, rows, "sums");
    void *all[] = {first, row, weight, how, out};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(want);
    free(t.first);
    free(t.row);
    free(t.weight);
    free(t.how);
}

static void compare_dots(struct check *c, const struct xp_gpu *g, const struct layer *l, const struct layer *other)
{
    uint32_t *index = random_numbers(c, other->rows, l->rows), *dev_index = device_upload(index, other->rows * 4);
    float *want = malloc(other->rows * 4 + 4), *dots = device_upload(NULL, other->rows * 4);
    const struct xp_rows in = {.data = l->device, .index = dev_index, .rows = other->rows, .dim = l->dim, .dtype = l->t};

    for (size_t r = 0; r < other->rows; r++)
        want[r] = xp_row_dot(row_of(l, index[r]), row_of(other, r), l->t, l->dim);
    check_launched(c, xp_cuda_rows_dots(g, &in, other->device, dots), "dots");
    check_device(c, want, dots, other->rows * 4, 1, "%zu products of rows of %zu", other->rows, l->dim);
    device_free(dev_index);
    device_free(dots);
    free(index);
    free(want);
}

static void compare_moe(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu), *g = &few;
    const xp_dtype t = types[check_below(c, 3)];
    const size_t dim = check_dim(c), some = dim > 1000 ? 6 : 30;
    struct layer l = make_layer(c, t, 1 + check_below(c, some), dim), other = make_layer(c, t, check_below(c, some), dim);

    compare_gather(c, g, &l, check_below(c, some));
    compare_bytes_gathered(c, g, &l, check_below(c, some));
    compare_sums(c, g, plain, &l, check_below(c, some));
    compare_dots(c, g, &l, &other);
    drop_layer(&l);
    drop_layer(&other);
}

/* ---- bytes ---- */

/* All lanes of a warp read its row's number and weight, which counts 32 times; each sector once, it does not. */
static void limit(struct check *c, const char *kernel, unsigned long least, double most, double most_once)
{
    const struct device_count n = device_count(kernel);
    const double all = (double)(n.read + n.written) / (double)least, once = (double)(n.read_once + n.written_once) / (double)least;

    printf("# %-7s %9lu bytes, %.4f x the least (at most %.2f); each sector once: %.4f x (at most %.2f), %lu launches\n", kernel, n.read + n.written, all,
           most, once, most_once, n.launches);
    c->compared++;
    c->failed += all > most || once > most_once || once < 1;
}

/* Every token to two experts, and the sum of two rows. */
static void compare_bytes(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    enum { TOKENS = 24, K = 2, DIM = 4096, ROW = DIM * 2, ROWS = TOKENS * K };
    char *data = check_rows(c, XP_BF16, ROWS, DIM);
    uint32_t first[TOKENS + 1], row[ROWS];
    float weight[ROWS];
    uint8_t how[ROWS];

    (void)plain;
    if (c->compared > 0 || !device_is_emulated()) {
        c->compared++;
        free(data);
        return;
    }
    for (uint32_t i = 0; i < ROWS; i++) {
        row[i] = i * 7 % ROWS;
        weight[i] = 0.5f;
        how[i] = i % K == K - 1 ? XP_GPU_TERM_LAST : 0;
        first[i / K] = i / K * K;
    }
    first[TOKENS] = ROWS;
    void *from = device_upload(data, ROWS * ROW), *out = device_upload(NULL, ROWS * ROW), *dev_row = device_upload(row, sizeof(row));
    void *dev_first = device_upload(first, sizeof(first)), *dev_weight = device_upload(weight, sizeof(weight)), *dev_how = device_upload(how, sizeof(how));
    const struct xp_rows in = {.data = from, .index = dev_row, .rows = ROWS, .dim = DIM, .dtype = XP_BF16};
    const struct xp_rows tokens = {.data = from, .rows = TOKENS, .dim = DIM, .dtype = XP_BF16};
    const struct xp_gpu_terms terms = {dev_first, dev_row, dev_weight, dev_how};
    device_count_begin();
    check_launched(c, xp_cuda_rows_gather(g, &in, NULL, out), "gather");
    check_launched(c, xp_cuda_rows_sums(g, &tokens, &terms, out), "sums");
    limit(c, "gather", ROWS * (2 * ROW + 4), 1.2, 1.01);
    limit(c, "sums", TOKENS * (K + 1) * ROW + ROWS * 9, 1.7, 1.01);
    void *all[] = {from, out, dev_row, dev_first, dev_weight, dev_how};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(data);
}

/* ---- timing ---- */

struct moe_bench {
    const struct xp_gpu *g;
    struct xp_rows in;
    struct xp_gpu_terms terms;
    void *out;
    int sums;
};

static void run_moe(void *arg)
{
    const struct moe_bench *b = arg;

    if (b->sums)
        xp_cuda_rows_sums(b->g, &b->in, &b->terms, b->out);
    else
        xp_cuda_rows_gather(b->g, &b->in, NULL, b->out);
}

/* Each of 8192 tokens goes to four experts, and is the sum of four rows. */
static void bench_moe(struct check *c, const struct xp_gpu *g)
{
    enum { TOKENS = 8192, K = 4, DIM = 4096 };
    const size_t row = DIM * 2;
    uint32_t *token = malloc(TOKENS * K * 4), *first = malloc((TOKENS + 1) * 4), *entry = random_numbers(c, TOKENS * K, TOKENS * K);
    float *weight = random_weights(c, TOKENS * K);
    uint8_t *how = calloc(TOKENS * K, 1);
    char *rows = malloc(TOKENS * K * row);

    for (size_t i = 0; i < TOKENS * K * row; i++)
        rows[i] = (char)(i % 251 % 64);
    for (uint32_t i = 0; i < TOKENS * K; i++) {
        token[i] = (uint32_t)check_below(c, TOKENS);
        how[i] = i % K == K - 1 ? XP_GPU_TERM_LAST : 0;
    }
    for (uint32_t i = 0; i <= TOKENS; i++)
        first[i] = i * K;
    struct moe_bench b = {.g = g, .out = device_upload(NULL, TOKENS * K * row),
                          .in = {.data = device_upload(rows, TOKENS * K * row), .index = device_upload(token, TOKENS * K * 4), .rows = TOKENS * K,
                                 .dim = DIM, .dtype = XP_BF16},
                          .terms = {device_upload(first, (TOKENS + 1) * 4), device_upload(entry, TOKENS * K * 4), device_upload(weight, TOKENS * K * 4),
                                    device_upload(how, TOKENS * K)}};
    cuda_bench_line(c, g, "gather: 8192 tokens to 4 experts, 4096", 2 * TOKENS * K * row, run_moe, &b);
    b.sums = 1;
    b.in.rows = TOKENS;
    cuda_bench_line(c, g, "sums: 8192 tokens of 4 rows, 4096", (K + 1) * TOKENS * row, run_moe, &b);
    const void *all[] = {b.out, b.in.data, b.in.index, b.terms.first, b.terms.row, b.terms.weight, b.terms.how};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free((void *)(uintptr_t)all[i]);
    free(token);
    free(first);
    free(entry);
    free(weight);
    free(how);
    free(rows);
}

const struct cuda_case cuda_moe_cases[] = {
    {"moe", compare_moe, bench_moe},
    {"moe_bytes", compare_bytes, NULL},
    {NULL, NULL, NULL},
};
