/*
 * wait.c - the clock, and how an idle caller gives the core away
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <sched.h>
#include <time.h>

#include "lib/comm.h"

#define SPIN_ROUNDS 64u    /* a peer that answers within microseconds is not worth a system call */
#define YIELD_ROUNDS 1024u /* ranks that share a core hand it round here */

double xp_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void xp_comm_idle(struct xp_comm *c, unsigned idle_rounds)
{
    (void)c;
    if (idle_rounds < SPIN_ROUNDS) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    } else if (idle_rounds < YIELD_ROUNDS) {
        sched_yield();
    } else {
        struct timespec nap = {0, idle_rounds < 4 * YIELD_ROUNDS ? 20000 : 200000};
        nanosleep(&nap, NULL);
    }
}
