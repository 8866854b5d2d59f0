/*
 * live_rank.c - one rank, started by whatever launcher, that lives until the group fails
 *
 * usage: live_rank SECONDS idle|busy
 * busy: barriers all the time; idle: no call but a look at the health. Prints "ready" (rank 0), then the error and when it came, on
 * the clock that all processes of this machine share. Exits 0 after an error that names another rank, 1 without one.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/comm.h"

int main(int argc, char **argv)
{
    const struct timespec nap = {0, 5000000};
    double until = xp_now() + (argc > 1 ? atof(argv[1]) : 10);
    int busy = argc > 2 && strcmp(argv[2], "busy") == 0;
    xp_status s = XP_OK;
    xp_comm *c;

    if (xp_comm_create(&c, NULL, NULL) != XP_OK) {
        fprintf(stderr, "live_rank: %s\n", xp_last_error());
        return 1;
    }
    xp_comm_barrier(c);
    if (xp_comm_rank(c) == 0)
        printf("ready\n");
    fflush(stdout);
    while (s == XP_OK && xp_now() < until) {
        nanosleep(&nap, NULL);
        s = busy ? xp_comm_barrier(c) : xp_comm_health(c);
    }
    printf("rank %d: at %.2f: %s: %s\n", xp_comm_rank(c), xp_now(), xp_status_string(s), xp_comm_last_error(c));
    fflush(stdout);
    int named = s != XP_OK && strstr(xp_comm_last_error(c), "rank ") != NULL;
    xp_comm_destroy(c);
    return named ? 0 : 1;
}
