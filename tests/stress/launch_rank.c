/*
 * launch_rank.c - one rank, started by whatever launcher: makes a comm from the environment, gathers, twice, and says so
 *
 * usage: launch_rank RANKS
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>

#include "crosspress/crosspress.h"

#define MOST 64

static int gather_once(int expected)
{
    xp_comm *c;
    int all[MOST];

    if (xp_comm_create(&c, NULL, NULL) != XP_OK) {
        fprintf(stderr, "launch_rank: %s\n", xp_last_error());
        return 1;
    }
    int rank = xp_comm_rank(c), n = xp_comm_size(c);
    if (n != expected || n > MOST || xp_comm_allgather(c, &rank, all, sizeof(rank)) != XP_OK) {
        fprintf(stderr, "launch_rank: rank %d of %d, not %d: %s\n", rank, n, expected, xp_comm_last_error(c));
        return 1;
    }
    for (int r = 0; r < n; r++)
        if (all[r] != r)
            return 1;
    if (rank == 0)
        printf("%d ranks on %d nodes\n", n, xp_comm_nodes(c));
    xp_comm_destroy(c);
    return 0;
}

int main(int argc, char **argv)
{
    int expected = argc > 1 ? atoi(argv[1]) : 0;

    return gather_once(expected) || gather_once(expected); /* a second comm of one process must work as well */
}
