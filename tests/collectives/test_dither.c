/*
 * test_dither.c - which directions of a layer are dithered: there the errors of alike rows cancel in their sum, elsewhere they add up
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/random.h"
#include "tests/harness/world.h"

#define PATTERNS 8
#define COPIES 256
#define TOKENS (PATTERNS * COPIES)
#define DIM 128
#define EPS 0.25

/* Rank 0 has all tokens, rank 1 the expert that they go to: rows cross the slow hop one way in dispatch and combine_backward, the other
 * way in combine and dispatch_backward. */
struct exchange_of_four {
    xp_dither dither;
    float *sent, *got[4];
};

enum { DISPATCH, COMBINE, COMBINE_BACKWARD, DISPATCH_BACKWARD };
static const char *const directions[] = {"dispatch", "combine", "combine_backward", "dispatch_backward"};

static void say(char *why, xp_comm *comm)
{
    snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
}

static xp_plan *make_plan(xp_comm *comm, const struct exchange_of_four *x, char *why)
{
    xp_plan_desc d;
    xp_moe_desc m;
    xp_plan *plan = NULL;
    xp_moe_desc_init(&m);
    m.experts = 2;
    m.max_topk = 1;
    xp_plan_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = DIM;
    d.max_send_rows = d.max_recv_rows = TOKENS;
    d.mode = XP_MODE_BOUNDED;
    d.eps = EPS;
    d.eps_ref = XP_EPS_REF_ROW;
    d.dither = x->dither;
    d.codec = "book";
    d.algo = "flat";
    d.moe = &m;
    if (xp_plan_create(&plan, comm, &d) != XP_OK)
        say(why, comm);
    return plan;
}

static xp_routing *make_routing(xp_comm *comm, xp_plan *plan, int rank, char *why)
{
    static int32_t expert[TOKENS];
    xp_route_desc d;
    xp_routing *r = NULL;
    xp_route_desc_init(&d);
    if (rank == 0)
        for (int t = 0; t < TOKENS; t++)
            expert[t] = 1;
    d.tokens = rank == 0 ? TOKENS : 0;
    d.topk = 1;
    d.expert = expert;
    if (xp_route(plan, &d, &r) != XP_OK)
        say(why, comm);
    return r;
}

/* Every direction carries the same rows. What a rank gets of the others is written where nobody looks. */
static void body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct exchange_of_four *x = arg;
    const int home = rank == 0;
    xp_plan *plan = make_plan(comm, x, why);
    xp_routing *r = plan ? make_routing(comm, plan, rank, why) : NULL;
    float *unused = calloc(TOKENS * DIM, sizeof *unused), *in = home ? NULL : x->sent;
    if (r && (xp_dispatch(plan, r, home ? x->sent : NULL, home ? unused : x->got[DISPATCH], NULL) != XP_OK ||
              xp_combine(plan, r, in, NULL, home ? x->got[COMBINE] : unused, NULL) != XP_OK ||
              xp_combine_backward(plan, r, home ? x->sent : NULL, NULL, home ? unused : x->got[COMBINE_BACKWARD], NULL, NULL) != XP_OK ||
              xp_dispatch_backward(plan, r, in, NULL, home ? x->got[DISPATCH_BACKWARD] : unused, NULL) != XP_OK))
        say(why, comm);
    xp_routing_destroy(r);
    xp_plan_destroy(plan);
    free(unused);
}

static void make_rows(struct exchange_of_four *x)
{
    struct random rng = random_seeded(17);
    for (int i = 0; i < 4; i++)
        x->got[i] = calloc(TOKENS * DIM, sizeof(float));
    x->sent = malloc(TOKENS * DIM * sizeof(float));
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < DIM; i++)
            x->sent[t * DIM + i] = t < PATTERNS ? (float)random_normal(&rng) : x->sent[t % PATTERNS * DIM + i] + 0.01f * (float)random_normal(&rng);
}

/* |mean error of alike rows|, to their size: the mean over the patterns. */
static double mean_error(const float *sent, const float *got)
{
    double sum = 0;
    for (int p = 0; p < PATTERNS; p++) {
        double energy = 0, error = 0;
        for (int i = 0; i < DIM; i++) {
            double e = 0;
            for (int t = p; t < TOKENS; t += PATTERNS)
                e += (double)(got[t * DIM + i] - sent[t * DIM + i]) / COPIES;
            error += e * e;
            energy += (double)sent[p * DIM + i] * sent[p * DIM + i];
        }
        sum += sqrt(error / energy) / PATTERNS;
    }
    return sum;
}

static void check(xp_dither dither, const int dithered[4])
{
    static const struct world two_hosts = {{1, 1}};
    struct exchange_of_four x = {.dither = dither};
    make_rows(&x);
    const char *why = world_run(&two_hosts, body, &x);
    cr_assert(why[0] == 0, "%s", why);
    for (int i = 0; i < 4; i++) {
        const double error = mean_error(x.sent, x.got[i]);
        if (dithered[i])
            cr_assert_lt(error, 1.2 * EPS / sqrt(COPIES), "%s: mean error %g", directions[i], error);
        else
            cr_assert_gt(error, 0.4 * EPS, "%s: mean error %g", directions[i], error);
        free(x.got[i]);
    }
    free(x.sent);
}

Test(dither, gradients_are_dithered_by_default)
{
    check(XP_DITHER_DEFAULT, (const int[]){0, 0, 1, 1});
}

Test(dither, all_directions_on_request)
{
    check(XP_DITHER_ON, (const int[]){1, 1, 1, 1});
}

Test(dither, none_on_request)
{
    check(XP_DITHER_OFF, (const int[]){0, 0, 0, 0});
}

static void disagree(xp_comm *comm, int rank, void *arg, char *why)
{
    struct exchange_of_four x = {.dither = rank ? XP_DITHER_ON : XP_DITHER_OFF};
    char text[WORLD_TEXT] = "";
    xp_plan *plan = make_plan(comm, &x, text);
    if (plan || !strstr(text, "dither"))
        snprintf(why, WORLD_TEXT, "a plan, or no word of dither: %.300s", text);
    xp_plan_destroy(plan);
}

Test(dither, is_equal_on_all_ranks)
{
    static const struct world two_hosts = {{1, 1}, .allow = {"dither"}};
    const char *why = world_run(&two_hosts, disagree, NULL);
    cr_assert(why[0] == 0, "%s", why);
}
