/*
 * launcher.h - what a launcher's environment says: which rank of how many, and where rank 0 is
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_LAUNCHER_H
#define XP_LAUNCHER_H

#include "lib/params.h"

#define XP_LAUNCH_PORTS 8 /* derived ports tried, when the port is ours to choose */

struct xp_launch {
    const char *name; /* "torchrun", "Open MPI", "PMI", "Slurm", "spawn" */
    int rank, size;
    char host[256];   /* of rank 0 */
    int port, nports; /* first port and how many after it may be tried */
    int listen_fd;    /* rank 0: an inherited listening socket, -1 = none */
    int pmi_fd;       /* >= 0: addresses and secret go through the PMI-1 server, host and port are unused */
    char identity[320];/* equal on all ranks of the job, different for every job */
};

typedef const char *(*xp_getenv_fn)(const char *name);

/* XP_OK, or XP_ERR_INVALID_ARG with a text (no launcher found, a variable that is not a number, a rank out of range). */
xp_status xp_launch_detect(struct xp_launch *l, const struct xp_params *p, xp_getenv_fn env, char *err, size_t err_size);

/* First host of a Slurm node list ("node[03-07,12],gpu1" gives "node03"). 0 when the text is none. */
int xp_slurm_first_host(const char *list, char *out, size_t size);

/* IPv4 address in an Open MPI URI ("123.0;tcp://10.0.0.1,172.17.0.1:40325"). 0: none. */
int xp_ompi_uri_host(const char *uri, char *out, size_t size);

/* A port in 20000 .. 32000 made from a text: below the range that kernels hand out. */
int xp_launch_port(const char *text);

#endif
