/*
 * error.c - the text of the last error, of a thread and of a comm
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/comm.h"

static _Thread_local char thread_error[sizeof(((struct xp_comm *)0)->error)];

xp_status xp_error(struct xp_comm *c, xp_status s, const char *fmt, ...)
{
    char text[sizeof(thread_error)]; /* the arguments may point into the texts that are about to change */
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    memcpy(thread_error, text, sizeof(text));
    if (c)
        memcpy(c->error, text, sizeof(text));
    xp_log(c, XP_LOG_ERROR, "%s", text);
    return s;
}

const char *xp_last_error(void)
{
    return thread_error;
}

const char *xp_comm_last_error(const xp_comm *comm)
{
    return comm ? comm->error : thread_error;
}
