/*
 * codec_stats.c - xp_codec stats: how well the rows of a file cluster; the codecs are in codec_table.c
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hash/cluster.h"
#include "hash/codec.h"
#include "hash/hasher.h"
#include "lib/tools/outfile.h"
#include "lib/tools/codec_table.h"

#define SKETCH 64 /* values of the sketch that refinement measures distances in */
#define REFINE 3  /* Lloyd rounds */

struct clustering {
    size_t clusters;
    double rate;      /* clusters / rows */
    double rho_raw;   /* |x - centroid|^2 / |x|^2, summed over the rows */
    double rho_mean;  /* the same after the mean row is taken from every row */
};

struct report {
    const struct tool_options *o;
    const struct xp_npy *a;
    struct xp_rows rows; /* the finite ones */
    size_t distinct;
    double mean_share;   /* energy of the mean row / energy of the rows */
    struct clustering plain, refined;
    struct xp_hasher hasher;
    FILE *json;          /* or NULL */
};

/* ---- clusters ----------------------------------------------------------------------------------------------- */

/* Indices of the rows without NaN and Inf. */
static uint32_t *finite_rows(const struct xp_kernels *k, const struct xp_npy *a, struct xp_rows *in)
{
    uint32_t *index = malloc((a->rows + 1) * sizeof(*index));
    float *row = aligned_alloc(64, (a->dim * 4 + 127) / 64 * 64);
    size_t n = 0;

    *in = (struct xp_rows){ .data = a->data, .rows = a->rows, .dim = a->dim, .dtype = a->dtype };
    for (size_t r = 0; index && row && r < a->rows; r++) {
        k->residual(xp_row(in, r), a->dtype, NULL, a->dim, row);
        if (isfinite(k->energy(row, a->dim)))
            index[n++] = (uint32_t)r;
    }
    if (!row) {
        free(index);
        index = NULL;
    }
    free(row);
    in->index = index;
    in->rows = n;
    return index;
}

/* Energy of the rows, and of the residuals that clustering leaves. Sums in double. */
static int measure(const struct xp_kernels *k, const struct xp_rows *in, const float *mean, const struct xp_clusters *c,
                   struct clustering *out)
{
    size_t line = (in->dim * 4 + 127) / 64 * 64;
    float *centroid = aligned_alloc(64, line), *row = aligned_alloc(64, line);
    double raw = 0, centred = 0, left = 0;

    for (size_t j = 0; centroid && row && j < c->count; j++) {
        k->centroid(in, c->order, c->start + j, 1, centroid);
        for (size_t i = c->start[j]; i < c->start[j + 1]; i++) {
            const void *x = xp_row(in, c->order[i]);

            k->residual(x, in->dtype, NULL, in->dim, row);
            raw += k->energy(row, in->dim);
            k->residual(x, in->dtype, mean, in->dim, row);
            centred += k->energy(row, in->dim);
            k->residual(x, in->dtype, centroid, in->dim, row);
            left += k->energy(row, in->dim);
        }
    }
    out->clusters = c->count;
    out->rate = in->rows ? (double)c->count / (double)in->rows : 0;
    out->rho_raw = raw > 0 ? left / raw : 0;
    out->rho_mean = centred > 0 ? left / centred : 0;
    free(centroid);
    free(row);
    return centroid && row ? 0 : -1;
}

/* The mean of all rows; energy share of it. */
static float *mean_row(const struct xp_kernels *k, const struct xp_rows *in, double *share)
{
    uint32_t start[2] = { 0, (uint32_t)in->rows };
    size_t line = (in->dim * 4 + 127) / 64 * 64;
    uint32_t *order = malloc((in->rows + 1) * sizeof(*order));
    float *mean = aligned_alloc(64, line), *row = aligned_alloc(64, line);
    double energy = 0;

    for (size_t r = 0; order && r < in->rows; r++)
        order[r] = (uint32_t)r;
    if (order && mean && row) {
        k->centroid(in, order, start, 1, mean);
        for (size_t r = 0; r < in->rows; r++) {
            k->residual(xp_row(in, r), in->dtype, NULL, in->dim, row);
            energy += k->energy(row, in->dim);
        }
        *share = energy > 0 ? k->energy(mean, in->dim) * (double)in->rows / energy : 0;
    } else {
        free(mean);
        mean = NULL;
    }
    free(order);
    free(row);
    return mean;
}

static int cluster(struct report *p, const struct xp_kernels *k, const float *mean)
{
    const struct xp_rows *in = &p->rows;
    unsigned s = p->hasher.sketch;
    uint32_t *ids = malloc((in->rows + 1) * sizeof(*ids));
    int16_t *sketch = aligned_alloc(64, (in->rows * s * 2 + 127) / 64 * 64);
    struct xp_clusters c;
    int failed = !ids || !sketch || xp_clusters_init(&c, in->rows ? in->rows : 1, s);

    if (!failed) {
        if (p->o->center >= 0)
            xp_hasher_set_mean(&p->hasher, mean);
        k->hash(&p->hasher, in, ids, sketch);
        xp_clusters_group(&c, ids, in->rows);
        failed = measure(k, in, mean, &c, &p->plain);
        xp_clusters_refine(&c, k, sketch, s, REFINE, 0);
        failed = failed || measure(k, in, mean, &c, &p->refined);
        xp_clusters_fini(&c);
    }
    free(ids);
    free(sketch);
    return failed ? -1 : 0;
}

static int count_distinct(struct report *p)
{
    struct xp_rows in = { .data = p->a->data, .rows = p->a->rows, .dim = p->a->dim, .dtype = p->a->dtype };
    size_t slots = 1;
    uint32_t *first, *map, *work;

    while (slots < 2 * in.rows)
        slots *= 2;
    first = malloc((in.rows + 1) * 4);
    map = malloc((in.rows + 1) * 4);
    work = malloc(2 * slots * 4);
    if (first && map && work)
        p->distinct = xp_dedup(&in, first, map, work);
    free(first);
    free(map);
    free(work);
    return first && map && work ? 0 : -1;
}

/* ---- the suggestion ------------------------------------------------------------------------------------------------- */

/* Encodes the rows; *len 0 when this build lacks the codec. */
static int try_codec(struct report *p, const char *name, double eps, size_t *len, xp_codec_stats *st)
{
    struct tool_options o = *p->o;
    size_t cap;
    xp_codec *codec;
    xp_codec_desc d;
    void *frame;
    xp_status s;

    o.codec = name;
    o.mode = eps > 0 ? XP_MODE_BOUNDED : XP_MODE_EXACT;
    o.eps = eps;
    tool_describe(&o, p->a, &d);
    if (xp_codec_create(&codec, &d))
        return tool_fail("%s", xp_last_error());
    cap = xp_codec_bound(codec, p->a->rows);
    frame = malloc(cap);
    s = frame ? xp_encode(codec, p->a->data, p->a->rows, frame, cap, len, st) : XP_ERR_NO_MEMORY;
    free(frame);
    xp_codec_destroy(codec);
    return s ? tool_fail("%s: %s", name, s == XP_ERR_NO_MEMORY ? "out of memory" : xp_last_error()) : 0;
}

/* ---- the report --------------------------------------------------------------------------------------------- */

static void print_clustering(const struct report *p, const char *what, const struct clustering *c)
{
    printf("%-34s %8zu clusters, rate %.4f, rho %.4f raw, %.4f centred\n", what, c->clusters, c->rate, c->rho_raw, c->rho_mean);
    if (p->json)
        fprintf(p->json, "\"clusters_%s\": {\"clusters\": %zu, \"rate\": %.6f, \"rho_raw\": %.6f, \"rho_centred\": %.6f}, ",
                what[0] == 'L' ? "lsh" : "refined", c->clusters, c->rate, c->rho_raw, c->rho_mean);
}

static void print_rows(const struct report *p)
{
    const struct xp_npy *a = p->a;
    double share = a->rows ? 1 - (double)p->distinct / (double)a->rows : 0;

    printf("%zu rows of %zu %s; %zu with NaN or Inf; %zu distinct (%.2f %% duplicates)\n", a->rows, a->dim,
           a->dtype == XP_BF16 ? "bf16" : a->dtype == XP_F16 ? "f16" : "f32", a->rows - p->rows.rows, p->distinct, 100 * share);
    printf("the mean row holds %.1f %% of the energy\n", 100 * p->mean_share);
    printf("hash: k %u, width %u of %u, rounds %u, mean row %s\n", p->hasher.k, p->hasher.w, p->hasher.n, p->hasher.rounds,
           p->o->center >= 0 ? "removed" : "kept");
    if (p->json)
        fprintf(p->json, "\"rows\": %zu, \"dim\": %zu, \"rows_nonfinite\": %zu, \"rows_distinct\": %zu, \"duplicate_share\": %.6f, \"mean_share\": %.6f, ",
                a->rows, a->dim, a->rows - p->rows.rows, p->distinct, share, p->mean_share);
}

/* What "auto" takes at this eps over a slow link. */
static int suggest(struct report *p)
{
    xp_codec_stats st = { .size = sizeof(st) };
    size_t len;

    if (try_codec(p, "auto", p->o->eps, &len, &st))
        return 1;
    printf("\nsuggested over a slow link at eps %g: %s, wire ratio %.4f\n", p->o->eps, st.codec,
           st.raw_bytes ? (double)len / (double)st.raw_bytes : 1);
    if (p->json)
        fprintf(p->json, "], \"eps\": %g, \"suggested\": \"%s\"}\n", p->o->eps, st.codec);
    return 0;
}

static int write_report(struct report *p, const struct xp_kernels *k)
{
    uint32_t *index = finite_rows(k, p->a, &p->rows);
    float *mean = index ? mean_row(k, &p->rows, &p->mean_share) : NULL;
    int rc;

    if (!index || !mean || cluster(p, k, mean) || count_distinct(p)) {
        rc = tool_fail("out of memory");
    } else {
        print_rows(p);
        print_clustering(p, "LSH buckets:", &p->plain);
        print_clustering(p, "refined in a sketch of 64, 3 rounds:", &p->refined);
        if (p->json)
            fputs("\"codecs\": [", p->json);
        rc = codec_table(p->o, p->a, p->json) || suggest(p);
    }
    free(mean);
    free(index);
    return rc;
}

static int with_hasher(struct report *p)
{
    const struct tool_options *o = p->o;
    struct xp_hasher_desc d = { .dim = p->a->dim, .k = o->k, .w = o->width, .rounds = o->rounds, .sketch = SKETCH, .seed = 1 };
    struct xp_kernels k;
    int isa = xp_isa_parse(o->params.isa), rc;

    if (isa < 0)
        return tool_fail("this CPU has no %s", o->params.isa);
    xp_kernels_init(&k, (enum xp_isa)isa);
    if (!d.w)
        d.w = xp_hash_width(d.dim) / (d.k ? d.k : 1) < 32 ? 0 : 32;
    rc = xp_hasher_init(&p->hasher, &d);
    if (rc)
        return tool_fail(rc == XP_ERR_NO_MEMORY ? "out of memory" : "k hashes of that width do not fit a rotation of %u",
                         xp_hash_width(d.dim));
    rc = write_report(p, &k);
    xp_hasher_fini(&p->hasher);
    return rc;
}

static int with_json(struct report *p, const char *name)
{
    struct xp_outfile out;
    char err[512];
    int rc;

    if (!name)
        return with_hasher(p);
    if (xp_outfile_open(&out, name, err, sizeof(err)))
        return tool_fail("%s", err);
    p->json = out.f;
    fputs("{\"command\": \"stats\", \"input\": ", out.f);
    tool_json_string(out.f, p->o->files[0]);
    fputs(", ", out.f);
    rc = with_hasher(p);
    if (rc) {
        xp_outfile_abandon(&out);
        return rc;
    }
    return xp_outfile_finish(&out, err, sizeof(err)) ? tool_fail("%s", err) : 0;
}

/* The plot is made of the JSON, which goes beside it for a while where it was not asked for. */
static int with_plot(struct report *p)
{
    const char *png = p->o->plot;
    char *beside = malloc(strlen(png) + sizeof(".json"));
    int rc;

    if (!beside)
        return tool_fail("out of memory");
    sprintf(beside, "%s.json", png);
    rc = with_json(p, p->o->json ? p->o->json : beside) || codec_plot(p->o->json ? p->o->json : beside, png);
    if (!p->o->json)
        unlink(beside);
    free(beside);
    return rc;
}

int tool_stats(const struct tool_options *o)
{
    struct xp_npy a;
    struct report p = { .o = o, .a = &a };
    char err[512];
    int rc;

    if (xp_npy_read(&a, o->files[0], err, sizeof(err)))
        return tool_fail("%s", err);
    rc = o->plot ? with_plot(&p) : with_json(&p, o->json);
    xp_npy_free(&a);
    return rc;
}
