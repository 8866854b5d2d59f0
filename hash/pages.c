/*
 * pages.c - memory for many rows (pages.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/pages.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define LARGE ((size_t)2 << 20)

void *xp_pages_alloc(size_t bytes)
{
    const size_t unit = bytes < LARGE ? 64 : LARGE;
    void *p;

    if (bytes > SIZE_MAX - 2 * LARGE)
        return NULL;
    bytes = (bytes + 64 + unit - 1) / unit * unit;
    p = aligned_alloc(unit, bytes);
    if (p && unit == LARGE)
        madvise(p, bytes, MADV_HUGEPAGE); /* without them it is memory all the same */
    return p;
}
