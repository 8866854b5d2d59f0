/*
 * test_early.c - exchanges whose rows are written while they are under way, and rows that are read while others are
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/world.h"

#define TESTS 50 /* rounds between the rows of two ranks: others may come meanwhile */

struct early {
    const struct exchange *e;
    xp_request *req;
    const char *want;
    char *recv;
    const size_t *recv_rows;
    size_t row_bytes, here[WORLD_MAX];
    int ranks;
};

/* What has arrived stays, and is right at once. */
static void look(struct early *x, char *why)
{
    size_t at = 0;
    for (int p = 0; p < x->ranks; at += x->recv_rows[p++] * x->row_bytes) {
        size_t here = xp_request_arrived(x->req, p);
        if (here < x->here[p] || here > x->recv_rows[p])
            snprintf(why, WORLD_TEXT, "%zu rows of rank %d after %zu of %zu", here, p, x->here[p], x->recv_rows[p]);
        else if (x->e->mode != XP_MODE_BOUNDED && here && memcmp(x->recv + at, x->want + at, here * x->row_bytes))
            snprintf(why, WORLD_TEXT, "the %zu rows of rank %d that are here are not what it sent", here, p);
        x->here[p] = here;
    }
}

static xp_status tests(struct early *x, int n, char *why)
{
    xp_status st = XP_IN_PROGRESS;
    for (int i = 0; st == XP_IN_PROGRESS && !why[0] && (n == 0 || i < n); i++) {
        st = xp_request_test(x->req);
        look(x, why);
    }
    return st;
}

static void early_body(xp_comm *comm, int rank, void *arg, char *why)
{
    const struct exchange *e = arg;
    size_t send_rows[WORLD_MAX], recv_rows[WORLD_MAX];
    int n = xp_comm_size(comm);
    struct early x = {.e = e, .ranks = n, .recv_rows = recv_rows, .row_bytes = e->dim * xp_dtype_size(e->dtype)};
    xp_plan *plan = NULL;
    xp_plan_desc d;

    exchange_plan(e, n, &d);
    if (xp_plan_create(&plan, comm, &d) != XP_OK) {
        snprintf(why, WORLD_TEXT, "plan: %.300s", xp_comm_last_error(comm));
        return;
    }
    for (int call = 0; call < e->calls && !why[0]; call++) {
        char *rows = exchange_send(e, n, rank, call, send_rows), *want = exchange_reference(e, n, rank, call, recv_rows);
        size_t sum = 0, offset[WORLD_MAX + 1] = {0};
        for (int p = 0; p < n; p++) {
            offset[p + 1] = offset[p] + send_rows[p] * x.row_bytes;
            sum += recv_rows[p];
        }
        char *send = malloc(offset[n] + 1);
        memset(send, 0x5a, offset[n] + 1);
        x.want = want;
        x.recv = malloc(sum * x.row_bytes + 1);
        memset(x.here, 0, sizeof x.here);
        xp_status st = xp_alltoallv_early(plan, send, send_rows, x.recv, recv_rows, &x.req);
        for (int i = 0; i < n && st == XP_OK && !why[0]; i++) {
            int p = (rank + call + i) % n;
            tests(&x, TESTS, why);
            memcpy(send + offset[p], rows + offset[p], offset[p + 1] - offset[p]);
            if (send_rows[p] && xp_request_ready(x.req, p) != XP_OK)
                snprintf(why, WORLD_TEXT, "ready: %.300s", xp_comm_last_error(comm));
        }
        if (st == XP_OK && !why[0])
            st = tests(&x, 0, why);
        if (st != XP_OK && !why[0])
            snprintf(why, WORLD_TEXT, "call %d: %.300s", call, xp_comm_last_error(comm));
        xp_request_free(x.req);
        if (!why[0])
            exchange_compare(e, x.recv, want, sum, why);
        free(rows);
        free(want);
        free(send);
        free(x.recv);
    }
    xp_plan_destroy(plan);
}

Test(early, rows_are_written_while_the_exchange_is_under_way, .timeout = 120)
{
    static const struct world worlds[] = {{{1, 1, 1}}, {{2, 2}}, {{3}}};
    static const char *algos[] = {"flat", "hier"};
    for (size_t w = 0; w < 3; w++)
        for (int mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++)
            for (int a = 0; a < 2; a++)
                for (int filling = DISTINCT; filling <= SOME_COPIES; filling++) {
                    struct exchange e = {.pattern = w ? RANDOM_SKEW : UNIFORM, .filling = (enum filling)filling, .rows = 300, .dim = 160, .dtype = XP_BF16,
                                         .mode = (xp_mode)mode, .eps = mode == XP_MODE_BOUNDED ? 0.05 : 0, .algo = algos[a], .seed = w + 1, .calls = 3};
                    const char *why = world_run(&worlds[w], early_body, &e);
                    cr_assert(why[0] == 0, "%s: %s", exchange_text(&e, &worlds[w]), why);
                }
}

static xp_plan *small_plan(xp_comm *comm, const char *algo, char *why)
{
    xp_plan *plan = NULL;
    xp_plan_desc d;
    xp_plan_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = 4;
    d.max_send_rows = d.max_recv_rows = 8;
    d.mode = XP_MODE_EXACT;
    d.algo = algo;
    if (xp_plan_create(&plan, comm, &d) != XP_OK)
        snprintf(why, WORLD_TEXT, "plan: %.300s", xp_comm_last_error(comm));
    return plan;
}

static void refused_body(xp_comm *comm, int rank, void *arg, char *why)
{
    float send[32] = {0}, recv[32];
    size_t rows[2] = {2, 2};
    xp_request *req = NULL;
    xp_plan *plan = small_plan(comm, "flat", why);
    (void)arg;
    if (!plan)
        return;
    if (xp_alltoallv_early(plan, send, rows, recv, rows, NULL) != XP_ERR_INVALID_ARG)
        snprintf(why, WORLD_TEXT, "a call without a request was taken");
    if (xp_alltoallv(plan, send, rows, recv, rows, &req) != XP_OK || xp_request_ready(req, 0) != XP_ERR_INVALID_ARG || xp_request_wait(req) != XP_OK)
        snprintf(why, WORLD_TEXT, "rows of an ordinary call were called ready");
    if (xp_request_arrived(req, 1 - rank) != 2 || xp_request_arrived(req, 2) != 0 || xp_request_arrived(req, -1) != 0)
        snprintf(why, WORLD_TEXT, "rows of an exchange that is over: %zu", xp_request_arrived(req, 1 - rank));
    xp_request_free(req);
    if (xp_alltoallv_early(plan, send, rows, recv, rows, &req) != XP_OK || xp_request_ready(req, 2) != XP_ERR_INVALID_ARG ||
        xp_request_ready(req, -1) != XP_ERR_INVALID_ARG)
        snprintf(why, WORLD_TEXT, "ranks that do not exist");
    xp_request_ready(req, 0);
    xp_request_ready(req, 1);
    xp_request_ready(req, 1); /* said twice */
    if (xp_request_wait(req) != XP_OK)
        snprintf(why, WORLD_TEXT, "wait: %.300s", xp_comm_last_error(comm));
    xp_request_free(req);
    xp_plan_destroy(plan);
}

Test(early, arguments)
{
    static const struct world w = {{2}, .allow = {"alltoallv", "request"}};
    const char *why = world_run(&w, refused_body, NULL);
    cr_assert(why[0] == 0, "%s", why);
    cr_assert_eq(xp_alltoallv_early(NULL, NULL, NULL, NULL, NULL, NULL), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_request_ready(NULL, 0), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_request_arrived(NULL, 0), 0);
    cr_assert_eq(xp_request_idle(NULL), 0);
}

static void forgotten_body(xp_comm *comm, int rank, void *arg, char *why)
{
    float send[32] = {0}, recv[32];
    size_t rows[2] = {2, 2};
    xp_request *req = NULL;
    xp_plan *plan = small_plan(comm, arg, why);
    if (!plan)
        return;
    if (xp_alltoallv_early(plan, send, rows, recv, rows, &req) != XP_OK)
        snprintf(why, WORLD_TEXT, "start: %.300s", xp_comm_last_error(comm));
    if (rank == 0) { /* rank 1 forgets */
        xp_request_ready(req, 0);
        xp_request_ready(req, 1);
    }
    xp_status st = xp_request_wait(req);
    if (st != XP_ERR_TIMEOUT && st != XP_ERR_REMOTE)
        snprintf(why, WORLD_TEXT, "rank %d: status %d: %.300s", rank, st, xp_comm_last_error(comm));
    if (!strstr(xp_comm_last_error(comm), "its own rows to be written") && !strstr(xp_comm_last_error(comm), "of rank 1"))
        snprintf(why, WORLD_TEXT, "rank %d: %.300s", rank, xp_comm_last_error(comm));
    xp_request_free(req);
    xp_plan_destroy(plan);
}

Test(early, rows_that_never_get_ready_end_at_the_deadline)
{
    static const struct world w = {{1, 1}, .timeout = 1, .allow = {"alltoallv", "rank"}};
    static char *algos[] = {"flat", "hier"};
    for (int a = 0; a < 2; a++) {
        const char *why = world_run(&w, forgotten_body, algos[a]);
        cr_assert(why[0] == 0, "%s: %s", algos[a], why);
    }
}
