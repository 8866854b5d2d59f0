/*
 * cuda_copies.c - checkcuda: copies of rows, as xp_dedup finds them, frame by frame
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkcuda.h"
#include "hash/codec.h"

static const xp_dtype types[] = {XP_BF16, XP_F16, XP_F32, XP_BYTE};
enum { MOST_FRAMES = 5, UNTOUCHED = 0xee };

/* Rows in device memory, now and then at an odd place, in frames with rows between them that are in none. */
struct batch {
    xp_dtype t;
    size_t rows, dim, row_bytes, shift, count;
    struct xp_gpu_frame frame[MOST_FRAMES + 1];
    char *host, *memory;
};

/* Some rows of any kind; the others are copies of rows before them, and of these some have one bit changed. Most bits are of no sample. */
static void fill(struct check *c, struct batch *b)
{
    const size_t kinds = 1 + check_below(c, b->rows + 1);

    for (size_t r = 0; r < b->rows; r++) {
        char *row = b->host + r * b->row_bytes;
        const size_t like = check_below(c, r + 1);

        if (r < kinds && b->t != XP_BYTE)
            check_fill_row(c, (enum check_fill)check_below(c, FILL_COUNT), b->t, b->dim, (unsigned char *)row);
        for (size_t i = 0; r < kinds && b->t == XP_BYTE && i < b->dim; i++)
            row[i] = (char)check_below(c, 256);
        if (r >= kinds)
            memcpy(row, b->host + like * b->row_bytes, b->row_bytes);
        if (r >= kinds && check_below(c, 3) == 0)
            row[check_below(c, b->row_bytes)] ^= (char)(1 << check_below(c, 8));
    }
}

static void make_frames(struct check *c, struct batch *b, size_t most)
{
    b->rows = check_below(c, 4);
    for (b->count = 0; b->count < 1 + check_below(c, MOST_FRAMES); b->count++) {
        const size_t rows = check_below(c, 6) ? check_below(c, most) : 0;
        b->frame[b->count] = (struct xp_gpu_frame){(uint32_t)b->rows, (uint32_t)rows};
        b->rows += rows + (check_below(c, 2) ? check_below(c, 4) : 0);
    }
}

static struct batch make_batch(struct check *c)
{
    struct batch b = {.t = types[check_below(c, 4)], .dim = check_dim(c)};

    b.row_bytes = b.dim * xp_dtype_size(b.t);
    b.shift = check_below(c, 3) ? 0 : xp_dtype_size(b.t);
    make_frames(c, &b, b.dim > 500 ? 8 : 40);
    b.memory = calloc(b.shift + b.rows * b.row_bytes + 1, 1);
    b.host = b.memory + b.shift;
    fill(c, &b);
    return b;
}

/* What xp_dedup says of each frame; rows of none have UNTOUCHED bytes. */
static uint32_t *copies_on_host(const struct batch *b)
{
    uint32_t *copy_of = malloc((b->rows + 1) * 4), *first = malloc((b->rows + 1) * 4), *map = malloc((b->rows + 1) * 4);
    uint32_t *work = malloc((b->rows + 1) * 4 * 8);

    memset(copy_of, UNTOUCHED, b->rows * 4);
    for (size_t f = 0; f < b->count; f++) {
        const struct xp_gpu_frame *frame = &b->frame[f];
        const struct xp_rows in = {.data = b->host + frame->first * b->row_bytes, .rows = frame->rows, .dim = b->dim, .dtype = b->t};
        if (!frame->rows)
            continue;
        xp_dedup(&in, first, map, work);
        for (size_t r = 0; r < frame->rows; r++)
            copy_of[frame->first + r] = frame->first + first[map[r]];
    }
    free(first);
    free(map);
    free(work);
    return copy_of;
}

static void *filled(int byte, size_t bytes)
{
    void *host = malloc(bytes + 1), *device = device_upload(memset(host, byte, bytes), bytes);

    free(host);
    return device;
}

static void compare_copies(struct check *c, const struct xp_gpu *gpu, const struct xp_kernels *plain)
{
    const struct xp_gpu few = check_gpu(c, gpu);
    struct batch b = make_batch(c);
    uint32_t *want = copies_on_host(&b), *copy_of = filled(UNTOUCHED, b.rows * 4);
    char *memory = device_upload(b.memory, b.shift + b.rows * b.row_bytes);
    void *frames = device_upload(b.frame, b.count * sizeof(*b.frame)), *scratch = filled(0, xp_cuda_row_copies_scratch(b.rows));
    const struct xp_rows in = {.data = memory + b.shift, .rows = b.rows, .dim = b.dim, .dtype = b.t};

    (void)plain;
    check_launched(c, xp_cuda_row_copies(&few, &in, frames, b.count, scratch, copy_of), "copies of rows");
    check_device(c, want, copy_of, b.rows * 4, 0, "copies among %zu %s rows of %zu in %zu frames", b.rows, check_dtype_name(b.t), b.dim, b.count);
    void *all[] = {memory, frames, scratch, copy_of};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(b.memory);
    free(want);
}

/* ---- bytes ---- */

enum { ROWS = 256, DIM = 4096, ROW = DIM * 2 };

/* Row r is what row r - distinct is. */
static char *rows_with_copies(size_t distinct)
{
    char *data = malloc((size_t)ROWS * ROW);

    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < ROW; i++)
            data[r * ROW + i] = (char)((r % distinct + 1) * 31 + i * (r % distinct + 3) / 7);
    return data;
}

/* All lanes of a warp read its row's frame and slot, which counts 32 times; each sector once, it does not. */
static void limit(struct check *c, const char *kernel, const char *what, unsigned long least, double most, double most_once)
{
    const struct device_count n = device_count(kernel);
    const double all = (double)(n.read + n.written) / (double)least, once = (double)(n.read_once + n.written_once) / (double)least;

    printf("# %-14s %9lu bytes, %s: %.4f x the least (at most %.2f); each sector once: %.4f x (at most %.2f)\n", kernel, n.read + n.written, what, all, most,
           once, most_once);
    c->compared++;
    c->failed += all > most || once > most_once;
}

static void count_bytes(struct check *c, const struct xp_gpu *g, size_t distinct)
{
    const struct xp_gpu_frame frame = {0, ROWS};
    char *data = rows_with_copies(distinct);
    void *frames = device_upload(&frame, sizeof(frame)), *scratch = filled(0, xp_cuda_row_copies_scratch(ROWS));
    uint32_t *copy_of = filled(UNTOUCHED, ROWS * 4), want[ROWS];
    const struct xp_rows in = {.data = device_upload(data, (size_t)ROWS * ROW), .rows = ROWS, .dim = DIM, .dtype = XP_BF16};
    const unsigned long copies = ROWS - distinct;

    for (size_t r = 0; r < ROWS; r++)
        want[r] = (uint32_t)(r % distinct);
    device_count_begin();
    check_launched(c, xp_cuda_row_copies(g, &in, frames, 1, scratch, copy_of), "copies of rows");
    check_device(c, want, copy_of, sizeof(want), 0, "copies among %d rows of which %zu are distinct", ROWS, distinct);
    limit(c, "mark copies", copies ? "half are copies" : "no copies", ROWS * (64 + 3 * 4 + 8), 9.0, 2.0);
    if (copies)
        limit(c, "compare copies", "half are copies", copies * 2 * ROW + ROWS * 16, 1.15, 1.02);
    void *all[] = {(void *)(uintptr_t)in.data, frames, scratch, copy_of};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free(all[i]);
    free(data);
}

static void compare_bytes(struct check *c, const struct xp_gpu *g, const struct xp_kernels *plain)
{
    (void)plain;
    if (c->compared > 0 || !device_is_emulated()) {
        c->compared++;
        return;
    }
    count_bytes(c, g, ROWS);
    count_bytes(c, g, ROWS / 2);
}

/* ---- timing ---- */

struct copies_bench {
    const struct xp_gpu *g;
    struct xp_rows in;
    const struct xp_gpu_frame *frames;
    void *scratch;
    uint32_t *copy_of;
};

/* The table stays full of the keys of the run before, which are the same. */
static void run_copies(void *arg)
{
    const struct copies_bench *b = arg;

    xp_cuda_row_copies(b->g, &b->in, b->frames, 1, b->scratch, b->copy_of);
}

/* 16384 rows, every second one a copy. */
static void bench_copies(struct check *c, const struct xp_gpu *g)
{
    enum { MANY = 16384 };
    const struct xp_gpu_frame frame = {0, MANY};
    char *rows = malloc((size_t)MANY * ROW);

    for (size_t r = 0; r < MANY; r++)
        for (size_t i = 0; i < ROW; i++)
            rows[r * ROW + i] = (char)(r / 2 >> (i % 2 * 7));
    struct copies_bench b = {.g = g, .in = {.data = device_upload(rows, (size_t)MANY * ROW), .rows = MANY, .dim = DIM, .dtype = XP_BF16},
                             .frames = device_upload(&frame, sizeof(frame)), .scratch = filled(0, xp_cuda_row_copies_scratch(MANY)),
                             .copy_of = device_upload(NULL, MANY * 4)};
    cuda_bench_line(c, g, "16384 rows of 4096, half copies", (size_t)MANY * ROW, run_copies, &b);
    const void *all[] = {b.in.data, b.frames, b.scratch, b.copy_of};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        device_free((void *)(uintptr_t)all[i]);
    free(rows);
}

const struct cuda_case cuda_copies_cases[] = {
    {"copies", compare_copies, bench_copies},
    {"copies_bytes", compare_bytes, NULL},
    {NULL, NULL, NULL},
};
