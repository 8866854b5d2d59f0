/*
 * cuda_bytes.c - checkcuda: a whole compress and decompress on the device: its bytes, its launches, its result
 *
 * Counted in the emulator: all bytes of device memory that all threads read and wrote, against what must be moved at least.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "checkcuda.h"
#include "hash/cluster.h"
#include "hash/hasher.h"
#include "hash/quant_rows.h"
#include "hash/signs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIM 4096
#define ROWS 384
#define SKETCH 64
#define ROUNDS 2
#define EPS 0.05

static void limit(struct check *c, const char *kernel, unsigned long least, double most)
{
    const struct device_count n = device_count(kernel);
    const double ratio = (double)(n.read + n.written) / (double)least;

    printf("# %-9s %9lu bytes, %.4f x the least (at most %.2f), %lu launches\n", kernel, n.read + n.written, ratio, most, n.launches);
    c->compared++;
    if (ratio > most || ratio < 1) {
        printf("# %s: outside its limit\n", kernel);
        c->failed++;
    }
}

/* What the host has made, for comparison. */
struct wanted {
    uint32_t *ids, *lengths;
    struct xp_clusters clusters;
    float *centroids;
    uint8_t *formats, *payload;
    uint64_t *at;
    char *back;
};

/* Rows that cluster: each is one of ROWS / 6 centres and noise. */
static char *clustered_rows(struct check *c)
{
    char *data = malloc((size_t)ROWS * DIM * 2);
    float *centres = malloc((size_t)ROWS / 6 * DIM * sizeof(*centres));

    for (size_t i = 0; i < (size_t)ROWS / 6 * DIM; i++)
        centres[i] = (float)check_gauss(c);
    for (size_t r = 0; r < ROWS; r++) {
        const float *m = centres + check_below(c, ROWS / 6) * DIM;
        for (size_t i = 0; i < DIM; i++)
            xp_store_f32(data + r * DIM * 2, XP_BF16, i, m[i] + 0.1f * (float)check_gauss(c));
    }
    free(centres);
    return data;
}

static void want_all(struct wanted *w, const struct xp_kernels *plain, const struct xp_hasher *h, const struct xp_rows *in, struct xp_coder *coder,
                     struct xp_row_plan *plan, const float *mean)
{
    xp_codec_stats st = {0};

    w->ids = malloc(ROWS * 4);
    w->lengths = malloc(ROWS * 4);
    w->formats = malloc(ROWS);
    w->payload = malloc((size_t)ROWS * DIM * 2);
    w->at = malloc((ROWS + 1) * 8);
    w->back = malloc((size_t)ROWS * DIM * 2);
    int16_t *sketch = malloc(ROWS * SKETCH * sizeof(*sketch));
    plain->hash(h, in, w->ids, sketch);
    if (xp_clusters_init(&w->clusters, ROWS, SKETCH))
        exit(2);
    xp_clusters_group(&w->clusters, w->ids, ROWS);
    xp_clusters_refine(&w->clusters, plain, sketch, SKETCH, ROUNDS, 0);
    free(sketch);
    w->centroids = malloc(w->clusters.count * DIM * 4);
    plain->centroid(in, w->clusters.order, w->clusters.start, w->clusters.count, w->centroids);
    w->at[0] = 0;
    for (size_t r = 0; r < ROWS; r++) {
        uint8_t *out = w->payload + w->at[r];
        w->lengths[r] = (uint32_t)xp_row_encode(coder, plan, xp_row(in, r), NULL, mean, out, DIM * 2, &w->formats[r], &st);
        xp_row_decode(coder, plan, w->formats[r], out, mean, w->back + r * DIM * 2);
        w->at[r + 1] = w->at[r] + w->lengths[r];
    }
}

static void drop_all(struct wanted *w)
{
    free(w->ids);
    free(w->lengths);
    free(w->formats);
    free(w->payload);
    free(w->at);
    free(w->back);
    free(w->centroids);
    xp_clusters_fini(&w->clusters);
}

static void *zeroed(const struct xp_gpu *g, size_t bytes)
{
    void *zero = calloc(bytes, 1), *p = device_upload(zero, bytes);

    (void)g;
    free(zero);
    return p;
}

/* One call of everything, on one multiprocessor; enough rows for what is read once a block not to count. */
/* Rows of clusters as folded layers make them, and the energies of all rows. */
static void compare_folded_bytes(struct check *c, const struct xp_gpu *g, const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, void *out,
                                 float *energies)
{
    const unsigned long row = DIM * 2;

    device_count_begin();
    check_launched(c, xp_cuda_mean_rows(g, in, order, start, (uint32_t)K, out), "mean rows");
    check_launched(c, xp_cuda_row_distances(g, in, NULL, NULL, energies), "distance");
    if (!device_is_emulated())
        return;
    limit(c, "mean rows", ROWS * (row + 4) + (K + 1) * 4 + K * row, 1.1);
    limit(c, "distance", ROWS * (row + 4), 1.01);
}

static void compare_whole(struct check *c, const struct xp_gpu *all_sms, const struct xp_kernels *plain)
{
    const struct xp_gpu one = {all_sms->stream, 1, all_sms->shared_bytes}, *g = device_is_emulated() ? &one : all_sms;
    const struct xp_hasher_desc hd = {.dim = DIM, .sketch = SKETCH, .seed = 7};
    struct xp_coder_desc cd = {.dtype = XP_BF16, .dim = DIM, .mode = XP_MODE_BOUNDED, .eps = EPS, .isa = XP_ISA_C, .seed = 9};
    struct xp_hasher h, dev_h;
    struct xp_coder *coder;
    struct xp_row_plan plan, dev_plan;
    struct wanted w;

    if (c->compared > 0)
        return;
    if (xp_hasher_init(&h, &hd) || xp_codec_parse("quant", &cd.choice) || xp_coder_create(&coder, &cd) || xp_coder_reserve(coder, 1))
        exit(2);
    char *data = clustered_rows(c);
    struct xp_rows in = {.data = data, .rows = ROWS, .dim = DIM, .dtype = XP_BF16};
    uint32_t every[ROWS];
    const uint32_t ends[] = {0, ROWS};
    float *mean = malloc(DIM * 4);
    for (uint32_t r = 0; r < ROWS; r++)
        every[r] = r;
    plain->centroid(&in, every, ends, 1, mean);
    xp_row_plan_init(&plan, coder, coder->formats, mean);
    want_all(&w, plain, &h, &in, coder, &plan, mean);

    const size_t K = w.clusters.count, total = w.at[ROWS], stride = DIM * 2;
    in.data = device_upload(data, (size_t)ROWS * DIM * 2);
    void *tables = device_upload(h.memory, xp_cuda_hasher_bytes(&h)), *ids = device_upload(NULL, ROWS * 4), *sketch = device_upload(NULL, ROWS * SKETCH * 2);
    xp_cuda_hasher(&h, tables, &dev_h);
    void *scratch = zeroed(g, xp_cuda_refine_scratch(ROWS, SKETCH)), *means = device_upload(NULL, ROWS * SKETCH * 2), *of = device_upload(NULL, ROWS * 4), *start = device_upload(NULL, (ROWS + 1) * 4);
    void *order = device_upload(NULL, ROWS * 4), *count = device_upload(NULL, 4), *centroids = device_upload(NULL, (size_t)ROWS * DIM * 4);
    struct xp_quantiser q = {DIM, device_upload(coder->quantiser.signs, xp_sign_words(DIM) * 4)};
    float *dev_mean = device_upload(mean, DIM * 4);
    const struct xp_gpu_bases bases = {dev_mean, NULL, NULL, NULL};
    dev_plan = plan;
    dev_plan.reference = dev_mean;
    void *slots = device_upload(NULL, ROWS * stride), *formats = device_upload(NULL, ROWS), *lengths = device_upload(NULL, ROWS * 4);
    void *errors = device_upload(NULL, ROWS * 4), *places = zeroed(g, xp_cuda_pack_scratch(g)), *at = device_upload(NULL, (ROWS + 1) * 8);
    void *payload = device_upload(NULL, ROWS * stride), *out = device_upload(NULL, ROWS * stride);

    device_count_begin();
    check_launched(c, xp_cuda_hash(g, &dev_h, &in, ids, sketch), "hash");
    check_launched(c, xp_cuda_refine(g, ids, sketch, ROWS, SKETCH, ROUNDS, 0, scratch, of, start, order, count, means), "refine");
    check_launched(c, xp_cuda_centroid(g, &in, order, start, count, ROWS, centroids), "centroid");
    check_launched(c, xp_cuda_row_encode(g, &dev_plan, &q, &in, &bases, slots, stride, formats, lengths, errors), "encode");
    check_launched(c, xp_cuda_pack(g, slots, stride, lengths, NULL, ROWS, places, at, payload), "pack");
    if (device_is_emulated()) {
        const unsigned long row = DIM * 2;
        const struct device_count all = device_count(NULL);
        limit(c, "hash", ROWS * (row + 4 + SKETCH * 2), 1.02);
        limit(c, "centroid", ROWS * (row + 4) + (K + 1) * 4 + K * DIM * 4, 1.1);
        limit(c, "encode", ROWS * (row + 9) + total, 1.1);
        limit(c, "pack", ROWS * (4 + 8) + 2 * total, 1.1);
        printf("# %lu launches for hash, clusters with their refinement, centroids, encode and pack (at most 5)\n", all.launches);
        c->failed += all.launches > 5;
    }
    check_device(c, w.ids, ids, ROWS * 4, 0, "ids");
    check_device(c, w.clusters.order, order, ROWS * 4, 0, "order");
    check_device(c, w.centroids, centroids, K * DIM * 4, 1, "centroids");
    check_device(c, w.formats, formats, ROWS, 0, "formats");
    check_device(c, w.at, at, (ROWS + 1) * 8, 0, "places");
    check_device(c, w.payload, payload, total, 0, "payload");

    device_count_begin();
    check_launched(c, xp_cuda_row_places(g, formats, DIM, XP_BF16, ROWS, places, at), "places");
    check_launched(c, xp_cuda_row_decode(g, &q, formats, XP_Q_RAW, payload, at, 0, &bases, XP_BF16, ROWS, out), "decode");
    if (device_is_emulated()) {
        limit(c, "decode", ROWS * (DIM * 2 + 9) + total, 1.05);
        printf("# %lu launches for places and decode (at most 2)\n", device_count(NULL).launches);
        c->failed += device_count(NULL).launches > 2;
    }
    check_device(c, w.back, out, ROWS * stride, 0, "decoded rows");
    compare_folded_bytes(c, g, &in, order, start, K, out, errors);

    void *all[] = {(void *)(uintptr_t)in.data, tables, ids, sketch, scratch, means, of, start, order, count, centroids, q.signs, dev_mean, slots, formats, lengths,
                   errors, places, at, payload, out};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    drop_all(&w);
    free(data);
    free(mean);
    xp_hasher_fini(&h);
    xp_coder_destroy(coder);
}

/* What dither adds to frames: their rows are read once more. */
static void compare_frame_signs(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    enum { FRAMES = 4 };
    const size_t words = xp_sign_words(DIM);
    struct xp_gpu_frame frames[FRAMES];
    uint64_t seeds[FRAMES];

    (void)plain;
    if (c->compared > 0)
        return;
    char *data = clustered_rows(c);
    uint32_t *want = malloc(words * 4);
    for (uint32_t i = 0; i < FRAMES; i++)
        frames[i] = (struct xp_gpu_frame){i * (ROWS / FRAMES), ROWS / FRAMES};
    const struct xp_rows in = {.data = device_upload(data, (size_t)ROWS * DIM * 2), .rows = ROWS, .dim = DIM, .dtype = XP_BF16};
    void *table = device_upload(frames, sizeof(frames));
    const struct xp_gpu_frame_signs out = {device_upload(NULL, ROWS * 8), device_upload(NULL, FRAMES * 8), device_upload(NULL, ROWS * 4),
                                           device_upload(NULL, FRAMES * words * 4)};
    device_count_begin();
    check_launched(c, xp_cuda_frame_signs(g, &in, table, FRAMES, 3, &out), "frame signs");
    if (device_is_emulated())
        limit(c, "frame signs", ROWS * (DIM * 2 + 4) + FRAMES * (8 + 8 + words * 4), 1.1);
    device_download(seeds, out.seeds, sizeof(seeds));
    for (size_t i = 0; i < FRAMES; i++) {
        xp_signs_fill(seeds[i], XP_SIGNS_QUANTISE, DIM, want);
        check_device(c, want, out.signs + i * words, words * 4, 0, "signs of frame %zu", i);
    }
    void *all[] = {(void *)(uintptr_t)in.data, table, out.sums, out.seeds, out.of, out.signs};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(data);
    free(want);
}

const struct cuda_case cuda_bytes_cases[] = {
    {"whole", compare_whole, NULL},
    {"frame_signs", compare_frame_signs, NULL},
    {NULL, NULL, NULL},
};
