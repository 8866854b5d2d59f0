/*
 * options.h - the command line of xp_perf
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_PERF_OPTIONS_H
#define XP_PERF_OPTIONS_H

#include "perf/xp_perf.h"

/* Text of --help. */
extern const char options_help[];

/* Fills o from the arguments after the command. Returns 0, or -1 with one line in err. */
int options_parse(struct options *o, int argc, char **argv, char *err, size_t err_size);

#endif
