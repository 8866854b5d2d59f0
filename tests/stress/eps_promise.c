/*
 * eps_promise.c - no row ever arrives further away than eps: rows of many shapes and kinds, checked in double
 *
 * usage: eps_promise [--values N] [file.npy ...]
 *
 * N values (default 10000000) are spread over dims 1 .. 300 and 4096, the three types, eps from 0.001 to 0.9, every codec, both
 * references of eps, and eight kinds of rows. Files are tried whole, with every codec. Encoder and decoder run on different
 * instruction sets. The rows that arrive are compared with tests/harness/values.h, which shares no code with the library.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>

#include "crosspress/codec.h"
#include "lib/tools/npy.h"
#include "tests/harness/random.h"
#include "tests/harness/values.h"

static uint64_t values_seen, rows_seen, rows_raw, frames, violations;

/* What bounded mode allows a row: eps times the reference. The mean row is the encoder's; it may be rounded to the type. */
static double allowed(const void *row, const double *mean, double mean_norm, xp_dtype t, size_t dim, double eps)
{
    double norm = value_norm(row, t, dim), apart = 0;

    if (!mean)
        return eps * norm;
    for (size_t i = 0; i < dim; i++) {
        double d = value_get(row, t, i) - mean[i];
        apart += d * d;
    }
    apart = sqrt(apart) + mean_norm * 0x1p-8;
    return eps * fmax(fmin(norm, apart), norm * 0x1p-8);
}

static void complain(const char *what, size_t row, size_t dim, const xp_codec_desc *d, double error, double limit)
{
    if (violations++ < 10)
        printf("VIOLATION %s: codec %s type %d dim %zu eps %g ref %d row %zu: error %.9g, allowed %.9g\n", what, d->codec,
               (int)d->dtype, dim, d->eps, (int)d->eps_ref, row, error, limit);
}

#define MEAN_LEAST_ROWS 4 /* fewer rows that count have no mean: eps is relative to |x| */
#define MEAN_LARGEST 1e30 /* a row with more energy does not count */

/* The mean over the rows that count; returns its norm, or -1 where too few do. */
static double mean_row(const char *data, size_t rows, xp_dtype t, size_t dim, double *mean)
{
    size_t bytes = dim * xp_dtype_size(t), counted = 0;
    double norm = 0;

    for (size_t i = 0; i < dim; i++)
        mean[i] = 0;
    for (size_t r = 0; r < rows; r++) {
        double n = value_norm(data + r * bytes, t, dim);

        if (!(n * n <= MEAN_LARGEST))
            continue;
        counted++;
        for (size_t i = 0; i < dim; i++)
            mean[i] += value_get(data + r * bytes, t, i);
    }
    if (counted < MEAN_LEAST_ROWS)
        return -1;
    for (size_t i = 0; i < dim; i++) {
        mean[i] /= (double)counted;
        norm += mean[i] * mean[i];
    }
    return sqrt(norm);
}

static void check_rows(const char *what, const xp_codec_desc *d, const char *data, const char *back, size_t rows,
                       const char *used, double *mean)
{
    size_t bytes = d->dim * xp_dtype_size(d->dtype);
    /* Which mean row counts is known where the encoder takes all rows for it; codec book fits its own, from a sample. */
    int by_mean = d->eps_ref == XP_EPS_REF_MIN && rows <= 1024 && strcmp(used, "book");
    double norm = by_mean ? mean_row(data, rows, d->dtype, d->dim, mean) : 0;

    for (size_t r = 0; r < rows; r++) {
        const char *x = data + r * bytes, *y = back + r * bytes;
        double error = value_distance(x, y, d->dtype, d->dim), limit;

        if (!isfinite(value_norm(x, d->dtype, d->dim))) {
            if (memcmp(x, y, bytes))
                complain("a row with NaN or Inf is not bit for bit", r, d->dim, d, error, 0);
            continue;
        }
        limit = allowed(x, by_mean && norm >= 0 ? mean : NULL, norm, d->dtype, d->dim, d->eps);
        if (!(error <= limit))
            complain(what, r, d->dim, d, error, limit);
    }
}

static void try_rows(const char *what, const xp_codec_desc *desc, const char *data, size_t rows, const char *other_isa)
{
    xp_codec_desc d = *desc;
    size_t bytes = d.dim * xp_dtype_size(d.dtype), len = 0, got = 0, cap;
    char *back = malloc(rows * bytes + 1), *frame;
    double *mean = malloc(d.dim * sizeof(*mean));
    xp_codec_stats st = { .size = sizeof(st) };
    xp_codec *encoder = NULL, *decoder = NULL;

    if (!back || !mean || xp_codec_create(&encoder, &d))
        exit((printf("cannot set up: %s\n", xp_last_error()), 1));
    d.isa = other_isa;
    d.seed = 99; /* the frame's own seed counts */
    if (xp_codec_create(&decoder, &d))
        exit((printf("cannot set up: %s\n", xp_last_error()), 1));
    cap = xp_codec_bound(encoder, rows);
    frame = malloc(cap);
    if (!frame || xp_encode(encoder, data, rows, frame, cap, &len, &st) || len > cap)
        exit((printf("encode: %s\n", xp_last_error()), 1));
    if (xp_decode(decoder, frame, len, back, rows, &got) || got != rows)
        exit((printf("decode: %s\n", xp_last_error()), 1));
    check_rows(what, desc, data, back, rows, st.codec, mean);
    if (st.err_ref_max > desc->eps)
        complain("the encoder itself reports", 0, desc->dim, desc, st.err_ref_max, desc->eps);
    values_seen += rows * d.dim;
    rows_seen += rows;
    rows_raw += st.rows_raw;
    frames++;
    xp_codec_destroy(encoder);
    xp_codec_destroy(decoder);
    free(back);
    free(mean);
    free(frame);
}

/* ---- kinds of rows ---------------------------------------------------------------------------------------------- */

static const char *const kinds[] = { "normal", "heavy tails", "outlier channel", "large mean", "one spike", "tiny", "huge", "clusters" };
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static double draw(struct random *rng, size_t kind, size_t row, size_t i, size_t dim)
{
    double n = random_normal(rng);
    struct random centre = random_seeded((row % 5) * 1000003 + i);

    switch (kind) {
    case 1: return n / pow(random_unit(rng) + 1e-12, 0.8);
    case 2: return i == dim / 3 ? 100 + n : n;
    case 3: return sin((double)i) * 50 + n;
    case 4: return i == row % dim ? n : 0;
    case 5: return n * 1e-38;
    case 6: return n * 1e37;
    case 7: return random_normal(&centre) + 0.02 * n;
    }
    return n;
}

/* Rows of one kind; now and then one with NaN, Inf, zeros, or random bits. */
static void fill(struct random *rng, char *data, size_t kind, size_t rows, xp_dtype t, size_t dim)
{
    size_t bytes = dim * xp_dtype_size(t);

    for (size_t r = 0; r < rows; r++) {
        double scale = kind == 5 && t == XP_F16 ? 1e33 : kind == 6 && t == XP_F16 ? 1e-33 : 1; /* f16 has less range */

        for (size_t i = 0; i < dim; i++)
            value_put(data + r * bytes, t, i, draw(rng, kind, r, i, dim) * scale);
        switch (random_below(rng, 40)) {
        case 0: value_put(data + r * bytes, t, random_below(rng, dim), NAN); break;
        case 1: value_put(data + r * bytes, t, random_below(rng, dim), -INFINITY); break;
        case 2: memset(data + r * bytes, 0, bytes); break;
        case 3:
            for (size_t i = 0; i < bytes; i++)
                data[r * bytes + i] = (char)random_bits(rng);
        }
    }
}

static const char *const codecs[] = { "quant", "book", "auto", "lsh", "fp8", "int8", "int6", "int5", "int4", "int3", "int2", "lsh+int4" };
#define CODECS (sizeof(codecs) / sizeof(codecs[0]))
static const double epsilons[] = { 0.001, 0.01, 0.03, 0.1, 0.3, 0.9 };

static void random_case(struct random *rng, size_t dim, uint64_t values)
{
    size_t rows = values / dim, kind = random_below(rng, KINDS);
    xp_dtype t = (xp_dtype)(XP_BF16 + random_below(rng, 3));
    xp_codec_desc d;
    char *data;

    rows = rows < 2 ? 2 : rows > 1000 ? 1000 : rows;
    data = malloc(rows * dim * xp_dtype_size(t));
    if (!data)
        exit((printf("out of memory\n"), 1));
    fill(rng, data, kind, rows, t, dim);
    xp_codec_desc_init(&d);
    d.dtype = t;
    d.dim = dim;
    d.mode = XP_MODE_BOUNDED;
    d.eps = epsilons[random_below(rng, 6)];
    d.eps_ref = random_below(rng, 2) ? XP_EPS_REF_ROW : XP_EPS_REF_MIN;
    d.codec = codecs[random_below(rng, CODECS)];
    d.seed = random_bits(rng);
    d.isa = random_below(rng, 2) ? NULL : "c";
    try_rows(kinds[kind], &d, data, rows, d.isa ? NULL : "c");
    free(data);
}

static void try_file(const char *path)
{
    struct xp_npy a;
    char err[512];
    xp_codec_desc d;

    if (xp_npy_read(&a, path, err, sizeof(err)))
        exit((printf("%s\n", err), 1));
    for (size_t c = 0; c < CODECS; c++)
        for (int e = 1; e < 5; e++) {
            xp_codec_desc_init(&d);
            d.dtype = a.dtype;
            d.dim = a.dim;
            d.mode = XP_MODE_BOUNDED;
            d.eps = epsilons[e];
            d.eps_ref = c % 2 ? XP_EPS_REF_ROW : XP_EPS_REF_MIN;
            d.codec = codecs[c];
            try_rows(path, &d, a.data, a.rows, "c");
        }
    xp_npy_free(&a);
}

int main(int argc, char **argv)
{
    uint64_t values = 10000000, per_dim;
    struct random rng = random_start("eps_promise");
    int first = 1;

    if (argc > 2 && !strcmp(argv[1], "--values")) {
        values = (uint64_t)strtod(argv[2], NULL);
        first = 3;
    }
    per_dim = values / 301;
    for (size_t dim = 1; dim <= 301 && values; dim++) {
        size_t n = dim == 301 ? 4096 : dim;
        for (uint64_t part = 0; part < 4; part++)
            random_case(&rng, n, per_dim / 4);
    }
    while (values_seen < values) /* small dims reach their most rows early */
        random_case(&rng, 1 + random_below(&rng, 300), per_dim);
    for (int i = first; i < argc; i++)
        try_file(argv[i]);
    printf("%llu values in %llu rows of %llu frames, %llu rows raw: %llu violations\n", (unsigned long long)values_seen,
           (unsigned long long)rows_seen, (unsigned long long)frames, (unsigned long long)rows_raw, (unsigned long long)violations);
    return violations != 0;
}
