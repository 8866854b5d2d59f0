/*
 * test_folded.c - folded mode on one rank: clusters, rate, arguments
 *
 * Experts are functions of folded_layer.h; what holds is checked from the ids that the library gives.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/collectives/folded_layer.h"

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
