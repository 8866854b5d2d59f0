/*
 * cuda_hash.c - checkcuda: the hash and the Hadamard transforms
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "checkcuda.h"
#include "hash/hasher.h"
#include "hash/signs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};

/* ---- hash ---- */

static struct xp_hasher make_hasher(struct check *c, size_t dim)
{
    struct xp_hasher_desc d = {.dim = dim, .rounds = 1 + (unsigned)check_below(c, 3), .sketch = 32 * (unsigned)check_below(c, 5), .seed = check_random(c)};
    struct xp_hasher h;

    d.k = 1 + (unsigned)check_below(c, 8);
    if (check_below(c, 2) || (size_t)d.k * 4 > xp_hash_width(dim))
        d.k = 1;
    if (xp_hasher_init(&h, &d)) {
        fprintf(stderr, "checkcuda: no hasher for dim %zu\n", dim);
        exit(2);
    }
    if (check_below(c, 2)) {
        float *mean = malloc(dim * sizeof(*mean));
        for (size_t i = 0; i < dim; i++)
            mean[i] = (float)check_gauss(c);
        xp_hasher_set_mean(&h, mean);
        free(mean);
    }
    return h;
}

/* rows rows of a table of `stored`, by index or in order. shift: the rows do not lie on 16-byte boundaries. */
static void compare_hash_rows(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain, xp_dtype t, size_t dim, size_t rows)
{
    struct xp_hasher h = make_hasher(c, dim), dev;
    const size_t stored = rows + 3, bytes = stored * dim * xp_dtype_size(t), sketch_bytes = rows * h.sketch * 2;
    const size_t shift = check_below(c, 4) ? 0 : xp_dtype_size(t);
    char *data = check_rows(c, t, stored + 1, dim);
    uint32_t *index = malloc((rows + 1) * 4), *ids = malloc((rows + 1) * 4);
    int16_t *sketch = malloc(sketch_bytes + 2);
    struct xp_rows in = {.data = data + shift, .rows = rows, .dim = dim, .dtype = t};

    for (size_t r = 0; r < rows; r++)
        index[r] = (uint32_t)check_below(c, stored);
    if (check_below(c, 2))
        in.index = index;
    plain->hash(&h, &in, ids, h.sketch ? sketch : NULL);

    char *dev_data = device_upload(data, bytes + shift);
    void *tables = device_upload(h.memory, xp_cuda_hasher_bytes(&h)), *dev_index = device_upload(index, rows * 4);
    void *dev_ids = device_upload(NULL, rows * 4), *dev_sketch = device_upload(NULL, sketch_bytes);
    xp_cuda_hasher(&h, tables, &dev);
    in.data = dev_data + shift;
    in.index = in.index ? dev_index : NULL;
    check_launched(c, xp_cuda_hash(g, &dev, &in, dev_ids, h.sketch ? dev_sketch : NULL), "hash");
    check_device(c, ids, dev_ids, rows * 4, 0, "ids of %zu %s rows of %zu, k %u, rounds %u, shift %zu", rows, check_dtype_name(t), dim, h.k, h.rounds, shift);
    check_device(c, sketch, dev_sketch, sketch_bytes, 0, "sketches of %zu %s rows of %zu", rows, check_dtype_name(t), dim);

    device_free(dev_data);
    device_free(tables);
    device_free(dev_index);
    device_free(dev_ids);
    device_free(dev_sketch);
    free(data);
    free(index);
    free(ids);
    free(sketch);
    xp_hasher_fini(&h);
}

static void compare_hash(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu), *g = &few;

    for (int i = 0; i < 3; i++) {
        const size_t dim = check_dim(c);
        compare_hash_rows(c, g, plain, types[check_below(c, 3)], dim, check_below(c, dim <= 600 ? 90 : 24));
    }
    compare_hash_rows(c, g, plain, types[check_below(c, 3)], check_below(c, 2) ? 4096 : 7168, 1 + check_below(c, 3));
}

struct hash_bench {
    const struct xp_gpu *g;
    struct xp_hasher h;
    struct xp_rows in;
    uint32_t *ids;
    int16_t *sketch;
};

static void run_hash(void *arg)
{
    struct hash_bench *b = arg;

    xp_cuda_hash(b->g, &b->h, &b->in, b->ids, b->sketch);
}

static void bench_hash(struct check *c, const struct xp_gpu *g)
{
    static const size_t dims[] = {1024, 2048, 4096, 7168};

    for (size_t d = 0; d < sizeof(dims) / sizeof(dims[0]); d++) {
        const size_t dim = dims[d], rows = ((size_t)1 << 28) / dim;
        const struct xp_hasher_desc desc = {.dim = dim, .sketch = 64, .seed = 1};
        struct hash_bench b = {.g = g};
        struct xp_hasher h;
        char shape[64];

        if (xp_hasher_init(&h, &desc))
            exit(2);
        char *some = check_rows(c, XP_BF16, 64, dim);
        char *data = malloc(rows * dim * 2);
        for (size_t r = 0; r < rows; r++)
            memcpy(data + r * dim * 2, some + r % 64 * dim * 2, dim * 2);
        void *tables = device_upload(h.memory, xp_cuda_hasher_bytes(&h)), *dev = device_upload(data, rows * dim * 2);
        xp_cuda_hasher(&h, tables, &b.h);
        b.in = (struct xp_rows){.data = dev, .rows = rows, .dim = dim, .dtype = XP_BF16};
        b.ids = device_upload(NULL, rows * 4);
        b.sketch = device_upload(NULL, rows * 128);
        snprintf(shape, sizeof(shape), "%zu rows of %zu bf16", rows, dim);
        cuda_bench_line(c, g, shape, rows * (dim * 2 + 4 + 128), run_hash, &b);
        device_free(tables);
        device_free(dev);
        device_free(b.ids);
        device_free(b.sketch);
        free(some);
        free(data);
        xp_hasher_fini(&h);
    }
}

/* ---- fht ---- */

static void compare_fht(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    for (int wide = 0; wide < 2; wide++) {
        const unsigned log2n = (unsigned)check_below(c, 11);
        const size_t rows = check_below(c, 6), bytes = (rows << log2n) * (wide ? 4 : 2);
        uint32_t *x = malloc(bytes + 4);
        for (size_t i = 0; i < bytes / 4 + 1; i++)
            if (4 * i + 4 <= bytes + 4)
                x[i] = (uint32_t)check_random(c);
        void *dev = device_upload(x, bytes);
        if (wide)
            plain->fht_i32((int32_t *)x, log2n, rows);
        else
            plain->fht_i16((int16_t *)x, log2n, rows);
        check_launched(c, wide ? xp_cuda_fht_i32(g, dev, log2n, rows) : xp_cuda_fht_i16(g, dev, log2n, rows), "fht");
        check_device(c, x, dev, bytes, 0, "%zu vectors of 2^%u i%d", rows, log2n, wide ? 32 : 16);
        device_free(dev);
        free(x);
    }
}

/* ---- signs ---- */

static void compare_signs(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    const size_t n = 1 + check_below(c, 20000), bytes = xp_sign_words(n) * 4;
    const uint32_t stream = (uint32_t)check_below(c, 12);
    const uint64_t seed = check_random(c);
    uint32_t *want = malloc(bytes);
    void *dev = device_upload(NULL, bytes);

    (void)plain;
    xp_signs_fill(seed, stream, n, want);
    check_launched(c, xp_cuda_signs(g, seed, stream, n, dev), "signs");
    check_device(c, want, dev, bytes, 0, "%zu signs of stream %u", n, stream);
    device_free(dev);
    free(want);
}

const struct cuda_case cuda_hash_cases[] = {
    {"hash", compare_hash, bench_hash},
    {"fht", compare_fht, NULL},
    {"signs", compare_signs, NULL},
    {NULL, NULL, NULL},
};
