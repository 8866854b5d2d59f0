/*
 * test_moe.c - dispatch, combine and their backward passes against the plain reference
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/layer.h"
#include "tests/harness/random.h"

static const struct world worlds[] = {{{1}}, {{2}}, {{1, 1}}, {{3}}, {{2, 1}}, {{2, 2, 2, 2}}, {{4, 4}, 1}, {{5, 1, 3, 2}, 1}, {{3, 3, 3, 2}}};
static const char *const algorithms[] = {"flat", "hier", "leader"};

#define EACH_WORLD(w) for (const struct world *w = worlds; w < worlds + sizeof worlds / sizeof *worlds; w++)

static void run(const struct world *w, struct layer l)
{
    const char *why = world_run(w, layer_body, &l);
    cr_assert(why[0] == 0, "%s: %s", layer_text(&l, w), why);
}

Test(moe, every_world_algorithm_and_mode)
{
    unsigned n = 0;
    EACH_WORLD(w)
        for (int a = 0; a < 3; a++)
            for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++, n++)
                run(w, (struct layer){.tokens = 20, .dim = 1 + n % 4 * 50, .experts = 13, .topk = 2 + (int)(n % 3), .dtype = XP_BF16 + n % 3,
                                      .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.05 : 0, .algo = algorithms[a], .steps = 2, .seed = n});
}

static const struct world eleven = {{5, 1, 3, 2}, 1}, eight = {{2, 2, 2, 2}};

/* k = 0, 1, 2, 8 and varying; one hot expert; ranks without tokens; experts that the ranks do not divide. */
Test(moe, every_choice_and_k)
{
    static const int topk[] = {0, 1, 2, 8};
    unsigned n = 0;
    for (enum choice c = 0; c < CHOICES; c++)
        for (int k = 0; k < 4; k++, n++)
            run(n % 3 ? &eleven : &eight,
                (struct layer){.choice = c, .tokens = 17, .dim = 24, .experts = n % 2 ? 9 : 29, .topk = topk[k], .dtype = XP_BF16,
                               .mode = XP_MODE_RAW + n / 4 % 2, .algo = algorithms[n % 3], .steps = 2, .seed = n});
}

Test(moe, experts_move_from_step_to_step)
{
    for (int a = 0; a < 3; a++)
        for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++)
            run(&eleven, (struct layer){.choice = CHOICE_VARYING, .tokens = 30, .dim = 65, .experts = 14, .topk = 4, .dtype = XP_F32,
                                        .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.1 : 0, .algo = algorithms[a], .steps = 5,
                                        .moving = 1, .seed = (unsigned)a});
}

/* Sums where rows are the default, and rows where sums are. */
Test(moe, sums_and_rows_in_every_mode)
{
    for (int a = 0; a < 3; a++)
        for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++)
            run(a == 0 ? &eight : &eleven,
                (struct layer){.choice = CHOICE_VARYING, .tokens = 25, .dim = 1100, .experts = 16, .topk = 5, .dtype = XP_BF16 + (unsigned)a,
                               .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.03 : 0, .algo = algorithms[a], .seed = (unsigned)a,
                               .combine = mode == XP_MODE_BOUNDED ? XP_COMBINE_ROWS : XP_COMBINE_SUM});
}

Test(moe, dim_of_one_and_no_tokens)
{
    for (int a = 0; a < 3; a++) {
        run(&eight, (struct layer){.tokens = 9, .dim = 1, .experts = 8, .topk = 3, .dtype = XP_F16, .mode = XP_MODE_EXACT, .algo = algorithms[a]});
        run(&eight, (struct layer){.tokens = 0, .dim = 7, .experts = 8, .topk = 3, .dtype = XP_F16, .mode = XP_MODE_EXACT, .algo = algorithms[a]});
    }
}

Test(moe, random_cases)
{
    struct random r = random_start("moe, random_cases");
    for (int i = 0; i < 60; i++) {
        const struct world *w = &worlds[random_below(&r, sizeof worlds / sizeof *worlds)];
        xp_mode mode = XP_MODE_RAW + (xp_mode)random_below(&r, 3);
        int experts = 1 + (int)random_below(&r, 40);
        int most = experts < 8 ? experts : 8;
        run(w, (struct layer){.choice = random_below(&r, CHOICES), .tokens = random_below(&r, 60), .dim = 1 + random_below(&r, 200),
                              .experts = experts, .topk = 1 + (int)random_below(&r, (uint64_t)most), .dtype = XP_BF16 + (unsigned)random_below(&r, 3),
                              .mode = mode, .eps = mode == XP_MODE_BOUNDED ? 0.01 + 0.2 * random_unit(&r) : 0,
                              .algo = algorithms[random_below(&r, 3)], .combine = random_below(&r, 3), .moving = (int)random_below(&r, 2),
                              .steps = 2, .seed = random_bits(&r) >> 20});
    }
}

/* The gradient of one row held a zero whose sign got lost when it was scaled. */
Test(moe, scaled_zeros_keep_their_sign)
{
    run(&worlds[8], (struct layer){.tokens = 29, .dim = 137, .experts = 10, .topk = 5, .dtype = XP_F16, .mode = XP_MODE_EXACT, .algo = "leader",
                                   .combine = XP_COMBINE_ROWS, .moving = 1, .steps = 2, .seed = 1633022757713});
}

/* ---- algorithms against each other ------------------------------------------------------------------------------------ */

/* All results of one step on a plan of one algorithm, one behind the other. The caller frees them. */
static char *everything(xp_comm *comm, const struct layer *l, const struct layer_step *s, size_t *bytes, char *why)
{
    int ranks = xp_comm_size(comm);
    size_t row = l->dim * xp_dtype_size(l->dtype), slots = s->tokens * (size_t)s->topk;
    xp_plan_desc d;
    xp_moe_desc m;
    xp_plan *plan;
    xp_routing *r;
    layer_plan(l, ranks, &d, &m);
    if (xp_plan_create(&plan, comm, &d) != XP_OK || layer_route(s, plan, &r) != XP_OK) {
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
        return NULL;
    }
    size_t rows = xp_routing_rows(r) * row, tokens = s->tokens * row;
    *bytes = 2 * rows + 2 * tokens + slots * sizeof(float);
    char *out = calloc(1, *bytes + 1), *y = out + rows, *grad_rows = y + tokens, *grad_x = grad_rows + rows;
    float *weights = calloc(slots + 1, sizeof *weights);
    if (xp_dispatch(plan, r, s->x, out, NULL) != XP_OK || xp_combine(plan, r, out, NULL, y, NULL) != XP_OK ||
        xp_combine_backward(plan, r, s->grad_y, out, grad_rows, weights, NULL) != XP_OK ||
        xp_dispatch_backward(plan, r, grad_rows, NULL, grad_x, NULL) != XP_OK)
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
    memcpy(grad_x + tokens, weights, slots * sizeof *weights);
    free(weights);
    xp_routing_destroy(r);
    xp_plan_destroy(plan);
    return out;
}

static void same_bits_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct layer l = *(const struct layer *)arg;
    struct layer_step s;
    char *first = NULL;
    size_t first_bytes = 0;
    layer_step_make(&s, &l, xp_comm_size(comm), rank, 0);
    for (int a = 0; a < 3 && !why[0]; a++) {
        size_t bytes = 0;
        l.algo = algorithms[a];
        char *got = everything(comm, &l, &s, &bytes, why);
        if (first && !why[0] && (bytes != first_bytes || memcmp(first, got, bytes) != 0))
            snprintf(why, WORLD_TEXT, "%s and flat differ", algorithms[a]);
        if (first)
            free(got);
        else
            first = got, first_bytes = bytes;
    }
    free(first);
    layer_step_free(&s);
}

Test(moe, all_algorithms_give_the_same_bits)
{
    EACH_WORLD(w) {
        for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_EXACT; mode++) {
            struct layer l = {.choice = CHOICE_VARYING, .tokens = 40, .dim = 50, .experts = 17, .topk = 6, .dtype = XP_BF16, .mode = mode};
            const char *why = world_run(w, same_bits_body, &l);
            cr_assert(why[0] == 0, "%s: %s", layer_text(&l, w), why);
        }
    }
}

/* ---- the identity --------------------------------------------------------------------------------------------------------- */

/* Experts that do nothing, gate weights that add up to 1: what went in comes out. */
static void identity_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct layer *l = arg;
    struct layer_step s;
    xp_plan_desc d;
    xp_moe_desc m;
    xp_plan *plan;
    xp_routing *r;
    layer_step_make(&s, l, xp_comm_size(comm), rank, 0);
    for (size_t i = 0; i < s.tokens * (size_t)s.topk; i++)
        s.weight[i] = (i % (size_t)s.topk ? 1.0f : 3.0f) / ((float)s.topk + 2);
    layer_plan(l, xp_comm_size(comm), &d, &m);
    if (xp_plan_create(&plan, comm, &d) != XP_OK || layer_route(&s, plan, &r) != XP_OK) {
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
        return;
    }
    uint16_t *rows = malloc(xp_routing_rows(r) * l->dim * 2 + 1), *y = malloc(s.tokens * l->dim * 2 + 1);
    const uint16_t *x = (const uint16_t *)(const void *)s.x;
    if (xp_dispatch(plan, r, x, rows, NULL) != XP_OK || xp_combine(plan, r, rows, NULL, y, NULL) != XP_OK)
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
    for (size_t i = 0; i < s.tokens * l->dim && !why[0]; i++)
        if (abs((int)y[i] - (int)x[i]) > 1)
            snprintf(why, WORLD_TEXT, "value %zu is %04x, not %04x", i, y[i], x[i]);
    free(rows);
    free(y);
    xp_routing_destroy(r);
    xp_plan_destroy(plan);
    layer_step_free(&s);
}

Test(moe, identity_experts_return_the_input)
{
    for (int a = 0; a < 3; a++)
        for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_EXACT; mode++)
            for (int k = 1; k <= 4; k++) {
                struct layer l = {.tokens = 30, .dim = 64, .experts = 11, .topk = k, .dtype = XP_BF16, .mode = mode, .algo = algorithms[a]};
                const char *why = world_run(&eight, identity_body, &l);
                cr_assert(why[0] == 0, "%s: %s", layer_text(&l, &eight), why);
            }
}

/* ---- gradients against finite differences --------------------------------------------------------------------------------- */

struct network {
    xp_comm *comm;
    xp_plan *plan;
    const struct layer *l;
    struct layer_step s;
};

/* A nonlinear expert on one value, and its derivative. */
static float bend(int expert, float x)
{
    return tanhf(x * (1 + 0.1f * (float)expert)) + 0.3f * x * x;
}

static float bend_grad(int expert, float x)
{
    float a = 1 + 0.1f * (float)expert, t = tanhf(a * x);
    return a * (1 - t * t) + 0.6f * x;
}

/* Sum over all ranks of <grad_y, y>; with gradients, also those. */
static double loss(struct network *n, float *grad_x, float *grad_weight, char *why)
{
    const struct layer *l = n->l;
    xp_routing *r;
    double mine = 0, all[WORLD_MAX], sum = 0;
    if (layer_route(&n->s, n->plan, &r) != XP_OK) {
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(n->comm));
        return 0;
    }
    size_t rows = xp_routing_rows(r), values = n->s.tokens * l->dim;
    float *in = malloc(rows * l->dim * 4 + 1), *out = malloc(rows * l->dim * 4 + 1), *grad = malloc(rows * l->dim * 4 + 1);
    float *y = malloc(values * 4 + 1), *dy = (float *)(void *)n->s.grad_y;
    xp_status st = xp_dispatch(n->plan, r, n->s.x, in, NULL);
    const size_t *offsets = xp_routing_offsets(r);
    for (int e = 0; e < xp_routing_local_experts(r); e++)
        for (size_t i = offsets[e] * l->dim; i < offsets[e + 1] * l->dim; i++)
            out[i] = bend(xp_routing_expert_ids(r)[e], in[i]);
    st = st ? st : xp_combine(n->plan, r, out, NULL, y, NULL);
    for (size_t i = 0; i < values; i++)
        mine += (double)dy[i] * y[i];
    if (!st && grad_x) {
        st = xp_combine_backward(n->plan, r, dy, out, grad, grad_weight, NULL);
        for (int e = 0; e < xp_routing_local_experts(r); e++)
            for (size_t i = offsets[e] * l->dim; i < offsets[e + 1] * l->dim; i++)
                grad[i] *= bend_grad(xp_routing_expert_ids(r)[e], in[i]);
        st = st ? st : xp_dispatch_backward(n->plan, r, grad, NULL, grad_x, NULL);
    }
    st = st ? st : xp_comm_allgather(n->comm, &mine, all, sizeof mine);
    if (st != XP_OK)
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(n->comm));
    for (int i = 0; st == XP_OK && i < xp_comm_size(n->comm); i++)
        sum += all[i];
    xp_routing_destroy(r);
    free(in);
    free(out);
    free(grad);
    free(y);
    return sum;
}

/* All ranks take part in every evaluation; rank 1's values are varied one after another. */
static void differences(struct network *n, int rank, float *values, size_t count, const float *grad, const char *what, char *why)
{
    const float h = 1.0f / 64;
    for (size_t i = 0; i < count; i++) {
        float keep = values[i];
        double up, down;
        values[i] = rank == 1 ? keep + h : keep;
        up = loss(n, NULL, NULL, why);
        values[i] = rank == 1 ? keep - h : keep;
        down = loss(n, NULL, NULL, why);
        values[i] = keep;
        double slope = (up - down) / (2 * h);
        if (rank == 1 && !why[0] && fabs(slope - grad[i]) > 2e-3 * (1 + fabs(slope)))
            snprintf(why, WORLD_TEXT, "gradient of %s %zu is %g, by differences %g", what, i, grad[i], slope);
    }
}

static void gradient_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct network n = {.comm = comm, .l = arg};
    float grad_x[64], grad_weight[64];
    xp_plan_desc d;
    xp_moe_desc m;
    layer_step_make(&n.s, n.l, xp_comm_size(comm), rank, 0);
    layer_plan(n.l, xp_comm_size(comm), &d, &m);
    if (xp_plan_create(&n.plan, comm, &d) != XP_OK) {
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
        return;
    }
    loss(&n, grad_x, grad_weight, why);
    /* Equal numbers of calls on all ranks: tokens are equal in this case. */
    differences(&n, rank, (float *)(void *)n.s.x, n.s.tokens * n.l->dim, grad_x, "value", why);
    differences(&n, rank, n.s.weight, n.s.tokens * (size_t)n.s.topk, grad_weight, "weight", why);
    xp_plan_destroy(n.plan);
    layer_step_free(&n.s);
}

Test(moe, gradients_are_those_of_finite_differences)
{
    static const struct world w = {{2, 1, 1}};
    for (int a = 0; a < 3; a++)
        for (int sum = 0; sum < 2; sum++) {
            struct layer l = {.tokens = 4, .dim = 5, .experts = 6, .topk = 3, .dtype = XP_F32, .mode = XP_MODE_EXACT, .algo = algorithms[a],
                              .combine = sum ? XP_COMBINE_SUM : XP_COMBINE_ROWS, .seed = (unsigned)a};
            const char *why = world_run(&w, gradient_body, &l);
            cr_assert(why[0] == 0, "%s: %s", layer_text(&l, &w), why);
        }
}
