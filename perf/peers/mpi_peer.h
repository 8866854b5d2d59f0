/*
 * mpi_peer.h - what the MPI programs beside xp_perf have in common: options and rows, memory, the report
 *
 * They take the options of the xp_perf command they stand beside and ignore those that only concern crosspress.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_MPI_PEER_H
#define XP_MPI_PEER_H

#include "perf/options.h"

#define PEER_WARM_UP 2

/* Ends all ranks with one line. */
void peer_die(const char *text);

/* Zeroed memory, or the end of the program. */
void *peer_room(size_t bytes);

/* Reads the command line of `command` and opens its rows. */
void peer_open(struct options *o, struct row_source *rows, const char *command, int argc, char **argv);

struct peer_result {
    const struct options *opt;
    const struct row_source *rows;
    int rank, n;
    const double *seconds;    /* [iters] of this rank */
    unsigned long long bytes; /* of rows that this rank sends to others in one iteration */
    const char *routing;      /* of command moe */
    int k;
};

/* Collective: the slowest rank of each iteration, and all bytes, as rank 0's JSON. */
void peer_report(const struct peer_result *r);

#endif
