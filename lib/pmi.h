/*
 * pmi.h - an allgather through the PMI-1 server of MPICH's launchers
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PMI_H
#define XP_PMI_H

#include <stddef.h>

struct xp_pmi {
    int fd, rank, size;
    double deadline; /* xp_now */
    char err[256];
};

/* An xp_allgather_fn (user is a struct xp_pmi) for at most XP_PMI_MAX bytes. Returns 0 or an xp_status. */
#define XP_PMI_MAX 320
int xp_pmi_allgather(void *pmi, const void *in, void *out, size_t len);

#endif
