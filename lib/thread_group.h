/*
 * thread_group.h - the inside of xp_thread_group: an allgather among threads
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_THREAD_GROUP_H
#define XP_THREAD_GROUP_H

#include "crosspress/crosspress.h"

/* One thread's view of a group, the `user` of xp_thread_group_allgather. */
struct xp_thread_seat {
    xp_thread_group *group;
    int rank;
    double deadline; /* xp_now */
    char err[256];   /* why the last allgather returned other than 0 */
};

int xp_thread_group_size(const xp_thread_group *g);

/* An xp_allgather_fn. Returns 0 or an xp_status. */
int xp_thread_group_allgather(void *seat, const void *in, void *out, size_t len);

/* This rank gives up: the others stop waiting for it and hear why. The group is of no use afterwards. */
void xp_thread_group_break(xp_thread_group *g, int rank, const char *why);

#endif
