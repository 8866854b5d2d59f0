/*
 * bench_codec.c - encoding and decoding on one core, beside memcpy of the same bytes in the same run
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crosspress/codec.h"
#include "hash/kernels.h"
#include "lib/tools/kept_book.h"
#include "perf/xp_perf.h"

#define DEFAULT_ROWS 8192
#define KEPT_LEARNS 4096 /* rows that a kept book is learned from, at most */
#define KEPT_RUN 16      /* codec kept: runs of rows are coded and learned from in turns */

/* What runs without --codec, --mode and --eps. */
static const struct codec_case {
    const char *codec;
    xp_mode mode;
    double eps;
} default_cases[] = {
    {"raw", XP_MODE_EXACT, 0.0},     {"exact", XP_MODE_EXACT, 0.0},    {"quant", XP_MODE_BOUNDED, 0.01}, {"quant", XP_MODE_BOUNDED, 0.03},
    {"quant", XP_MODE_BOUNDED, 0.1}, {"fp8", XP_MODE_BOUNDED, 0.05},   {"int8", XP_MODE_BOUNDED, 0.02},  {"int4", XP_MODE_BOUNDED, 0.2},
    {"int2", XP_MODE_BOUNDED, 0.7},
};

struct work {
    struct perf *p;
    const char *isa;
    xp_codec *codec;
    struct kept_book book;  /* of codec kept, and its coder in the place of `codec`; */
    struct xp_coder *coder; /* NULL: another codec */
    size_t rows, bytes, cap, len;
    char *in, *out;
    uint8_t *frame;
    xp_codec_stats stats;
    xp_status status;
};

static void copy(void *arg)
{
    struct work *w = arg;

    memcpy(w->out, w->in, w->bytes);
}

static void encode(void *arg)
{
    struct work *w = arg;
    const struct xp_rows in = {.data = w->in, .rows = w->rows, .dim = w->p->rows.dim, .dtype = w->p->rows.dtype};
    xp_status s;

    memset(&w->stats, 0, sizeof(w->stats));
    w->stats.size = sizeof(w->stats);
    s = w->coder != NULL ? xp_coder_encode(w->coder, &in, w->frame, w->cap, &w->len, &w->stats)
                         : xp_encode(w->codec, w->in, w->rows, w->frame, w->cap, &w->len, &w->stats);
    w->status = s != XP_OK ? s : w->status;
}

static void decode(void *arg)
{
    struct work *w = arg;
    size_t rows = 0;
    xp_status s = w->coder != NULL ? xp_coder_decode(w->coder, w->frame, w->len, w->out, w->rows)
                                   : xp_decode(w->codec, w->frame, w->len, w->out, w->rows, &rows);

    w->status = s != XP_OK ? s : w->status;
}

/* Row errors of the last decode, in f64. */
static void measure(struct work *w, double *mean, double *worst)
{
    const struct row_source *rows = &w->p->rows;
    double sum = 0.0;

    *worst = 0.0;
    for (size_t r = 0; r < w->rows; r++) {
        double e = rows_distance(rows, w->in + r * rows->row_bytes, w->out + r * rows->row_bytes);

        sum += e;
        *worst = e > *worst ? e : *worst;
    }
    *mean = w->rows > 0 ? sum / (double)w->rows : 0.0;
}

static void show(struct work *w, const struct codec_case *c, const double *best, double mean, double worst)
{
    const double gb = 1e-9 * (double)w->bytes;
    struct json *j = &w->p->json;

    printf("%-8s %-6g %-8s %8.2f %8.2f %8.2f   %6.2fx %6.2fx   %6.3f %9.5f %9.5f %8llu\n", c->codec, c->eps, w->stats.codec,
           gb / best[0], gb / best[1], gb / best[2], best[0] / best[1], best[0] / best[2],
           (double)w->len / (double)(w->bytes > 0 ? w->bytes : 1), mean, worst, (unsigned long long)w->stats.rows_raw);
    json_open(j);
    json_text(j, "command", "codec");
    json_pair(j, "shape", w->rows, w->p->rows.dim);
    json_text(j, "dtype", perf_dtype_name(w->p->rows.dtype));
    json_text(j, "data", w->p->rows.name);
    json_text(j, "mode", perf_mode_name(c->mode));
    json_real(j, "eps", c->eps);
    json_text(j, "codec", c->codec);
    json_text(j, "used", w->stats.codec);
    json_text(j, "isa", w->isa);
    json_real(j, "memcpy_ms", 1e3 * best[0]);
    json_real(j, "encode_ms", 1e3 * best[1]);
    json_real(j, "decode_ms", 1e3 * best[2]);
    json_real(j, "encode_vs_memcpy", best[0] / best[1]);
    json_real(j, "decode_vs_memcpy", best[0] / best[2]);
    json_whole(j, "raw_bytes", w->bytes);
    json_whole(j, "wire_bytes", w->len);
    json_real(j, "wire_ratio", (double)w->len / (double)(w->bytes > 0 ? w->bytes : 1));
    json_real(j, "rel_err_mean", mean);
    json_real(j, "rel_err_max", worst);
    json_whole(j, "rows_raw", w->stats.rows_raw);
    json_whole(j, "seed", w->p->opt->seed);
    json_close(j);
}

static int is_kept(const char *codec)
{
    return codec != NULL && strcmp(codec, "kept") == 0;
}

/* A book that rows beside the coded ones were learned from. */
static xp_status create_kept(struct work *w, const xp_codec_desc *d)
{
    const struct row_source *rows = &w->p->rows;
    const size_t n = w->rows < KEPT_LEARNS ? w->rows : KEPT_LEARNS;
    const enum xp_isa isa = (enum xp_isa)xp_isa_parse(d->isa);
    struct xp_coder_desc cd = {.dtype = d->dtype, .dim = d->dim, .mode = d->mode, .eps = d->eps, .eps_ref = d->eps_ref,
                               .dither = d->dither == XP_DITHER_ON, .isa = isa};
    struct xp_rows in = {.rows = n, .dim = rows->dim, .dtype = rows->dtype};
    char *learn = malloc(n * rows->row_bytes);
    xp_status s;

    if (learn == NULL)
        return XP_ERR_NO_MEMORY;
    for (size_t r = 0; r < n; r++)
        rows_get(rows, r + (r / KEPT_RUN + 1) * KEPT_RUN, learn + r * rows->row_bytes);
    in.data = learn;
    s = kept_book_learn(&w->book, &in, 0, isa); /* no directions: plans have them on the slowest links only */
    free(learn);
    return s != XP_OK ? s : kept_book_coder(&w->book, &cd, &w->coder);
}

static xp_status create_codec(struct work *w, const struct codec_case *c, const xp_codec_desc *d)
{
    w->book = (struct kept_book){0};
    w->coder = NULL;
    w->codec = NULL;
    return is_kept(c->codec) ? create_kept(w, d) : xp_codec_create(&w->codec, d);
}

static int bench_case(struct work *w, const struct codec_case *c)
{
    const struct bench_piece pieces[] = {{copy, w}, {encode, w}, {decode, w}};
    const struct options *o = w->p->opt;
    double best[3], mean = 0.0, worst = 0.0;
    xp_codec_desc d;
    xp_status s;

    xp_codec_desc_init(&d);
    d.dtype = w->p->rows.dtype;
    d.dim = w->p->rows.dim;
    d.mode = c->mode;
    d.eps = c->eps;
    d.eps_ref = o->eps_ref;
    d.dither = o->dither;
    d.codec = c->codec;
    d.isa = w->isa;
    s = create_codec(w, c, &d);
    if (s != XP_OK) {
        kept_book_fini(&w->book);
        return perf_fail(w->p, "codec %s: %s", c->codec, is_kept(c->codec) ? xp_status_string(s) : xp_last_error());
    }
    w->status = XP_OK;
    w->cap = xp_frame_bound(d.dtype, d.dim, w->rows);
    w->frame = malloc(w->cap);
    if (w->frame == NULL)
        w->status = XP_ERR_NO_MEMORY;
    else
        memset(w->frame, 0, w->cap);
    if (w->status == XP_OK)
        bench_turns(pieces, 3, o->iters, best);
    if (w->status == XP_OK) {
        measure(w, &mean, &worst);
        show(w, c, best, mean, worst);
    }
    free(w->frame);
    xp_codec_destroy(w->codec);
    xp_coder_destroy(w->coder);
    kept_book_fini(&w->book);
    if (w->status != XP_OK)
        return perf_fail(w->p, "codec %s: %s", c->codec, w->status == XP_ERR_NO_MEMORY ? "no memory" : xp_last_error());
    if (o->check && worst > c->eps * (1.0 + 1e-6))
        return perf_fail(w->p, "check: codec %s left a row %.6g off, eps is %g", c->codec, worst, c->eps);
    return 0;
}

static int bench_cases(struct work *w)
{
    const struct options *o = w->p->opt;
    int code = 0;

    printf("codec: %zu x %zu %s rows (%s), %.1f MB, best of %d, isa %s; memcpy, encode, decode in GB/s of rows\n", w->rows,
           w->p->rows.dim, perf_dtype_name(w->p->rows.dtype), w->p->rows.name, 1e-6 * (double)w->bytes, o->iters, w->isa);
    printf("%-8s %-6s %-8s %8s %8s %8s   %7s %7s   %6s %9s %9s %8s\n", "codec", "eps", "used", "memcpy", "encode", "decode", "enc/cpy", "dec/cpy",
           "wire", "err mean", "err max", "rows raw");
    if (o->codec != NULL || o->mode != XP_MODE_DEFAULT || o->eps != 0.0) {
        struct codec_case c = {o->codec != NULL ? o->codec : "auto", o->mode, o->eps};

        if (c.mode == XP_MODE_DEFAULT)
            c.mode = o->eps != 0.0 ? XP_MODE_BOUNDED : XP_MODE_EXACT;
        c.eps = c.mode == XP_MODE_BOUNDED ? c.eps : 0.0;
        return bench_case(w, &c);
    }
    for (size_t i = 0; i < sizeof(default_cases) / sizeof(default_cases[0]) && code == 0; i++) {
        perf_progress("codec", (int)i, (int)(sizeof(default_cases) / sizeof(default_cases[0])));
        perf_progress("codec", 0, 0);
        code = bench_case(w, &default_cases[i]);
    }
    return code;
}

int bench_codec(struct perf *p)
{
    const struct row_source *rows = &p->rows;
    struct work w = {.p = p, .rows = p->opt->rows};
    const int kept = is_kept(p->opt->codec);
    int isa = xp_isa_parse(getenv("CROSSPRESS_ISA")), code;

    if (isa < 0)
        return perf_fail(p, "CROSSPRESS_ISA: %s", isa == -2 ? "this CPU lacks it" : "unknown (c, avx2, avx512, avx512bf16)");
    w.isa = xp_isa_name((enum xp_isa)isa);
    if (!p->opt->rows_given)
        w.rows = rows->kind != ROWS_FILE ? DEFAULT_ROWS : kept ? rows->file_rows / (2 * KEPT_RUN) * KEPT_RUN : rows->file_rows;
    w.bytes = w.rows * rows->row_bytes;
    w.in = malloc(w.bytes + 64);
    w.out = malloc(w.bytes + 64);
    if (w.in == NULL || w.out == NULL) {
        code = perf_fail(p, "no memory for %zu rows of %zu bytes", w.rows, rows->row_bytes);
    } else {
        for (size_t r = 0; r < w.rows; r++)
            rows_get(rows, kept ? r + r / KEPT_RUN * KEPT_RUN : r, w.in + r * rows->row_bytes);
        memset(w.out, 0, w.bytes);
        code = bench_cases(&w);
    }
    free(w.in);
    free(w.out);
    return code;
}
