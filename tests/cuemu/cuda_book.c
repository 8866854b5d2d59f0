/*
 * cuda_book.c - checkcuda: rows coded with a book, and back
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "checkcuda.h"
#include "hash/book_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};

/* ---- a book, as a reader has it, on both sides ---- */

struct both_books {
    struct xp_book host;
    struct xp_gpu_book device;
    void *memory;
};

static void fill_book(struct check *c, struct xp_book *b, unsigned centroids, unsigned rank)
{
    const unsigned classes = 1 + (unsigned)check_below(c, 24);

    b->has_spread = check_below(c, 4) > 0;
    b->has_mean = check_below(c, 4) > 0;
    for (size_t i = 0; i < b->dim && b->has_spread; i++)
        b->channel_class[i] = (uint8_t)check_below(c, classes);
    xp_book_sort(b);
    for (size_t i = 0; i < b->dim && b->has_mean; i++)
        b->mean[i] = (float)check_gauss(c) * 0.5f;
    b->rank = rank;
    b->coordinate_step = 0.05f;
    for (unsigned g = 0; g < rank / XP_RANS_GROUP; g++)
        b->coordinate_class[g] = (uint8_t)check_below(c, 40);
    for (size_t i = 0; i < rank * b->pad; i++)
        b->direction[i] = i % b->pad < b->dim ? (float)check_gauss(c) * 0.1f : 0;
    b->centroids = centroids;
    for (size_t i = 0; i < centroids * b->pad; i++)
        b->centroid[i] = i % b->pad < b->dim ? b->mean[i % b->pad] + (float)check_gauss(c) * 0.5f : 0;
}

static struct both_books make_books(struct check *c, size_t dim)
{
    const unsigned centroids = check_below(c, 2) ? 1 + (unsigned)check_below(c, 9) : 0, rank = 16 * (unsigned)check_below(c, 3);
    struct xp_book made;
    struct both_books b;
    const char *why;
    size_t used;

    if (xp_book_init(&made, dim, centroids, rank) || xp_book_init(&b.host, dim, centroids, rank))
        exit(2);
    fill_book(c, &made, centroids, rank);
    const size_t bytes = xp_book_bytes(&made);
    uint8_t *wire = malloc(bytes);
    xp_book_write(&made, wire);
    if (xp_book_read(&b.host, wire, bytes, &used, &why)) {
        fprintf(stderr, "checkcuda: %s\n", why);
        exit(2);
    }
    free(wire);
    xp_book_fini(&made);

    void *image = malloc(xp_cuda_book_bytes(&b.host));
    b.memory = device_upload(NULL, xp_cuda_book_bytes(&b.host));
    if (xp_cuda_book(&b.host, image, b.memory, &b.device))
        exit(2);
    device_free(b.memory);
    b.memory = device_upload(image, xp_cuda_book_bytes(&b.host));
    if (xp_cuda_book(&b.host, image, b.memory, &b.device))
        exit(2);
    free(image);
    return b;
}

static void drop_books(struct both_books *b)
{
    device_free(b->memory);
    xp_book_fini(&b->host);
}

/* Rows near the book's mean or centroids; some of other kinds. */
static char *book_rows(struct check *c, const struct xp_book *b, xp_dtype t, size_t rows, uint32_t *centroid)
{
    const size_t bytes = b->dim * xp_dtype_size(t);
    char *p = calloc(rows * bytes + 1, 1);
    float *by_channel = malloc((b->dim + XP_REORDER_WINDOW) * sizeof(*by_channel));

    for (size_t r = 0; r < rows; r++) {
        const float noise = check_below(c, 2) ? 0.3f : 0.02f;

        centroid[r] = b->centroids ? (uint32_t)check_below(c, b->centroids) : 0;
        const float *base = b->centroids ? b->centroid + centroid[r] * b->pad : b->mean;
        if (check_below(c, 4) == 0) {
            check_fill_row(c, (enum check_fill)check_below(c, FILL_COUNT), t, b->dim, p + r * bytes);
            continue;
        }
        for (size_t w = 0; w < b->dim; w += XP_REORDER_WINDOW)
            for (size_t i = w; i < b->dim && i < w + XP_REORDER_WINDOW; i++)
                by_channel[w + b->channel[i]] = base[i] + noise * (float)check_gauss(c) / (b->has_spread ? b->weight[i / 16] : 1);
        for (size_t i = 0; i < b->dim; i++)
            xp_store_f32(p + r * bytes, t, i, by_channel[i]);
    }
    free(by_channel);
    return p;
}

/* ---- decode ---- */

struct coded {
    xp_dtype t;
    size_t rows, len;
    uint8_t *bytes;
};

static struct coded encode_on_host(struct check *c, const struct xp_kernels *plain, const struct xp_book *b, xp_dtype t, size_t rows)
{
    static const double eps[] = {0.01, 0.05, 0.25};
    const struct xp_book_promise promise = {eps[check_below(c, 3)], (int)check_below(c, 2)};
    const size_t cap = 64 + rows * (b->dim * xp_dtype_size(t) + 16);
    struct coded k = {.t = t, .rows = rows, .bytes = malloc(cap + 32)};
    uint32_t *centroid = malloc((rows + 1) * 4);
    char *data = book_rows(c, b, t, rows, centroid);
    const struct xp_rows in = {.data = data, .rows = rows, .dim = b->dim, .dtype = t};
    struct xp_book_room room;
    xp_codec_stats st = {0};

    if (xp_book_room_init(&room, plain, t, b->dim) || xp_book_room_reserve(&room, rows) ||
        xp_book_encode_rows(&room, b, &promise, &in, centroid, k.bytes, cap, &k.len, &st)) {
        fprintf(stderr, "checkcuda: rows could not be coded with a book\n");
        exit(2);
    }
    xp_book_room_fini(&room);
    free(centroid);
    free(data);
    return k;
}

/* The same bytes on both sides: equal rows, or the same refusal. */
static void compare_decoded(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain, const struct both_books *b, const struct coded *k,
                            const char *what)
{
    const size_t row_bytes = b->host.dim * xp_dtype_size(k->t), bytes = k->rows * row_bytes, shift = check_below(c, 16);
    const size_t scratch_bytes = xp_cuda_book_scratch(g, k->rows), skew = check_below(c, 4) ? 0 : xp_dtype_size(k->t);
    uint8_t *want = calloc(bytes + 1, 1), *shifted = calloc((shift + k->len + 15) / 16 * 16 + 16, 1);
    uint32_t status = 0;
    struct xp_book_room room;
    const char *why;
    static const uint32_t zero[4];

    memcpy(shifted + shift, k->bytes, k->len);
    if (xp_book_room_init(&room, plain, k->t, b->host.dim))
        exit(2);
    const xp_status expected = xp_book_decode_rows(&room, &b->host, k->bytes, k->len, k->rows, want, &why);
    xp_book_room_fini(&room);

    uint8_t *in = device_upload(shifted, (shift + k->len + 15) / 16 * 16 + 16), *out = device_upload(NULL, bytes + skew);
    void *scratch = device_upload(NULL, scratch_bytes), *head = device_upload(zero, sizeof(zero)), *dev_status = device_upload(NULL, 4);
    device_copy(g, scratch, head, 4);
    check_launched(c, xp_cuda_book_decode(g, &b->device, in + shift, k->len, k->t, k->rows, scratch, out + skew, dev_status), "book decode");
    device_download(&status, dev_status, 4);
    c->compared++;
    if ((status != 0) != (expected != XP_OK)) {
        printf("# %s: status %u, but %s (--seed %llu)\n", what, status, expected ? why : "the bytes are fine", (unsigned long long)c->seed);
        c->failed++;
    } else if (expected == XP_OK) {
        check_device(c, want, out + skew, bytes, 0, "%zu %s rows of %zu, %u centroids, rank %u, %s", k->rows, check_dtype_name(k->t), b->host.dim,
                     b->host.centroids, b->host.rank, what);
    }
    void *all[] = {in, out, scratch, head, dev_status};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(want);
    free(shifted);
}

/* Some bits of the bytes change, or their number. */
static void damage(struct check *c, struct coded *k)
{
    const size_t head = k->len < 40 ? k->len : 40;

    for (size_t i = 1 + check_below(c, 3); i-- > 0 && k->len;)
        k->bytes[check_below(c, check_below(c, 2) ? k->len : head)] ^= (uint8_t)(1u << check_below(c, 8));
    if (check_below(c, 4) == 0)
        k->len -= check_below(c, k->len < 20 ? k->len + 1 : 20);
}

static void compare_decode_rows(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain, size_t dim, size_t rows)
{
    struct both_books b = make_books(c, dim);
    struct coded k = encode_on_host(c, plain, &b.host, types[check_below(c, 3)], rows);

    compare_decoded(c, g, plain, &b, &k, "as coded");
    for (int i = 0; i < 3; i++) {
        damage(c, &k);
        compare_decoded(c, g, plain, &b, &k, "damaged");
    }
    free(k.bytes);
    drop_books(&b);
}

static void compare_decode(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu), *g = &few;

    compare_decode_rows(c, g, plain, check_dim(c), check_below(c, 12));
    if (check_below(c, 6) == 0)
        compare_decode_rows(c, g, plain, check_below(c, 2) ? 4096 : 7168, 1 + check_below(c, 3));
    if (check_below(c, 12) == 0)
        compare_decode_rows(c, g, plain, 16, 600); /* more rows than a block reads columns of at a time */
}

const struct cuda_case cuda_book_cases[] = {
    {"book_decode", compare_decode, NULL},
    {NULL, NULL, NULL},
};
