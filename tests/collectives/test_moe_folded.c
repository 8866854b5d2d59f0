/*
 * test_moe_folded.c - folded mode across ranks: the formulas from the library's own ids, what experts see, causality, fall-back
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "collectives/moe.h"
#include "collectives/wire.h"
#include "lib/plan.h"
#include "tests/harness/layer.h"
#include "tests/harness/values.h"

#define CHECK(ok, ...) \
    do { \
        if (!(ok) && !why[0]) \
            snprintf(why, WORLD_TEXT, __VA_ARGS__); \
    } while (0)

struct folded {
    struct layer l;
    xp_alpha rule;
    double alpha, error_limit;
    xp_centroid centroid;
    int identity;
};

static const struct world worlds[] = {{{1}}, {{3}}, {{1, 1}}, {{2, 2}, 1}, {{3, 1, 2}}};
static const char *const algorithms[] = {"flat", "hier", "leader"};

struct run {
    const struct folded *f;
    const struct layer *l;
    xp_comm *comm;
    xp_plan *plan;
    struct layer_step s;
    xp_routing *r;
    int ranks, rank;
    size_t row, slots, clusters;
    char *rows, *out, *y, *grad_rows, *grad_x, *centroid;
    float *grad_weight, *alpha;
    int32_t *cluster;
};

/* Tokens near a few points, so that clusters mean something; sequences of 8. */
static void gather_tokens(struct run *n)
{
    for (size_t t = 0; t < n->s.tokens; t++)
        for (size_t i = 0; i < n->l->dim; i++) {
            double centre = sin((double)(t % 7 + 1) * (double)(i + 3)), noise = value_get(n->s.x, n->l->dtype, t * n->l->dim + i);
            value_put(n->s.x, n->l->dtype, t * n->l->dim + i, 2 * centre + 0.1 * noise);
        }
}

static int open_run(struct run *n, xp_comm *comm, int rank, const struct folded *f, char *why)
{
    xp_plan_desc d;
    xp_moe_desc m;
    *n = (struct run){.f = f, .l = &f->l, .comm = comm, .rank = rank, .ranks = xp_comm_size(comm)};
    layer_plan(n->l, n->ranks, &d, &m);
    m.alpha_rule = f->rule;
    m.alpha = f->alpha;
    m.centroid = f->centroid;
    m.error_limit = f->error_limit;
    m.rate = 0.3;
    CHECK(xp_plan_create(&n->plan, comm, &d) == XP_OK, "%.300s", xp_comm_last_error(comm));
    layer_step_make(&n->s, n->l, n->ranks, rank, 0);
    gather_tokens(n);
    size_t most = n->l->tokens * (size_t)(n->l->topk + 1) * (size_t)n->ranks;
    n->row = n->l->dim * xp_dtype_size(n->l->dtype);
    n->slots = n->s.tokens * (size_t)n->s.topk;
    n->rows = malloc(most * n->row);
    n->out = malloc(most * n->row);
    n->grad_rows = malloc(most * n->row);
    n->y = malloc((n->s.tokens + 1) * n->row);
    n->grad_x = malloc((n->s.tokens + 1) * n->row);
    n->centroid = malloc((n->slots + 1) * n->row);
    n->grad_weight = malloc((n->slots + 1) * sizeof(float));
    n->alpha = malloc((n->slots + 1) * sizeof(float));
    n->cluster = malloc((n->slots + 1) * sizeof(int32_t));
    return why[0] == 0;
}

static void close_run(struct run *n)
{
    xp_plan_destroy(n->plan);
    layer_step_free(&n->s);
    free(n->rows);
    free(n->out);
    free(n->y);
    free(n->grad_rows);
    free(n->grad_x);
    free(n->centroid);
    free(n->grad_weight);
    free(n->alpha);
    free(n->cluster);
}

static void route_and_dispatch(struct run *n, char *why)
{
    xp_route_desc d;
    int32_t *sequence = malloc((n->s.tokens + 1) * sizeof *sequence);
    for (size_t t = 0; t < n->s.tokens; t++)
        sequence[t] = (int32_t)(t / 8);
    xp_route_desc_init(&d);
    d.tokens = n->s.tokens;
    d.topk = n->s.topk;
    d.expert = n->s.expert;
    d.weight = n->s.weight;
    d.sequence = sequence;
    CHECK(xp_route(n->plan, &d, &n->r) == XP_OK && xp_dispatch(n->plan, n->r, n->s.x, n->rows, NULL) == XP_OK, "%.300s",
          xp_comm_last_error(n->comm));
    free(sequence);
}

static void run_experts(const struct run *n, const char *in, char *out, int grad)
{
    const size_t *offsets = xp_routing_offsets(n->r);
    for (int e = 0; e < xp_routing_local_experts(n->r); e++)
        for (size_t r = offsets[e]; r < offsets[e + 1]; r++) {
            if (n->f->identity)
                memcpy(out + r * n->row, in + r * n->row, n->row);
            else if (grad)
                layer_expert_grad(n->l, xp_routing_expert_ids(n->r)[e], in + r * n->row, out + r * n->row);
            else
                layer_expert(n->l, xp_routing_expert_ids(n->r)[e], in + r * n->row, out + r * n->row);
        }
}

static void forward(struct run *n, char *why)
{
    route_and_dispatch(n, why);
    if (why[0])
        return;
    run_experts(n, n->rows, n->out, 0);
    CHECK(xp_combine(n->plan, n->r, n->out, n->s.x, n->y, NULL) == XP_OK, "%.300s", xp_comm_last_error(n->comm));
    CHECK(xp_routing_clusters(n->r, n->cluster, n->alpha, n->centroid, &n->clusters) == XP_OK, "clusters: %.300s", xp_last_error());
}

/* ---- the formulas ----------------------------------------------------------------------------------------------------- */

static double get(const struct run *n, const void *rows, size_t r, size_t i)
{
    return value_get((const char *)rows + r * n->row, n->l->dtype, i);
}

/* y_k = E(c_j) + alpha (x - c_j), from the ids, centroids and alphas that the library says it used. */
static void check_forward(const struct run *n, double off, char *why)
{
    char *e = malloc(n->row);
    for (size_t t = 0; t < n->s.tokens && !why[0]; t++) {
        double *want = calloc(n->l->dim, sizeof *want), norm = 0, distance = 0;
        for (int k = 0; k < n->s.topk; k++) {
            size_t at = t * (size_t)n->s.topk + (size_t)k;
            CHECK((n->cluster[at] < 0) == (n->s.expert[at] < 0) && n->cluster[at] < (int32_t)n->clusters, "cluster of slot %zu is %d", at, n->cluster[at]);
            if (n->s.expert[at] < 0 || why[0])
                continue;
            size_t j = (size_t)n->cluster[at];
            layer_expert(n->l, n->s.expert[at], n->centroid + j * n->row, e);
            for (size_t i = 0; i < n->l->dim; i++) {
                double c = get(n, n->centroid, j, i), result = n->f->identity ? c : value_get(e, n->l->dtype, i);
                want[i] += n->s.weight[at] * (result + n->alpha[at] * (get(n, n->s.x, t, i) - c));
                norm += fabs(n->s.weight[at]) * result * result;
            }
        }
        for (size_t i = 0; i < n->l->dim; i++)
            distance += (want[i] - get(n, n->y, t, i)) * (want[i] - get(n, n->y, t, i));
        CHECK(sqrt(distance) <= off * (sqrt(norm) + 1), "token %zu is off by %g of %g", t, sqrt(distance), sqrt(norm));
        free(want);
    }
    free(e);
}

/* grad_weight = <g, y_k>; dx = sum of w alpha g + (J^T G - alpha G) / N with G = sum of w g over the cluster; J is diagonal here. */
static void check_backward(const struct run *n, double off, char *why)
{
    size_t dim = n->l->dim;
    double *G = calloc((n->clusters + 1) * dim, sizeof *G), *want = calloc((n->s.tokens + 1) * dim, sizeof *want);
    int *N = calloc(n->clusters + 1, sizeof *N);
    char *e = malloc(n->row);
    for (size_t at = 0; at < n->slots; at++) {
        if (n->s.expert[at] < 0)
            continue;
        size_t j = (size_t)n->cluster[at], t = at / (size_t)n->s.topk;
        double dot = 0, size = 0;
        N[j]++;
        layer_expert(n->l, n->s.expert[at], n->centroid + j * n->row, e);
        for (size_t i = 0; i < dim; i++) {
            double g = get(n, n->s.grad_y, t, i), y = value_get(e, n->l->dtype, i) + n->alpha[at] * (get(n, n->s.x, t, i) - get(n, n->centroid, j, i));
            G[j * dim + i] += n->s.weight[at] * g;
            dot += g * y;
            size += fabs(g * y);
        }
        CHECK(fabs(dot - n->grad_weight[at]) <= off * (size + 1), "grad_weight of slot %zu is %g, not %g", at, n->grad_weight[at], dot);
    }
    for (size_t at = 0; at < n->slots; at++) {
        if (n->s.expert[at] < 0)
            continue;
        size_t j = (size_t)n->cluster[at], t = at / (size_t)n->s.topk;
        for (size_t i = 0; i < dim; i++) {
            double g = n->s.weight[at] * get(n, n->s.grad_y, t, i), a = n->alpha[at], sum = G[j * dim + i];
            want[t * dim + i] += a * g + (sum * (1 + n->s.expert[at] / 16.0) - a * sum) / N[j];
        }
    }
    for (size_t i = 0; i < n->s.tokens * dim && !why[0]; i++)
        CHECK(fabs(want[i] - value_get(n->grad_x, n->l->dtype, i)) <= off * (fabs(want[i]) + 3), "grad_x %zu is %g, not %g", i,
              value_get(n->grad_x, n->l->dtype, i), want[i]);
    free(G);
    free(want);
    free(N);
    free(e);
}

static void formula_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct folded *f = arg;
    struct run n;
    if (!open_run(&n, comm, rank, f, why))
        return;
    double off = f->l.codec && strcmp(f->l.codec, "raw") == 0 ? (f->l.dtype == XP_F32 ? 1e-5 : 0.01) : 0.03;
    for (int step = 0; step < 3 && !why[0]; step++) {
        forward(&n, why);
        if (!why[0])
            check_forward(&n, off, why);
        CHECK(xp_combine_backward(n.plan, n.r, n.s.grad_y, n.out, n.grad_rows, n.grad_weight, NULL) == XP_OK, "%.300s", xp_comm_last_error(comm));
        if (!why[0])
            run_experts(&n, n.grad_rows, n.out, 1);
        CHECK(why[0] || xp_dispatch_backward(n.plan, n.r, n.out, n.s.grad_y, n.grad_x, NULL) == XP_OK, "%.300s", xp_comm_last_error(comm));
        if (!why[0])
            check_backward(&n, off, why);
        xp_routing_destroy(n.r);
    }
    close_run(&n);
}

static void run(const struct world *w, world_body body, struct folded *f)
{
    const char *why = world_run(w, body, f);
    cr_assert(why[0] == 0, "%s, rule %d alpha %g centroid %d codec %s: %s", layer_text(&f->l, w), f->rule, f->alpha, f->centroid,
              f->l.codec ? f->l.codec : "default", why);
}

#define EACH_WORLD(w) for (const struct world *w = worlds; w < worlds + sizeof worlds / sizeof *worlds; w++)

Test(moe_folded, output_and_gradients_follow_the_formulas)
{
    unsigned n = 0;
    EACH_WORLD(w)
        for (int a = 0; a < 3; a++)
            for (xp_centroid c = XP_CENTROID_MEAN; c <= XP_CENTROID_SEQUENCES; c++, n++) {
                struct folded f = {.l = {.choice = n % 2 ? CHOICE_VARYING : CHOICE_RANDOM, .tokens = 50, .dim = 40, .experts = 5, .topk = 3,
                                         .dtype = n % 3 ? XP_F32 : XP_BF16, .mode = XP_MODE_FOLDED, .algo = algorithms[a],
                                         .codec = c == XP_CENTROID_LEADER ? NULL : "raw", .seed = n},
                                   .rule = n % 4 == 3 ? XP_ALPHA_FIXED : XP_ALPHA_FIT, .alpha = 1, .centroid = c};
                if (c == XP_CENTROID_LEADER) { /* gradients of a cluster go to its leader: another formula, tested on one rank */
                    f.rule = XP_ALPHA_FIXED;
                    continue;
                }
                run(w, formula_body, &f);
            }
}

/* ---- what experts see ---------------------------------------------------------------------------------------------------- */

static uint64_t hash_row(const char *row, size_t bytes)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ (uint8_t)row[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

enum { MOST_EXPERTS = 16 };

/* Sums of row hashes by expert: all ranks' centroids, and the rows that came. Equal bits, near and far, coded or not. */
static void seen_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct run n;
    uint64_t mine[2 * MOST_EXPERTS] = {0}, all[WORLD_MAX][2 * MOST_EXPERTS], want = 0, count = 0;
    if (!open_run(&n, comm, rank, arg, why))
        return;
    forward(&n, why);
    char *counted = calloc(n.clusters + 1, 1);
    for (size_t at = 0; at < n.slots && !why[0]; at++) {
        if (n.cluster[at] < 0 || counted[n.cluster[at]]++)
            continue;
        mine[2 * n.s.expert[at]] += hash_row(n.centroid + (size_t)n.cluster[at] * n.row, n.row);
        mine[2 * n.s.expert[at] + 1]++;
    }
    free(counted);
    CHECK(xp_comm_allgather(comm, mine, all, sizeof mine) == XP_OK, "%.300s", xp_comm_last_error(comm));
    const size_t *offsets = xp_routing_offsets(n.r);
    for (int e = 0; e < xp_routing_local_experts(n.r) && !why[0]; e++) {
        int id = xp_routing_expert_ids(n.r)[e];
        uint64_t got = 0;
        want = count = 0;
        for (int i = 0; i < n.ranks; i++)
            want += all[i][2 * id], count += all[i][2 * id + 1];
        for (size_t r = offsets[e]; r < offsets[e + 1]; r++)
            got += hash_row(n.rows + r * n.row, n.row);
        CHECK(offsets[e + 1] - offsets[e] == count, "expert %d got %zu rows of %llu", id, offsets[e + 1] - offsets[e], (unsigned long long)count);
        CHECK(got == want, "expert %d saw other rows than the centroids", id);
    }
    xp_stats s = {.size = sizeof s};
    xp_plan_stats(n.plan, &s);
    CHECK(s.clusters == n.clusters && s.rate > 0 && s.rate < 1 && s.rho > 0 && s.rho < 1, "stats: %llu clusters, rate %g, rho %g",
          (unsigned long long)s.clusters, s.rate, s.rho);
    CHECK(xp_routing_rows(n.r) == offsets[xp_routing_local_experts(n.r)], "rows and offsets disagree");
    xp_routing_destroy(n.r);
    close_run(&n);
}

Test(moe_folded, experts_see_the_centroids_bit_for_bit)
{
    static const char *const codecs[] = {"raw", "int8", "fp8", "int4", NULL};
    unsigned n = 0;
    EACH_WORLD(w)
        for (int a = 0; a < 3; a++, n++)
            for (int c = 0; c < 5; c++) {
                struct folded f = {.l = {.tokens = 64, .dim = 96, .experts = 6, .topk = 2, .dtype = XP_BF16 + n % 3, .mode = XP_MODE_FOLDED,
                                         .algo = algorithms[a], .codec = codecs[c], .seed = n},
                                   .rule = XP_ALPHA_FIXED, .alpha = 1};
                run(w, seen_body, &f);
            }
}

/* ---- laws ------------------------------------------------------------------------------------------------------------------ */

/* Experts that do nothing, alpha 1, weights that add up to 1: the input comes back. */
static void identity_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct run n;
    if (!open_run(&n, comm, rank, arg, why))
        return;
    for (size_t i = 0; i < n.slots; i++)
        n.s.weight[i] = i % (size_t)n.s.topk ? 0.25f : 1 - 0.25f * (float)(n.s.topk - 1);
    forward(&n, why);
    const uint16_t *x = (const uint16_t *)(const void *)n.s.x, *y = (const uint16_t *)(const void *)n.y;
    for (size_t i = 0; i < n.s.tokens * n.l->dim && !why[0]; i++) {
        double a = value_get(x, XP_BF16, i), b = value_get(y, XP_BF16, i);
        CHECK(abs((int)x[i] - (int)y[i]) <= 1 || fabs(a - b) < 1e-6, "value %zu is %g, not %g", i, b, a);
    }
    xp_routing_destroy(n.r);
    close_run(&n);
}

Test(moe_folded, identity_experts_return_the_input)
{
    EACH_WORLD(w)
        for (int a = 0; a < 3; a++) {
            struct folded f = {.l = {.tokens = 40, .dim = 50, .experts = 7, .topk = 1 + a, .dtype = XP_BF16, .mode = XP_MODE_FOLDED,
                                     .algo = algorithms[a], .codec = "raw"},
                               .rule = XP_ALPHA_FIXED, .alpha = 1, .identity = 1};
            run(w, identity_body, &f);
        }
}

/* With leaders nothing that a token gets depends on a later one: two runs that differ from some token on agree before it. */
static void causal_body(xp_comm *comm, int rank, void *arg, char *why)
{
    enum { STEPS = 3, FROM = 30 };
    struct run n;
    char *first[STEPS] = {0};
    for (int other = 0; other < 2 && !why[0]; other++) {
        if (!open_run(&n, comm, rank, arg, why))
            return;
        for (int step = 0; step < STEPS && !why[0]; step++) {
            /* Steps before the last are alike in both runs: what is learned from them may be used. */
            for (size_t i = FROM * n.l->dim; other && step == STEPS - 1 && i < n.s.tokens * n.l->dim; i++)
                value_put(n.s.x, n.l->dtype, i, cos((double)i * 1.7));
            for (size_t i = FROM * (size_t)n.s.topk; other && step == STEPS - 1 && i < n.slots; i++)
                n.s.weight[i] = 0.125f;
            forward(&n, why);
            if (!other && (first[step] = malloc(n.s.tokens * n.row + 1)))
                memcpy(first[step], n.y, n.s.tokens * n.row);
            CHECK(memcmp(first[step], n.y, FROM * n.row) == 0, "step %d: an output before token %d depends on a later row", step, FROM);
            CHECK(!other || step < STEPS - 1 || memcmp(first[step], n.y, n.s.tokens * n.row) != 0, "nothing was changed");
            xp_routing_destroy(n.r);
        }
        close_run(&n);
    }
    for (int step = 0; step < STEPS; step++)
        free(first[step]);
}

Test(moe_folded, with_leaders_no_output_depends_on_a_later_row)
{
    EACH_WORLD(w)
        for (int fit = 0; fit < 2; fit++) {
            struct folded f = {.l = {.tokens = 60, .dim = 24, .experts = 4, .topk = 2, .dtype = XP_BF16, .mode = XP_MODE_FOLDED,
                                     .algo = algorithms[fit], .seed = 3},
                               .rule = fit ? XP_ALPHA_FIT : XP_ALPHA_FIXED, .alpha = 1, .centroid = XP_CENTROID_LEADER};
            run(w, causal_body, &f);
        }
}

/* ---- fall-back ---------------------------------------------------------------------------------------------------------------- */

/* With a limit that every error exceeds: one folded step, bounded ones on all ranks, then a trial. */
static void limit_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct run n;
    if (!open_run(&n, comm, rank, arg, why))
        return;
    for (int step = 0; step < 19 && !why[0]; step++) {
        xp_stats s = {.size = sizeof s};
        route_and_dispatch(&n, why);
        xp_status st = xp_routing_clusters(n.r, n.cluster, NULL, NULL, &n.clusters);
        int folded = step == 0 || step == 17;
        CHECK((st == XP_OK) == folded, "step %d is %sfolded", step, st == XP_OK ? "" : "not ");
        if (why[0])
            break;
        run_experts(&n, n.rows, n.out, 0);
        CHECK(xp_combine(n.plan, n.r, n.out, n.s.x, n.y, NULL) == XP_OK, "%.300s", xp_comm_last_error(comm));
        xp_plan_stats(n.plan, &s);
        CHECK(s.fold_fallbacks == (uint64_t)(step < 17 ? step : step - 1), "step %d: %llu fall-backs", step, (unsigned long long)s.fold_fallbacks);
        CHECK(s.fold_err > 0, "step %d: no error was estimated", step);
        if (!folded) { /* a bounded step: every token's own row came, so y is near the true sum */
            char *y = malloc((n.s.tokens + 1) * n.row), *grad_x = malloc((n.s.tokens + 1) * n.row);
            layer_reference_home(n.l, &n.s, y, grad_x, n.grad_weight);
            for (size_t t = 0; t < n.s.tokens && !why[0]; t++)
                CHECK(value_distance(y + t * n.row, n.y + t * n.row, n.l->dtype, n.l->dim) <= 0.1 * (1 + value_norm(y + t * n.row, n.l->dtype, n.l->dim)),
                      "step %d: token %zu is far off", step, t);
            free(y);
            free(grad_x);
        }
        xp_routing_destroy(n.r);
    }
    close_run(&n);
}

Test(moe_folded, error_limit_makes_all_ranks_fall_back_together)
{
    static const struct world w = {{2, 1}};
    for (int a = 0; a < 3; a++) {
        struct folded f = {.l = {.tokens = 60, .dim = 32, .experts = 4, .topk = 2, .dtype = XP_F32, .mode = XP_MODE_FOLDED, .eps = 0.02,
                                 .algo = algorithms[a], .seed = 4},
                           .error_limit = 1e-9};
        run(&w, limit_body, &f);
    }
}

/* ---- rows that leave while others are chosen ------------------------------------------------------------------------------------------ */

/* Several messages a pair and more experts a rank than are averaged together; ranks for which nothing can come; rows that are not coded. */
Test(moe_folded, rows_leave_in_many_messages)
{
    static const struct world one_each[] = {{{1, 1, 1}}, {{2, 1}}};
    static const enum choice choices[] = {CHOICE_RANDOM, CHOICE_HOT, CHOICE_EMPTY_RANKS, CHOICE_NONE};
    for (size_t i = 0; i < 16; i++) {
        struct folded f = {.l = {.choice = choices[i / 4], .tokens = 500, .dim = 1024, .experts = 15, .topk = 5, .dtype = XP_BF16, .mode = XP_MODE_FOLDED,
                                 .algo = "flat", .codec = i & 1 ? "raw" : "int8", .seed = i},
                           .rule = XP_ALPHA_FIXED, .alpha = 1};
        run(&one_each[i / 2 % 2], choices[i / 4] < CHOICE_EMPTY_RANKS ? seen_body : formula_body, &f); /* no rows have no rates */
    }
}

/* ---- what travels ------------------------------------------------------------------------------------------------------------------ */

enum { LATE_MS = 60 };

/* Two equal steps; in the second rank 1 comes late, so that rank 0 has made all rows when they may leave. Tokens go to all experts, whose
 * rows are copies of each other then: they must be looked for in both steps or in none. */
static void late_body(xp_comm *comm, int rank, void *arg, char *why)
{
    uint64_t bytes[2] = {0};
    for (int late = 0; late < 2 && !why[0]; late++) {
        struct run n;
        if (!open_run(&n, comm, rank, arg, why))
            return;
        xp_routing *r = NULL;
        CHECK(layer_route(&n.s, n.plan, &r) == XP_OK, "%.300s", xp_comm_last_error(comm));
        if (late && rank == 1)
            nanosleep(&(struct timespec){.tv_nsec = LATE_MS * 1000000}, NULL);
        CHECK(xp_dispatch(n.plan, r, n.s.x, n.rows, NULL) == XP_OK, "%.300s", xp_comm_last_error(comm));
        bytes[late] = n.plan->stats.wire_bytes_slow;
        xp_routing_destroy(r);
        close_run(&n);
    }
    CHECK(bytes[0] == bytes[1] && bytes[0] > 0, "%llu bytes, %llu when a rank is late", (unsigned long long)bytes[0], (unsigned long long)bytes[1]);
}

Test(moe_folded, bytes_do_not_depend_on_who_is_late)
{
    static const struct world w = {{1, 1}};
    struct folded few = {.l = {.tokens = 128, .dim = 256, .experts = 4, .topk = 4, .dtype = XP_BF16, .mode = XP_MODE_FOLDED, .algo = "flat"}};
    struct folded many = {.l = {.tokens = 900, .dim = 768, .experts = 12, .topk = 4, .dtype = XP_BF16, .mode = XP_MODE_FOLDED, .algo = "flat"}};
    run(&w, late_body, &few);
    run(&w, late_body, &many);
}

/* ---- misuse ---------------------------------------------------------------------------------------------------------------------- */

static void order_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct folded *f = arg;
    struct run n;
    xp_plan_desc d;
    xp_moe_desc m;
    xp_plan *plan = NULL;
    if (!open_run(&n, comm, rank, f, why))
        return;
    xp_routing *r;
    CHECK(layer_route(&n.s, n.plan, &r) == XP_OK, "%.300s", xp_comm_last_error(comm));
    CHECK(xp_routing_clusters(r, n.cluster, NULL, NULL, &n.clusters) == XP_ERR_STATE, "clusters before dispatch");
    CHECK(xp_combine(n.plan, r, n.rows, n.s.x, n.y, NULL) == XP_ERR_STATE, "combine before dispatch");
    CHECK(xp_dispatch_backward(n.plan, r, n.rows, n.s.grad_y, n.y, NULL) == XP_ERR_STATE, "dispatch_backward before combine_backward");
    CHECK(xp_dispatch(n.plan, r, n.s.x, n.rows, NULL) == XP_OK, "%.300s", xp_comm_last_error(comm));
    CHECK(xp_combine(n.plan, r, n.rows, NULL, n.y, NULL) == XP_ERR_INVALID_ARG, "combine without x");
    CHECK(xp_combine_backward(n.plan, r, n.s.grad_y, n.rows, n.out, n.grad_weight, NULL) == XP_ERR_STATE, "combine_backward before combine");
    xp_routing_destroy(r);
    for (int i = 0; i < 3; i++) {
        layer_plan(n.l, n.ranks, &d, &m);
        d.codec = i == 0 ? "book" : NULL;
        m.rate = i == 1 ? 1.5 : i == 2 && rank == 0 ? 0.25 : 0.2;
        xp_status st = xp_plan_create(&plan, comm, &d);
        CHECK(st == (i == 0 ? XP_ERR_UNSUPPORTED : i == 1 ? XP_ERR_INVALID_ARG : n.ranks > 1 ? XP_ERR_MISMATCH : XP_OK), "plan %d: %s: %.300s", i,
              xp_status_string(st), xp_comm_last_error(comm));
    }
    close_run(&n);
}

Test(moe_folded, misuse_is_refused)
{
    static const struct world w = {{2, 1}, .allow = {"combine: ", "dispatch_backward: ", "combine_backward: ", "plan: "}};
    struct folded f = {.l = {.tokens = 8, .dim = 8, .experts = 4, .topk = 2, .dtype = XP_F32, .mode = XP_MODE_FOLDED}};
    run(&w, order_body, &f);
}

/* ---- messages that lie ----------------------------------------------------------------------------------------------------------- */

static xp_status (*choose_truly)(struct xp_moe *m, struct xp_routing *r);
static uint32_t lie; /* what rank 0 adds to the number of centroids that it says to have for every expert */

static xp_status choose_and_lie(struct xp_moe *m, struct xp_routing *r)
{
    xp_status st = choose_truly(m, r);
    uint8_t *counts = m->hello_out + 2 * m->hello_bytes - 8 * (size_t)m->shape.experts; /* of the hello for rank 1 */
    for (int e = 0; st == XP_OK && e < m->shape.experts; e++)
        xp_put32(counts + 8 * e, xp_get32(counts + 8 * e) + lie);
    return st;
}

static void lie_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct run n;
    char other[WORLD_TEXT] = "";
    if (!open_run(&n, comm, rank, arg, why))
        return;
    struct xp_moe *m = n.plan->state;
    struct xp_moe_fold_ops ops = *m->fold;
    if (rank == 0) {
        choose_truly = ops.choose;
        ops.choose = choose_and_lie;
        m->fold = &ops;
    }
    route_and_dispatch(&n, other);
    if (!other[0] && rank == 0 && xp_comm_barrier(comm) != XP_OK) /* its own dispatch may have been over before */
        snprintf(other, sizeof other, "%.300s", xp_comm_last_error(comm));
    CHECK(strstr(other, "the hello of rank 0 is damaged"), "%+d: %.300s", (int32_t)lie, other[0] ? other : "nobody noticed");
    xp_routing_destroy(n.r);
    close_run(&n);
}

Test(moe_folded, hellos_that_do_not_add_up_are_refused)
{
    static const struct world w = {{1, 1}, .allow = {"the hello of rank 0 is damaged"}};
    struct folded f = {.l = {.tokens = 40, .dim = 24, .experts = 4, .topk = 2, .dtype = XP_F32, .mode = XP_MODE_FOLDED, .algo = "flat"}};
    static const uint32_t lies[] = {1, UINT32_MAX, 1u << 31, 1000000};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        lie = lies[i];
        run(&w, lie_body, &f);
    }
}
