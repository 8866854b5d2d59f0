/*
 * status.c - texts and sizes of the small public enums
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config.h"
#include "crosspress/crosspress.h"

const char *xp_version(void)
{
    return XP_VERSION;
}

const char *xp_status_string(xp_status s)
{
    switch (s) {
    case XP_OK: return "done";
    case XP_IN_PROGRESS: return "in progress";
    case XP_ERR_INVALID_ARG: return "invalid argument";
    case XP_ERR_STATE: return "not possible in this state";
    case XP_ERR_UNSUPPORTED: return "not supported";
    case XP_ERR_NO_MEMORY: return "out of memory";
    case XP_ERR_SYSTEM: return "a system call failed";
    case XP_ERR_TIMEOUT: return "deadline passed";
    case XP_ERR_REMOTE: return "a peer is gone";
    case XP_ERR_MISMATCH: return "ranks disagree";
    case XP_ERR_CORRUPT: return "corrupt data";
    case XP_ERR_INTERNAL: return "internal error";
    }
    return "unknown status";
}

size_t xp_dtype_size(xp_dtype t)
{
    switch (t) {
    case XP_BF16:
    case XP_F16: return 2;
    case XP_F32: return 4;
    case XP_BYTE: return 1;
    }
    return 0;
}
