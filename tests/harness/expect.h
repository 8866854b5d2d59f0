/*
 * expect.h - a test that logs a warning or an error which it did not announce has failed
 *
 *     struct expect e = {.allow = {"rank 3 is gone"}};
 *     cfg.log = expect_log; cfg.log_user = &e;
 *     ...
 *     cr_assert_eq(e.unexpected, 0, "%s", e.first);
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EXPECT_H
#define EXPECT_H

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "crosspress/crosspress.h"

struct expect {
    const char *allow[8];     /* parts of texts that may come, at any level */
    _Atomic unsigned allowed; /* how many of those came */
    _Atomic unsigned unexpected;
    char first[512];          /* the first unexpected text */
};

/* An xp_log_fn; user is a struct expect. May be called by several threads. */
static inline void expect_log(void *user, xp_log_level level, const char *text)
{
    struct expect *e = user;

    if (level > XP_LOG_WARN)
        return;
    for (size_t i = 0; i < sizeof(e->allow) / sizeof(e->allow[0]) && e->allow[i]; i++) {
        if (strstr(text, e->allow[i])) {
            atomic_fetch_add(&e->allowed, 1);
            return;
        }
    }
    if (atomic_fetch_add(&e->unexpected, 1) == 0)
        snprintf(e->first, sizeof(e->first), "%s", text);
}

#endif
