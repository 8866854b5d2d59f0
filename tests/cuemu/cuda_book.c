/*
 * cuda_book.c - checkcuda: rows coded with a book, and back
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "checkcuda.h"
#include "hash/book_rows_impl.h"
#include "hash/hasher.h"

#include <math.h>
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

static struct both_books make_books_of(struct check *c, size_t dim, unsigned centroids, unsigned rank)
{
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

static struct both_books make_books(struct check *c, size_t dim)
{
    const unsigned centroids = check_below(c, 2) ? 1 + (unsigned)check_below(c, 9) : 0;

    return make_books_of(c, dim, centroids, 16 * (unsigned)check_below(c, 3));
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

/* Rows, and what the host makes of them. */
struct coded {
    xp_dtype t;
    size_t rows, len, cap;
    struct xp_book_promise promise;
    struct xp_book_dither dither;
    xp_codec_stats st;
    uint32_t *centroid;
    char *data;
    uint8_t *bytes;
};

static struct xp_book_promise random_promise(struct check *c)
{
    static const double eps[] = {0.001, 0.01, 0.05, 0.25};

    return (struct xp_book_promise){eps[check_below(c, 4)], (int)check_below(c, 2)};
}

static struct xp_book_dither random_dither(struct check *c)
{
    return (struct xp_book_dither){.on = check_below(c, 2), .key = check_random(c)};
}

static struct coded encode_on_host(struct check *c, const struct xp_kernels *plain, const struct xp_book *b, struct xp_book_promise p,
                                   struct xp_book_dither d, xp_dtype t, size_t rows)
{
    struct coded k = {.t = t, .rows = rows, .promise = p, .dither = d};
    struct xp_book_room room;

    k.cap = 64 + rows * (b->dim * xp_dtype_size(t) + 16);
    k.bytes = malloc(k.cap + 32);
    k.centroid = malloc((rows + 1) * 4);
    k.data = book_rows(c, b, t, rows, k.centroid);
    const struct xp_rows in = {.data = k.data, .rows = rows, .dim = b->dim, .dtype = t};
    if (xp_book_room_init(&room, plain, t, b->dim) || xp_book_room_reserve(&room, rows) ||
        xp_book_encode_rows(&room, b, &k.promise, &k.dither, &in, k.centroid, k.bytes, k.cap, &k.len, &k.st)) {
        fprintf(stderr, "checkcuda: rows could not be coded with a book\n");
        exit(2);
    }
    xp_book_room_fini(&room);
    return k;
}

static void drop_coded(struct coded *k)
{
    free(k->centroid);
    free(k->data);
    free(k->bytes);
}

/* ---- encode ---- */

/* The largest relative error, as the statistics have it. */
static double largest_error(const struct xp_kernels *plain, const struct coded *k, size_t dim, const float *errors)
{
    double most = 0;

    for (size_t r = 0; r < k->rows; r++)
        if (errors[r] > 0)
            most = fmax(most, sqrt((double)errors[r] / (double)plain->distance(k->data + r * dim * xp_dtype_size(k->t), NULL, k->t, dim)));
    return most;
}

static void compare_encode_rows(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain, size_t dim, size_t rows)
{
    struct both_books b = make_books(c, dim);
    struct coded k = encode_on_host(c, plain, &b.host, random_promise(c), random_dither(c), types[check_below(c, 3)], rows);
    const size_t bytes = rows * dim * xp_dtype_size(k.t), shift = check_below(c, 4) ? 0 : xp_dtype_size(k.t);
    char *moved = calloc(bytes + shift + 1, 1);
    float *errors = calloc(rows + 1, sizeof(*errors));
    static const uint32_t zero[4];

    const size_t row_bytes = dim * xp_dtype_size(k.t), turn = check_below(c, rows + 1);
    uint32_t *index = malloc((rows + 1) * 4);
    for (size_t r = 0; r < rows; r++) { /* the rows begin in the middle, and are read through a list; turn 0: as they lie */
        index[r] = (uint32_t)((r + turn) % rows);
        memcpy(moved + shift + index[r] * row_bytes, k.data + r * row_bytes, row_bytes);
    }
    char *data = device_upload(moved, bytes + shift);
    void *dev_index = device_upload(index, rows * 4);
    const struct xp_rows in = {.data = data + shift, .index = turn ? dev_index : NULL, .rows = rows, .dim = dim, .dtype = k.t};
    free(index);
    char *scratch = device_upload(NULL, xp_cuda_book_encode_scratch(g, &in)), *head = device_upload(zero, sizeof(zero));
    void *centroid = device_upload(k.centroid, rows * 4), *out = device_upload(NULL, k.cap);
    void *len = device_upload(NULL, 8), *dev_errors = device_upload(NULL, rows * 4);
    const uint64_t want_len = k.len;
    device_copy(g, scratch, head, 4);
    for (int twice = 0; twice < 2; twice++) { /* the scratch can be used again as it is */
        check_launched(c, xp_cuda_book_encode(g, &b.device, &k.promise, &k.dither, &in, centroid, scratch, out, len, dev_errors), "book encode");
        check_device(c, &want_len, len, 8, 0, "length of %zu %s rows of %zu, eps %g, mean %d", rows, check_dtype_name(k.t), dim, k.promise.eps,
                     k.promise.to_mean);
        check_device(c, k.bytes, out, k.len, 0, "%zu %s rows of %zu, %u centroids, rank %u, eps %g, mean %d, dither %d", rows, check_dtype_name(k.t), dim,
                     b.host.centroids, b.host.rank, k.promise.eps, k.promise.to_mean, k.dither.on);
    }
    device_download(errors, dev_errors, rows * 4);
    c->compared++;
    if (largest_error(plain, &k, dim, errors) != k.st.err_max) {
        printf("# largest error %g instead of %g\n", largest_error(plain, &k, dim, errors), k.st.err_max);
        c->failed++;
    }
    void *all[] = {data, dev_index, scratch, head, centroid, out, len, dev_errors};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(moved);
    free(errors);
    drop_coded(&k);
    drop_books(&b);
}

static void compare_encode(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu), *g = &few;

    compare_encode_rows(c, g, plain, check_dim(c), check_below(c, 8));
    if (check_below(c, 6) == 0)
        compare_encode_rows(c, g, plain, check_below(c, 2) ? 4096 : 7168, 1 + check_below(c, 2));
    if (check_below(c, 8) == 0)
        compare_encode_rows(c, g, plain, 1 + check_below(c, 40), 3 * XP_BOOK_RUN); /* several runs */
}

/* ---- decode ---- */

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
    const xp_status expected = xp_book_decode_rows(&room, &b->host, &k->dither, k->bytes, k->len, k->rows, want, &why);
    xp_book_room_fini(&room);

    uint8_t *in = device_upload(shifted, (shift + k->len + 15) / 16 * 16 + 16), *out = device_upload(NULL, bytes + skew);
    void *scratch = device_upload(NULL, scratch_bytes), *head = device_upload(zero, sizeof(zero)), *dev_status = device_upload(NULL, 4);
    device_copy(g, scratch, head, 4);
    check_launched(c, xp_cuda_book_decode(g, &b->device, &k->dither, in + shift, k->len, k->t, k->rows, scratch, out + skew, dev_status), "book decode");
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
    struct coded k = encode_on_host(c, plain, &b.host, random_promise(c), random_dither(c), types[check_below(c, 3)], rows);

    compare_decoded(c, g, plain, &b, &k, "as coded");
    for (int i = 0; i < 3; i++) {
        damage(c, &k);
        compare_decoded(c, g, plain, &b, &k, "damaged");
    }
    drop_coded(&k);
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

/* ---- bytes and launches ---- */

/* most: of all accesses; most_once: of what memory must deliver and take while the book stays in the second-level cache. */
static void limit(struct check *c, const char *kernel, size_t least, double most, double most_once)
{
    const struct device_count n = device_count(kernel);
    const double all = (double)(n.read + n.written) / (double)least, once = (double)(n.read_once + n.written_once) / (double)least;

    printf("# %-12s %9lu bytes, %.4f x the least (at most %.2f); each sector once: %.4f x (at most %.2f), %lu launches\n", kernel, n.read + n.written, all,
           most, once, most_once, n.launches);
    c->compared++;
    c->failed += all > most || once > most_once || once < 1;
}

static void limit_launches(struct check *c, const char *what, unsigned long most)
{
    printf("# %lu launches for %s (at most %lu)\n", device_count(NULL).launches, what, most);
    c->failed += device_count(NULL).launches > most;
}

/* How many of the centroids some row has. */
static unsigned centroids_in_use(const uint32_t *of, size_t rows, unsigned centroids)
{
    unsigned used = 0;

    for (unsigned k = 0; k < centroids; k++) {
        size_t r = 0;

        while (r < rows && of[r] != k)
            r++;
        used += r < rows;
    }
    return used;
}

/* A whole call: rows hashed, assigned to a writer's centroids, coded, and back. */
static void compare_whole_call(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain, int dithered)
{
    enum { DIM = 4096, ROWS = 64, CENTROIDS = 8, SKETCH = 64 };
    const struct xp_gpu one = {gpu->stream, 1, gpu->shared_bytes}, *g = device_is_emulated() ? &one : gpu;
    const struct xp_hasher_desc desc = {.dim = DIM, .sketch = SKETCH, .seed = 5};
    struct xp_hasher h, dev_h;
    static const uint32_t zero[4];

    struct both_books b = make_books_of(c, DIM, CENTROIDS, 0);
    struct coded k = encode_on_host(c, plain, &b.host, (struct xp_book_promise){0.05, 1}, (struct xp_book_dither){.on = dithered, .key = 77}, XP_BF16, ROWS);
    const size_t row = DIM * 2, used = centroids_in_use(k.centroid, ROWS, CENTROIDS);
    if (xp_hasher_init(&h, &desc))
        exit(2);
    void *tables = device_upload(h.memory, xp_cuda_hasher_bytes(&h)), *ids = device_upload(NULL, ROWS * 4), *sketch = device_upload(NULL, ROWS * SKETCH * 2);
    xp_cuda_hasher(&h, tables, &dev_h);
    const struct xp_rows in = {.data = device_upload(k.data, ROWS * row), .rows = ROWS, .dim = DIM, .dtype = XP_BF16};
    void *scratch = device_upload(NULL, xp_cuda_book_encode_scratch(g, &in)), *head = device_upload(zero, sizeof(zero)), *of = device_upload(NULL, ROWS * 4);
    void *out = device_upload(NULL, (k.cap + 15) / 16 * 16), *len = device_upload(NULL, 8), *errors = device_upload(NULL, ROWS * 4);
    void *back = device_upload(NULL, ROWS * row), *status = device_upload(NULL, 4), *read_scratch = device_upload(NULL, xp_cuda_book_scratch(g, ROWS));
    void *centroid = device_upload(k.centroid, ROWS * 4);

    device_copy(g, scratch, head, 4);
    device_copy(g, read_scratch, head, 4);
    device_count_begin();
    check_launched(c, xp_cuda_hash(g, &dev_h, &in, ids, sketch), "hash");
    check_launched(c, xp_cuda_assign(g, sketch, ROWS, SKETCH, sketch, CENTROIDS, of), "assign"); /* the first rows' sketches as centroids */
    check_launched(c, xp_cuda_book_encode(g, &b.device, &k.promise, &k.dither, &in, centroid, scratch, out, len, errors), "book encode");
    if (device_is_emulated()) {
        /* What the bytes are beyond the least: mean, centroids and order, which all rows share, and which are read at least once. */
        const size_t book = DIM * (4 * (used + b.device.has_mean) + 1);
        limit(c, "book encode", ROWS * (row + 4 + 20) + k.len + book, 9.0, 1.1);
        limit(c, "book pack", ROWS * 16 + 2 * k.len, 1.1, 1.1);
        limit_launches(c, "hash, nearest centroids and coding with a book", 5);
    }
    check_device(c, k.bytes, out, k.len, 0, "a whole call's bytes");

    void *in_bytes = device_upload(k.bytes, (k.len + 15) / 16 * 16);
    device_count_begin();
    check_launched(c, xp_cuda_book_decode(g, &b.device, &k.dither, in_bytes, k.len, XP_BF16, ROWS, read_scratch, back, status), "book decode");
    if (device_is_emulated()) {
        limit(c, "book decode", ROWS * (row + 24) + k.len + DIM * (4 * used + 1), 3.0, 1.05);
        limit_launches(c, "decoding with a book", 2);
    }
    void *all[] = {tables, ids, sketch, (void *)(uintptr_t)in.data, scratch, head, of, out, len, errors, back, status, read_scratch, centroid, in_bytes};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    xp_hasher_fini(&h);
    drop_coded(&k);
    drop_books(&b);
}

static void compare_whole(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    const int first = c->compared == 0; /* once is enough */

    for (int dithered = 0; dithered < 2 && first; dithered++)
        compare_whole_call(c, g, plain, dithered);
}

/* ---- timing ---- */

struct book_bench {
    const struct xp_gpu *g;
    struct xp_gpu_book book;
    struct xp_book_promise promise;
    struct xp_rows in;
    size_t len;
    void *centroid, *scratch, *read_scratch, *bytes, *out_len, *errors, *back, *status;
};

static void run_encode(void *arg)
{
    const struct book_bench *b = arg;

    xp_cuda_book_encode(b->g, &b->book, &b->promise, NULL, &b->in, b->centroid, b->scratch, b->bytes, b->out_len, b->errors);
}

static void run_decode(void *arg)
{
    const struct book_bench *b = arg;

    xp_cuda_book_decode(b->g, &b->book, NULL, b->bytes, b->len, XP_BF16, b->in.rows, b->read_scratch, b->back, b->status);
}

/* 256 rows that the host has coded, 32 times over. */
static void bench_book(struct check *c, const struct xp_gpu *g, int decode)
{
    enum { DIM = 4096, SOME = 256, TIMES = 32, ROWS = SOME * TIMES, CENTROIDS = 64 };
    const size_t row = DIM * 2;
    struct both_books b = make_books_of(c, DIM, CENTROIDS, 0);
    uint32_t *centroid = malloc(ROWS * 4);
    char *data = malloc(ROWS * row), *some = book_rows(c, &b.host, XP_BF16, SOME, centroid), shape[64];
    void *zero = calloc(1, 256);
    uint64_t len = 0;

    for (size_t i = 0; i < TIMES; i++) {
        memcpy(data + i * SOME * row, some, SOME * row);
        memcpy(centroid + i * SOME, centroid, SOME * 4);
    }
    struct book_bench k = {.g = g, .book = b.device, .promise = {0.1, 1},
                           .in = {.data = device_upload(data, ROWS * row), .rows = ROWS, .dim = DIM, .dtype = XP_BF16},
                           .centroid = device_upload(centroid, ROWS * 4), .bytes = device_upload(NULL, ROWS * (row + 16)), .out_len = device_upload(NULL, 8),
                           .errors = device_upload(NULL, ROWS * 4), .back = device_upload(NULL, ROWS * row), .status = device_upload(NULL, 4)};
    void *head = device_upload(zero, 256);
    k.scratch = device_upload(NULL, xp_cuda_book_encode_scratch(g, &k.in));
    k.read_scratch = device_upload(NULL, xp_cuda_book_scratch(g, ROWS));
    device_copy(g, k.scratch, head, 256);
    device_copy(g, k.read_scratch, head, 256);
    run_encode(&k);
    device_download(&len, k.out_len, 8);
    k.len = (size_t)len;
    snprintf(shape, sizeof(shape), "%d rows of %d to %.3f", ROWS, DIM, (double)len / (double)(ROWS * row));
    cuda_bench_line(c, g, shape, ROWS * row + k.len, decode ? run_decode : run_encode, &k);
    void *all[] = {(void *)(uintptr_t)k.in.data, k.centroid, k.bytes, k.out_len, k.errors, k.back, k.status, k.scratch, k.read_scratch, head};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(centroid);
    free(data);
    free(some);
    free(zero);
    drop_books(&b);
}

static void bench_encode(struct check *c, const struct xp_gpu *g)
{
    bench_book(c, g, 0);
}

static void bench_decode(struct check *c, const struct xp_gpu *g)
{
    bench_book(c, g, 1);
}

const struct cuda_case cuda_book_cases[] = {
    {"book_encode", compare_encode, bench_encode},
    {"book_decode", compare_decode, bench_decode},
    {"book_whole", compare_whole, NULL},
    {NULL, NULL, NULL},
};
