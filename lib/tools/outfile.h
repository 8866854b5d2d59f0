/*
 * outfile.h - an output file that appears whole or not at all
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_OUTFILE_H
#define XP_OUTFILE_H

#include <stdio.h>

struct xp_outfile {
    FILE *f;
    char path[4096]; /* links followed */
    char temp[4096]; /* what is renamed to path at the end; "" when path is a pipe or a device */
};

/* Opens for writing beside `path`. Each returns 0, or -1 with one line in err. */
int xp_outfile_open(struct xp_outfile *o, const char *path, char *err, size_t err_size);
int xp_outfile_write(struct xp_outfile *o, const void *bytes, size_t len, char *err, size_t err_size);

/* All written: the file takes its name. On an error, as on xp_outfile_abandon, nothing is left behind. */
int xp_outfile_finish(struct xp_outfile *o, char *err, size_t err_size);
void xp_outfile_abandon(struct xp_outfile *o);

#endif
