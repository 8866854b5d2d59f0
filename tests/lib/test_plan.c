/*
 * test_plan.c - plans: what is refused, what ranks must agree on, and requests through their life
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/comm.h"
#include "tests/harness/world.h"

static xp_plan_desc good(void)
{
    xp_plan_desc d;
    xp_plan_desc_init(&d);
    d.dtype = XP_BF16;
    d.dim = 32;
    d.max_send_rows = d.max_recv_rows = 100;
    return d;
}

/* ---- descriptions that are refused --------------------------------------------------------------------------------- */

struct refusal {
    xp_status status;
    const char *text;
    void (*change)(xp_plan_desc *d);
};

static void no_size(xp_plan_desc *d) { d->size = 0; }
static void no_dtype(xp_plan_desc *d) { d->dtype = 0; }
static void wild_dtype(xp_plan_desc *d) { d->dtype = (xp_dtype)99; }
static void no_dim(xp_plan_desc *d) { d->dim = 0; }
static void huge_dim(xp_plan_desc *d) { d->dim = ((size_t)1 << 20) + 1; }
static void huge_rows(xp_plan_desc *d) { d->max_send_rows = SIZE_MAX / 8; }
static void wild_mode(xp_plan_desc *d) { d->mode = (xp_mode)17; }
static void folded(xp_plan_desc *d) { d->mode = XP_MODE_FOLDED; }
static void eps_one(xp_plan_desc *d) { d->mode = XP_MODE_BOUNDED, d->eps = 1; }
static void eps_negative(xp_plan_desc *d) { d->mode = XP_MODE_BOUNDED, d->eps = -0.1; }
static void lossy_bytes(xp_plan_desc *d) { d->mode = XP_MODE_BOUNDED, d->eps = 0.1, d->dtype = XP_BYTE; }
static void lossy_exact(xp_plan_desc *d) { d->mode = XP_MODE_EXACT, d->codec = "int4"; }
static void no_codec(xp_plan_desc *d) { d->codec = "zip"; }
static void long_codec(xp_plan_desc *d) { d->codec = "a codec name that is longer than any that could be meant"; }
static void no_algo(xp_plan_desc *d) { d->algo = "ring"; }
static void long_algo(xp_plan_desc *d) { d->algo = "an algorithm of this name"; }
static void wild_memory(xp_plan_desc *d) { d->memory = (xp_memory)5; }
static void device_memory(xp_plan_desc *d) { d->memory = XP_MEMORY_DEVICE; }

static const struct refusal refusals[] = {
    {XP_ERR_INVALID_ARG, "xp_plan_desc_init", no_size},
    {XP_ERR_INVALID_ARG, "dtype 0", no_dtype},
    {XP_ERR_INVALID_ARG, "dtype 99", wild_dtype},
    {XP_ERR_INVALID_ARG, "dim is 0", no_dim},
    {XP_ERR_INVALID_ARG, "dim is 1048577", huge_dim},
    {XP_ERR_INVALID_ARG, "overflows", huge_rows},
    {XP_ERR_INVALID_ARG, "mode 17", wild_mode},
    {XP_ERR_UNSUPPORTED, "folded", folded},
    {XP_ERR_INVALID_ARG, "memory 5", wild_memory},
    {XP_ERR_UNSUPPORTED, "has no CUDA", device_memory}, /* tests are linked without */
    {XP_ERR_INVALID_ARG, "eps", eps_one},
    {XP_ERR_INVALID_ARG, "eps", eps_negative},
    {XP_ERR_UNSUPPORTED, "bytes", lossy_bytes},
    {XP_ERR_UNSUPPORTED, "lossy", lossy_exact},
    {XP_ERR_UNSUPPORTED, "zip", no_codec},
    {XP_ERR_UNSUPPORTED, "a codec name", long_codec},
    {XP_ERR_UNSUPPORTED, "ring", no_algo},
    {XP_ERR_UNSUPPORTED, "an algorithm", long_algo},
};

static void refusal_body(xp_comm *comm, int rank, void *arg, char *why)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals && !why[0]; i++) {
        xp_plan *plan = (xp_plan *)(uintptr_t)8;
        xp_plan_desc d = good();
        refusals[i].change(&d);
        xp_status st = xp_plan_create(&plan, comm, &d);
        if (st != refusals[i].status || !strstr(xp_comm_last_error(comm), refusals[i].text))
            snprintf(why, WORLD_TEXT, "case %zu: status %d, text: %.300s", i, st, xp_comm_last_error(comm));
        else if (plan != (xp_plan *)(uintptr_t)8)
            snprintf(why, WORLD_TEXT, "case %zu: the output was set", i);
    }
    /* The comm has taken no harm. */
    xp_plan *plan;
    xp_plan_desc d = good();
    if (!why[0] && xp_plan_create(&plan, comm, &d) != XP_OK)
        snprintf(why, WORLD_TEXT, "afterwards: %.300s", xp_comm_last_error(comm));
    else if (!why[0])
        xp_plan_destroy(plan);
}

Test(plan, refuses_with_a_reason)
{
    static const struct world w = {{2}, .allow = {"plan:"}};
    const char *why = world_run(&w, refusal_body, NULL);
    cr_assert(why[0] == 0, "%s", why);
}

/* ---- ranks that ask for different things ------------------------------------------------------------------------------ */

struct difference {
    const char *text;
    void (*change)(xp_plan_desc *d);
};

static void other_dim(xp_plan_desc *d) { d->dim = 33; }
static void other_dtype(xp_plan_desc *d) { d->dtype = XP_F16; }
static void other_mode(xp_plan_desc *d) { d->mode = XP_MODE_RAW; }
static void other_algo(xp_plan_desc *d) { d->algo = "flat"; }
static void other_codec(xp_plan_desc *d) { d->codec = "raw"; }
static void other_seed(xp_plan_desc *d) { d->seed = 5; }
static void bad_dim(xp_plan_desc *d) { d->dim = 0; }

static const struct difference differences[] = {
    {"dim 32, rank 2 for 33", other_dim}, {"dtype bf16, rank 2 for f16", other_dtype}, {"mode exact, rank 2 for raw", other_mode},
    {"algorithm auto, rank 2 for flat", other_algo}, {"codec auto, rank 2 for raw", other_codec}, {"seed 0, rank 2 for 5", other_seed},
    {"rank 2: dim is 0", bad_dim},
};

static void difference_body(xp_comm *comm, int rank, void *arg, char *why)
{
    for (size_t i = 0; i < sizeof differences / sizeof *differences && !why[0]; i++) {
        xp_plan *plan;
        xp_plan_desc d = good();
        d.mode = XP_MODE_EXACT;
        if (rank == 2)
            differences[i].change(&d);
        xp_status st = xp_plan_create(&plan, comm, &d);
        xp_status want = differences[i].change != bad_dim ? XP_ERR_MISMATCH : rank == 2 ? XP_ERR_INVALID_ARG : XP_ERR_REMOTE;
        if (st != want || !strstr(xp_comm_last_error(comm), differences[i].text))
            snprintf(why, WORLD_TEXT, "case %zu: status %d, text: %.300s", i, st, xp_comm_last_error(comm));
    }
}

Test(plan, ranks_that_differ_are_named)
{
    static const struct world w = {{3}, .allow = {"plan:"}};
    const char *why = world_run(&w, difference_body, NULL);
    cr_assert(why[0] == 0, "%s", why);
}

/* ---- several plans, requests ------------------------------------------------------------------------------------------ */

enum { DIM = 32, EACH = 200 };

static xp_plan *plan_of(xp_comm *comm, xp_mode mode, const char *algo, char *why)
{
    xp_plan *plan = NULL;
    xp_plan_desc d = good();
    d.mode = mode;
    d.algo = algo;
    d.max_send_rows = d.max_recv_rows = (size_t)xp_comm_size(comm) * EACH;
    if (xp_plan_create(&plan, comm, &d) != XP_OK)
        snprintf(why, WORLD_TEXT, "plan: %.300s", xp_comm_last_error(comm));
    return plan;
}

static void check_constant(const uint16_t *recv, int ranks, int tag, char *why)
{
    for (int i = 0; i < ranks; i++)
        for (size_t k = 0; k < EACH * DIM; k++)
            if (recv[(size_t)i * EACH * DIM + k] != (uint16_t)(i * 16 + tag)) {
                snprintf(why, WORLD_TEXT, "value %zu of rank %d in exchange %d is wrong", k, i, tag);
                return;
            }
}

/* Three plans at once, started and finished in different orders on different ranks. */
static void interleaved_body(xp_comm *comm, int rank, void *arg, char *why)
{
    static const char *const algos[] = {"flat", "hier", "flat"};
    int ranks = xp_comm_size(comm);
    size_t values = (size_t)ranks * EACH * DIM;
    xp_plan *plan[3];
    uint16_t *send[3], *recv[3];
    for (int k = 0; k < 3; k++) {
        plan[k] = plan_of(comm, k ? XP_MODE_EXACT : XP_MODE_RAW, algos[k], why);
        send[k] = malloc(values * 2);
        recv[k] = malloc(values * 2);
        for (size_t i = 0; i < values; i++)
            send[k][i] = (uint16_t)(rank * 16 + k);
    }
    for (int round = 0; round < 5 && !why[0]; round++) {
        xp_request *req[3];
        for (int i = 0; i < 3; i++) {
            int k = (i + rank + round) % 3;
            memset(recv[k], 0xee, values * 2);
            if (xp_alltoall(plan[k], send[k], recv[k], EACH, &req[k]) != XP_OK)
                snprintf(why, WORLD_TEXT, "start: %.300s", xp_comm_last_error(comm));
        }
        for (int open = 3; open && !why[0];) {
            open = 0;
            for (int k = 0; k < 3; k++) {
                xp_status st = xp_request_test(req[k]);
                open += st == XP_IN_PROGRESS;
                if (st < 0)
                    snprintf(why, WORLD_TEXT, "exchange %d: %.300s", k, xp_comm_last_error(comm));
            }
        }
        for (int k = 0; k < 3 && !why[0]; k++) {
            if (xp_request_wait(req[k]) != XP_OK)
                snprintf(why, WORLD_TEXT, "a request that is done must stay done");
            xp_request_free(req[k]);
            check_constant(recv[k], ranks, k, why);
        }
    }
    for (int k = 0; k < 3; k++) {
        xp_plan_destroy(plan[k]);
        free(send[k]);
        free(recv[k]);
    }
}

/* ---- what ranks know differently ------------------------------------------------------------------------------------ */

/* Each rank has its own idea of the slow hop's speed, from the calls that it took part in; the algorithm must be the same all the same. */
static void own_links(xp_comm *comm, int rank, void *arg, char *why)
{
    static const double speeds[] = {0, 1e6, 2e7, 1e9, 1e11};
    for (int k = 0; k < 60 && !why[0]; k++) {
        xp_plan_desc d = good();
        xp_plan *plan = NULL;
        xp_stats st = {.size = sizeof st}, all[4];
        d.max_send_rows = d.max_recv_rows = (size_t)1 << k % 12;
        d.mode = XP_MODE_EXACT;
        comm->link_bytes_per_s = speeds[(rank * 7 + k) % 5];
        if (xp_plan_create(&plan, comm, &d) != XP_OK || xp_plan_stats(plan, &st) != XP_OK ||
            xp_comm_allgather(comm, &st, all, sizeof st) != XP_OK)
            snprintf(why, WORLD_TEXT, "%s", xp_comm_last_error(comm));
        for (int i = 1; i < 4 && !why[0]; i++)
            if (strcmp(all[0].algo, all[i].algo) != 0)
                snprintf(why, WORLD_TEXT, "%zu rows: algorithm %.15s on rank 0, %.15s on rank %d", d.max_send_rows, all[0].algo, all[i].algo, i);
        xp_plan_destroy(plan);
    }
}

Test(plan, algorithm_is_the_same_where_ranks_know_the_link_differently)
{
    struct world w = {.nodes = {2, 2}};
    const char *why = world_run(&w, own_links, NULL);
    cr_assert_str_empty(why, "%s", why);
}

Test(plan, several_at_once)
{
    static const struct world worlds[] = {{{2}}, {{2, 2}, 1}, {{1, 3}}};
    for (size_t i = 0; i < 3; i++) {
        const char *why = world_run(&worlds[i], interleaved_body, NULL);
        cr_assert(why[0] == 0, "world %zu: %s", i, why);
    }
}

/* One exchange of a plan at a time; a request is good until it is freed, also when its plan is gone. */
static void request_body(xp_comm *comm, int rank, void *arg, char *why)
{
    int ranks = xp_comm_size(comm);
    size_t values = (size_t)ranks * EACH * DIM;
    uint16_t *send = calloc(values, 2), *recv = calloc(values, 2);
    xp_plan *plan = plan_of(comm, XP_MODE_RAW, NULL, why);
    xp_request *req, *second = NULL;
    if (xp_alltoall(plan, send, recv, EACH, &req) != XP_OK)
        snprintf(why, WORLD_TEXT, "start: %.300s", xp_comm_last_error(comm));
    else if (xp_alltoall(plan, send, recv, EACH, &second) != XP_ERR_STATE || second)
        snprintf(why, WORLD_TEXT, "a second exchange of the plan was let in");
    else if (xp_request_wait(req) != XP_OK || xp_request_test(req) != XP_OK)
        snprintf(why, WORLD_TEXT, "wait: %.300s", xp_comm_last_error(comm));
    else if (xp_alltoall(plan, send, recv, EACH, NULL) != XP_ERR_STATE || !strstr(xp_comm_last_error(comm), "freed"))
        snprintf(why, WORLD_TEXT, "the request has not been freed: %.300s", xp_comm_last_error(comm));
    xp_request_free(req);
    if (!why[0] && xp_alltoall(plan, send, recv, EACH, &req) != XP_OK)
        snprintf(why, WORLD_TEXT, "again: %.300s", xp_comm_last_error(comm));
    xp_request_free(req); /* waits */
    if (!why[0] && (xp_alltoall(plan, send, recv, EACH, &req) != XP_OK || xp_request_wait(req) != XP_OK))
        snprintf(why, WORLD_TEXT, "third: %.300s", xp_comm_last_error(comm));
    xp_plan_destroy(plan);
    if (!why[0] && xp_request_test(req) != XP_ERR_STATE)
        snprintf(why, WORLD_TEXT, "a request without a plan must say so");
    xp_request_free(req);
    free(send);
    free(recv);
}

Test(plan, requests)
{
    static const struct world w = {{3}, .allow = {"an exchange of this plan", "has not been freed", "its plan was destroyed"}};
    const char *why = world_run(&w, request_body, NULL);
    cr_assert(why[0] == 0, "%s", why);
}

/* A plan destroyed with an exchange under way: the others are told, and nobody waits for the deadline. */
static void abandon_body(xp_comm *comm, int rank, void *arg, char *why)
{
    size_t values = (size_t)xp_comm_size(comm) * EACH * DIM;
    uint16_t *send = calloc(values, 2), *recv = calloc(values, 2);
    xp_plan *plan = plan_of(comm, XP_MODE_RAW, arg, why);
    xp_request *req;
    xp_status st = XP_OK;
    if (rank == 0) {
        st = xp_alltoall(plan, send, recv, EACH, &req);
        xp_plan_destroy(plan);
        xp_request_free(req);
    } else if (rank == 1) {
        st = xp_alltoall(plan, send, recv, EACH, NULL);
        if (st >= 0 || !strstr(xp_comm_last_error(comm), "rank 0"))
            snprintf(why, WORLD_TEXT, "status %d: %.300s", st, xp_comm_last_error(comm));
        xp_plan_destroy(plan);
    } else {
        while (xp_comm_barrier(comm) == XP_OK) /* does not call, so that the exchange cannot end */
            ;
        xp_plan_destroy(plan);
    }
    free(send);
    free(recv);
}

Test(plan, destroyed_with_an_exchange_under_way)
{
    static const struct world w = {{3}, .allow = {"destroyed a plan with an exchange under way"}};
    const char *why = world_run(&w, abandon_body, NULL);
    cr_assert(why[0] == 0, "%s", why);
}
