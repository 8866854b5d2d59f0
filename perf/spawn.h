/*
 * spawn.h - N ranks of one machine as child processes
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PERF_SPAWN_H
#define XP_PERF_SPAWN_H

#include <stddef.h>

#define SPAWN_ERROR 512

/*
 * Forks n children on `nodes` pretended nodes (ranks in equal blocks), sets the launcher's environment for each, and runs
 * body(arg, error), whose result is the child's exit code; error is room for one line. When a child fails the others
 * get two seconds to end by themselves, then are killed.
 * Returns the worst exit code; `first` gets the line of the child that failed first, "" when none did.
 */
int spawn_ranks(int n, int nodes, int (*body)(void *arg, char *error), void *arg, char first[SPAWN_ERROR]);

#endif
