/*
 * log.c - lines for people: to the caller's function, or to stderr when CROSSPRESS_LOG asks for them
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdarg.h>
#include <stdio.h>

#include "lib/comm.h"

static const char *const level_name[] = {"none", "error", "warn", "info", "debug"};

/* A caller that gave a function wants to decide itself; only debug lines must be asked for. */
static xp_log_level threshold(const struct xp_comm *c)
{
    xp_log_level asked = (xp_log_level)c->params.log;

    return c->log && asked < XP_LOG_INFO ? XP_LOG_INFO : asked;
}

void xp_log(struct xp_comm *c, xp_log_level level, const char *fmt, ...)
{
    char text[1024];
    va_list args;

    if (!c || level > threshold(c))
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (c->log)
        c->log(c->log_user, level, text);
    else
        fprintf(stderr, "crosspress %s: rank %d: %s\n", level_name[level], c->rank, text);
}
