/*
 * selfcopy.h - rows for the own rank, copied a piece at a time so that messages keep moving
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_SELFCOPY_H
#define XP_SELFCOPY_H

#include <string.h>

#include "collectives/pipeline.h"

#define XP_SELF_COPY_STEP ((size_t)1 << 20)

struct xp_self_copy {
    const char *from;
    char *to;
    size_t left;
};

/* Nothing is copied when the two disagree about the rows; counts.c reports it. */
static inline void xp_self_copy_begin(struct xp_self_copy *c, const struct xp_segment *from, const struct xp_segment *to,
                                      size_t row_bytes)
{
    c->from = from->base;
    c->to = to->base;
    c->left = from->rows == to->rows ? from->rows * row_bytes : 0;
}

/* Returns whether all is copied. */
static inline int xp_self_copy_progress(struct xp_self_copy *c, int *moved)
{
    size_t n = c->left < XP_SELF_COPY_STEP ? c->left : XP_SELF_COPY_STEP;
    if (!n)
        return 1;
    memcpy(c->to, c->from, n);
    c->to += n;
    c->from += n;
    c->left -= n;
    ++*moved;
    return c->left == 0;
}

#endif
