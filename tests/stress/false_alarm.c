/*
 * false_alarm.c - who is only silent, slow or paused is not gone; who stays stopped is
 *
 * A peer counts as gone after 10 heartbeats without a sign of life, given by a thread of its own: long computing without a
 * call, more threads than cores, or a debugger's short stop must not look like death.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/comm.h"
#include "tests/harness/procs.h"

static int failed;
static double *stopped_at, *noticed; /* shared; noticed: [PROCS_MAX] */

static void nap(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};

    while (nanosleep(&t, &t) != 0)
        ;
}

static void verdict(int ok, const char *what)
{
    printf("%s %s\n", ok ? "ok  " : "FAIL", what);
    fflush(stdout);
    failed += !ok;
}

/* No call for a while, then one that all must pass. */
static int compute_then_meet(int rank, void *arg)
{
    double seconds = *(const double *)arg;
    xp_comm *c;
    xp_status s;

    if (xp_comm_create(&c, NULL, NULL) != XP_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, xp_last_error());
        return 1;
    }
    nap(seconds);
    s = xp_comm_barrier(c);
    if (s != XP_OK)
        fprintf(stderr, "rank %d: %s\n", rank, xp_comm_last_error(c));
    xp_comm_destroy(c);
    return s != XP_OK;
}

static void silent(void)
{
    struct procs p = {.n = 4};
    double seconds = 3;

    setenv("CROSSPRESS_HEARTBEAT", "0.1", 1);
    procs_start(&p, compute_then_meet, &seconds);
    verdict(procs_wait(&p, 20) == 0, "silent for 3 times the limit");
}

static void crowded(void)
{
    struct procs p = {.n = 8};
    pid_t spinner[8];
    int cores = (int)sysconf(_SC_NPROCESSORS_ONLN), n = cores < 4 ? 2 * cores : 8;
    double seconds = 4;

    for (int i = 0; i < n; i++) {
        spinner[i] = fork();
        if (spinner[i] == 0) {
            alarm(20);
            for (volatile unsigned x = 0;; x++)
                ;
        }
    }
    setenv("CROSSPRESS_HEARTBEAT", "0.3", 1);
    procs_start(&p, compute_then_meet, &seconds);
    verdict(procs_wait(&p, 20) == 0, "8 ranks among spinning processes");
    for (int i = 0; i < n; i++) {
        kill(spinner[i], SIGKILL);
        waitpid(spinner[i], NULL, 0);
    }
}

static void paused(int victim)
{
    struct procs p = {.n = 3};
    double seconds = 2;
    char what[64];

    setenv("CROSSPRESS_HEARTBEAT", "0.1", 1);
    procs_start(&p, compute_then_meet, &seconds);
    nap(0.5);
    kill(p.pid[victim], SIGSTOP);
    nap(0.6); /* of the limit of 1 s */
    kill(p.pid[victim], SIGCONT);
    snprintf(what, sizeof(what), "rank %d paused for 0.6 of the limit", victim);
    verdict(procs_wait(&p, 20) == 0, what);
}

/* Polls its health; the error must name the rank given. */
static int watch(int rank, void *arg)
{
    char name[16];
    xp_comm *c;
    double until;
    xp_status s = XP_OK;

    snprintf(name, sizeof(name), "rank %d", *(const int *)arg);
    if (xp_comm_create(&c, NULL, NULL) != XP_OK)
        return 1;
    for (until = xp_now() + 8; xp_now() < until && s == XP_OK; nap(0.005))
        s = xp_comm_health(c);
    noticed[rank] = xp_now();
    if (s == XP_OK || !strstr(xp_comm_last_error(c), name)) {
        fprintf(stderr, "rank %d: %s\n", rank, xp_comm_last_error(c));
        return 2;
    }
    xp_comm_destroy(c);
    return 0;
}

static void stopped(int victim)
{
    struct procs p = {.n = 4};
    int ok = 1;
    char what[96];
    double worst = 0;

    setenv("CROSSPRESS_HEARTBEAT", "0.1", 1);
    procs_start(&p, watch, &victim);
    nap(0.5);
    kill(p.pid[victim], SIGSTOP);
    *stopped_at = xp_now();
    nap(3);
    kill(p.pid[victim], SIGKILL);
    procs_wait(&p, 20);
    for (int r = 0; r < p.n; r++) {
        if (r == victim)
            continue;
        ok &= p.code[r] == 0;
        worst = noticed[r] - *stopped_at > worst ? noticed[r] - *stopped_at : worst;
    }
    snprintf(what, sizeof(what), "rank %d stopped for good, limit 1 s: noticed by all after %.2f s", victim, worst);
    verdict(ok && worst < 2, what);
}

int main(void)
{
    stopped_at = mmap(NULL, (PROCS_MAX + 1) * sizeof(double), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (stopped_at == MAP_FAILED)
        return 1;
    noticed = stopped_at + 1;
    silent();
    paused(0);
    paused(2);
    crowded();
    stopped(0);
    stopped(3);
    printf("%s\n", failed ? "failed" : "passed");
    return failed != 0;
}
