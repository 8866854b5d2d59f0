/*
 * world.c - ranks as threads on simulated nodes (world.h), over the harness
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tests/harness/world.h"

#include <stdio.h>
#include <string.h>

#include "tests/harness/expect.h"
#include "tests/harness/ranks.h"

struct run {
    world_body body;
    void *arg;
    char why[WORLD_MAX][WORLD_TEXT];
};

int world_ranks(const struct world *w)
{
    int n = 0;
    for (int k = 0; w->nodes[k]; k++)
        n += w->nodes[k];
    return n;
}

static void place_ranks(const struct world *w, int *node_of)
{
    int left[WORLD_MAX], n = world_ranks(w), k = 0, nodes = 0;
    memcpy(left, w->nodes, sizeof left);
    while (w->nodes[nodes])
        nodes++;
    for (int rank = 0; rank < n; rank++) {
        while (!left[k])
            k = (k + 1) % nodes;
        left[k]--;
        node_of[rank] = k;
        if (w->interleaved)
            k = (k + 1) % nodes;
    }
}

static xp_status run_rank(xp_comm *comm, void *arg)
{
    struct run *run = arg;
    int rank = xp_comm_rank(comm);
    run->body(comm, rank, run->arg, run->why[rank]);
    return XP_OK;
}

/* What a rank found wrong by itself says more than that others then waited for it. */
static const char *first_cause(const struct run *run, int n)
{
    static _Thread_local char text[WORLD_TEXT + 32];
    text[0] = 0;
    for (int waited = 0; waited < 2 && !text[0]; waited++)
        for (int i = 0; i < n && !text[0]; i++)
            if (run->why[i][0] && (waited || !strstr(run->why[i], "waited")))
                snprintf(text, sizeof text, "rank %d: %s", i, run->why[i]);
    return text;
}

const char *world_run(const struct world *w, world_body body, void *arg)
{
    static _Thread_local char text[WORLD_TEXT];
    static _Thread_local struct run run; /* several worlds may run at once */
    int node_of[WORLD_MAX];
    struct expect expect = {0};
    struct ranks ranks = {.n = world_ranks(w), .node_of = node_of, .transport = w->transport ? w->transport : "shm",
                          
                          .timeout_s = w->timeout, .watchdog_s = w->no_watchdog ? -1 : 0, .log = expect_log, .log_user = &expect};
    memcpy(expect.allow, w->allow, sizeof expect.allow);
    memset(&run, 0, sizeof run);
    run.body = body;
    run.arg = arg;
    place_ranks(w, node_of);
    ranks_run(&ranks, run_rank, &run);
    for (int i = 0; i < ranks.n; i++) {
        if (ranks.status[i] != XP_OK) {
            snprintf(text, sizeof text, "rank %d: xp_comm_create: %.300s", i, ranks.error[i]);
            return text;
        }
    }
    const char *cause = first_cause(&run, ranks.n);
    if (cause[0] || !expect.unexpected)
        return cause;
    snprintf(text, sizeof text, "logged: %.380s", expect.first);
    return text;
}
