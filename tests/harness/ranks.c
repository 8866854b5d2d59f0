/*
 * ranks.c - N ranks as threads of the test
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/harness/ranks.h"

struct seat {
    struct ranks *run;
    xp_thread_group *group;
    rank_fn fn;
    void *arg;
    int rank;
};

static void *live(void *arg)
{
    const struct seat *seat = arg;
    struct ranks *run = seat->run;
    int rank = seat->rank;
    xp_bootstrap boot;
    xp_config cfg;
    xp_comm *comm = NULL;
    char node[32];

    xp_bootstrap_init(&boot);
    boot.threads = seat->group;
    boot.rank = rank;
    xp_config_init(&cfg);
    snprintf(node, sizeof(node), "node%d",
             run->node_of ? run->node_of[rank] : (int)((long)rank * (run->nodes > 0 ? run->nodes : 1) / run->n));
    cfg.node = node;
    cfg.transport = run->transport;
    cfg.timeout_s = run->timeout_s > 0 ? run->timeout_s : 20;
    cfg.log = run->log;
    cfg.log_user = run->log_user;
    run->status[rank] = xp_comm_create(&comm, &boot, &cfg);
    if (run->status[rank] != XP_OK) {
        snprintf(run->error[rank], sizeof(run->error[rank]), "%s", xp_last_error());
        return NULL;
    }
    run->status[rank] = seat->fn(comm, seat->arg);
    snprintf(run->error[rank], sizeof(run->error[rank]), "%s", xp_comm_last_error(comm));
    xp_comm_destroy(comm);
    return NULL;
}

int ranks_run(struct ranks *r, rank_fn fn, void *arg)
{
    struct seat seats[RANKS_MAX];
    pthread_t threads[RANKS_MAX];
    xp_thread_group *group;
    int bad = 0;

    if (r->n < 1 || r->n > RANKS_MAX || xp_thread_group_create(&group, r->n) != XP_OK)
        abort();
    if (r->watchdog_s >= 0)
        watchdog_arm("ranks_run", r->watchdog_s > 0 ? r->watchdog_s : 60);
    for (int i = 0; i < r->n; i++) {
        seats[i] = (struct seat){r, group, fn, arg, i};
        r->error[i][0] = '\0';
        if (pthread_create(&threads[i], NULL, live, &seats[i]) != 0)
            abort();
    }
    for (int i = 0; i < r->n; i++) {
        pthread_join(threads[i], NULL);
        bad += r->status[i] != XP_OK;
    }
    if (r->watchdog_s >= 0)
        watchdog_disarm();
    xp_thread_group_destroy(group);
    return bad;
}
