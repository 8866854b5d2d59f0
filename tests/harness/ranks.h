/*
 * ranks.h - N ranks as threads of the test
 *
 * The everyday test bed: a function runs on every rank of a fresh comm; nodes are simulated. The test's main thread does the
 * asserting, with the statuses that come back. When the watchdog's time is up, it says so and aborts the test.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RANKS_H
#define RANKS_H

#include "crosspress/crosspress.h"

#define RANKS_MAX 64

struct ranks {
    int n;                 /* ranks */
    int nodes;             /* simulated nodes, ranks in blocks; 0 = one */
    const int *node_of;    /* [n] instead of blocks, or NULL */
    const char *transport; /* NULL = auto */
    double timeout_s;      /* of every wait of the library; 0 = 20 */
    double watchdog_s;     /* of the whole run; 0 = 60, negative = none (there is one watchdog, for one run at a time) */
    xp_log_fn log;         /* such as expect_log */
    void *log_user;
    /* results */
    xp_status status[RANKS_MAX];  /* of xp_comm_create, else of the function */
    char error[RANKS_MAX][512];   /* xp_comm_last_error or xp_last_error */
};

typedef xp_status (*rank_fn)(xp_comm *comm, void *arg);

/* Runs fn(comm, arg) on every rank; comms are destroyed afterwards. Returns the number of ranks whose status is not XP_OK. */
int ranks_run(struct ranks *r, rank_fn fn, void *arg);

/* Aborts the process, with a line on stderr, unless it is disarmed within that time. One at a time. */
void watchdog_arm(const char *what, double seconds);
void watchdog_disarm(void);

#endif
