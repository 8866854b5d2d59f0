/*
 * test_folded_formulas.c - folded mode on one rank: output, probes and gradients against their formulas
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/collectives/folded_layer.h"

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

Test(folded_formulas, output_is_the_formula_of_the_ids)
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

Test(folded_formulas, the_identity_with_alpha_one_gives_the_rows_back)
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
Test(folded_formulas, with_leaders_no_output_depends_on_a_later_row)
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
        if (a.expert[398] < 0) { /* the last row is sent somewhere: its output has to differ */
            a.expert[398] = a.expert[399] == 0;
            a.weight[398] = 0.5f;
        }
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

Test(folded_formulas, every_isa_folds_alike)
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

Test(folded_formulas, fit_finds_the_alpha_of_each_expert)
{
    struct random r = random_start("folded_fit");

    for (int c = XP_CENTROID_MEAN; c <= XP_CENTROID_LEADER; c++) {
        struct layer l;

        layer_init(&l, XP_F32, 400, 50, 4, 2);
        l.m.centroid = (xp_centroid)c;
        fill_routing(&l, &r, 0);
        fill_rows(&l, &r, 20, 0.5);
        layer_open(&l);
        for (int step = 0; step < 60; step++) /* an expert whose first step had one probe of weight is known later; that error fades */
            forward(&l, planted);
        for (size_t s = 0; s < 800; s++)
            cr_assert_float_eq(xp_fold_alpha_of(l.fold)[s], 0.1 * l.expert[s] + 0.25, 1e-3, "expert %d", l.expert[s]);
        cr_assert_lt(xp_fold_stats(l.fold).fold_err, c == XP_CENTROID_LEADER ? 1 : 1e-3);
        layer_close(&l);
    }
}

Test(folded_formulas, without_data_alpha_is_zero)
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

Test(folded_formulas, probes_tell_the_error)
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

Test(folded_formulas, gradients_are_those_of_finite_differences)
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
