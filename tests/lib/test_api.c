/*
 * test_api.c - arguments of the exchange functions: all that must be refused, and the odd ones that must not
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/harness/world.h"

enum { DIM = 8, MOST = 50 };

static xp_plan *plan_of(xp_comm *comm, xp_mode mode, char *why)
{
    xp_plan *plan = NULL;
    xp_plan_desc d;
    xp_plan_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = DIM;
    d.max_send_rows = d.max_recv_rows = MOST;
    d.mode = mode;
    if (xp_plan_create(&plan, comm, &d) != XP_OK)
        snprintf(why, WORLD_TEXT, "plan: %.300s", xp_comm_last_error(comm));
    return plan;
}

static void expect(xp_comm *comm, xp_status got, xp_status want, const char *text, const char *what, char *why)
{
    if (!why[0] && (got != want || !strstr(xp_comm_last_error(comm), text)))
        snprintf(why, WORLD_TEXT, "%s: status %d, not %d: %.250s", what, got, want, xp_comm_last_error(comm));
}

static void refused_body(xp_comm *comm, int rank, void *arg, char *why)
{
    static float send[MOST * DIM], both[2 * MOST * DIM];
    float recv[MOST * DIM];
    size_t few[2] = {2, 3}, many[2] = {MOST, 1}, wrap[2] = {SIZE_MAX, 2}, wide[2] = {SIZE_MAX / 8, 0}, none[2] = {0, 0};
    xp_plan *plan = plan_of(comm, XP_MODE_RAW, why);
    if (!plan)
        return;
    expect(comm, xp_alltoallv(plan, NULL, few, recv, few, NULL), XP_ERR_INVALID_ARG, "send is NULL", "send NULL", why);
    expect(comm, xp_alltoallv(plan, send, few, NULL, few, NULL), XP_ERR_INVALID_ARG, "recv is NULL", "recv NULL", why);
    expect(comm, xp_alltoallv(plan, send, NULL, recv, few, NULL), XP_ERR_INVALID_ARG, "send_rows is NULL", "send_rows NULL", why);
    expect(comm, xp_alltoallv(plan, send, few, recv, NULL, NULL), XP_ERR_INVALID_ARG, "recv_rows is NULL", "recv_rows NULL", why);
    expect(comm, xp_alltoallv(plan, send, many, recv, few, NULL), XP_ERR_INVALID_ARG, "max_send_rows is 50", "too many sent", why);
    expect(comm, xp_alltoallv(plan, send, few, recv, many, NULL), XP_ERR_INVALID_ARG, "max_recv_rows is 50", "too many received", why);
    expect(comm, xp_alltoallv(plan, send, wrap, recv, few, NULL), XP_ERR_INVALID_ARG, "overflows", "sum wraps", why);
    expect(comm, xp_alltoallv(plan, send, wide, recv, few, NULL), XP_ERR_INVALID_ARG, "overflows", "bytes wrap", why);
    expect(comm, xp_alltoallv(plan, both, few, both, few, NULL), XP_ERR_INVALID_ARG, "overlap", "in place", why);
    expect(comm, xp_alltoallv(plan, both, few, both + 4 * DIM, few, NULL), XP_ERR_INVALID_ARG, "overlap", "partly", why);
    expect(comm, xp_alltoall(plan, send, recv, MOST, NULL), XP_ERR_INVALID_ARG, "max_send_rows", "alltoall too large", why);
    expect(comm, xp_alltoall(plan, send, recv, SIZE_MAX, NULL), XP_ERR_INVALID_ARG, "overflows", "alltoall wraps", why);
    /* None of these took part in an exchange, so the ranks are still in step. */
    expect(comm, xp_alltoallv(plan, NULL, none, NULL, none, NULL), XP_OK, "", "nothing at all", why);
    expect(comm, xp_alltoall(plan, both, both + 4 * DIM, 2, NULL), XP_OK, "", "side by side", why);
    expect(comm, xp_alltoall(plan, NULL, NULL, 0, NULL), XP_OK, "", "no rows", why);
    xp_plan_destroy(plan);
}

Test(api, exchanges_refuse)
{
    static const struct world w = {{2}, .allow = {"alltoall"}};
    const char *why = world_run(&w, refused_body, NULL);
    cr_assert(why[0] == 0, "%s", why);
}

Test(api, null_and_foreign_handles)
{
    size_t n[1] = {0};
    xp_stats s = {.size = sizeof s};
    long foreign[64] = {0};
    cr_assert_eq(xp_alltoallv(NULL, NULL, n, NULL, n, NULL), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_alltoallv((xp_plan *)foreign, NULL, n, NULL, n, NULL), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_alltoall(NULL, NULL, NULL, 0, NULL), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_request_test(NULL), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_request_wait((xp_request *)foreign), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_plan_stats(NULL, &s), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_plan_stats((xp_plan *)foreign, &s), XP_ERR_INVALID_ARG);
    cr_assert_eq(xp_plan_create(NULL, NULL, NULL), XP_ERR_INVALID_ARG);
    cr_assert(xp_last_error()[0]);
    xp_request_free(NULL);
    xp_request_free((xp_request *)foreign);
    xp_plan_destroy(NULL);
    xp_plan_destroy((xp_plan *)foreign);
    xp_plan_stats_reset(NULL);
    xp_plan_desc_init(NULL);
}

/* Any alignment of the type's size, every offset of a cache line, guard bytes around. */
static void unaligned_body(xp_comm *comm, int rank, void *arg, char *why)
{
    xp_mode mode = *(xp_mode *)arg;
    xp_plan_desc d;
    xp_plan *plan;
    enum { ODD_DIM = 67, ROWS = 9 };
    xp_plan_desc_init(&d);
    d.dtype = XP_BF16;
    d.dim = ODD_DIM;
    d.max_send_rows = d.max_recv_rows = 2 * ROWS;
    d.mode = mode;
    d.eps = mode == XP_MODE_BOUNDED ? 0.1 : 0;
    if (xp_plan_create(&plan, comm, &d) != XP_OK) {
        snprintf(why, WORLD_TEXT, "plan: %.300s", xp_comm_last_error(comm));
        return;
    }
    size_t bytes = 2 * ROWS * ODD_DIM * 2;
    unsigned char *from = malloc(bytes + 128), *to = malloc(bytes + 128);
    for (size_t off = 0; off < 64 && !why[0]; off += 2) {
        memset(to, 0x77, bytes + 128);
        for (size_t i = 0; i < bytes; i += 2) {
            from[off + i] = (unsigned char)(i * 7 + (size_t)rank);
            from[off + i + 1] = 0x3f;
        }
        unsigned char *at = to + (62 - off);
        if (xp_alltoall(plan, from + off, at, ROWS, NULL) != XP_OK)
            snprintf(why, WORLD_TEXT, "offset %zu: %.300s", off, xp_comm_last_error(comm));
        for (size_t i = 0; i < bytes + 128 && !why[0]; i++)
            if ((to + i < at || to + i >= at + bytes) && to[i] != 0x77)
                snprintf(why, WORLD_TEXT, "offset %zu: byte %zd outside was written", off, to + i - at);
        if (mode != XP_MODE_BOUNDED && !why[0] && at[0] != (unsigned char)((size_t)rank * ROWS * ODD_DIM * 2 * 7))
            snprintf(why, WORLD_TEXT, "offset %zu: the first byte is wrong", off);
    }
    free(from);
    free(to);
    xp_plan_destroy(plan);
}

Test(api, any_alignment)
{
    static const struct world w = {{1, 1}};
    for (xp_mode mode = XP_MODE_RAW; mode <= XP_MODE_BOUNDED; mode++) {
        const char *why = world_run(&w, unaligned_body, &mode);
        cr_assert(why[0] == 0, "mode %d: %s", mode, why);
    }
}

/* A second thread that calls while the first is inside. */
struct intruder {
    xp_plan *plan;
    xp_status status;
    char text[200];
};

static void nap(long milliseconds)
{
    struct timespec t = {0, milliseconds * 1000000};
    nanosleep(&t, NULL);
}

static void *intrude(void *arg)
{
    struct intruder *in = arg;
    size_t none[2] = {0, 0};
    nap(50);
    in->status = xp_alltoallv(in->plan, NULL, none, NULL, none, NULL);
    snprintf(in->text, sizeof in->text, "%s", xp_last_error());
    return NULL;
}

static void two_threads_body(xp_comm *comm, int rank, void *arg, char *why)
{
    size_t none[2] = {0, 0};
    xp_plan *plan = plan_of(comm, XP_MODE_RAW, why);
    if (!plan)
        return;
    struct intruder in = {.plan = plan};
    pthread_t thread;
    if (rank == 0)
        pthread_create(&thread, NULL, intrude, &in);
    else
        nap(300); /* meanwhile rank 0 waits inside */
    xp_status st = xp_alltoallv(plan, NULL, none, NULL, none, NULL);
    if (st != XP_OK)
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
    if (rank == 0) {
        pthread_join(thread, NULL);
        if (in.status != XP_ERR_STATE || !strstr(in.text, "another thread"))
            snprintf(why, WORLD_TEXT, "the other thread got status %d: %s", in.status, in.text);
    }
    xp_plan_destroy(plan);
}

Test(api, two_threads_on_one_comm)
{
    static const struct world w = {{2}, .allow = {"another thread", "under way"}};
    const char *why = world_run(&w, two_threads_body, NULL);
    cr_assert(why[0] == 0, "%s", why);
}

static void stats_body(xp_comm *comm, int rank, void *arg, char *why)
{
    static float send[WORLD_MAX][MOST * DIM], recv[WORLD_MAX][MOST * DIM];
    xp_plan *plan = plan_of(comm, XP_MODE_EXACT, why);
    xp_stats s = {.size = sizeof s};
    if (!plan)
        return;
    for (int i = 0; i < MOST * DIM; i++)
        send[rank][i] = (float)(rank + i);
    if (xp_alltoall(plan, send[rank], recv[rank], 10, NULL) != XP_OK)
        snprintf(why, WORLD_TEXT, "%.300s", xp_comm_last_error(comm));
    s.size = 0;
    if (xp_plan_stats(plan, &s) != XP_ERR_INVALID_ARG)
        snprintf(why, WORLD_TEXT, "a struct without its size was filled");
    s.size = sizeof s;
    xp_plan_stats(plan, &s);
    /* 4 ranks on 2 nodes: 30 rows for others, 20 of them for the other node. */
    if (s.calls != 1 || s.rows_sent != 30 || s.raw_bytes != 30 * DIM * 4 || s.rows_unique != 20 || s.bypassed != 1 ||
        s.wire_bytes_slow < 20 * DIM * 4 || s.wire_bytes_slow > 20 * DIM * 4 + 400 || s.wire_bytes_fast < 10 * DIM * 4 ||
        strcmp(s.algo, "flat") != 0 || strcmp(s.codec, "raw") != 0 || !(s.seconds_total > 0) || s.seconds_total > 20)
        snprintf(why, WORLD_TEXT, "calls %d rows %d unique %d bypassed %d slow %d fast %d algo %s codec %s", (int)s.calls,
                 (int)s.rows_sent, (int)s.rows_unique, (int)s.bypassed, (int)s.wire_bytes_slow, (int)s.wire_bytes_fast, s.algo, s.codec);
    xp_plan_stats_reset(plan);
    xp_plan_stats(plan, &s);
    if (s.calls || s.rows_sent || s.wire_bytes_slow || s.seconds_total != 0)
        snprintf(why, WORLD_TEXT, "reset left something");
    xp_plan_destroy(plan);
}

Test(api, statistics)
{
    static const struct world w = {{2, 2}};
    setenv("CROSSPRESS_ALGO", "flat", 1);
    const char *why = world_run(&w, stats_body, NULL);
    cr_assert(why[0] == 0, "%s", why);
}
