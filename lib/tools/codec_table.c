/*
 * codec_table.c - what each codec makes of the rows of a file: bytes, errors and time, predicted from a sample and achieved
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/tools/codec_table.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hash/codec.h"
#include "lib/tools/kept_book.h"

/* Fixed formats show their own error: no row is sent raw for it. */
#define NO_LIMIT 0.999

/* Kept books: blocks of so many rows are learned from and measured on in turn; frames hold so many bytes of rows. */
#define BLOCK 16
#define CHUNK ((size_t)256 << 10)
#define AMORTISED (100.0 * 4096) /* rows over which a book's own bytes are spread */

static const struct {
    const char *codec;
    double eps; /* 0: the mode is exact */
} trials[] = {
    { "exact", 0 },      { "pack", 0 },       { "fp8", NO_LIMIT },  { "int8", NO_LIMIT }, { "int6", NO_LIMIT }, { "int5", NO_LIMIT },
    { "int4", NO_LIMIT }, { "int3", NO_LIMIT }, { "int2", NO_LIMIT }, { "quant", 0.01 },    { "quant", 0.03 },    { "quant", 0.1 },
    { "quant", 0.25 },   { "lsh", 0.03 },     { "lsh", 0.1 },       { "lsh", 0.25 },      { "book", 0.01 },     { "book", 0.03 },
    { "book", 0.1 },     { "book", 0.25 },
};
static const double kept_eps[] = { 0.01, 0.03, 0.1, 0.25 };

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double at_speed(double bytes, double s)
{
    return s > 0 ? 1e-9 * bytes / s : 0;
}

/* ---- one codec ------------------------------------------------------------------------------------------------------- */

struct outcome {
    const char *codec;
    double eps;
    size_t rows, bytes;             /* all bytes sent for so many rows */
    double ratio, predicted_ratio;
    double encode, decode;          /* GB/s of rows */
    double predicted_encode, predicted_decode;
    xp_codec_stats st;
};

/* Encodes and decodes nrows rows; the faster of two rounds. */
static int measure(xp_codec *codec, const void *rows, size_t nrows, struct outcome *out)
{
    const size_t cap = xp_codec_bound(codec, nrows);
    void *frame = malloc(cap), *back = malloc(cap);
    double best[2] = { 1e30, 1e30 };
    xp_status s = frame && back ? XP_OK : XP_ERR_NO_MEMORY;

    for (int i = 0; i < 2 && !s; i++) {
        double start = seconds(), middle;
        size_t got;

        memset(&out->st, 0, sizeof(out->st));
        out->st.size = sizeof(out->st);
        s = xp_encode(codec, rows, nrows, frame, cap, &out->bytes, &out->st);
        middle = seconds();
        if (!s)
            s = xp_decode(codec, frame, out->bytes, back, nrows, &got);
        best[0] = middle - start < best[0] ? middle - start : best[0];
        best[1] = seconds() - middle < best[1] ? seconds() - middle : best[1];
    }
    out->rows = nrows;
    out->encode = at_speed((double)out->st.raw_bytes, best[0]);
    out->decode = at_speed((double)out->st.raw_bytes, best[1]);
    out->ratio = out->st.raw_bytes ? (double)out->bytes / (double)out->st.raw_bytes : 1;
    free(frame);
    free(back);
    return s ? tool_fail("%s: %s", out->codec, s == XP_ERR_NO_MEMORY ? "out of memory" : xp_last_error()) : 0;
}

/* The rows that a choice of codec would look at: 2 %, at least 16, at most 128, at equal distances. */
static void *sample_of(const struct xp_npy *a, size_t *rows)
{
    const size_t row = a->dim * xp_dtype_size(a->dtype);
    size_t n = a->rows / 50;
    char *sample;

    n = n < 16 ? 16 : n > 128 ? 128 : n;
    n = n < a->rows ? n : a->rows;
    sample = malloc(n * row + 1);
    for (size_t i = 0; sample && i < n; i++)
        memcpy(sample + i * row, (const char *)a->data + (2 * i + 1) * a->rows / (2 * n) * row, row);
    *rows = n;
    return sample;
}

static int try_codec(const struct tool_options *options, const struct xp_npy *a, const void *sample, size_t sampled, struct outcome *out)
{
    struct tool_options o = *options;
    struct outcome part = *out;
    xp_codec *codec;
    xp_codec_desc d;
    int rc;

    o.codec = out->codec;
    o.mode = out->eps > 0 ? XP_MODE_BOUNDED : XP_MODE_EXACT;
    o.eps = out->eps;
    if (out->eps == NO_LIMIT)
        o.params.eps_ref = XP_EPS_REF_MIN; /* else the mean row would do for most rows */
    tool_describe(&o, a, &d);
    if (xp_codec_create(&codec, &d))
        return tool_fail("%s", xp_last_error());
    rc = measure(codec, sample, sampled, &part) || measure(codec, a->data, a->rows, out);
    xp_codec_destroy(codec);
    out->predicted_ratio = part.ratio;
    out->predicted_encode = part.encode;
    out->predicted_decode = part.decode;
    return rc;
}

/* ---- kept books -------------------------------------------------------------------------------------------------------- */

/* A book learned from half of the rows. */
struct kept {
    struct kept_book book;
    uint32_t *index;    /* the rows learned from, then the others */
    size_t learned;
    double fit_seconds;
};

static xp_status learn(struct kept *k, const struct tool_options *o, const struct xp_npy *a, unsigned directions)
{
    const struct xp_rows in = { .data = a->data, .index = k->index, .rows = k->learned, .dim = a->dim, .dtype = a->dtype };
    const double start = seconds();
    const xp_status s = kept_book_learn(&k->book, &in, directions, (enum xp_isa)xp_isa_parse(o->params.isa));

    k->fit_seconds = seconds() - start;
    return s;
}

/* Codes the rows not learned from, a frame for each chunk, as an exchange does. */
static xp_status use(struct kept *k, struct xp_coder *coder, const struct xp_npy *a, struct outcome *out)
{
    const size_t row = a->dim * xp_dtype_size(a->dtype), rows = a->rows - k->learned, most = CHUNK / row ? CHUNK / row : 1;
    const size_t cap = xp_frame_bound(a->dtype, a->dim, most);
    uint8_t *frame = malloc(cap), *back = malloc(most * row);
    double spent[2] = { 0, 0 };
    xp_status s = frame && back ? XP_OK : XP_ERR_NO_MEMORY;

    for (size_t r = 0; r < rows && !s; r += most) {
        struct xp_rows in = { .data = a->data, .index = k->index + k->learned + r, .rows = rows - r < most ? rows - r : most,
                              .dim = a->dim, .dtype = a->dtype };
        double start = seconds(), middle;
        size_t len;

        s = xp_coder_encode(coder, &in, frame, cap, &len, &out->st);
        middle = seconds();
        if (!s)
            s = xp_coder_decode(coder, frame, len, back, in.rows);
        spent[0] += middle - start;
        spent[1] += seconds() - middle;
        out->bytes += len;
    }
    out->rows = rows;
    out->encode = at_speed((double)(rows * row), spent[0]);
    out->decode = at_speed((double)(rows * row), spent[1]);
    free(frame);
    free(back);
    return s;
}

static xp_status try_kept(struct kept *k, const struct tool_options *o, const struct xp_npy *a, struct outcome *out)
{
    struct xp_coder_desc d = { .dtype = a->dtype, .dim = a->dim, .mode = XP_MODE_BOUNDED, .eps = out->eps, .eps_ref = o->params.eps_ref,
                               .isa = (enum xp_isa)xp_isa_parse(o->params.isa) };
    const double ships = (double)xp_book_fitter_current(k->book.fitter)->len / (AMORTISED * (double)(a->dim * xp_dtype_size(a->dtype)));
    struct xp_coder *coder;
    struct outcome first;
    xp_status s = kept_book_coder(&k->book, &d, &coder);

    if (s)
        return s;
    first = *out;
    s = use(k, coder, a, &first); /* caches and pages are warm in the second round */
    if (!s)
        s = use(k, coder, a, out);
    xp_coder_destroy(coder);
    if (s)
        return s;
    out->ratio = (double)out->bytes / (double)out->st.raw_bytes + ships;
    out->predicted_ratio = out->ratio;
    out->predicted_encode = first.encode;
    out->predicted_decode = first.decode;
    return XP_OK;
}

static void split(struct kept *k, size_t rows)
{
    size_t n = 0;

    for (size_t r = 0; r < rows; r++)
        if (r / BLOCK % 2 == 0)
            k->index[n++] = (uint32_t)r;
    k->learned = n;
    for (size_t r = 0; r < rows; r++)
        if (r / BLOCK % 2)
            k->index[n++] = (uint32_t)r;
}

/* ---- the table ------------------------------------------------------------------------------------------------------- */

struct table {
    FILE *json;
    size_t lines;
};

static void print(struct table *t, const struct outcome *x)
{
    char limit[16] = "-";

    if (x->eps > 0 && x->eps < NO_LIMIT)
        snprintf(limit, sizeof(limit), "%g", x->eps);
    printf("%-11s %6s %12zu %8.4f %8.4f %10.5f %10.5f %9" PRIu64 " %7.2f %6.2f %7.2f %6.2f\n", x->codec, limit, x->bytes, x->predicted_ratio,
           x->ratio, x->st.err_mean, x->st.err_max, x->st.rows_raw, x->predicted_encode, x->encode, x->predicted_decode, x->decode);
    if (t->json)
        fprintf(t->json, "%s{\"codec\": \"%s\", \"eps\": %g, \"rows\": %zu, \"bytes\": %zu, \"ratio\": %.6f, \"predicted_ratio\": %.6f, "
                "\"rel_err_mean\": %.8g, \"rel_err_max\": %.8g, \"rows_raw\": %" PRIu64 ", \"encode_gbs\": %.4g, \"decode_gbs\": %.4g, "
                "\"predicted_encode_gbs\": %.4g, \"predicted_decode_gbs\": %.4g}",
                t->lines ? ", " : "", x->codec, x->eps, x->rows, x->bytes, x->ratio, x->predicted_ratio, x->st.err_mean, x->st.err_max,
                x->st.rows_raw, x->encode, x->decode, x->predicted_encode, x->predicted_decode);
    t->lines++;
}

static int codec_lines(struct table *t, const struct tool_options *o, const struct xp_npy *a)
{
    size_t sampled;
    void *sample = sample_of(a, &sampled);
    int rc = sample ? 0 : tool_fail("out of memory");

    for (size_t i = 0; i < sizeof(trials) / sizeof(trials[0]) && !rc; i++) {
        struct outcome x = { .codec = trials[i].codec, .eps = trials[i].eps };

        tool_progress(x.codec, i, sizeof(trials) / sizeof(trials[0]));
        rc = try_codec(o, a, sample, sampled, &x);
        if (!rc)
            print(t, &x);
    }
    free(sample);
    return rc;
}

static int kept_lines(struct table *t, const struct tool_options *o, const struct xp_npy *a, unsigned directions)
{
    struct kept k = { .index = malloc((a->rows + 1) * sizeof(uint32_t)) };
    xp_status s = k.index ? XP_OK : XP_ERR_NO_MEMORY;

    if (!s) {
        split(&k, a->rows);
        s = learn(&k, o, a, directions);
    }
    for (size_t i = 0; i < sizeof(kept_eps) / sizeof(kept_eps[0]) && !s; i++) {
        struct outcome x = { .codec = directions ? "kept book+d" : "kept book", .eps = kept_eps[i], .st.size = sizeof(xp_codec_stats) };

        s = try_kept(&k, o, a, &x);
        if (!s)
            print(t, &x);
    }
    if (!s)
        printf("%-11s learned from %zu rows in %.1f ms, measured on the %zu others; %zu bytes, which %.0f rows share in the ratio\n", "",
               k.learned, 1e3 * k.fit_seconds, a->rows - k.learned, xp_book_fitter_current(k.book.fitter)->len, AMORTISED);
    kept_book_fini(&k.book);
    free(k.index);
    return s == XP_OK || s == XP_ERR_STATE ? 0 : tool_fail("kept book: %s", xp_status_string(s)); /* STATE: too few rows for a book */
}

int codec_table(const struct tool_options *o, const struct xp_npy *a, FILE *json)
{
    struct table t = { .json = json };
    const int may = a->dim >= XP_BOOK_DIRECTIONS_LEAST && a->dim <= XP_BOOK_DIRECTIONS_MOST;
    const unsigned directions = may ? XP_BOOK_MAX_RANK : 0; /* what exchanges use on the slowest links */

    printf("\n%-11s %6s %12s %8s %8s %10s %10s %9s %14s %14s\n", "", "", "", "ratio", "", "error", "", "", "encode GB/s", "decode GB/s");
    printf("%-11s %6s %12s %8s %8s %10s %10s %9s %7s %6s %7s %6s\n", "codec", "eps", "bytes", "sample", "all", "mean", "worst", "rows raw",
           "sample", "all", "sample", "all");
    if (codec_lines(&t, o, a))
        return 1;
    if (a->rows < 4 * BLOCK)
        return 0;
    return kept_lines(&t, o, a, 0) || (directions && kept_lines(&t, o, a, directions));
}
