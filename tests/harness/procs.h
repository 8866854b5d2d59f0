/*
 * procs.h - N ranks as processes, started by fork with the environment of our own tools' --spawn
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PROCS_H
#define PROCS_H

#include <sys/types.h>

#include "crosspress/crosspress.h"

#define PROCS_MAX 64

/* Exit codes of a rank: 0 passed, else failed; these are the harness's own. */
#define PROCS_KILLED 250 /* ended by a signal */
#define PROCS_HUNG 251   /* still there when the time was up, then killed */

typedef int (*proc_fn)(int rank, void *arg);

struct procs {
    int n;
    int nodes;  /* simulated nodes, ranks in blocks; 0 = one */
    int no_reap;/* leave the dead unreaped until procs_wait returns, as a careless launcher does */
    pid_t pid[PROCS_MAX];
    int code[PROCS_MAX];     /* exit codes, or one of the above */
    double ended[PROCS_MAX]; /* when it was seen to have ended; seconds of CLOCK_MONOTONIC */
    int listen_fd;
    char root[64], secret[33];
};

/* Forks p->n processes that run fn(rank, arg) and exit with what it returns. 0, or -1. */
int procs_start(struct procs *p, proc_fn fn, void *arg);

/* Forks rank `rank` only (procs_open before it); for tests that leave a rank out. */
int procs_open(struct procs *p);
int procs_start_rank(struct procs *p, int rank, proc_fn fn, void *arg);

/* Reaps all; those that are left after `seconds` are killed. Returns the number of exit codes that are not 0. */
int procs_wait(struct procs *p, double seconds);

#endif
