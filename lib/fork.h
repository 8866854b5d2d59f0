/*
 * fork.h - what happens to comms in a forked child: nothing, and every call says so
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_FORK_H
#define XP_FORK_H

#include "lib/comm.h"

/* How many forks lie between this process and the one that loaded the library. */
unsigned xp_fork_count(void);

/* Comms on this list let go of their sockets in a forked child, so that peers still see the parent's death. */
void xp_fork_watch(struct xp_comm *c);
void xp_fork_unwatch(struct xp_comm *c);

#endif
