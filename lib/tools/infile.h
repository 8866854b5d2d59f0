/*
 * infile.h - the whole of an input file
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_INFILE_H
#define XP_INFILE_H

#include <stddef.h>

/* Returns all bytes of the file, a pipe included; free() them. NULL, with one line in err, when it cannot be read. */
void *xp_infile_read(const char *path, size_t *len, char *err, size_t err_size);

#endif
