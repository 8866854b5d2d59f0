/*
 * cuda_sums.c - checkcuda: rows as they came, decoded where they are added or to all their places, against decoding and kernel row_sum
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "checkcuda.h"
#include "hash/quant_rows.h"
#include "hash/signs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};
enum { MOST_TERMS = 40, TABLES = 3 }; /* terms: more than a warp has lanes */

/* Rows as they came: some coded, of frames with mean rows or signs of their own, others as they are. */
struct arrived {
    xp_dtype t;
    size_t dim, row_bytes, rows, bases, bytes, shift; /* shift: of plain rows and sums, off 16-byte boundaries */
    int own_signs, only;                              /* only: one format for all rows; 0: any */
    uint8_t *formats, *payload;
    uint64_t *at;
    float *base;
    uint32_t *of, *signs_of, *signs;
    char *plain, *decoded;
    /* on the device */
    struct xp_gpu_coded_rows dev;
    struct xp_quantiser q;
    char *plain_memory;
};

struct term_lists {
    size_t sums;
    uint32_t *first, *row;
    float *weight;
    uint8_t *how;
    struct xp_gpu_terms dev;
};

static int has_base(const struct arrived *a, size_t r)
{
    return a->bases && a->of[r] != XP_GPU_NO_ROW;
}

static unsigned some_format(struct check *c, const struct arrived *a, size_t r)
{
    unsigned f;

    if (a->only)
        return (unsigned)a->only;
    if (check_below(c, 4) == 0)
        return XP_GPU_PLAIN;
    do
        f = (unsigned)check_below(c, XP_Q_BASE + 1);
    while (f == XP_Q_BASE && !has_base(a, r));
    return f;
}

/* What the C code makes of a row. */
static void decode_row(const struct arrived *a, const struct xp_kernels *plain, size_t r)
{
    const struct xp_quantiser q = {a->dim, a->signs + (a->own_signs ? a->signs_of[r] * xp_sign_words(a->dim) : 0)};
    const float *base = has_base(a, r) ? a->base + a->of[r] * a->dim : NULL;
    const uint8_t *in = a->payload + a->at[r];
    char *to = a->decoded + r * a->row_bytes;

    switch (a->formats[r]) {
    case XP_GPU_PLAIN: memcpy(to, a->plain + r * a->row_bytes, a->row_bytes); break;
    case XP_Q_RAW: memcpy(to, in, a->row_bytes); break;
    case XP_Q_ZERO: memset(to, 0, a->row_bytes); break;
    case XP_Q_BASE: plain->restore(base, NULL, a->dim, a->t, to); break;
    default: plain->dequantise(&q, (enum xp_qformat)a->formats[r], in, base, a->t, to);
    }
}

static void upload(struct arrived *a)
{
    char *shifted = calloc(a->shift + a->rows * a->row_bytes + 1, 1);

    memcpy(shifted + a->shift, a->plain, a->rows * a->row_bytes);
    a->plain_memory = device_upload(shifted, a->shift + a->rows * a->row_bytes);
    free(shifted);
    a->q = (struct xp_quantiser){a->dim, device_upload(a->signs, TABLES * xp_sign_words(a->dim) * 4)};
    a->dev = (struct xp_gpu_coded_rows){device_upload(a->formats, a->rows), device_upload(a->payload, a->bytes), device_upload(a->at, a->rows * 8),
                                        {a->bases ? device_upload(a->base, a->bases * a->dim * 4) : NULL, device_upload(a->of, a->rows * 4), NULL,
                                         a->own_signs ? device_upload(a->signs_of, a->rows * 4) : NULL},
                                        a->plain_memory + a->shift};
}

/* Payload of any bytes: whatever codes they are, both must read the same in them. */
static void make_rows(struct check *c, struct arrived *a, const struct xp_kernels *plain)
{
    const size_t words = xp_sign_words(a->dim);

    a->row_bytes = a->dim * xp_dtype_size(a->t);
    a->formats = malloc(a->rows);
    a->at = malloc(a->rows * 8);
    a->of = malloc(a->rows * 4);
    a->signs_of = malloc(a->rows * 4);
    a->signs = malloc(TABLES * words * 4);
    a->base = malloc((a->bases * a->dim + 1) * 4);
    for (size_t i = 0; i < TABLES; i++)
        xp_signs_fill(check_random(c), XP_SIGNS_QUANTISE, a->dim, a->signs + i * words);
    for (size_t i = 0; i < a->bases * a->dim; i++)
        a->base[i] = (float)check_gauss(c);
    a->bytes = check_below(c, 16);
    for (size_t r = 0; r < a->rows; r++) {
        a->of[r] = a->bases && check_below(c, 3) ? (uint32_t)check_below(c, a->bases) : XP_GPU_NO_ROW;
        a->signs_of[r] = (uint32_t)check_below(c, TABLES);
        a->formats[r] = (uint8_t)some_format(c, a, r);
        a->at[r] = a->bytes;
        a->bytes += a->formats[r] == XP_Q_RAW ? a->row_bytes : a->formats[r] == XP_GPU_PLAIN ? 0 : xp_qrow_bytes((enum xp_qformat)a->formats[r], a->dim);
    }
    a->payload = malloc(a->bytes + 1);
    for (size_t i = 0; i < a->bytes; i++)
        a->payload[i] = (uint8_t)check_random(c);
    a->plain = check_rows(c, a->t, a->rows, a->dim);
    a->decoded = malloc(a->rows * a->row_bytes + 1);
    for (size_t r = 0; r < a->rows; r++)
        decode_row(a, plain, r);
    upload(a);
}

static void drop_rows(struct arrived *a)
{
    const void *device[] = {a->plain_memory, a->q.signs, a->dev.formats, a->dev.bytes, a->dev.at, a->dev.bases.rows, a->dev.bases.of, a->dev.bases.signs_of};
    void *host[] = {a->formats, a->at, a->of, a->signs_of, a->signs, a->base, a->payload, a->plain, a->decoded};

    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        device_free((void *)(uintptr_t)device[i]);
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
}

/* Terms of any rows; most sums have few, some many, some none. */
static void make_terms(struct check *c, struct term_lists *l, size_t rows, int weighted)
{
    uint32_t n = 0;

    l->first = malloc((l->sums + 1) * 4);
    l->row = malloc((l->sums * MOST_TERMS + 1) * 4);
    l->weight = malloc((l->sums * MOST_TERMS + 1) * 4);
    l->how = malloc(l->sums * MOST_TERMS + 1);
    for (size_t s = 0; s < l->sums; s++) {
        const uint32_t many = (uint32_t)check_below(c, check_below(c, 6) ? 5 : MOST_TERMS + 1);
        l->first[s] = n;
        for (uint32_t k = 0; k < many; k++, n++) {
            l->row[n] = (uint32_t)check_below(c, rows);
            l->weight[n] = check_below(c, 6) ? (float)check_gauss(c) : 0.0f;
            l->how[n] = k + 1 == many || check_below(c, 3) == 0 ? XP_GPU_TERM_LAST : 0;
        }
    }
    l->first[l->sums] = n;
    l->dev = (struct xp_gpu_terms){device_upload(l->first, (l->sums + 1) * 4), device_upload(l->row, n * 4),
                                   weighted ? device_upload(l->weight, n * 4) : NULL, device_upload(l->how, n)};
}

static void drop_terms(struct term_lists *l)
{
    const void *device[] = {l->dev.first, l->dev.row, l->dev.weight, l->dev.how};
    void *host[] = {l->first, l->row, l->weight, l->how};

    for (size_t i = 0; i < 4; i++) {
        device_free((void *)(uintptr_t)device[i]);
        free(host[i]);
    }
}

static char *sums_on_host(const struct arrived *a, const struct term_lists *l, const struct xp_kernels *plain)
{
    char *want = malloc(l->sums * a->row_bytes + 1);
    struct xp_sum_term term[MOST_TERMS];

    for (size_t s = 0; s < l->sums; s++) {
        const uint32_t begin = l->first[s], n = l->first[s + 1] - begin;
        for (uint32_t i = 0; i < n; i++)
            term[i] = (struct xp_sum_term){a->decoded + l->row[begin + i] * a->row_bytes, l->dev.weight ? l->weight[begin + i] : 1, l->how[begin + i] & XP_GPU_TERM_LAST};
        plain->row_sum(term, n, a->t, a->dim, want + s * a->row_bytes);
    }
    return want;
}

/* Any NaN equals any other. */
static void check_values(struct check *c, const struct arrived *a, const char *want, const char *device, size_t rows)
{
    const size_t n = rows * a->dim, size = xp_dtype_size(a->t);
    char *got = malloc(n * size + 1);

    device_download(got, device, n * size);
    for (size_t i = 0; i < n; i++) {
        const float x = xp_load_f32(want, a->t, i), y = xp_load_f32(got, a->t, i);
        if (x != x && y != y)
            memcpy(got + i * size, want + i * size, size);
    }
    check_same(c, want, got, n * size, "%zu rows from %zu %s rows of %zu, %zu means, own signs %d", rows, a->rows, check_dtype_name(a->t), a->dim, a->bases, a->own_signs);
    free(got);
}

static void compare_decode_sums(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu), *g = &few;

    for (int i = 0; i < 2; i++) {
        struct arrived a = {.t = types[check_below(c, 3)], .dim = check_dim(c), .bases = check_below(c, 3), .own_signs = (int)check_below(c, 2)};
        struct term_lists l = {.sums = check_below(c, a.dim > 1000 ? 4 : 20)};
        a.rows = 1 + check_below(c, a.dim > 1000 ? 6 : 30);
        a.shift = check_below(c, 8) ? 0 : xp_dtype_size(a.t);
        make_rows(c, &a, plain);
        make_terms(c, &l, a.rows, (int)check_below(c, 3));
        char *want = sums_on_host(&a, &l, plain), *out = device_upload(NULL, a.shift + l.sums * a.row_bytes);
        check_launched(c, xp_cuda_decode_sums(g, &a.q, &a.dev, a.t, &l.dev, l.sums, out + a.shift), "decode sums");
        check_values(c, &a, want, out + a.shift, l.sums);
        device_free(out);
        free(want);
        drop_terms(&l);
        drop_rows(&a);
    }
}

/* ---- rows to their places ---- */

/* Every place of out is that of one row, in any order; some rows have none. */
struct place_lists {
    size_t places;
    uint32_t *first, *place;
    float *weight;
    struct xp_gpu_places dev;
};

static void make_places(struct check *c, struct place_lists *l, size_t rows, int weighted)
{
    l->first = malloc((rows + 1) * 4);
    l->places = 0;
    for (size_t r = 0; r < rows; r++) {
        l->first[r] = (uint32_t)l->places;
        l->places += check_below(c, 4);
    }
    l->first[rows] = (uint32_t)l->places;
    l->place = malloc(l->places * 4 + 4);
    l->weight = malloc(l->places * 4 + 4);
    for (uint32_t i = 0; i < l->places; i++) {
        const size_t other = check_below(c, i + 1);
        l->place[i] = l->place[other];
        l->place[other] = i;
        l->weight[i] = check_below(c, 6) ? (float)check_gauss(c) : 0.0f;
    }
    l->dev = (struct xp_gpu_places){device_upload(l->first, (rows + 1) * 4), device_upload(l->place, l->places * 4),
                                    weighted ? device_upload(l->weight, l->places * 4) : NULL};
}

static char *spread_on_host(const struct arrived *a, const struct place_lists *l)
{
    char *want = malloc(l->places * a->row_bytes + 1);

    for (size_t r = 0; r < a->rows; r++)
        for (uint32_t p = l->first[r]; p < l->first[r + 1]; p++) {
            char *to = want + l->place[p] * a->row_bytes;
            memcpy(to, a->decoded + r * a->row_bytes, a->row_bytes);
            for (size_t i = 0; l->dev.weight && i < a->dim; i++)
                xp_store_f32(to, a->t, i, l->weight[p] * xp_load_f32(to, a->t, i));
        }
    return want;
}

static void compare_spread(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu), *g = &few;

    for (int i = 0; i < 2; i++) {
        struct arrived a = {.t = types[check_below(c, 3)], .dim = check_dim(c), .bases = check_below(c, 3), .own_signs = (int)check_below(c, 2)};
        struct place_lists l;
        a.rows = 1 + check_below(c, a.dim > 1000 ? 6 : 30);
        a.shift = check_below(c, 8) ? 0 : xp_dtype_size(a.t);
        make_rows(c, &a, plain);
        make_places(c, &l, a.rows, (int)check_below(c, 2));
        char *want = spread_on_host(&a, &l), *out = device_upload(NULL, a.shift + l.places * a.row_bytes);
        check_launched(c, xp_cuda_row_spread(g, &a.q, &a.dev, a.t, a.rows, &l.dev, out + a.shift), "decode");
        check_values(c, &a, want, out + a.shift, l.places);
        const void *device[] = {out, l.dev.first, l.dev.place, l.dev.weight};
        for (size_t k = 0; k < sizeof device / sizeof *device; k++)
            device_free((void *)(uintptr_t)device[k]);
        free(want);
        free(l.first);
        free(l.place);
        free(l.weight);
        drop_rows(&a);
    }
}

/* ---- bytes and time ---- */

/* Sums of K rows each; every row is a term once. only: their format. */
static void open_even(struct check *c, struct arrived *a, struct term_lists *l, const struct xp_kernels *plain, size_t sums, uint32_t k, int only)
{
    *a = (struct arrived){.t = XP_BF16, .dim = 4096, .rows = sums * k, .only = only};
    l->sums = sums;
    make_rows(c, a, plain);
    l->first = malloc((sums + 1) * 4);
    l->row = malloc(sums * k * 4);
    l->weight = malloc(sums * k * 4);
    l->how = malloc(sums * k);
    for (uint32_t i = 0; i < sums * k; i++) {
        l->first[i / k] = i / k * k;
        l->row[i] = (uint32_t)(i * (size_t)7 % (sums * k));
        l->weight[i] = 0.5f;
        l->how[i] = i % k == k - 1 ? XP_GPU_TERM_LAST : 0;
    }
    l->first[sums] = (uint32_t)sums * k;
    l->dev = (struct xp_gpu_terms){device_upload(l->first, (sums + 1) * 4), device_upload(l->row, sums * k * 4), device_upload(l->weight, sums * k * 4),
                                   device_upload(l->how, sums * k)};
}

/* Decoding and summing in two launches moves the decoded rows twice more. What is known of terms is read for each 512 values. */
static void compare_bytes(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    enum { SUMS = 24, K = 2 };
    struct arrived a;
    struct term_lists l;

    if (c->compared++ > 0 || !device_is_emulated())
        return;
    open_even(c, &a, &l, plain, SUMS, K, XP_Q_INT4);
    char *rows = device_upload(NULL, SUMS * K * a.row_bytes), *out = device_upload(NULL, SUMS * a.row_bytes);
    const struct xp_rows tokens = {.data = rows, .rows = SUMS, .dim = a.dim, .dtype = a.t};
    const unsigned long least = SUMS * (K * (xp_qrow_bytes(XP_Q_INT4, a.dim) + 26) + a.row_bytes + 4);
    device_count_begin();
    check_launched(c, xp_cuda_row_decode(g, &a.q, a.dev.formats, XP_Q_RAW, a.dev.bytes, a.dev.at, 0, &a.dev.bases, a.t, SUMS * K, rows), "decode");
    check_launched(c, xp_cuda_rows_sums(g, &tokens, &l.dev, out), "sums");
    const struct device_count two = device_count(NULL);
    device_count_begin();
    check_launched(c, xp_cuda_decode_sums(g, &a.q, &a.dev, a.t, &l.dev, SUMS, out), "decode sums");
    const struct device_count one = device_count("decode sums");
    const double all = (double)(one.read + one.written) / (double)least, once = (double)(one.read_once + one.written_once) / (double)least;
    printf("# decode sums %lu bytes, %.4f x the least (at most 1.15); each sector once: %.4f x (at most 1.05); decode and sums: %lu bytes, %lu launches\n",
           one.read + one.written, all, once, two.read + two.written, two.launches);
    c->failed += all > 1.15 || once > 1.05 || once < 1 || one.launches != 1;
    device_free(rows);
    device_free(out);
    drop_terms(&l);
    drop_rows(&a);
}

struct sums_bench {
    const struct xp_gpu *g;
    struct arrived a;
    struct term_lists l;
    char *out;
};

static void run_sums(void *arg)
{
    const struct sums_bench *b = arg;

    xp_cuda_decode_sums(b->g, &b->a.q, &b->a.dev, b->a.t, &b->l.dev, b->l.sums, b->out);
}

static void bench_sums(struct check *c, const struct xp_gpu *g)
{
    struct xp_kernels plain;
    struct sums_bench b = {.g = g};

    xp_kernels_init(&plain, XP_ISA_BEST);
    open_even(c, &b.a, &b.l, &plain, 8192, 2, XP_Q_INT4);
    b.out = device_upload(NULL, 8192 * b.a.row_bytes);
    cuda_bench_line(c, g, "decode sums: 8192 of 2 rows of 4 bits, 4096", 8192 * (2 * xp_qrow_bytes(XP_Q_INT4, 4096) + b.a.row_bytes), run_sums, &b);
    device_free(b.out);
    drop_terms(&b.l);
    drop_rows(&b.a);
}

const struct cuda_case cuda_sums_cases[] = {
    {"decode_sums", compare_decode_sums, bench_sums},
    {"spread", compare_spread, NULL},
    {"decode_sums_bytes", compare_bytes, NULL},
    {NULL, NULL, NULL},
};
