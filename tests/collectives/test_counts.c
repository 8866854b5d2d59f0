/*
 * test_counts.c - counts that disagree, ranks that do not come
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/harness/world.h"

enum { DIM = 16, EACH = 16, MAX_ROWS = 2000 };

struct wrong {
    const char *algo;
    int from, to;                  /* the pair that disagrees */
    size_t sent, expected;
    xp_mode mode;
    int copies; /* all rows of a rank are the same */
    char text[WORLD_MAX][512]; /* of the error on each rank */
};

enum { CALLS = 4 }; /* so many later, the tags of a call come again */

static float value(const struct wrong *w, int rank, size_t i)
{
    return (float)(rank * 100000) + (float)(w->copies ? i % DIM : i);
}

static xp_plan *make_plan(xp_comm *comm, const char *algo, xp_mode mode, char *why)
{
    xp_plan_desc d;
    xp_plan *plan = NULL;
    xp_plan_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = DIM;
    d.max_send_rows = d.max_recv_rows = MAX_ROWS;
    d.mode = mode;
    d.algo = algo;
    if (xp_plan_create(&plan, comm, &d) != XP_OK)
        snprintf(why, WORLD_TEXT, "plan: %.300s", xp_comm_last_error(comm));
    return plan;
}

/* A call in which one pair disagrees, then some in which all agree. */
static void wrong_body(xp_comm *comm, int rank, void *arg, char *why)
{
    struct wrong *w = arg;
    int ranks = xp_comm_size(comm);
    size_t out[WORLD_MAX], in[WORLD_MAX];
    float *send = calloc(MAX_ROWS, DIM * 4), *recv = calloc(MAX_ROWS, DIM * 4);
    xp_plan *plan = make_plan(comm, w->algo, w->mode, why);
    if (!plan)
        return;
    for (size_t i = 0; i < MAX_ROWS * DIM; i++)
        send[i] = value(w, rank, i);
    for (int i = 0; i < ranks; i++)
        out[i] = in[i] = EACH;
    if (rank == w->from)
        out[w->to] = w->sent;
    if (rank == w->to)
        in[w->from] = w->expected;
    xp_status st = xp_alltoallv(plan, send, out, recv, in, NULL);
    snprintf(w->text[rank], sizeof w->text[rank], "%s", xp_comm_last_error(comm));
    if (st != XP_ERR_MISMATCH)
        snprintf(why, WORLD_TEXT, "status %d (%s) instead of a mismatch: %.200s", st, xp_status_string(st), w->text[rank]);
    for (int i = 0; i < CALLS; i++)
        st = xp_alltoall(plan, send, recv, EACH, NULL);
    if (st != XP_OK && !why[0])
        snprintf(why, WORLD_TEXT, "the comm was not usable afterwards: %.300s", xp_comm_last_error(comm));
    for (int i = 0; i < ranks && !why[0]; i++)
        if (recv[i * EACH * DIM] != value(w, i, (size_t)(rank * EACH * DIM)))
            snprintf(why, WORLD_TEXT, "rows of rank %d are wrong afterwards", i);
    xp_plan_destroy(plan);
    free(send);
    free(recv);
}

static void disagree(const struct world *nodes, struct wrong w)
{
    struct world world = *nodes;
    char text[100], others[] = "other ranks disagree";
    snprintf(text, sizeof text, "rank %d sends %zu rows, rank %d expects %zu", w.from, w.sent, w.to, w.expected);
    world.allow[0] = text;
    world.allow[1] = others;
    const char *why = world_run(&world, wrong_body, &w);
    cr_assert(why[0] == 0, "%s, %s: %s", w.algo, text, why);
    cr_assert(strstr(w.text[w.from], text), "rank %d says: %s", w.from, w.text[w.from]);
    cr_assert(strstr(w.text[w.to], text), "rank %d says: %s", w.to, w.text[w.to]);
}

Test(counts, mismatch_is_an_error_on_every_rank_and_leaves_the_comm_usable)
{
    static const struct world worlds[] = {{{4}}, {{2, 2}}, {{1, 2, 1}}, {{3, 2}, 1}};
    static const char *const algos[] = {"flat", "hier", "leader"};
    for (unsigned w = 0; w < 4; w++) {
        for (unsigned a = 0; a < 3; a++) {
            disagree(&worlds[w], (struct wrong){.algo = algos[a], .from = 3, .to = 0, .sent = 17, .expected = 16, .mode = XP_MODE_RAW});
            disagree(&worlds[w], (struct wrong){.algo = algos[a], .from = 0, .to = 3, .sent = 0, .expected = 900, .mode = XP_MODE_EXACT});
            disagree(&worlds[w], (struct wrong){.algo = algos[a], .from = 1, .to = 2, .sent = 900, .expected = 0, .mode = XP_MODE_RAW});
            disagree(&worlds[w], (struct wrong){.algo = algos[a], .from = 2, .to = 2, .sent = 5, .expected = 6, .mode = XP_MODE_RAW});
            disagree(&worlds[w],
                     (struct wrong){.algo = algos[a], .from = 1, .to = 3, .sent = 900, .expected = 16, .mode = XP_MODE_EXACT, .copies = 1});
        }
    }
}

/* More is expected than the sources can send at all: a proxy or a leader has no room that large. */
static void small_sender_body(xp_comm *comm, int rank, void *arg, char *why)
{
    size_t out[4] = {0}, in[4] = {0};
    float *recv = calloc(MAX_ROWS, DIM * 4);
    xp_plan_desc d;
    xp_plan *plan;
    xp_plan_desc_init(&d);
    d.dtype = XP_F32;
    d.dim = DIM;
    d.max_send_rows = 1;
    d.max_recv_rows = MAX_ROWS;
    d.algo = arg;
    if (xp_plan_create(&plan, comm, &d) != XP_OK) {
        snprintf(why, WORLD_TEXT, "plan: %.300s", xp_comm_last_error(comm));
        return;
    }
    if (rank == 3)
        in[0] = MAX_ROWS;
    xp_status st = xp_alltoallv(plan, NULL, out, recv, in, NULL);
    if (st != XP_ERR_MISMATCH)
        snprintf(why, WORLD_TEXT, "status %d: %.300s", st, xp_comm_last_error(comm));
    xp_plan_destroy(plan);
    free(recv);
}

Test(counts, more_than_can_be_sent)
{
    static const struct world w = {{2, 2}, .allow = {"rank 0 sends 0 rows, rank 3 expects 2000", "other ranks disagree"}};
    char algos[][8] = {"hier", "leader", "flat"};
    for (int a = 0; a < 3; a++) {
        const char *why = world_run(&w, small_sender_body, algos[a]);
        cr_assert(why[0] == 0, "%s: %s", algos[a], why);
    }
}

/* Rank 2 never calls. */
static void absent_body(xp_comm *comm, int rank, void *arg, char *why)
{
    float *send = calloc(MAX_ROWS, DIM * 4), *recv = calloc(MAX_ROWS, DIM * 4);
    xp_plan *plan = make_plan(comm, arg, XP_MODE_RAW, why);
    if (!plan)
        return;
    if (rank == 2) { /* alive, but elsewhere until the others have given up */
        struct timespec nap = {1, 500000000};
        nanosleep(&nap, NULL);
    } else {
        xp_status st = xp_alltoall(plan, send, recv, EACH, NULL);
        if (!strstr(xp_comm_last_error(comm), "rank 2"))
            snprintf(why, WORLD_TEXT, "does not name rank 2: %.300s", xp_comm_last_error(comm));
        else if (st != XP_ERR_TIMEOUT && st != XP_ERR_REMOTE)
            snprintf(why, WORLD_TEXT, "status %d: %.300s", st, xp_comm_last_error(comm));
    }
    xp_plan_destroy(plan);
    free(send);
    free(recv);
}

Test(counts, a_rank_that_never_calls_is_named)
{
    static const struct world w = {{2, 2}, .timeout = 0.4, .allow = {"rank 2", "waited"}};
    const char *why = world_run(&w, absent_body, (void *)"flat");
    cr_assert(why[0] == 0, "flat: %s", why);
    why = world_run(&w, absent_body, (void *)"hier");
    cr_assert(why[0] == 0, "hier: %s", why);
}
