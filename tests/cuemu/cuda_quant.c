/*
 * cuda_quant.c - checkcuda: quantised rows, with and without the check of eps, and back
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "checkcuda.h"
#include "hash/quant_rows.h"
#include "hash/signs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};
static const enum xp_qformat formats[] = {XP_Q_INT2,  XP_Q_INT25, XP_Q_INT3,  XP_Q_INT35, XP_Q_INT4,  XP_Q_INT45, XP_Q_INT5,
                                          XP_Q_INT55, XP_Q_INT6,  XP_Q_INT65, XP_Q_INT7,  XP_Q_INT75, XP_Q_INT8,  XP_Q_FP8};
#define FORMATS (sizeof(formats) / sizeof(formats[0]))

static size_t round16(size_t n)
{
    return (n + 15) / 16 * 16;
}

static float *random_floats(struct check *c, size_t n)
{
    float *x = malloc((n + 1) * sizeof(*x));

    for (size_t i = 0; i < n; i++)
        x[i] = (float)check_gauss(c);
    return x;
}

static struct xp_quantiser make_signs(struct check *c, size_t dim)
{
    struct xp_quantiser q = {.dim = dim, .signs = malloc(xp_sign_words(dim) * 4)};

    xp_signs_fill(check_random(c), XP_SIGNS_QUANTISE, dim, q.signs);
    return q;
}

/* ---- quantise ---- */

static void compare_quantise_rows(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain, enum xp_qformat f, size_t dim, size_t rows)
{
    const size_t bytes = xp_qrow_bytes(f, dim), stride = round16(bytes) + 16 * check_below(c, 2);
    struct xp_quantiser q = make_signs(c, dim), dev = q;
    float *res = malloc((rows * dim + 1) * sizeof(*res));
    uint8_t *want = calloc(stride + 1, 1);

    for (size_t r = 0; r < rows; r++) {
        const enum check_fill fill = check_below(c, 2) ? FILL_GAUSS : (enum check_fill)check_below(c, FILL_NAN);
        check_fill_row(c, fill, XP_F32, dim, res + r * dim);
    }
    void *dev_res = device_upload(res, rows * dim * 4);
    uint8_t *out = device_upload(NULL, rows * stride);
    dev.signs = device_upload(q.signs, xp_sign_words(dim) * 4);
    check_launched(c, xp_cuda_quantise(g, &dev, f, dev_res, rows, out, stride), "quantise");
    for (size_t r = 0; r < rows; r++) {
        plain->quantise(&q, f, res + r * dim, want);
        check_device(c, want, out + r * stride, bytes, 0, "row %zu of %zu, format %d", r, dim, (int)f);
    }
    device_free(dev_res);
    device_free(out);
    device_free(dev.signs);
    free(q.signs);
    free(res);
    free(want);
}

static void compare_quantise(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu), *g = &few;

    for (int i = 0; i < 4; i++)
        compare_quantise_rows(c, g, plain, formats[check_below(c, FORMATS)], check_dim(c), check_below(c, 8));
}

/* ---- encode ---- */

/* A batch of rows, its coder, and what rows are coded against. */
struct batch {
    struct xp_coder *coder;
    struct xp_row_plan plan;
    size_t rows, dim, row_bytes, stride, kinds;
    xp_dtype t;
    char *data;
    float *mean, *bases;
    uint32_t *of;
    /* Device. */
    char *dev_data;
    float *dev_mean, *dev_bases;
    uint32_t *dev_of;
    struct xp_quantiser q;
    struct xp_row_plan dev_plan;
    struct xp_gpu_bases base;
};

static const float *base_of(const struct batch *b, size_t r)
{
    return b->kinds == 0 ? NULL : b->of ? b->bases + b->of[r] * b->dim : b->bases;
}

static void open_batch(struct batch *b, struct check *c, xp_dtype t, size_t dim, size_t rows, double eps, enum check_fill only)
{
    struct xp_coder_desc d = {.dtype = t, .dim = dim, .mode = XP_MODE_BOUNDED, .eps = eps, .isa = XP_ISA_C, .seed = check_random(c)};

    memset(b, 0, sizeof(*b));
    b->rows = rows;
    b->dim = dim;
    b->t = t;
    b->row_bytes = dim * xp_dtype_size(t);
    b->stride = round16(b->row_bytes);
    if (xp_codec_parse("quant", &d.choice) || xp_coder_create(&b->coder, &d) || xp_coder_reserve(b->coder, 1)) {
        fprintf(stderr, "checkcuda: no coder\n");
        exit(2);
    }
    b->data = only < FILL_COUNT ? calloc(rows * b->row_bytes + 1, 1) : check_rows(c, t, rows, dim);
    for (size_t r = 0; r < rows && only < FILL_COUNT; r++)
        check_fill_row(c, only, t, dim, b->data + r * b->row_bytes);
    b->mean = random_floats(c, dim);
    for (size_t i = 0; i < dim; i++)
        b->mean[i] *= 0.3f;
}

/* kinds 0: no base; 1: the mean row, or another; more: one of as many for each row. */
static void choose_bases(struct batch *b, struct check *c, size_t kinds, int refers_to_mean)
{
    b->kinds = kinds;
    b->bases = kinds == 1 && check_below(c, 2) ? b->mean : random_floats(c, kinds * b->dim);
    if (kinds > 1) {
        b->of = malloc((b->rows + 1) * 4);
        for (size_t r = 0; r < b->rows; r++) {
            b->of[r] = (uint32_t)check_below(c, kinds);
            if (check_below(c, 3) == 0) /* near its base */
                for (size_t i = 0; i < b->dim; i++)
                    xp_store_f32(b->data + r * b->row_bytes, b->t, i, b->bases[b->of[r] * b->dim + i] * (check_below(c, 2) ? 1.0f : 1.01f));
        }
    }
    xp_row_plan_init(&b->plan, b->coder, b->coder->formats, refers_to_mean ? b->mean : NULL);
    b->q = b->coder->quantiser;
    b->dev_data = device_upload(b->data, b->rows * b->row_bytes);
    b->dev_mean = device_upload(b->mean, b->dim * 4);
    b->dev_bases = b->bases == b->mean ? b->dev_mean : device_upload(b->bases, kinds * b->dim * 4);
    b->dev_of = b->of ? device_upload(b->of, b->rows * 4) : NULL;
    b->q.signs = device_upload(b->coder->quantiser.signs, xp_sign_words(b->dim) * 4);
    b->dev_plan = b->plan;
    b->dev_plan.reference = b->plan.reference ? b->dev_mean : NULL;
    b->base = (struct xp_gpu_bases){kinds ? b->dev_bases : NULL, b->dev_of, NULL, NULL};
}

static void close_batch(struct batch *b)
{
    device_free(b->dev_data);
    device_free(b->dev_mean);
    if (b->bases != b->mean)
        device_free(b->dev_bases);
    device_free(b->dev_of);
    device_free(b->q.signs);
    if (b->bases != b->mean)
        free(b->bases);
    free(b->of);
    free(b->mean);
    free(b->data);
    xp_coder_destroy(b->coder);
}

/* Codes the batch both ways; then decodes what the C code made, packed back to back, from an odd address. */
static void compare_batch(struct check *c, const struct xp_gpu *g, struct batch *b, const char *what)
{
    uint8_t *want = calloc(b->rows * b->stride + 64, 1), *want_formats = malloc(b->rows + 1), *packed = calloc(b->rows * b->row_bytes + 64, 1);
    uint32_t *want_lengths = malloc((b->rows + 1) * 4);
    uint64_t *at = malloc((b->rows + 1) * 8);
    char *back = calloc(b->rows * b->row_bytes + 1, 1);
    size_t end = check_below(c, 16);
    xp_codec_stats st = {0};

    for (size_t r = 0; r < b->rows; r++) {
        uint8_t *out = want + r * b->stride;
        want_lengths[r] = (uint32_t)xp_row_encode(b->coder, &b->plan, b->data + r * b->row_bytes, NULL, base_of(b, r), out, b->row_bytes, &want_formats[r], &st);
        xp_row_decode(b->coder, &b->plan, want_formats[r], out, base_of(b, r), back + r * b->row_bytes);
        memcpy(packed + end, out, want_lengths[r]);
        at[r] = end;
        end += want_lengths[r];
    }
    uint8_t *slots = device_upload(NULL, b->rows * b->stride), *dev_formats = device_upload(NULL, b->rows);
    uint32_t *lengths = device_upload(NULL, b->rows * 4);
    float *errors = device_upload(NULL, b->rows * 4);
    const struct xp_rows in = {.data = b->dev_data, .rows = b->rows, .dim = b->dim, .dtype = b->t};
    check_launched(c, xp_cuda_row_encode(g, &b->dev_plan, &b->q, &in, &b->base, slots, b->stride, dev_formats, lengths, errors), "encode");
    check_device(c, want_formats, dev_formats, b->rows, 0, "formats, %s", what);
    check_device(c, want_lengths, lengths, b->rows * 4, 0, "lengths, %s", what);
    for (size_t r = 0; r < b->rows; r++)
        check_device(c, want + r * b->stride, slots + r * b->stride, want_lengths[r], 0, "row %zu, format %u, %s", r, want_formats[r], what);

    void *dev_packed = device_upload(packed, end), *dev_at = device_upload(at, b->rows * 8), *out = device_upload(NULL, b->rows * b->row_bytes);
    void *known = device_upload(want_formats, b->rows);
    check_launched(c, xp_cuda_row_decode(g, &b->q, known, XP_Q_RAW, dev_packed, dev_at, 0, &b->base, b->t, b->rows, out), "decode");
    check_device(c, back, out, b->rows * b->row_bytes, 0, "decoded rows, %s", what);

    void *all[] = {slots, dev_formats, lengths, errors, dev_packed, dev_at, out, known};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(want);
    free(want_formats);
    free(want_lengths);
    free(packed);
    free(at);
    free(back);
}

static void compare_encode(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu), *g = &few;
    const double eps = 0.5 * exp(-(double)check_below(c, 800) / 100);
    const size_t dim = check_below(c, 8) ? check_dim(c) : check_below(c, 2) ? 4096 : 7168;
    const size_t rows = dim < 1024 ? check_below(c, 20) : 1 + check_below(c, 2), kinds = check_below(c, 3);
    const int refers = check_below(c, 2) > 0;
    struct batch b;
    char what[120];

    (void)plain;
    open_batch(&b, c, types[check_below(c, 3)], dim, rows, eps, check_below(c, 4) ? FILL_COUNT : FILL_GAUSS);
    choose_bases(&b, c, kinds == 2 ? 3 : kinds, refers);
    snprintf(what, sizeof(what), "%zu %s rows of %zu, eps %g, %zu bases%s", rows, check_dtype_name(b.t), dim, b.coder->desc.eps, b.kinds, refers ? ", mean" : "");
    compare_batch(c, g, &b, what);
    close_batch(&b);
}

/* ---- dequantise: any bytes, one format ---- */

static void compare_dequantise(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu), *g = &few;

    for (int i = 0; i < 3; i++) {
        const enum xp_qformat f = formats[check_below(c, FORMATS)];
        const xp_dtype t = types[check_below(c, 3)];
        const size_t dim = check_dim(c), rows = 1 + check_below(c, 8), bytes = xp_qrow_bytes(f, dim), row_bytes = dim * xp_dtype_size(t);
        const size_t stride = bytes + check_below(c, 3);
        struct xp_quantiser q = make_signs(c, dim), dev = q;
        uint8_t *in = malloc(rows * stride);
        char *want = malloc(rows * row_bytes);
        float *base = random_floats(c, dim);
        for (size_t k = 0; k < rows * stride; k++)
            in[k] = (uint8_t)check_random(c);
        const int has_base = check_below(c, 2) > 0;
        for (size_t r = 0; r < rows; r++)
            plain->dequantise(&q, f, in + r * stride, has_base ? base : NULL, t, want + r * row_bytes);
        void *dev_in = device_upload(in, rows * stride), *out = device_upload(NULL, rows * row_bytes), *dev_base = device_upload(base, dim * 4);
        dev.signs = device_upload(q.signs, xp_sign_words(dim) * 4);
        const struct xp_gpu_bases bases = {has_base ? dev_base : NULL, NULL, NULL, NULL};
        check_launched(c, xp_cuda_row_decode(g, &dev, NULL, f, dev_in, NULL, stride, &bases, t, rows, out), "dequantise");
        check_device(c, want, out, rows * row_bytes, 0, "%zu %s rows of %zu, format %d%s", rows, check_dtype_name(t), dim, (int)f, has_base ? ", base" : "");
        device_free(dev_in);
        device_free(out);
        device_free(dev_base);
        device_free(dev.signs);
        free(q.signs);
        free(in);
        free(want);
        free(base);
    }
}

/* ---- timing: rows against the mean row, there, together, and back ---- */

struct quant_bench {
    const struct xp_gpu *g;
    struct batch *b;
    uint8_t *slots, *formats, *payload;
    uint32_t *lengths;
    float *errors;
    uint64_t *at;
    void *scratch, *out;
};

static void run_encode(void *arg)
{
    const struct quant_bench *q = arg;
    const struct xp_rows in = {.data = q->b->dev_data, .rows = q->b->rows, .dim = q->b->dim, .dtype = q->b->t};

    xp_cuda_row_encode(q->g, &q->b->dev_plan, &q->b->q, &in, &q->b->base, q->slots, q->b->stride, q->formats, q->lengths, q->errors);
}

static void run_pack(void *arg)
{
    const struct quant_bench *q = arg;

    xp_cuda_pack(q->g, q->slots, q->b->stride, q->lengths, NULL, q->b->rows, q->scratch, q->at, q->payload);
}

static void run_decode(void *arg)
{
    const struct quant_bench *q = arg;

    xp_cuda_row_decode(q->g, &q->b->q, q->formats, XP_Q_RAW, q->payload, q->at, 0, &q->b->base, q->b->t, q->b->rows, q->out);
}

static void bench_batch(struct check *c, const struct xp_gpu *g, size_t dim, double eps)
{
    const size_t rows = ((size_t)1 << 27) / dim, bytes = rows * dim * 2;
    struct batch b;
    char shape[80];
    uint64_t total;

    open_batch(&b, c, XP_BF16, dim, 64, eps, FILL_GAUSS);
    b.data = realloc(b.data, bytes); /* the same 64 rows again and again */
    for (size_t r = 64; r < rows; r++)
        memcpy(b.data + r * b.row_bytes, b.data + r % 64 * b.row_bytes, b.row_bytes);
    b.rows = rows;
    choose_bases(&b, c, 1, 0);
    void *zero = calloc(xp_cuda_pack_scratch(g), 1);
    struct quant_bench q = {g, &b, device_upload(NULL, bytes), device_upload(NULL, rows), device_upload(NULL, bytes), device_upload(NULL, rows * 4),
                            device_upload(NULL, rows * 4), device_upload(NULL, rows * 8 + 8), device_upload(zero, xp_cuda_pack_scratch(g)),
                            device_upload(NULL, bytes)};
    run_encode(&q);
    run_pack(&q);
    device_download(&total, q.at + rows, sizeof(total));
    snprintf(shape, sizeof(shape), "%zu x %zu bf16, %.2f bits", rows, dim, 8.0 * (double)total / (double)(rows * dim));
    c->kernel = "encode";
    cuda_bench_line(c, g, shape, bytes + total, run_encode, &q);
    c->kernel = "pack";
    cuda_bench_line(c, g, shape, 2 * total, run_pack, &q);
    c->kernel = "decode";
    cuda_bench_line(c, g, shape, bytes + total, run_decode, &q);
    void *all[] = {q.slots, q.formats, q.payload, q.lengths, q.errors, q.at, q.scratch, q.out};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(zero);
    close_batch(&b);
}

static void bench_quant(struct check *c, const struct xp_gpu *g)
{
    bench_batch(c, g, 4096, 0.2);
    bench_batch(c, g, 4096, 0.05);
    bench_batch(c, g, 7168, 0.05);
}

const struct cuda_case cuda_quant_cases[] = {
    {"quantise", compare_quantise, NULL},
    {"dequantise", compare_dequantise, NULL},
    {"encode", compare_encode, bench_quant},
    {NULL, NULL, NULL},
};
