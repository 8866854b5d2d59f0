/*
 * bench_fold.c - what folding costs in error: hash functions, refinement and compensation on the rows and experts that are given
 *
 * One rank's tokens, no exchange: centroids through the codec, the experts on what comes out, rows of their results. The error is that of the
 * expert outputs over all (token, expert) pairs, relative to the true ones; beside it stand what would travel and what the experts would
 * compute, and plain quantisers, which compute everything, for comparison.
 *
 * The first table varies the number of hash functions, each over one coordinate, as in figure 7 of the LSH-MoE paper (arXiv 2411.08446); the
 * second asks for rates. A case is --iters steps over the same rows, with other probes each time; the figures are the last one's. "refined" rows have just as many clusters as the plain ones above them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "collectives/folded.h"
#include "perf/expert.h"
#include "perf/routing.h"
#include "perf/spawn.h"
#include "perf/xp_perf.h"

#define DEFAULT_EXPERTS 16

struct bench {
    struct perf *p;
    const struct options *opt;
    size_t T, k, dim, row_bytes, slots;
    struct routing_source routes;
    struct expert expert;
    int32_t *ids;
    float *weights;
    char *x, *y, *truth;     /* [T], [T], [T][k] true results */
    char *results, *scratch; /* [T][k], one row */
};

/* One row of a table. */
struct fold_case {
    const char *what;
    int hashes, width, refine;
    double rate;
};

struct figures {
    double rate, rho, wire, alpha, told, us;
    double err0, err1, errfit;
};

/* ---- set-up ---------------------------------------------------------------------------------------------------------- */

static int open_routing(struct bench *b)
{
    const struct moe_options *m = &b->opt->moe;
    int experts = m->experts ? m->experts : DEFAULT_EXPERTS, k = m->k ? m->k : 2;
    char err[SPAWN_ERROR];

    if (m->topk != NULL) {
        if (routing_open_file(&b->routes, m->topk, m->weights, m->k, experts, err, sizeof(err)) != 0)
            return perf_fail(b->p, "%s", err);
    } else if (k > experts) {
        return perf_fail(b->p, "--k %d is more than the %d experts", k, experts);
    } else {
        routing_open_generated(&b->routes, m->routing != NULL ? m->routing : "uniform", k, experts, b->opt->seed);
    }
    if (expert_open(&b->expert, m->expert, experts, b->p->rows.dtype, b->dim, err, sizeof(err)) != 0)
        return perf_fail(b->p, "%s", err);
    return 0;
}

static int make_rows(struct bench *b)
{
    b->k = (size_t)b->routes.k;
    b->slots = b->T * b->k;
    b->ids = malloc((b->slots + 1) * sizeof(*b->ids));
    b->weights = malloc((b->slots + 1) * sizeof(*b->weights));
    b->x = malloc((b->T + 1) * b->row_bytes);
    b->y = malloc((b->T + 1) * b->row_bytes);
    b->truth = malloc((b->slots + 1) * b->row_bytes);
    b->results = malloc((b->slots + 1) * b->row_bytes);
    b->scratch = malloc(b->row_bytes);
    if (!b->ids || !b->weights || !b->x || !b->y || !b->truth || !b->results || !b->scratch)
        return perf_fail(b->p, "no memory for %zu rows of %zu bytes", b->slots, b->row_bytes);
    for (size_t t = 0; t < b->T; t++) {
        rows_get(&b->p->rows, t, b->x + t * b->row_bytes);
        routing_get(&b->routes, t, b->ids + t * b->k, b->weights + t * b->k);
        for (size_t s = t * b->k; s < (t + 1) * b->k; s++)
            if (b->ids[s] >= 0)
                expert_run(&b->expert, b->ids[s], b->x + t * b->row_bytes, 1, b->truth + s * b->row_bytes);
    }
    return 0;
}

static void close_bench(struct bench *b)
{
    routing_close(&b->routes);
    expert_close(&b->expert);
    free(b->ids);
    free(b->weights);
    free(b->x);
    free(b->y);
    free(b->truth);
    free(b->results);
    free(b->scratch);
}

/* ---- one case --------------------------------------------------------------------------------------------------------- */

static double value(const struct bench *b, const char *rows, size_t r, size_t i)
{
    return rows_value(b->p->rows.dtype, rows + r * b->row_bytes, i);
}

/* Of two square sums. Results of zeros that are met exactly have no error. */
static double relative(double err, double truth)
{
    return err > 0 ? sqrt(err / truth) : 0;
}

/* Squared errors of one slot with alpha 0, 1 and the fitted one; and the square of the truth. */
static void add_errors(const struct bench *b, const struct xp_fold *s, size_t slot, double sums[4])
{
    const size_t v = (size_t)xp_fold_cluster_of(s)[slot];
    const double alpha = (double)xp_fold_alpha_of(s)[slot];

    for (size_t i = 0; i < b->dim; i++) {
        const double y = value(b, b->truth, slot, i), base = value(b, b->results, v, i) - y;
        const double d = value(b, b->x, slot / b->k, i) - value(b, xp_fold_seen(s), v, i);

        sums[0] += base * base;
        sums[1] += (base + d) * (base + d);
        sums[2] += (base + alpha * d) * (base + alpha * d);
        sums[3] += y * y;
    }
}

static void sum_up(const struct bench *b, const struct xp_fold *s, double wire, struct figures *out)
{
    const struct xp_fold_stats st = xp_fold_stats(s);
    double sums[4] = {0}, alpha = 0;
    size_t used = 0;

    for (size_t i = 0; i < b->slots; i++) {
        if (b->ids[i] < 0)
            continue;
        add_errors(b, s, i, sums);
        alpha += (double)xp_fold_alpha_of(s)[i];
        used++;
    }
    out->rate = st.rate;
    out->rho = st.rho;
    out->wire = st.rate * wire;
    out->told = st.fold_err;
    out->alpha = used ? alpha / (double)used : 0;
    out->err0 = relative(sums[0], sums[3]);
    out->err1 = relative(sums[1], sums[3]);
    out->errfit = relative(sums[2], sums[3]);
}

/* Bytes of a row in this codec, of those of the row. */
static double row_ratio(const struct bench *b, const struct xp_coder_desc *c)
{
    struct xp_coder *coder;
    struct xp_rows in = {.data = b->x, .rows = b->T, .dim = b->dim, .dtype = b->p->rows.dtype};
    const size_t room = xp_frame_bound(in.dtype, in.dim, in.rows);
    size_t len = 0;
    void *frame;

    if (c->mode == XP_MODE_RAW || b->T == 0 || xp_coder_create(&coder, c) != XP_OK)
        return 1;
    frame = malloc(room);
    if (frame == NULL || xp_coder_encode(coder, &in, frame, room, &len, NULL) != XP_OK)
        len = b->T * b->row_bytes;
    free(frame);
    xp_coder_destroy(coder);
    return (double)len / (double)(b->T * b->row_bytes);
}

static void run_step(struct bench *b, struct xp_fold *s, double *us)
{
    const struct xp_fold_tokens t = {.tokens = b->T, .topk = (int)b->k, .expert = b->ids, .weight = b->weights};
    const double start = bench_now();
    double seconds;

    if (xp_fold_make(s, &t, b->x) != XP_OK)
        return;
    seconds = bench_now() - start;
    *us = fmin(*us, 1e6 * seconds / (double)b->slots);
    for (size_t v = 0; v < xp_fold_count(s); v++)
        expert_run(&b->expert, xp_fold_expert(s)[v], (const char *)xp_fold_seen(s) + v * b->row_bytes, 1, b->results + v * b->row_bytes);
    xp_fold_combine(s, b->x, b->results, b->y);
}

static int run_case(struct bench *b, const struct fold_case *c, struct figures *out)
{
    const xp_moe_desc m = {.size = sizeof(m), .experts = b->routes.experts, .max_topk = b->routes.k, .rate = c->rate, .hashes = c->hashes,
                           .width = c->width, .refine = c->refine, .centroid = b->opt->moe.centroid};
    const struct xp_folder_desc d = {.dtype = b->p->rows.dtype, .dim = b->dim, .max_tokens = b->T, .experts = m.experts, .max_topk = m.max_topk,
                                     .moe = &m, .codec = b->opt->codec != NULL ? b->opt->codec : "raw", .isa = xp_cpu_isa(), .seed = b->opt->seed};
    struct xp_coder_desc coder;
    struct xp_folder *f = NULL;
    struct xp_fold *s = NULL;
    int bad = xp_folder_coder(&d, &coder) || xp_folder_create(&f, &d) || xp_fold_create(&s, f);

    out->us = INFINITY;
    for (int i = 0; i < b->opt->iters && !bad; i++)
        run_step(b, s, &out->us);
    if (!bad)
        sum_up(b, s, row_ratio(b, &coder), out);
    xp_fold_destroy(s);
    xp_folder_destroy(f);
    return bad ? perf_fail(b->p, "fold: %s: codec or knobs do not fit rows of %zu values", c->what, b->dim) : 0;
}

/* ---- tables ----------------------------------------------------------------------------------------------------------- */

static void head(const char *first)
{
    printf("\n%-22s %6s %6s %6s %6s | %8s %8s %14s | %8s %9s\n", first, "rate", "rho", "wire", "FLOPs", "alpha 0", "alpha 1", "fit (alpha)",
           "told", "us a row");
}

static void show(struct bench *b, const struct fold_case *c, const struct figures *f)
{
    struct json *j = &b->p->json;

    printf("%-22s %6.3f %6.3f %6.3f %6.3f | %8.3f %8.3f %7.3f (%4.2f) | %8.3f %9.2f\n", c->what, f->rate, f->rho, f->wire, f->rate, f->err0, f->err1,
           f->errfit, f->alpha, f->told, f->us);
    json_open(j);
    json_text(j, "command", "fold");
    json_pair(j, "shape", b->T, b->dim);
    json_text(j, "data", b->p->rows.name);
    json_text(j, "expert", expert_name(&b->expert));
    json_whole(j, "hashes", (uint64_t)c->hashes);
    json_whole(j, "refine", c->refine > 0 ? (uint64_t)c->refine : 0);
    json_real(j, "rate", f->rate);
    json_real(j, "rho", f->rho);
    json_real(j, "wire_ratio", f->wire);
    json_real(j, "flops", f->rate);
    json_real(j, "err_alpha0", f->err0);
    json_real(j, "err_alpha1", f->err1);
    json_real(j, "err_fit", f->errfit);
    json_real(j, "alpha", f->alpha);
    json_real(j, "fold_err", f->told);
    json_real(j, "us_per_row", f->us);
    json_close(j);
}

static int show_case(struct bench *b, const struct fold_case *c, struct figures *f)
{
    const int code = run_case(b, c, f);

    if (code == 0)
        show(b, c, f);
    return code;
}

/* What refinement leaves of an error; a dash where there was none, as with alpha 1 and identity experts. */
static const char *left_of(double plain, double refined, char text[16])
{
    if (plain > 0)
        snprintf(text, 16, "%.2f", refined / plain);
    else
        snprintf(text, 16, "-");
    return text;
}

/* Plain LSH, and Lloyd rounds on as many clusters. */
static int show_pair(struct bench *b, const struct fold_case *plain, struct figures f[2])
{
    struct fold_case refined = {.what = "  refined", .refine = b->opt->moe.refine > 0 ? b->opt->moe.refine : 2};
    char text[3][16];

    if (show_case(b, plain, &f[0]) != 0)
        return 1;
    refined.rate = fmin(f[0].rate, 1);
    if (show_case(b, &refined, &f[1]) != 0)
        return 1;
    printf("%-22s %27s | %8s %8s %7s\n", "  refined / plain", "", left_of(f[0].err0, f[1].err0, text[0]), left_of(f[0].err1, f[1].err1, text[1]),
           left_of(f[0].errfit, f[1].errfit, text[2]));
    return 0;
}

static int functions_table(struct bench *b)
{
    head("hash functions");
    for (int k = 2; k <= 10; k += 2) {
        char what[24];
        struct figures f[2];
        const struct fold_case plain = {.what = what, .hashes = k, .width = 1, .refine = -1};

        snprintf(what, sizeof(what), "%d", k);
        perf_progress("hash functions", k, 10);
        if (show_pair(b, &plain, f) != 0)
            return 1;
    }
    return 0;
}

static int rates_table(struct bench *b)
{
    static const double all[] = {0.5, 0.3, 0.2, 0.1, 0.05};
    const size_t n = sizeof(all) / sizeof(all[0]);

    head("rate asked for");
    for (size_t i = 0; i < (b->opt->moe.rate > 0 ? 1 : n); i++) {
        char what[24];
        struct figures f[2];
        const double rate = b->opt->moe.rate > 0 ? b->opt->moe.rate : all[i];
        const struct fold_case plain = {.what = what, .refine = -1, .rate = rate};

        snprintf(what, sizeof(what), "%.3g, plain LSH", rate);
        perf_progress("rates", (int)i, (int)n);
        if (show_pair(b, &plain, f) != 0)
            return 1;
        if (b->opt->check && (fabs(f[1].rate - rate) > 0.1 * rate || fabs(f[0].rate - rate) > 0.1 * rate))
            return perf_fail(b->p, "check: rate %.4f plain and %.4f refined, not %g", f[0].rate, f[1].rate, rate);
        if (b->opt->check && fabs(f[1].told - f[1].errfit) > 0.2 * f[1].errfit + 0.01)
            return perf_fail(b->p, "check: probes tell an error of %.4f, it is %.4f", f[1].told, f[1].errfit);
    }
    return 0;
}

/* Error of the expert outputs when rows travel through this codec, all of them. */
static int show_quantiser(struct bench *b, const char *codec)
{
    const struct xp_folder_desc d = {.dtype = b->p->rows.dtype, .dim = b->dim, .codec = codec, .isa = xp_cpu_isa(), .seed = b->opt->seed};
    struct xp_coder_desc c;
    struct xp_coder *coder;
    const size_t room = xp_frame_bound(d.dtype, d.dim, 1);
    char *frame = malloc(room), *row = malloc(b->row_bytes);
    double err = 0, ref = 0;
    int bad = !frame || !row || xp_folder_coder(&d, &c) || xp_coder_create(&coder, &c);

    for (size_t s = 0; s < b->slots && !bad; s++) {
        const struct xp_rows in = {.data = b->x + s / b->k * b->row_bytes, .rows = 1, .dim = d.dim, .dtype = d.dtype};
        size_t len;

        if (b->ids[s] < 0)
            continue;
        bad = xp_coder_encode(coder, &in, frame, room, &len, NULL) || xp_coder_decode(coder, frame, len, row, 1);
        expert_run(&b->expert, b->ids[s], row, 1, b->scratch);
        for (size_t i = 0; i < d.dim; i++) {
            const double y = value(b, b->truth, s, i), e = rows_value(d.dtype, b->scratch, i) - y;

            err += e * e;
            ref += y * y;
        }
    }
    if (!bad) {
        printf("%-22s %6s %6s %6.3f %6.3f | %8.3f\n", codec, "", "", row_ratio(b, &c), 1.0, relative(err, ref));
        xp_coder_destroy(coder);
    }
    free(frame);
    free(row);
    return bad ? perf_fail(b->p, "fold: codec %s does not fit rows of %zu values", codec, b->dim) : 0;
}

static int quantisers_table(struct bench *b)
{
    static const char *const codecs[] = {"int8", "int4", "int3", "int2"};
    int code = 0;

    printf("\n%-22s %6s %6s %6s %6s | %8s\n", "not folded, quantised", "", "", "wire", "FLOPs", "error");
    for (size_t i = 0; i < sizeof(codecs) / sizeof(codecs[0]) && code == 0; i++)
        code = show_quantiser(b, codecs[i]);
    return code;
}

int bench_fold(struct perf *p)
{
    struct bench b = {.p = p, .opt = p->opt, .dim = p->rows.dim, .row_bytes = p->rows.row_bytes};
    int code;

    b.T = p->opt->rows_given || p->rows.kind != ROWS_FILE ? p->opt->rows : p->rows.file_rows;
    if (b.T == 0)
        return perf_fail(p, "fold: no rows, nothing to measure");
    code = open_routing(&b) || make_rows(&b);
    if (code == 0) {
        printf("fold: %zu rows of %zu %s (%s), %d of %d experts a row (%s), expert %s, centroids %s\n", b.T, b.dim, perf_dtype_name(p->rows.dtype),
               p->rows.name, b.routes.k, b.routes.experts, b.routes.name, expert_name(&b.expert), p->opt->codec != NULL ? p->opt->codec : "raw");
        printf("error of the expert outputs, relative; rate, wire and FLOPs: of what plain dispatch sends and computes\n");
        code = functions_table(&b) || rates_table(&b) || quantisers_table(&b);
        perf_progress("", 0, 0);
    }
    close_bench(&b);
    return code;
}
