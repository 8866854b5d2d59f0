/*
 * codec_table.h - the table of xp_codec stats: every codec on the rows of a file
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CODEC_TABLE_H
#define XP_CODEC_TABLE_H

#include <stdio.h>

#include "lib/tools/xp_codec.h"

/*
 * Prints one line for each codec: ratio and speed as a sample of 2 % of the rows has them (what a choice of codec rests on) and as
 * all rows have them, and errors. json: NULL, or where the objects of an array go. Returns 0, or 1 after one line on stderr.
 */
int codec_table(const struct tool_options *o, const struct xp_npy *a, FILE *json);

/* Draws a rate-error plot of a file that stats --json has written. Without Python's matplotlib: a notice, and 0. */
int codec_plot(const char *json, const char *png);

#endif
