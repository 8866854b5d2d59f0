/*
 * test_folded.c - folded mode on one rank: clusters, formulas forward and backward, rate, what is learned from probes
 *
 * Experts are functions of this file; formulas are written out again in f64 from the ids that the library gives.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/folded.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/random.h"
#include "tests/harness/values.h"

/* ---- a layer on one rank ------------------------------------------------------------------------------------------ */

struct layer {
    struct xp_folder_desc d;
    xp_moe_desc m;
    struct xp_folder *folder;
    struct xp_fold *fold;
    struct xp_fold_tokens t;
    size_t row_bytes;
    int32_t *expert, *sequence;
    float *weight;
    char *x, *y, *results;
};

static void layer_open(struct layer *l)
{
    cr_assert_eq(xp_folder_create(&l->folder, &l->d), XP_OK);
    cr_assert_eq(xp_fold_create(&l->fold, l->folder), XP_OK);
}

static void layer_init(struct layer *l, xp_dtype t, size_t tokens, size_t dim, int experts, int topk)
{
    const size_t slots = tokens * (size_t)topk;

    memset(l, 0, sizeof(*l));
    l->m.size = sizeof(l->m);
    l->m.experts = experts;
    l->m.max_topk = topk;
    l->d = (struct xp_folder_desc){ .dtype = t, .dim = dim, .max_tokens = tokens, .experts = experts, .max_topk = topk, .moe = &l->m,
                                    .codec = "raw", .isa = xp_cpu_isa(), .seed = 7 };
    l->row_bytes = dim * xp_dtype_size(t);
    l->expert = calloc(slots + 1, sizeof(*l->expert));
    l->weight = calloc(slots + 1, sizeof(*l->weight));
    l->sequence = calloc(tokens + 1, sizeof(*l->sequence));
    l->x = calloc(tokens + 1, l->row_bytes);
    l->y = calloc(tokens + 1, l->row_bytes);
    l->results = calloc(slots + 1, l->row_bytes);
    l->t = (struct xp_fold_tokens){ .tokens = tokens, .topk = topk, .expert = l->expert, .weight = l->weight, .sequence = l->sequence };
}

static void layer_close(struct layer *l)
{
    xp_fold_destroy(l->fold);
    xp_folder_destroy(l->folder);
    free(l->expert);
    free(l->weight);
    free(l->sequence);
    free(l->x);
    free(l->y);
    free(l->results);
}

/* Different experts for the slots of a token, one slot in `holes` without any; weights that sum to 1; sequences in turn of 16 rows. */
static void fill_routing(struct layer *l, struct random *r, size_t holes)
{
    for (size_t t = 0; t < l->t.tokens; t++) {
        float sum = 0;

        l->sequence[t] = (int32_t)(t / 16) * 1000 - 5;
        for (int k = 0; k < l->t.topk; k++) {
            const size_t at = t * (size_t)l->t.topk + (size_t)k;
            int again = 1;

            while (again) {
                l->expert[at] = (int32_t)random_below(r, (size_t)l->d.experts);
                again = 0;
                for (int j = 0; j < k; j++)
                    again |= l->expert[at] == l->expert[at - (size_t)k + (size_t)j];
            }
            l->weight[at] = (float)(0.1 + random_unit(r));
            sum += l->weight[at];
        }
        for (int k = 0; k < l->t.topk; k++) {
            l->weight[t * (size_t)l->t.topk + (size_t)k] /= sum;
            if (holes && random_below(r, holes) == 0)
                l->expert[t * (size_t)l->t.topk + (size_t)k] = -1;
        }
    }
}

/* Rows about `centres` centres, with a common offset. */
static void fill_rows(struct layer *l, struct random *r, size_t centres, double noise)
{
    const size_t dim = l->d.dim;
    double *centre = malloc(centres * dim * sizeof(*centre));

    for (size_t i = 0; i < centres * dim; i++)
        centre[i] = 1 + random_normal(r);
    for (size_t t = 0; t < l->t.tokens; t++) {
        const double *c = centre + random_below(r, centres) * dim;
        for (size_t i = 0; i < dim; i++)
            value_put(l->x + t * l->row_bytes, l->d.dtype, i, c[i] + noise * random_normal(r));
    }
    free(centre);
}

static double get(const struct layer *l, const void *rows, size_t r, size_t i)
{
    return value_get((const char *)rows + r * l->row_bytes, l->d.dtype, i);
}

typedef double (*expert_fn)(int expert, size_t i, double x);

/* Experts that work on each value alone. */
static double wavy(int e, size_t i, double x)
{
    return sin(x * (0.5 + 0.1 * e)) + 0.01 * (double)(i % 7);
}

static double identity(int e, size_t i, double x)
{
    (void)e;
    (void)i;
    return x;
}

static double planted(int e, size_t i, double x)
{
    return (0.1 * e + 0.25) * x + 0.3 * (double)(i % 5);
}

static void run_experts(struct layer *l, expert_fn e, const void *rows)
{
    for (size_t v = 0; v < xp_fold_count(l->fold); v++)
        for (size_t i = 0; i < l->d.dim; i++)
            value_put(l->results + v * l->row_bytes, l->d.dtype, i, e(xp_fold_expert(l->fold)[v], i, get(l, rows, v, i)));
}

static void make(struct layer *l)
{
    cr_assert_eq(xp_fold_make(l->fold, &l->t, l->x), XP_OK);
}

static void forward(struct layer *l, expert_fn e)
{
    make(l);
    run_experts(l, e, xp_fold_seen(l->fold));
    xp_fold_combine(l->fold, l->x, l->results, l->y);
}

/* Half a step of the type at this size. */
static double half_ulp(xp_dtype t, double v)
{
    const int bits = t == XP_BF16 ? 8 : t == XP_F16 ? 11 : 24;
    int exponent;

    frexp(v, &exponent);
    if (t == XP_F16 && exponent < -13) /* denormals */
        exponent = -13;
    return ldexp(0.5, exponent - bits);
}

/* ---- clusters --------------------------------------------------------------------------------------------------------- */

/* Everything that holds for the ids of any step. */
static void check_ids(const struct layer *l)
{
    const int32_t *of = xp_fold_cluster_of(l->fold), *expert = xp_fold_expert(l->fold);
    const size_t clusters = xp_fold_clusters(l->fold), slots = l->t.tokens * (size_t)l->t.topk;
    size_t *members = calloc(clusters + 1, sizeof(*members)), used = 0;

    for (size_t i = 0; i < slots; i++) {
        cr_assert_eq(of[i] < 0, l->expert[i] < 0);
        if (of[i] < 0)
            continue;
        used++;
        cr_assert_lt(of[i], (int32_t)clusters);
        cr_assert_eq(expert[of[i]], l->expert[i], "a cluster holds rows of one expert");
        members[of[i]]++;
    }
    for (size_t v = 0; v < clusters; v++) {
        cr_assert_gt(members[v], 0u, "cluster %zu is empty", v);
        cr_assert(v == 0 || expert[v - 1] <= expert[v], "clusters are ordered by expert");
    }
    for (size_t v = clusters + 1; v < xp_fold_count(l->fold); v++)
        cr_assert_leq(expert[v - 1], expert[v], "probes are ordered by expert");
    cr_assert_leq(xp_fold_count(l->fold), used, "never more virtual tokens than rows");
    free(members);
}

/* The centroid of cluster v by the ids, before it is coded. */
static void check_centroid(const struct layer *l, size_t v)
{
    const int32_t *of = xp_fold_cluster_of(l->fold);
    const size_t slots = l->t.tokens * (size_t)l->t.topk;

    for (size_t i = 0; i < l->d.dim; i++) {
        double sum = 0, n = 0, first = NAN, got = get(l, xp_fold_rows(l->fold), v, i);

        for (size_t s = 0; s < slots; s++) {
            if (of[s] != (int32_t)v)
                continue;
            if (n == 0)
                first = get(l, l->x, s / (size_t)l->t.topk, i);
            sum += get(l, l->x, s / (size_t)l->t.topk, i);
            n++;
        }
        if (l->m.centroid == XP_CENTROID_LEADER)
            cr_assert_eq(got, first, "the earliest row leads");
        else
            cr_assert_leq(fabs(got - sum / n), half_ulp(l->d.dtype, sum / n) * 1.01 + 1e-6 * fabs(sum / n) + 1e-6, "value %zu of mean %zu", i, v);
    }
}

Test(folded, centroids_are_means_or_earliest_rows)
{
    struct random r = random_start("folded_centroids");

    for (int c = XP_CENTROID_MEAN; c <= XP_CENTROID_SEQUENCES; c++) {
        struct layer l;

        layer_init(&l, c == XP_CENTROID_MEAN ? XP_BF16 : c == XP_CENTROID_LEADER ? XP_F16 : XP_F32, 200, 40, 5, 2);
        l.m.centroid = (xp_centroid)c;
        fill_routing(&l, &r, 6);
        fill_rows(&l, &r, 20, 0.3);
        layer_open(&l);
        make(&l);
        check_ids(&l);
        for (size_t v = 0; v < xp_fold_clusters(l.fold); v++)
            check_centroid(&l, v);
        layer_close(&l);
    }
}

Test(folded, seen_is_what_a_coder_of_the_far_end_decodes)
{
    static const char *const codecs[] = { "int8", "fp8", "int4", "auto" };
    struct random r = random_start("folded_seen");

    for (size_t i = 0; i < sizeof(codecs) / sizeof(codecs[0]); i++) {
        struct xp_coder_desc d;
        struct xp_coder *coder;
        struct layer l;
        size_t n, len;
        char *frame, *back;

        layer_init(&l, XP_BF16, 300, 130, 4, 1);
        l.d.codec = codecs[i];
        fill_routing(&l, &r, 0);
        fill_rows(&l, &r, 30, 0.3);
        layer_open(&l);
        make(&l);
        n = xp_fold_count(l.fold);
        cr_assert_eq(xp_folder_coder(&l.d, &d), XP_OK);
        cr_assert_eq(xp_coder_create(&coder, &d), XP_OK);
        frame = malloc(xp_frame_bound(XP_BF16, 130, n));
        back = malloc(n * l.row_bytes);
        const struct xp_rows in = { .data = xp_fold_rows(l.fold), .rows = n, .dim = 130, .dtype = XP_BF16 };
        cr_assert_eq(xp_coder_encode(coder, &in, frame, xp_frame_bound(XP_BF16, 130, n), &len, NULL), XP_OK);
        cr_assert_lt(len, n * l.row_bytes * 3 / 5, "%s shortens the rows", codecs[i]);
        cr_assert_eq(xp_coder_decode(coder, frame, len, back, n), XP_OK);
        cr_assert_arr_eq(back, xp_fold_seen(l.fold), n * l.row_bytes, "%s", codecs[i]);
        free(frame);
        free(back);
        xp_coder_destroy(coder);
        layer_close(&l);
    }
}

Test(folded, no_cluster_holds_two_rows_of_a_sequence)
{
    struct random r = random_start("folded_sequences");
    struct layer l;
    const int32_t *of;

    layer_init(&l, XP_BF16, 512, 64, 4, 2);
    l.m.centroid = XP_CENTROID_SEQUENCES;
    fill_routing(&l, &r, 0);
    fill_rows(&l, &r, 10, 0.2);
    layer_open(&l);
    make(&l);
    check_ids(&l);
    of = xp_fold_cluster_of(l.fold);
    for (size_t a = 0; a < 1024; a++)
        for (size_t b = a + 1; b < 1024; b++)
            cr_assert(of[a] != of[b] || l.sequence[a / 2] != l.sequence[b / 2], "slots %zu and %zu share a cluster and a sequence", a, b);
    l.t.sequence = NULL;
    cr_assert_eq(xp_fold_make(l.fold, &l.t, l.x), XP_ERR_INVALID_ARG);
    layer_close(&l);
}

Test(folded, wild_rows_stay_alone_and_harm_nobody)
{
    struct random r = random_start("folded_wild");

    for (int c = XP_CENTROID_MEAN; c <= XP_CENTROID_SEQUENCES; c++) {
        static const double bad[] = { NAN, INFINITY, -INFINITY, 1e30 };
        struct layer l;

        layer_init(&l, XP_BF16, 256, 48, 3, 2);
        l.m.centroid = (xp_centroid)c;
        l.d.codec = "int8";
        fill_routing(&l, &r, 0);
        fill_rows(&l, &r, 8, 0.2);
        for (size_t t = 3; t < 256; t += 31)
            value_put(l.x + t * l.row_bytes, XP_BF16, t % 48, bad[t % 4]);
        layer_open(&l);
        for (int step = 0; step < 3; step++) {
            const int32_t *of = xp_fold_cluster_of(l.fold);

            forward(&l, identity);
            check_ids(&l);
            for (size_t t = 0; t < 256; t++) {
                const int wild = t % 31 == 3;

                for (size_t k = 0; k < 2 && wild; k++)
                    for (size_t s = 0; s < 512; s++)
                        cr_assert(s == 2 * t + k || of[s] != of[2 * t + k], "the wild row %zu shares a cluster", t);
                for (size_t i = 0; i < 48; i++) {
                    const double x = get(&l, l.x, t, i), y = get(&l, l.y, t, i);
                    if (!wild)
                        cr_assert(fabs(y) < 100, "row %zu is poisoned: %g", t, y);
                    else
                        cr_assert(isnan(x) ? isnan(y) : isinf(x) ? y == x : fabs(y - x) <= fabs(x) * 0x1p-7, "the wild row %zu: %g became %g", t, x, y);
                }
            }
        }
        layer_close(&l);
    }
}

Test(folded, outliers_become_clusters_of_their_own)
{
    struct random r = random_start("folded_outliers");

    for (int c = XP_CENTROID_MEAN; c <= XP_CENTROID_LEADER; c++) {
        struct layer l;
        size_t alone = 0;

        layer_init(&l, XP_F32, 400, 64, 2, 1);
        l.m.centroid = (xp_centroid)c;
        l.m.outlier = 0.1;
        fill_routing(&l, &r, 0);
        fill_rows(&l, &r, 5, 0.1);
        for (size_t t = 0; t < 400; t += 40)
            for (size_t i = 0; i < 64; i++)
                value_put(l.x + t * l.row_bytes, XP_F32, i, 3 * random_normal(&r));
        layer_open(&l);
        make(&l);
        check_ids(&l);
        for (size_t t = 0; t < 400; t++) {
            double left = 0, energy = 0;

            for (size_t i = 0; i < 64; i++) {
                const double x = get(&l, l.x, t, i), d = x - get(&l, xp_fold_seen(l.fold), (size_t)xp_fold_cluster_of(l.fold)[t], i);
                left += d * d;
                energy += x * x;
            }
            cr_assert_leq(left, 0.1001 * energy, "row %zu of folder %d", t, c);
            alone += t % 40 == 0 && left == 0;
        }
        cr_assert_eq(alone, 10u);
        layer_close(&l);
    }
}

/* ---- rate --------------------------------------------------------------------------------------------------------------- */

struct rate_case {
    const char *preset;
    double rate, outlier;
    xp_centroid centroid;
    int refine, hashes;
    size_t first; /* step from which on the rate is kept */
};

static void check_rate(const struct rate_case *c, struct random *r, size_t tokens, int experts)
{
    struct layer l;

    layer_init(&l, XP_BF16, tokens, 96, experts, 2);
    l.m.preset = c->preset;
    l.m.rate = c->rate;
    l.m.outlier = c->outlier;
    l.m.centroid = c->centroid;
    l.m.refine = c->refine;
    l.m.hashes = c->hashes;
    layer_open(&l);
    for (size_t step = 0; step < 6; step++) {
        struct xp_fold_stats st;
        size_t used = 0;

        fill_routing(&l, r, 9);
        fill_rows(&l, r, c->outlier > 0 ? 10 : 300, 0.7);
        for (size_t t = 0; t < tokens && c->outlier > 0; t += 29) /* a few rows that are like none */
            for (size_t i = 0; i < 96; i++)
                value_put(l.x + t * l.row_bytes, XP_BF16, i, 3 * random_normal(r));
        make(&l);
        check_ids(&l);
        for (size_t i = 0; i < tokens * 2; i++)
            used += l.expert[i] >= 0;
        st = xp_fold_stats(l.fold);
        cr_assert_float_eq(st.rate, (double)(st.clusters + st.probes) / (double)used, 1e-12);
        if (step >= c->first)
            cr_assert(st.rate > 0.9 * c->rate && st.rate < 1.1 * c->rate,
                      "%s refine %d hashes %d centroid %d outlier %g: rate %.4f in step %zu, not %g; %d experts", c->preset ? c->preset : "",
                      c->refine, c->hashes, c->centroid, c->outlier, st.rate, step, c->rate, experts);
    }
    layer_close(&l);
}

Test(folded, rate_is_kept_within_ten_percent)
{
    static const struct rate_case cases[] = {
        { NULL, 0.2, 0, XP_CENTROID_MEAN, 0, 0, 0 },     { NULL, 0.1, 0, XP_CENTROID_MEAN, 0, 0, 0 },
        { NULL, 0.5, 0, XP_CENTROID_MEAN, 0, 0, 0 },     { NULL, 0.2, 0, XP_CENTROID_MEAN, -1, 0, 0 },
        { NULL, 0.35, 0, XP_CENTROID_MEAN, -1, 2, 0 },   { "paper", 0.2, 0, XP_CENTROID_MEAN, 0, 0, 0 },
        { NULL, 0.3, 0.4, XP_CENTROID_MEAN, 0, 0, 0 },  { NULL, 0.3, 0, XP_CENTROID_SEQUENCES, 0, 0, 0 },
        { NULL, 0.2, 0, XP_CENTROID_LEADER, 0, 0, 1 },   { NULL, 0.5, 0, XP_CENTROID_LEADER, 0, 0, 1 },
    };
    struct random r = random_start("folded_rate");

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        check_rate(&cases[i], &r, 768, 8);
        check_rate(&cases[i], &r, 768, 2);
    }
}

Test(folded, rows_that_are_alike_need_no_more_clusters)
{
    struct layer l;
    struct random r = random_start("folded_equal");

    for (int c = XP_CENTROID_MEAN; c <= XP_CENTROID_LEADER; c++) {
        layer_init(&l, XP_BF16, 100, 24, 3, 1);
        l.m.centroid = (xp_centroid)c;
        l.m.probes = -1;
        fill_routing(&l, &r, 0);
        for (size_t t = 0; t < 100; t++)
            for (size_t i = 0; i < 24; i++)
                value_put(l.x + t * l.row_bytes, XP_BF16, i, 1.5 + (double)i);
        layer_open(&l);
        forward(&l, identity);
        cr_assert_eq(xp_fold_clusters(l.fold), 3u, "one for each expert, not %zu", xp_fold_clusters(l.fold));
        cr_assert_arr_eq(l.x, l.y, 100 * l.row_bytes);
        cr_assert_eq(xp_fold_stats(l.fold).rho, 0);
        layer_close(&l);
    }
}

Test(folded, nothing_to_fold)
{
    struct random r = random_start("folded_nothing");
    struct layer l;

    for (int c = XP_CENTROID_MEAN; c <= XP_CENTROID_SEQUENCES; c++) {
        layer_init(&l, XP_F32, 8, 4, 20, 2);
        l.m.centroid = (xp_centroid)c;
        fill_routing(&l, &r, 0);
        fill_rows(&l, &r, 8, 1);
        layer_open(&l);
        forward(&l, wavy); /* experts with one row or none */
        check_ids(&l);
        cr_assert_leq(xp_fold_clusters(l.fold), 16u);
        for (size_t i = 0; i < 16; i++)
            l.expert[i] = -1;
        forward(&l, wavy);
        cr_assert_eq(xp_fold_count(l.fold), 0u);
        for (size_t t = 0; t < 8; t++)
            cr_assert_eq(get(&l, l.y, t, 1), 0, "a token without experts gets zeros");
        l.t.topk = 0;
        forward(&l, wavy);
        cr_assert_eq(xp_fold_count(l.fold), 0u);
        l.t.tokens = 0;
        l.t.topk = 2;
        forward(&l, wavy);
        cr_assert_eq(xp_fold_count(l.fold), 0u);
        cr_assert_eq(xp_fold_stats(l.fold).rate, 0);
        layer_close(&l);
    }
}

/* ---- forward ------------------------------------------------------------------------------------------------------------ */

static void check_formula(const struct layer *l)
{
    const int32_t *of = xp_fold_cluster_of(l->fold);
    const float *alpha = xp_fold_alpha_of(l->fold);

    for (size_t t = 0; t < l->t.tokens; t++) {
        for (size_t i = 0; i < l->d.dim; i++) {
            double y = 0, size = 0, got = get(l, l->y, t, i);

            for (size_t s = t * (size_t)l->t.topk; s < (t + 1) * (size_t)l->t.topk; s++) {
                if (of[s] < 0)
                    continue;
                const double x = get(l, l->x, t, i), c = get(l, xp_fold_seen(l->fold), (size_t)of[s], i), e = get(l, l->results, (size_t)of[s], i);
                y += l->weight[s] * (e + alpha[s] * (x - c));
                size += fabs(l->weight[s]) * (fabs(e) + fabs(alpha[s]) * (fabs(x) + fabs(c)));
            }
            cr_assert_leq(fabs(got - y), half_ulp(l->d.dtype, y) * 1.001 + 1e-6 * size, "token %zu value %zu: %g, not %g", t, i, got, y);
        }
    }
}

Test(folded, output_is_the_formula_of_the_ids)
{
    static const xp_dtype types[] = { XP_BF16, XP_F16, XP_F32 };
    struct random r = random_start("folded_formula");

    for (int c = XP_CENTROID_MEAN; c <= XP_CENTROID_SEQUENCES; c++) {
        for (size_t i = 0; i < 6; i++) {
            struct layer l;

            layer_init(&l, types[i % 3], 150, 33, 4, 3);
            l.m.centroid = (xp_centroid)c;
            l.d.codec = i < 3 ? "raw" : "int8";
            l.m.alpha_rule = i == 1 ? XP_ALPHA_FIXED : XP_ALPHA_FIT;
            l.m.alpha = 0.7;
            fill_routing(&l, &r, 5);
            fill_rows(&l, &r, 20, 0.4);
            layer_open(&l);
            for (int step = 0; step < 2; step++) {
                forward(&l, wavy);
                check_formula(&l);
            }
            layer_close(&l);
        }
    }
}

Test(folded, the_identity_with_alpha_one_gives_the_rows_back)
{
    struct random r = random_start("folded_identity");

    for (int c = XP_CENTROID_MEAN; c <= XP_CENTROID_SEQUENCES; c++) {
        struct layer l;

        layer_init(&l, XP_BF16, 300, 64, 6, 2);
        l.m.centroid = (xp_centroid)c;
        l.m.alpha_rule = XP_ALPHA_FIXED;
        l.m.alpha = 1;
        fill_routing(&l, &r, 0);
        fill_rows(&l, &r, 10, 0.5);
        for (size_t t = 0; t < 300; t++) /* values that vanish beside their centroid's */
            value_put(l.x + t * l.row_bytes, XP_BF16, t % 64, 1e-6 * (double)(t + 1));
        layer_open(&l);
        forward(&l, identity);
        for (size_t t = 0; t < 300; t++)
            for (size_t i = 0; i < 64; i++)
                cr_assert_leq(fabs(get(&l, l.y, t, i) - get(&l, l.x, t, i)), 2 * half_ulp(XP_BF16, get(&l, l.x, t, i)), "token %zu value %zu", t, i);
        layer_close(&l);
    }
}

/* Outputs of rows before `cut` with other rows from there on: twice the same history, then steps that differ late. */
Test(folded, with_leaders_no_output_depends_on_a_later_row)
{
    struct random r = random_start("folded_causal");

    for (size_t cut = 1; cut < 200; cut += 33) {
        struct layer a, b;

        for (struct layer *l = &a; l; l = l == &a ? &b : NULL) {
            layer_init(l, XP_BF16, 200, 40, 3, 2);
            l->m.centroid = XP_CENTROID_LEADER;
            l->m.outlier = cut % 2 ? 0.4 : 0;
            l->d.codec = "int8";
        }
        fill_routing(&a, &r, 7);
        fill_rows(&a, &r, 12, 0.5);
        memcpy(b.expert, a.expert, 400 * sizeof(*a.expert));
        memcpy(b.weight, a.weight, 400 * sizeof(*a.weight));
        memcpy(b.x, a.x, 200 * a.row_bytes);
        layer_open(&a);
        layer_open(&b);
        for (int step = 0; step < 3; step++) {
            if (step == 2)
                for (size_t t = cut; t < 200; t++)
                    for (size_t i = 0; i < 40; i++)
                        value_put(b.x + t * b.row_bytes, XP_BF16, i, t == cut && i == 3 ? NAN : 5 * random_normal(&r));
            forward(&a, wavy);
            forward(&b, wavy);
        }
        cr_assert_arr_eq(a.y, b.y, cut * a.row_bytes, "rows before %zu", cut);
        cr_assert(memcmp(a.y, b.y, 200 * a.row_bytes) != 0);
        layer_close(&a);
        layer_close(&b);
    }
}

Test(folded, every_isa_folds_alike)
{
    struct random r = random_start("folded_isa");

    for (int c = XP_CENTROID_MEAN; c <= XP_CENTROID_SEQUENCES; c++) {
        struct layer first, l;

        layer_init(&first, XP_BF16, 300, 200, 5, 2);
        first.m.centroid = (xp_centroid)c;
        first.m.outlier = 0.3;
        first.d.isa = XP_ISA_C;
        first.d.codec = "int6";
        fill_routing(&first, &r, 8);
        fill_rows(&first, &r, 25, 0.5);
        layer_open(&first);
        forward(&first, wavy);
        forward(&first, wavy);
        for (int isa = XP_ISA_AVX2; isa <= (int)xp_cpu_isa(); isa++) {
            layer_init(&l, XP_BF16, 300, 200, 5, 2);
            l.m = first.m;
            l.d.codec = first.d.codec;
            l.d.isa = (enum xp_isa)isa;
            memcpy(l.expert, first.expert, 600 * sizeof(*l.expert));
            memcpy(l.weight, first.weight, 600 * sizeof(*l.weight));
            memcpy(l.sequence, first.sequence, 300 * sizeof(*l.sequence));
            memcpy(l.x, first.x, 300 * l.row_bytes);
            layer_open(&l);
            forward(&l, wavy);
            forward(&l, wavy);
            cr_assert_eq(xp_fold_count(l.fold), xp_fold_count(first.fold));
            cr_assert_arr_eq(xp_fold_cluster_of(l.fold), xp_fold_cluster_of(first.fold), 600 * sizeof(int32_t));
            cr_assert_arr_eq(l.y, first.y, 300 * l.row_bytes, "%s", xp_isa_name((enum xp_isa)isa));
            layer_close(&l);
        }
        layer_close(&first);
    }
}

/* ---- probes --------------------------------------------------------------------------------------------------------------- */

Test(folded, fit_finds_the_alpha_of_each_expert)
{
    struct random r = random_start("folded_fit");

    for (int c = XP_CENTROID_MEAN; c <= XP_CENTROID_LEADER; c++) {
        struct layer l;

        layer_init(&l, XP_F32, 400, 50, 4, 2);
        l.m.centroid = (xp_centroid)c;
        fill_routing(&l, &r, 0);
        fill_rows(&l, &r, 20, 0.5);
        layer_open(&l);
        for (int step = 0; step < 8; step++)
            forward(&l, planted);
        for (size_t s = 0; s < 800; s++)
            cr_assert_float_eq(xp_fold_alpha_of(l.fold)[s], 0.1 * l.expert[s] + 0.25, 1e-3, "expert %d", l.expert[s]);
        cr_assert_lt(xp_fold_stats(l.fold).fold_err, c == XP_CENTROID_LEADER ? 1 : 1e-3);
        layer_close(&l);
    }
}

Test(folded, without_data_alpha_is_zero)
{
    struct random r = random_start("folded_no_data");
    struct layer l;

    layer_init(&l, XP_F32, 100, 16, 2, 1);
    l.m.probes = -1;
    fill_routing(&l, &r, 0);
    fill_rows(&l, &r, 100, 1);
    layer_open(&l);
    forward(&l, planted);
    for (size_t s = 0; s < 100; s++)
        cr_assert_eq(xp_fold_alpha_of(l.fold)[s], 0);
    cr_assert_eq(xp_fold_stats(l.fold).probes, 0u);
    cr_assert_eq(xp_fold_stats(l.fold).fold_err, 0);
    layer_close(&l);
}

/* Relative error of the expert outputs of the whole step, slot by slot. */
static double true_error(const struct layer *l, expert_fn e)
{
    const int32_t *of = xp_fold_cluster_of(l->fold);
    double err = 0, ref = 0;

    for (size_t s = 0; s < l->t.tokens * (size_t)l->t.topk; s++) {
        for (size_t i = 0; i < l->d.dim && of[s] >= 0; i++) {
            const double x = get(l, l->x, s / (size_t)l->t.topk, i), c = get(l, xp_fold_seen(l->fold), (size_t)of[s], i);
            const double y = e(l->expert[s], i, x), d = get(l, l->results, (size_t)of[s], i) + xp_fold_alpha_of(l->fold)[s] * (x - c) - y;
            err += d * d;
            ref += y * y;
        }
    }
    return sqrt(err / ref);
}

Test(folded, probes_tell_the_error)
{
    struct random r = random_start("folded_error");

    for (int c = XP_CENTROID_MEAN; c <= XP_CENTROID_SEQUENCES; c++) {
        struct layer l;
        double sum = 0, told;

        layer_init(&l, XP_BF16, 512, 64, 8, 2);
        l.m.centroid = (xp_centroid)c;
        l.d.codec = "int8";
        layer_open(&l);
        fill_routing(&l, &r, 0);
        for (int step = 0; step < 12; step++) {
            fill_rows(&l, &r, 60, 0.6);
            forward(&l, wavy);
            sum += step >= 4 ? true_error(&l, wavy) / 8 : 0;
        }
        told = xp_fold_stats(l.fold).fold_err;
        cr_assert(told > 0.85 * sum && told < 1.15 * sum, "centroid %d: %.4f from the probes, %.4f in truth", c, told, sum);
        layer_close(&l);
    }
}

/* ---- backward ---------------------------------------------------------------------------------------------------------------- */

/* The loss <grad_y, y> in f64 with the ids of the step held fixed: x decides centroids and residuals. */
static double loss(const struct layer *l, const double *x, const double *weight, const double *grad_y)
{
    const int32_t *of = xp_fold_cluster_of(l->fold);
    const size_t clusters = xp_fold_clusters(l->fold), dim = l->d.dim, topk = (size_t)l->t.topk, slots = l->t.tokens * topk;
    double *c = calloc(clusters * dim + 1, sizeof(*c)), *n = calloc(clusters + 1, sizeof(*n)), sum = 0;

    for (size_t s = 0; s < slots; s++) {
        if (of[s] < 0 || (l->m.centroid == XP_CENTROID_LEADER && n[of[s]] > 0))
            continue;
        n[of[s]]++;
        for (size_t i = 0; i < dim; i++)
            c[(size_t)of[s] * dim + i] += x[s / topk * dim + i];
    }
    for (size_t s = 0; s < slots; s++) {
        for (size_t i = 0; i < dim && of[s] >= 0; i++) {
            const double mean = c[(size_t)of[s] * dim + i] / n[of[s]];
            sum += grad_y[s / topk * dim + i] * weight[s] * (wavy(l->expert[s], i, mean) + xp_fold_alpha_of(l->fold)[s] * (x[s / topk * dim + i] - mean));
        }
    }
    free(c);
    free(n);
    return sum;
}

/* JG = J^T G of wavy at the centroids. */
static void run_backward(const struct layer *l, const float *G, float *JG)
{
    for (size_t v = 0; v < xp_fold_count(l->fold); v++) {
        for (size_t i = 0; i < l->d.dim; i++) {
            const double w = 0.5 + 0.1 * xp_fold_expert(l->fold)[v];
            JG[v * l->d.dim + i] = (float)(w * cos(w * get(l, xp_fold_seen(l->fold), v, i)) * G[v * l->d.dim + i]);
        }
    }
}

static void check_backward(struct layer *l, struct random *r)
{
    const size_t dim = l->d.dim, tokens = l->t.tokens, slots = tokens * (size_t)l->t.topk;
    float *grad_y = malloc(tokens * l->row_bytes), *grad_x = malloc(tokens * l->row_bytes), *G = malloc((slots + 1) * l->row_bytes),
          *JG = malloc((slots + 1) * l->row_bytes), *grad_w = malloc(slots * sizeof(float));
    double *x = malloc(tokens * dim * sizeof(double)), *gy = malloc(tokens * dim * sizeof(double)), *w = malloc(slots * sizeof(double));

    for (size_t i = 0; i < tokens * dim; i++) {
        gy[i] = grad_y[i] = (float)random_normal(r);
        x[i] = ((const float *)l->x)[i];
    }
    for (size_t s = 0; s < slots; s++)
        w[s] = l->weight[s];
    xp_fold_combine_backward(l->fold, grad_y, l->x, G, grad_w);
    for (size_t v = xp_fold_clusters(l->fold); v < xp_fold_count(l->fold); v++)
        cr_assert_eq(G[v * dim], 0, "probes have no gradient");
    run_backward(l, G, JG);
    xp_fold_dispatch_backward(l->fold, grad_y, JG, grad_x);
    for (size_t i = 0; i < tokens * dim; i += 3) {
        const double at = x[i], step = 1e-5;
        double up, down;

        x[i] = at + step;
        up = loss(l, x, w, gy);
        x[i] = at - step;
        down = loss(l, x, w, gy);
        x[i] = at;
        cr_assert_float_eq(grad_x[i], (up - down) / (2 * step), 2e-4, "centroid %d: value %zu", l->m.centroid, i);
    }
    for (size_t s = 0; s < slots; s++) {
        const double at = w[s];
        double up, down;

        w[s] = at + 1;
        up = loss(l, x, w, gy);
        w[s] = at - 1;
        down = loss(l, x, w, gy);
        w[s] = at;
        cr_assert_float_eq(grad_w[s], (up - down) / 2, 1e-4, "weight %zu", s);
    }
    free(grad_y); free(grad_x); free(G); free(JG); free(grad_w); free(x); free(gy); free(w);
}

Test(folded, gradients_are_those_of_finite_differences)
{
    struct random r = random_start("folded_gradients");

    for (int c = XP_CENTROID_MEAN; c <= XP_CENTROID_SEQUENCES; c++) {
        for (int alpha = 0; alpha < 3; alpha++) {
            struct layer l;

            layer_init(&l, XP_F32, 60, 12, 3, 2);
            l.m.centroid = (xp_centroid)c;
            l.m.alpha_rule = alpha < 2 ? XP_ALPHA_FIXED : XP_ALPHA_FIT;
            l.m.alpha = alpha;
            l.m.rate = 0.3;
            fill_routing(&l, &r, 6);
            fill_rows(&l, &r, 6, 0.5);
            layer_open(&l);
            forward(&l, wavy);
            forward(&l, wavy);
            check_backward(&l, &r);
            layer_close(&l);
        }
    }
}

/* ---- arguments ----------------------------------------------------------------------------------------------------------------- */

static xp_status try_create(struct layer *l)
{
    struct xp_folder *f = NULL;
    const xp_status st = xp_folder_create(&f, &l->d);

    cr_assert_eq(f != NULL, st == XP_OK);
    xp_folder_destroy(f);
    return st;
}

Test(folded, refuses_knobs_that_mean_nothing)
{
    struct layer l;

    layer_init(&l, XP_BF16, 10, 64, 2, 1);
    cr_assert_eq(try_create(&l), XP_OK);
    l.m.preset = "papyrus";
    cr_assert_eq(try_create(&l), XP_ERR_INVALID_ARG);
    l.m.preset = "paper";
    cr_assert_eq(try_create(&l), XP_OK);
    l.m.rate = 1.5;
    cr_assert_eq(try_create(&l), XP_ERR_INVALID_ARG);
    l.m.rate = 0;
    l.m.hashes = 8;
    l.m.width = 16;
    cr_assert_eq(try_create(&l), XP_ERR_INVALID_ARG, "128 coordinates of a rotation of 64");
    l.m.hashes = l.m.width = 0;
    l.d.codec = "book";
    cr_assert_eq(try_create(&l), XP_ERR_UNSUPPORTED);
    l.d.codec = "no such codec";
    cr_assert_eq(try_create(&l), XP_ERR_INVALID_ARG);
    l.d.codec = NULL;
    cr_assert_eq(try_create(&l), XP_OK);
    l.d.dtype = XP_BYTE;
    cr_assert_eq(try_create(&l), XP_ERR_INVALID_ARG);
    xp_folder_destroy(NULL);
    xp_fold_destroy(NULL);
    layer_close(&l);
}
