/*
 * options.h - the settings as the interposer uses them, and its lines on stderr
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_IP_OPTIONS_H
#define XP_IP_OPTIONS_H

#include "lib/interpose/pattern.h"
#include "lib/interpose/rules.h"
#include "lib/params.h"

struct xp_options {
    struct xp_params params;
    enum xp_groups groups;
    struct xp_rules rules;
    enum xp_rule_mode mode; /* where no rule fits */
    int row_type;           /* NCCL type of a declared row; -1: none declared */
    int row_is_bytes;
    xp_dtype row_dtype;
    size_t row_dim, row_bytes;
    char off[160];          /* why nothing is ever diverted; "" when something may be */
    uint64_t hash;          /* of all that must be equal on all ranks */
};

/* Read from the environment when a communicator is first seen; the same pointer ever after. */
const struct xp_options *xp_options(void);

/* One line on stderr, when CROSSPRESS_LOG asks for this level. */
void xp_say(xp_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
