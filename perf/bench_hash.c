/*
 * bench_hash.c - bucket ids of rows on one core, beside memcpy of the same bytes in the same run
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hash/hasher.h"
#include "perf/xp_perf.h"

#define DEFAULT_BYTES (64u << 20) /* larger than the caches: rows come from memory */
#define ISAS (XP_ISA_BEST + 1)

struct work;

/* The hash by one instruction set. */
struct variant {
    struct work *work;
    struct xp_kernels kernels;
};

struct work {
    struct perf *p;
    const struct row_source *rows;
    size_t count, bytes;
    char *in, *out;
    uint32_t *ids;
    struct xp_hasher hasher;
    struct variant variant[ISAS];
};

static void copy(void *arg)
{
    struct work *w = arg;

    memcpy(w->out, w->in, w->bytes);
}

static void hash(void *arg)
{
    const struct variant *v = arg;
    struct work *w = v->work;
    const struct xp_rows in = {.data = w->in, .rows = w->count, .dim = w->rows->dim, .dtype = w->rows->dtype};

    v->kernels.hash(&w->hasher, &in, w->ids, NULL);
}

static void show(struct work *w, enum xp_isa isa, double seconds, double copied)
{
    const double gb = 1e-9 * (double)w->bytes;
    struct json *j = &w->p->json;

    printf("%6zu %8zu   %-10s %8.2f %8.2f %9.2fx %10.3f\n", w->rows->dim, w->count, xp_isa_name(isa), gb / seconds, gb / copied,
           copied / seconds, 1e6 * seconds / (double)w->count);
    json_open(j);
    json_text(j, "command", "hash");
    json_pair(j, "shape", w->count, w->rows->dim);
    json_text(j, "dtype", perf_dtype_name(w->rows->dtype));
    json_text(j, "data", w->rows->name);
    json_text(j, "isa", xp_isa_name(isa));
    json_whole(j, "raw_bytes", w->bytes);
    json_whole(j, "rounds", w->hasher.rounds);
    json_whole(j, "hashes", w->hasher.k);
    json_real(j, "best_ms", 1e3 * seconds);
    json_real(j, "memcpy_ms", 1e3 * copied);
    json_real(j, "vs_memcpy", copied / seconds);
    json_real(j, "us_per_row", 1e6 * seconds / (double)w->count);
    json_whole(j, "seed", w->p->opt->seed);
    json_close(j);
}

/* With --check: the ids of this variant against those of plain C. */
static int same_ids(struct work *w, enum xp_isa isa, uint32_t *reference)
{
    hash(&w->variant[XP_ISA_C]);
    memcpy(reference, w->ids, w->count * sizeof(*reference));
    memset(w->ids, 0xff, w->count * sizeof(*w->ids));
    hash(&w->variant[isa]);
    if (memcmp(reference, w->ids, w->count * sizeof(*reference)) == 0)
        return 0;
    return perf_fail(w->p, "check: ids of %s differ from those of C at dim %zu", xp_isa_name(isa), w->rows->dim);
}

static int measure(struct work *w)
{
    struct bench_piece pieces[1 + ISAS] = {{copy, w}};
    const int isas = (int)xp_cpu_isa() + 1;
    double best[1 + ISAS];
    int code = 0;

    for (int i = 0; i < isas; i++) {
        w->variant[i].work = w;
        xp_kernels_init(&w->variant[i].kernels, (enum xp_isa)i);
        pieces[1 + i] = (struct bench_piece){hash, &w->variant[i]};
    }
    bench_turns(pieces, (size_t)(1 + isas), w->p->opt->iters, best);
    for (int i = 0; i < isas; i++)
        show(w, (enum xp_isa)i, best[1 + i], best[0]);
    for (int i = 1; i < isas && w->p->opt->check && code == 0; i++)
        code = same_ids(w, (enum xp_isa)i, (uint32_t *)w->out);
    return code;
}

static int bench_dim(struct perf *p, const struct row_source *rows)
{
    const struct xp_hasher_desc d = {.dim = rows->dim, .seed = p->opt->seed};
    struct work w = {.p = p, .rows = rows};
    int code = 1;

    w.count = p->opt->rows_given ? p->opt->rows : DEFAULT_BYTES / rows->row_bytes;
    if (!p->opt->rows_given && rows->kind == ROWS_FILE)
        w.count = rows->file_rows;
    if (w.count == 0)
        return perf_fail(p, "hash: no rows, nothing to measure");
    if (xp_hasher_init(&w.hasher, &d) != XP_OK)
        return perf_fail(p, "hash: no tables for dim %zu", rows->dim);
    w.bytes = w.count * rows->row_bytes;
    w.in = malloc(w.bytes + 64);
    w.out = malloc(w.bytes + w.count * sizeof(uint32_t) + 64);
    w.ids = calloc(w.count, sizeof(uint32_t));
    if (w.in == NULL || w.out == NULL || w.ids == NULL) {
        perf_fail(p, "no memory for %zu rows of %zu bytes", w.count, rows->row_bytes);
    } else {
        for (size_t r = 0; r < w.count; r++)
            rows_get(rows, r, w.in + r * rows->row_bytes);
        memset(w.out, 0, w.bytes);
        code = measure(&w);
    }
    free(w.in);
    free(w.out);
    free(w.ids);
    xp_hasher_fini(&w.hasher);
    return code;
}

int bench_hash(struct perf *p)
{
    static const size_t dims[] = {512, 1024, 2048, 4096, 8192};
    const size_t ndims = sizeof(dims) / sizeof(dims[0]);
    int code = 0;

    printf("hash: %s rows (%s), best of %d, one core; ids alone, without a sketch\n", perf_dtype_name(p->rows.dtype), p->rows.name, p->opt->iters);
    printf("%6s %8s   %-10s %8s %8s %10s %10s\n", "dim", "rows", "isa", "GB/s", "memcpy", "vs memcpy", "us/row");
    if (p->rows.kind == ROWS_FILE || p->opt->dim != 0)
        return bench_dim(p, &p->rows);
    for (size_t i = 0; i < ndims && code == 0; i++) {
        struct row_source rows;

        perf_progress("hash", (int)i, (int)ndims);
        rows_open_generated(&rows, p->rows.name, p->rows.dtype, dims[i], p->opt->seed);
        perf_progress("hash", 0, 0);
        code = bench_dim(p, &rows);
    }
    return code;
}
