/*
 * xp_codec.h - what the commands of xp_codec share
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TOOL_CODEC_H
#define XP_TOOL_CODEC_H

#include "crosspress/codec.h"
#include "lib/params.h"
#include "lib/tools/npy.h"

struct tool_options {
    struct xp_params params; /* of the environment */
    xp_mode mode;
    double eps;
    xp_dither dither;
    const char *codec, *json, *plot;
    unsigned k, width, rounds;
    int center;
    const char *files[2];
};

/* One line on stderr; returns 1, the exit code. */
int tool_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Fills *d from the options, for rows like a's. */
void tool_describe(const struct tool_options *o, const struct xp_npy *a, xp_codec_desc *d);

/* Shows how far a long run is, on a terminal only; done == all ends the line. */
void tool_progress(const char *what, uint64_t done, uint64_t all);

/* A JSON string, quoted. */
void tool_json_string(FILE *f, const char *text);

int tool_encode(const struct tool_options *o);
int tool_decode(const struct tool_options *o);
int tool_stats(const struct tool_options *o);

#endif
