/*
 * cuda_rows.c - checkcuda: clusters, their refinement, their centroids and mean rows; distances
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "checkcuda.h"
#include "hash/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32};

/* ---- group ---- */

static void random_ids(struct check *c, uint32_t *ids, size_t rows)
{
    const size_t kinds = 1 + check_below(c, rows + 1), step = check_below(c, 2) ? 1 : 0x9E3779B1;

    for (size_t r = 0; r < rows; r++)
        ids[r] = check_below(c, 20) ? (uint32_t)(check_below(c, kinds) * step) : XP_HASH_NONE;
}

static void compare_group_rows(struct check *c, const struct xp_gpu *g, size_t rows)
{
    const size_t words = rows * 4, scratch_bytes = xp_cuda_group_scratch(rows);
    uint32_t *ids = malloc(words + 4);
    struct xp_clusters want;

    if (xp_clusters_init(&want, rows, 0))
        exit(2);
    random_ids(c, ids, rows);
    xp_clusters_group(&want, ids, rows);

    static const uint32_t zero[64];
    char *scratch = device_upload(NULL, scratch_bytes);
    void *head = device_upload(zero, sizeof(zero));
    device_copy(g, scratch, head, sizeof(zero));
    void *dev_ids = device_upload(ids, words), *of = device_upload(NULL, words), *order = device_upload(NULL, words);
    void *start = device_upload(NULL, words + 4), *count = device_upload(NULL, 4);
    for (int twice = 0; twice < 2; twice++) { /* the scratch can be used again as it is */
        check_launched(c, xp_cuda_group(g, dev_ids, rows, scratch, of, start, order, count), "group");
        const uint32_t clusters = (uint32_t)want.count;
        check_device(c, &clusters, count, 4, 0, "number of clusters of %zu rows", rows);
        check_device(c, want.of, of, words, 0, "clusters of %zu rows", rows);
        check_device(c, want.order, order, words, 0, "order of %zu rows", rows);
        check_device(c, want.start, start, 4 * (want.count + 1), 0, "starts of %zu clusters of %zu rows", want.count, rows);
    }
    device_free(scratch);
    device_free(head);
    device_free(dev_ids);
    device_free(of);
    device_free(order);
    device_free(start);
    device_free(count);
    free(ids);
    xp_clusters_fini(&want);
}

static void compare_group(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    static const size_t edges[] = {0, 1, 31, 33, 1023, 1024, 1025, 2049};

    (void)plain;
    compare_group_rows(c, g, check_below(c, 3) ? check_below(c, 1500) : edges[check_below(c, sizeof(edges) / sizeof(edges[0]))]);
}

/* The largest there is. */
static void compare_group_large(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    (void)plain;
    if (c->compared == 0)
        compare_group_rows(c, g, XP_CUDA_GROUP_ROWS);
}

struct group_bench {
    const struct xp_gpu *g;
    size_t rows;
    void *ids, *scratch, *of, *start, *order, *count;
};

static void run_group(void *arg)
{
    const struct group_bench *b = arg;

    xp_cuda_group(b->g, b->ids, b->rows, b->scratch, b->of, b->start, b->order, b->count);
}

static void bench_group(struct check *c, const struct xp_gpu *g)
{
    for (size_t rows = 4096; rows <= XP_CUDA_GROUP_ROWS; rows *= 4) {
        uint32_t *ids = malloc(rows * 4), *zero = calloc(xp_cuda_group_scratch(rows), 1);
        char shape[64];

        random_ids(c, ids, rows);
        struct group_bench b = {g, rows, device_upload(ids, rows * 4), device_upload(zero, xp_cuda_group_scratch(rows)), device_upload(NULL, rows * 4),
                                device_upload(NULL, rows * 4 + 4), device_upload(NULL, rows * 4), device_upload(NULL, 4)};
        snprintf(shape, sizeof(shape), "%zu ids", rows);
        cuda_bench_line(c, g, shape, rows * 12, run_group, &b);
        void *all[] = {b.ids, b.scratch, b.of, b.start, b.order, b.count};
        for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
            device_free(all[i]);
        free(ids);
        free(zero);
    }
}

/* ---- assign, refine ---- */

/* Sketches around a few centres; some have the largest values there are. */
static int16_t *random_sketches(struct check *c, size_t rows, unsigned s)
{
    const size_t kinds = 1 + check_below(c, 20), size = (rows + 1) * s;
    const int spread = check_below(c, 2) ? 3 : 3000;
    int16_t *v = malloc(size * sizeof(*v)), *centre = malloc(kinds * s * sizeof(*centre));

    for (size_t i = 0; i < kinds * s; i++)
        centre[i] = (int16_t)(check_below(c, 20001) - 10000);
    for (size_t r = 0; r <= rows; r++) {
        const int16_t *m = centre + check_below(c, kinds) * s;
        const size_t odd = check_below(c, 12);
        for (size_t i = 0; i < s; i++)
            v[r * s + i] = (int16_t)(odd == 0 ? (int)check_below(c, 65536) - 32768 : odd == 1 ? -32768 : m[i] + (int)(check_gauss(c) * spread));
    }
    free(centre);
    return v;
}

static void compare_assign(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const unsigned s = 32 * (1 + (unsigned)check_below(c, check_below(c, 2) ? 3 : 16));
    const size_t rows = check_below(c, 60), K = 1 + check_below(c, 70);
    const struct xp_gpu few = check_gpu(c, gpu), *g = &few;
    int16_t *sketch = random_sketches(c, rows, s), *centroids = random_sketches(c, K, s);
    uint32_t *want = malloc((rows + 1) * 4);

    if (K > 3)
        memcpy(centroids + (K - 1) * s, centroids + s, s * 2); /* the lower of equals wins */
    void *dev = device_upload(sketch, rows * s * 2), *dev_centroids = device_upload(centroids, K * s * 2), *of = device_upload(NULL, rows * 4);
    plain->assign(sketch, rows, s, centroids, K, want);
    check_launched(c, xp_cuda_assign(g, dev, rows, s, dev_centroids, K, of), "assign");
    check_device(c, want, of, rows * 4, 0, "nearest of %zu centroids for %zu sketches of %u", K, rows, s);
    device_free(dev);
    device_free(dev_centroids);
    device_free(of);
    free(sketch);
    free(centroids);
    free(want);
}

/* limited: fewer clusters than there are may be seeds. */
static void compare_refine_rows(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain, size_t rows, size_t kinds, unsigned s, int limited)
{
    const unsigned rounds = (unsigned)check_below(c, 4);
    const size_t words = rows * 4, scratch_bytes = xp_cuda_group_scratch(rows), refine_bytes = xp_cuda_refine_scratch(rows, s);
    uint32_t *ids = malloc(words + 4);
    int16_t *sketch = random_sketches(c, rows, s);
    struct xp_clusters want;

    if (xp_clusters_init(&want, rows, s))
        exit(2);
    for (size_t r = 0; r < rows; r++)
        ids[r] = (uint32_t)(check_below(c, 3) ? check_below(c, kinds) : 0);
    xp_clusters_group(&want, ids, rows);
    const uint32_t most = limited && want.count ? 1 + (uint32_t)check_below(c, want.count) : 0;
    static const uint32_t zero[64];
    char *scratch = device_upload(NULL, scratch_bytes), *refine = device_upload(NULL, refine_bytes), *head = device_upload(zero, sizeof(zero));
    device_copy(g, scratch, head, 4);
    device_copy(g, refine, head, 4);
    void *dev_ids = device_upload(ids, words), *dev = device_upload(sketch, rows * s * 2), *of = device_upload(NULL, words), *order = device_upload(NULL, words);
    void *start = device_upload(NULL, words + 4), *count = device_upload(NULL, 4), *centroids = device_upload(NULL, rows * s * 2);

    const int grouped = rows == 0 || check_below(c, 2); /* before, or by the first call of refine */
    if (grouped)
        check_launched(c, xp_cuda_group(g, dev_ids, rows, scratch, of, start, order, count), "group");
    for (int twice = 0; twice < 2; twice++) { /* what came out can be refined again, with the scratch as it is */
        xp_clusters_refine(&want, plain, sketch, s, rounds, most);
        check_launched(c, xp_cuda_refine(g, grouped || twice ? NULL : dev_ids, dev, rows, s, rounds, most, refine, of, start, order, count, centroids), "refine");
        const uint32_t clusters = (uint32_t)want.count;
        check_device(c, &clusters, count, 4, 0, "number of clusters of %zu rows, %u rounds, at most %u", rows, rounds, most);
        check_device(c, want.of, of, words, 0, "clusters of %zu rows, %u rounds, at most %u", rows, rounds, most);
        check_device(c, want.order, order, words, 0, "order of %zu rows", rows);
        check_device(c, want.start, start, rows ? 4 * (want.count + 1) : 0, 0, "starts of %zu clusters", want.count);
        check_device(c, want.centroids, centroids, rows ? want.count * s * 2 : 0, 0, "mean sketches of %zu clusters of %zu rows", want.count, rows);
    }
    void *all[] = {scratch, refine, head, dev_ids, dev, of, order, start, count, centroids};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(ids);
    free(sketch);
    xp_clusters_fini(&want);
}

static void compare_refine(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu), *g = device_is_emulated() ? &few : gpu;

    compare_refine_rows(c, g, plain, check_below(c, 4) ? check_below(c, 200) : check_below(c, 3), 1 + check_below(c, 40), 32 * (1 + (unsigned)check_below(c, 4)),
                        (int)check_below(c, 2));
    compare_refine_rows(c, g, plain, check_below(c, 40), 1 + check_below(c, 8), 32 * (1 + (unsigned)check_below(c, 16)), (int)check_below(c, 2));
    if (check_below(c, 8) == 0)
        compare_refine_rows(c, g, plain, 1100, 30, 32, (int)check_below(c, 3) > 0); /* more than one tile of the sort, and of the means */
}

struct refine_bench {
    const struct xp_gpu *g;
    size_t rows;
    void *sketch, *ids, *group_scratch, *scratch, *of, *start, *order, *count, *centroids;
};

static void run_refine(void *arg)
{
    const struct refine_bench *b = arg;

    xp_cuda_refine(b->g, NULL, b->sketch, b->rows, 64, 3, 0, b->scratch, b->of, b->start, b->order, b->count, b->centroids);
}

/* 256 buckets, three rounds, as codec lsh has them. Only the first of the timed runs begins with the buckets. */
static void bench_refine(struct check *c, const struct xp_gpu *g)
{
    for (size_t rows = 4096; rows <= XP_CUDA_GROUP_ROWS; rows *= 4) {
        const size_t scratch_bytes = xp_cuda_refine_scratch(rows, 64), group_bytes = xp_cuda_group_scratch(rows);
        uint32_t *ids = malloc(rows * 4), *zero = calloc(scratch_bytes > group_bytes ? scratch_bytes : group_bytes, 1);
        int16_t *sketch = random_sketches(c, rows, 64);
        char shape[64];

        for (size_t r = 0; r < rows; r++)
            ids[r] = (uint32_t)check_below(c, 256);
        struct refine_bench b = {g, rows, device_upload(sketch, rows * 128), device_upload(ids, rows * 4), device_upload(zero, group_bytes),
                                 device_upload(zero, scratch_bytes), device_upload(NULL, rows * 4), device_upload(NULL, rows * 4 + 4),
                                 device_upload(NULL, rows * 4), device_upload(NULL, 4), device_upload(NULL, rows * 128)};
        xp_cuda_group(g, b.ids, rows, b.group_scratch, b.of, b.start, b.order, b.count);
        snprintf(shape, sizeof(shape), "%zu sketches, 3 rounds", rows);
        cuda_bench_line(c, g, shape, rows * 128 * 6, run_refine, &b);
        void *all[] = {b.sketch, b.ids, b.group_scratch, b.scratch, b.of, b.start, b.order, b.count, b.centroids};
        for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
            device_free(all[i]);
        free(ids);
        free(zero);
        free(sketch);
    }
}

/* ---- centroid ---- */

/* Sizes of clusters that add up to rows, some of them 0. */
static size_t random_starts(struct check *c, uint32_t *start, size_t rows)
{
    size_t K = 0;

    start[0] = 0;
    while (start[K] < rows || check_below(c, 3) == 0) {
        const size_t left = rows - start[K], size = check_below(c, 5) ? check_below(c, 6) : check_below(c, rows + 1);
        start[K + 1] = start[K] + (uint32_t)(size < left ? size : left);
        K++;
    }
    return K;
}

static void compare_centroid_rows(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain, xp_dtype t, size_t dim, size_t rows)
{
    const size_t stored = rows + 2, shift = check_below(c, 4) ? 0 : xp_dtype_size(t), bytes = stored * dim * xp_dtype_size(t);
    uint32_t *start = malloc((8 * rows + 64) * 4), *order = malloc((rows + 1) * 4), *index = malloc((stored + 1) * 4);
    char *data = check_rows(c, t, stored + 1, dim);
    struct xp_rows in = {.data = data + shift, .rows = stored, .dim = dim, .dtype = t, .index = check_below(c, 2) ? index : NULL};
    const uint32_t K = (uint32_t)random_starts(c, start, rows);
    float *want = calloc(K * dim + 1, sizeof(*want));

    for (size_t r = 0; r < rows; r++)
        order[r] = (uint32_t)check_below(c, stored);
    for (size_t r = 0; r < stored; r++)
        index[r] = (uint32_t)check_below(c, stored);
    plain->centroid(&in, order, start, K, want);

    char *dev = device_upload(data, bytes + shift);
    void *dev_index = device_upload(index, stored * 4), *dev_order = device_upload(order, rows * 4), *dev_start = device_upload(start, (K + 1) * 4);
    void *count = device_upload(&K, 4), *out = device_upload(NULL, K * dim * 4);
    in.data = dev + shift;
    in.index = in.index ? dev_index : NULL;
    const int known = check_below(c, 2) > 0;
    check_launched(c, xp_cuda_centroid(g, &in, dev_order, dev_start, known ? NULL : count, known ? K : K + 3, out), "centroid");
    check_device(c, want, out, K * dim * 4, 1, "%u centroids of %zu %s rows of %zu, shift %zu", K, rows, check_dtype_name(t), dim, shift);
    device_free(dev);
    device_free(dev_index);
    device_free(dev_order);
    device_free(dev_start);
    device_free(count);
    device_free(out);
    free(start);
    free(order);
    free(index);
    free(data);
    free(want);
}

static void compare_centroid(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    compare_centroid_rows(c, g, plain, types[check_below(c, 3)], check_dim(c), check_below(c, 40));
    compare_centroid_rows(c, g, plain, types[check_below(c, 3)], check_dim(c), check_below(c, 10));
    if (check_below(c, 10) == 0)
        compare_centroid_rows(c, g, plain, types[check_below(c, 3)], check_below(c, 2) ? 4096 : 7168, 6);
    if (check_below(c, 20) == 0)
        compare_centroid_rows(c, g, plain, XP_BF16, 8, 4200); /* more than one run */
}

/* ---- mean rows, distances ---- */

/* Values of a type: any NaN equals any other. */
static void check_values(struct check *c, xp_dtype t, const void *want, const void *device, size_t n, const char *what)
{
    const size_t size = xp_dtype_size(t);
    char *got = malloc(n * size + 1);
    size_t at = 0;

    device_download(got, device, n * size);
    c->compared++;
    for (; at < n; at++) {
        const float a = xp_load_f32(want, t, at), b = xp_load_f32(got, t, at);
        if (memcmp((const char *)want + at * size, got + at * size, size) && (a == a || b == b))
            break;
    }
    if (at < n) {
        printf("# %s: %s value %zu of %zu (--seed %llu)\n", what, check_dtype_name(t), at, n, (unsigned long long)c->seed);
        c->failed++;
    }
    free(got);
}

static void compare_mean_rows_of(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain, xp_dtype t, size_t dim, size_t rows)
{
    const size_t stored = rows + 2, row_bytes = dim * xp_dtype_size(t), shift = check_below(c, 4) ? 0 : xp_dtype_size(t);
    uint32_t *start = malloc((8 * rows + 64) * 4), *order = malloc((rows + 1) * 4);
    char *data = check_rows(c, t, stored + 1, dim);
    struct xp_rows in = {.data = data + shift, .rows = stored, .dim = dim, .dtype = t};
    const size_t K = random_starts(c, start, rows);
    char *want = calloc(K * row_bytes + 1, 1);
    float *work = aligned_alloc(64, (stored * XP_TILE + 16) * sizeof(float));

    for (size_t r = 0; r < rows; r++)
        order[r] = (uint32_t)check_below(c, stored);
    plain->means(&in, order, start, K, work, want);

    char *dev = device_upload(data, stored * row_bytes + shift), *out = device_upload(NULL, K * row_bytes + shift);
    void *dev_order = device_upload(order, rows * 4), *dev_start = device_upload(start, (K + 1) * 4);
    in.data = dev + shift;
    check_launched(c, xp_cuda_mean_rows(g, &in, dev_order, dev_start, (uint32_t)K, out + shift), "mean rows");
    check_values(c, t, want, out + shift, K * dim, "mean rows");
    void *all[] = {dev, out, dev_order, dev_start};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(start);
    free(order);
    free(data);
    free(want);
    free(work);
}

static void compare_mean_rows(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    compare_mean_rows_of(c, g, plain, types[check_below(c, 3)], check_dim(c), check_below(c, 40));
    compare_mean_rows_of(c, g, plain, types[check_below(c, 3)], 1 + check_below(c, 70), check_below(c, 10));
    if (check_below(c, 20) == 0)
        compare_mean_rows_of(c, g, plain, XP_BF16, 8, 4200); /* more than one run */
}

static void compare_distances_of(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain, xp_dtype t, size_t dim, size_t rows)
{
    const size_t stored = 5, row_bytes = dim * xp_dtype_size(t), shift = check_below(c, 4) ? 0 : xp_dtype_size(t);
    char *data = check_rows(c, t, stored + 1, dim), *other = check_rows(c, t, stored, dim);
    uint32_t *index = malloc((rows + 1) * 4), *other_of = malloc((rows + 1) * 4);
    const int alone = check_below(c, 3) == 0, listed = check_below(c, 3) > 0 || rows > stored;
    float *want = malloc((rows + 1) * 4);

    for (size_t r = 0; r < rows; r++) {
        index[r] = listed ? (uint32_t)check_below(c, stored) : (uint32_t)r;
        other_of[r] = (uint32_t)check_below(c, stored);
        want[r] = plain->distance(data + shift + index[r] * row_bytes, alone ? NULL : other + other_of[r] * row_bytes, t, dim);
    }
    char *dev = device_upload(data, stored * row_bytes + shift), *dev_other = device_upload(other, stored * row_bytes);
    void *dev_index = device_upload(index, rows * 4), *dev_of = device_upload(other_of, rows * 4), *out = device_upload(NULL, rows * 4);
    const struct xp_rows in = {.data = dev + shift, .index = listed ? dev_index : NULL, .rows = rows, .dim = dim, .dtype = t};
    check_launched(c, xp_cuda_row_distances(g, &in, alone ? NULL : dev_other, alone ? NULL : dev_of, out), "distances");
    check_device(c, want, out, rows * 4, 1, "%s of %zu %s rows of %zu", alone ? "energies" : "distances", rows, check_dtype_name(t), dim);
    void *all[] = {dev, dev_other, dev_index, dev_of, out};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(data);
    free(other);
    free(index);
    free(other_of);
    free(want);
}

static void compare_distances(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    compare_distances_of(c, g, plain, types[check_below(c, 3)], check_dim(c), check_below(c, 30));
    compare_distances_of(c, g, plain, types[check_below(c, 3)], 1 + check_below(c, 600), check_below(c, 6));
}

struct centroid_bench {
    const struct xp_gpu *g;
    struct xp_rows in;
    void *order, *start, *out;
    uint32_t K;
};

static void run_centroid(void *arg)
{
    const struct centroid_bench *b = arg;

    xp_cuda_centroid(b->g, &b->in, b->order, b->start, NULL, b->K, b->out);
}

static void bench_centroid(struct check *c, const struct xp_gpu *g)
{
    static const size_t dims[] = {1024, 4096, 7168};

    for (size_t d = 0; d < sizeof(dims) / sizeof(dims[0]); d++) {
        const size_t dim = dims[d], rows = ((size_t)1 << 28) / dim, each = 5, K = rows / each;
        uint32_t *order = malloc(rows * 4), *start = malloc((K + 1) * 4);
        char *data = calloc(rows * dim, 2), shape[64];

        for (size_t r = 0; r < rows; r++)
            order[r] = (uint32_t)(r * 7919 % rows);
        for (size_t k = 0; k <= K; k++)
            start[k] = (uint32_t)(k * each);
        for (size_t i = 0; i < rows * dim; i++)
            ((uint16_t *)(void *)data)[i] = (uint16_t)(0x3f80 + i * 2654435761u % 128);
        struct centroid_bench b = {g, {.data = device_upload(data, rows * dim * 2), .rows = rows, .dim = dim, .dtype = XP_BF16},
                                   device_upload(order, rows * 4), device_upload(start, (K + 1) * 4), device_upload(NULL, K * dim * 4), (uint32_t)K};
        snprintf(shape, sizeof(shape), "%zu of 5 rows of %zu bf16", K, dim);
        cuda_bench_line(c, g, shape, K * each * (dim * 2 + 4) + K * dim * 4, run_centroid, &b);
        device_free((void *)(uintptr_t)b.in.data);
        device_free(b.order);
        device_free(b.start);
        device_free(b.out);
        free(order);
        free(start);
        free(data);
    }
}

/* ---- pack ---- */

static void compare_pack(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    const size_t rows = check_below(c, 3) ? check_below(c, 40) : check_below(c, 700), most = 16 * (1 + check_below(c, rows < 40 ? 400 : 8));
    uint8_t *slots = malloc(rows * most + 16), *payload = malloc(rows * most + 16);
    uint32_t *lengths = malloc((rows + 1) * 4), *order = malloc((rows + 1) * 4);
    uint64_t *at = malloc((rows + 1) * 8);
    static const uint32_t zero[64];

    (void)plain;
    for (size_t r = 0; r < rows; r++) {
        lengths[r] = (uint32_t)(check_below(c, 5) ? check_below(c, most + 1) : 0);
        order[r] = (uint32_t)r;
    }
    for (size_t i = 0; i < rows * most; i++)
        slots[i] = (uint8_t)check_random(c);
    for (size_t r = rows; r > 1; r--) {
        const size_t k = check_below(c, r);
        const uint32_t t = order[k];
        order[k] = order[r - 1];
        order[r - 1] = t;
    }
    const int permuted = check_below(c, 2) > 0;
    at[0] = 0;
    for (size_t i = 0; i < rows; i++) {
        const size_t r = permuted ? order[i] : i;
        memcpy(payload + at[i], slots + r * most, lengths[r]);
        at[i + 1] = at[i] + lengths[r];
    }
    char *scratch = device_upload(NULL, xp_cuda_pack_scratch(g)), *head = device_upload(zero, 4);
    device_copy(g, scratch, head, 4);
    void *dev_slots = device_upload(slots, rows * most), *dev_lengths = device_upload(lengths, rows * 4), *dev_order = device_upload(order, rows * 4);
    void *dev_at = device_upload(NULL, (rows + 1) * 8), *dev_payload = device_upload(NULL, at[rows]);
    check_launched(c, xp_cuda_pack(g, dev_slots, most, dev_lengths, permuted ? dev_order : NULL, rows, scratch, dev_at, dev_payload), "pack");
    check_device(c, at, dev_at, (rows + 1) * 8, 0, "places of %zu rows", rows);
    check_device(c, payload, dev_payload, at[rows], 0, "%zu rows of up to %zu bytes%s", rows, most, permuted ? ", permuted" : "");
    void *all[] = {scratch, head, dev_slots, dev_lengths, dev_order, dev_at, dev_payload};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(slots);
    free(payload);
    free(lengths);
    free(order);
    free(at);
}

const struct cuda_case cuda_rows_cases[] = {
    {"group", compare_group, bench_group},
    {"group_large", compare_group_large, NULL},
    {"assign", compare_assign, NULL},
    {"refine", compare_refine, bench_refine},
    {"centroid", compare_centroid, bench_centroid},
    {"mean_rows", compare_mean_rows, NULL},
    {"distance", compare_distances, NULL},
    {"pack", compare_pack, NULL},
    {NULL, NULL, NULL},
};
