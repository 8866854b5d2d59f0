/*
 * cuda_frames.c - whole frames of codec quant: means, encode and pack on the device, put together, are the bytes of xp_coder_encode
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkcuda.h"
#include "hash/half.h"
#include "hash/quant_frame.h"

static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};
enum { MOST_FRAMES = 5, MOST_ROWS = 5000 };

/* A batch: its frames lie in it one after another, its rows are some of those in memory, in an order of their own. */
struct frames {
    struct xp_coder *coder;
    size_t count, rows, dim, row_bytes, stride;
    xp_dtype t;
    char *data;
    uint32_t index[MOST_ROWS + 12 * MOST_FRAMES];
    struct xp_gpu_frame frame[MOST_FRAMES];
};

/* Rows that have something in common, more or less or not at all, so that some means pay and others do not, however many rows there are; a few of
 * any kind. */
static void make_rows(struct check *c, struct frames *f)
{
    const size_t most = f->dim < 20 ? MOST_ROWS : f->dim < 100 ? 1200 : f->dim < 1000 ? 60 : 8;
    const double common = check_below(c, 3) ? exp(-(double)check_below(c, 500) / 100) : 0;
    f->rows = 0;
    for (size_t i = 0; i < f->count; i++) {
        const uint32_t n = 1 + (uint32_t)check_below(c, i == 0 ? most : 12);
        f->frame[i] = (struct xp_gpu_frame){(uint32_t)f->rows, n};
        f->rows += n;
    }
    f->data = check_rows(c, f->t, f->rows, f->dim);
    for (size_t r = 0; r < f->rows; r++)
        for (size_t k = 0, some = check_below(c, 4); k < f->dim && some; k++)
            xp_store_f32(f->data + r * f->row_bytes, f->t, k, (float)(common * sin((double)k) + (double)check_below(c, 2000) / 1000 - 1));
    for (size_t r = 0; r < f->rows; r++)
        f->index[r] = (uint32_t)(f->rows - 1 - r);
}

/* What xp_coder_encode makes of frame i. */
static size_t plain_frame(struct frames *f, size_t i, uint8_t *out, size_t cap)
{
    const struct xp_rows in = {.data = f->data, .index = f->index + f->frame[i].first, .rows = f->frame[i].rows, .dim = f->dim, .dtype = f->t};
    size_t len = 0;
    if (xp_coder_encode(f->coder, &in, out, cap, &len, NULL) != XP_OK)
        exit(2);
    return len;
}

/* What the device made of it, put together here. */
static size_t device_frame(struct frames *f, size_t i, uint64_t seed, const uint8_t *pays, const uint8_t *typed, const uint8_t *formats, const uint64_t *at,
                           const uint8_t *payload, uint8_t *out)
{
    const size_t first = f->frame[i].first, n = f->frame[i].rows, bytes = at[first + n] - at[first];
    if (!xp_quant_pays(f->coder, n, pays[i], bytes)) {
        for (size_t r = 0; r < n; r++)
            memcpy(out + XP_FRAME_HEADER + r * f->row_bytes, f->data + f->index[first + r] * f->row_bytes, f->row_bytes);
        return xp_raw_close(f->coder, out, seed, n);
    }
    memcpy(out + xp_quant_head_bytes(f->coder, n, pays[i]), payload + at[first], bytes);
    return xp_quant_close(f->coder, out, seed, pays[i] ? typed + i * f->row_bytes : NULL, formats + first, n, bytes);
}

static void *zeroed(size_t bytes)
{
    void *zeros = calloc(bytes, 1), *device = device_upload(zeros, bytes);
    free(zeros);
    return device;
}

static void *fetched(const void *device, size_t bytes)
{
    void *host = malloc(bytes + 1);
    device_download(host, device, bytes);
    return host;
}

/* Means of frames without one are not written, and so cannot be fetched together. */
static uint8_t *fetched_means(const struct frames *f, const uint8_t *pays, const uint8_t *typed)
{
    uint8_t *host = calloc(f->count, f->row_bytes);
    for (size_t i = 0; i < f->count; i++)
        if (pays[i])
            device_download(host + i * f->row_bytes, typed + i * f->row_bytes, f->row_bytes);
    return host;
}

/* The seeds of frames and their signs are those of the C code. */
static uint64_t *fetched_seeds(struct check *c, const struct frames *f, const struct xp_gpu_frame_signs *signs)
{
    const size_t words = xp_sign_words(f->dim);
    uint64_t *seeds = fetched(signs->seeds, f->count * 8);
    uint32_t *want = malloc(words * 4);
    for (size_t i = 0; i < f->count; i++) {
        xp_signs_fill(seeds[i], XP_SIGNS_QUANTISE, f->dim, want);
        check_device(c, want, signs->signs + i * words, words * 4, 0, "signs of frame %zu", i);
    }
    free(want);
    return seeds;
}

static void compare_on_device(struct check *c, const struct xp_gpu *g, struct frames *f, const char *what)
{
    struct xp_row_plan plan;
    const struct xp_rows in = {.data = device_upload(f->data, f->rows * f->row_bytes), .index = device_upload(f->index, f->rows * 4), .rows = f->rows,
                               .dim = f->dim, .dtype = f->t};
    struct xp_gpu_frame *table = device_upload(f->frame, f->count * sizeof *table);
    struct xp_gpu_means m = {device_upload(NULL, f->count * f->dim * 4), device_upload(NULL, f->count * f->row_bytes), device_upload(NULL, f->count),
                             device_upload(NULL, f->rows * 4), f->coder->desc.eps_ref == XP_EPS_REF_ROW ? NULL : device_upload(NULL, f->rows * 4)};
    struct xp_quantiser q = {f->dim, device_upload(f->coder->quantiser.signs, xp_sign_words(f->dim) * 4)};
    const int dithers = f->coder->desc.dither;
    const struct xp_gpu_frame_signs signs = {device_upload(NULL, f->rows * 8), device_upload(NULL, f->count * 8), device_upload(NULL, f->rows * 4),
                                             device_upload(NULL, f->count * xp_sign_words(f->dim) * 4)};
    const struct xp_quantiser frame_q = {f->dim, dithers ? signs.signs : q.signs};
    const struct xp_gpu_bases bases = {m.rows, m.base_of, m.reference_of, dithers ? signs.of : NULL};
    void *slots = device_upload(NULL, f->rows * f->stride), *formats = device_upload(NULL, f->rows), *lengths = device_upload(NULL, f->rows * 4);
    void *errors = device_upload(NULL, f->rows * 4), *places = zeroed(xp_cuda_pack_scratch(g)), *at = device_upload(NULL, (f->rows + 1) * 8);
    void *payload = device_upload(NULL, f->rows * f->stride);

    xp_row_plan_init(&plan, f->coder, f->coder->formats, NULL);
    check_launched(c, xp_cuda_means(g, &in, table, f->count, &m), "means");
    if (dithers)
        check_launched(c, xp_cuda_frame_signs(g, &in, table, f->count, f->coder->desc.seed, &signs), "frame signs");
    check_launched(c, xp_cuda_row_encode(g, &plan, &frame_q, &in, &bases, slots, f->stride, formats, lengths, errors), "encode");
    check_launched(c, xp_cuda_pack(g, slots, f->stride, lengths, NULL, f->rows, places, at, payload), "pack");

    uint8_t *got_pays = fetched(m.pays, f->count), *got_formats = fetched(formats, f->rows), *got_typed = fetched_means(f, got_pays, m.typed);
    uint64_t *got_at = fetched(at, (f->rows + 1) * 8);
    uint8_t *got_payload = fetched(payload, got_at[f->rows]);
    uint64_t *seeds = dithers ? fetched_seeds(c, f, &signs) : NULL;
    for (size_t i = 0; i < f->count; i++) {
        const size_t cap = xp_frame_bound(f->t, f->dim, f->frame[i].rows);
        uint8_t *want = calloc(1, cap), *got = calloc(1, cap);
        const size_t want_len = plain_frame(f, i, want, cap), got_len = device_frame(f, i, dithers ? seeds[i] : f->coder->desc.seed, got_pays, got_typed, got_formats, got_at, got_payload, got);
        check_same(c, &want_len, &got_len, sizeof want_len, "length of frame %zu of %u rows, %s", i, f->frame[i].rows, what);
        check_same(c, want, got, want_len < got_len ? want_len : got_len, "frame %zu of %u rows, %s", i, f->frame[i].rows, what);
        free(want);
        free(got);
    }
    void *device[] = {(void *)(uintptr_t)in.data, (void *)(uintptr_t)in.index, table, m.rows, m.typed, m.pays, m.base_of, m.reference_of, q.signs, slots, formats,
                      lengths, errors, places, at, payload, signs.sums, signs.seeds, signs.of, signs.signs};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        device_free(device[i]);
    void *host[] = {seeds, got_pays, got_formats, got_typed, got_at, got_payload};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
}

static void compare_frames(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu);
    struct frames f = {.count = 1 + check_below(c, MOST_FRAMES), .dim = check_below(c, 4) ? check_dim(c) : 1 + check_below(c, 40), .t = types[check_below(c, 3)]};
    struct xp_coder_desc d = {.dtype = f.t, .dim = f.dim, .mode = XP_MODE_BOUNDED, .eps = 0.5 * exp(-(double)check_below(c, 600) / 100),
                              .eps_ref = check_below(c, 2) ? XP_EPS_REF_MIN : XP_EPS_REF_ROW, .isa = XP_ISA_C, .seed = check_random(c), .dither = (int)check_below(c, 2)};
    char what[120];

    (void)plain;
    f.row_bytes = f.dim * xp_dtype_size(f.t);
    f.stride = (f.row_bytes + 15) / 16 * 16;
    if (xp_codec_parse("quant", &d.choice) || xp_coder_create(&f.coder, &d)) {
        fprintf(stderr, "checkcuda: no coder\n");
        exit(2);
    }
    make_rows(c, &f);
    snprintf(what, sizeof what, "%zu %s rows of %zu, eps %g of %s, dither %d", f.rows, check_dtype_name(f.t), f.dim, d.eps, d.eps_ref == XP_EPS_REF_ROW ? "the row" : "the less", d.dither);
    compare_on_device(c, &few, &f, what);
    free(f.data);
    xp_coder_destroy(f.coder);
}

const struct cuda_case cuda_frames_cases[] = {
    {"frames", compare_frames, NULL},
    {NULL, NULL, NULL},
};
