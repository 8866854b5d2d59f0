/*
 * prefetch.h - brings the next row into L1 a few lines at a time, while the core is busy with the current one
 *
 * The hardware prefetcher stops at page ends, and a core that rotates in registers issues no loads of its own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_X86_PREFETCH_H
#define XP_HASH_X86_PREFETCH_H

#include "hash/rows.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>

struct xp_prefetch {
    const char *next, *end;
    size_t step; /* bytes */
};

/* Row r of the batch, to be fetched in `steps` steps; nothing behind the last row. */
XP_INLINE struct xp_prefetch xp_prefetch_row(const struct xp_rows *in, size_t r, size_t steps)
{
    struct xp_prefetch p = {NULL, NULL, 0};

    if (r < in->rows) {
        const size_t bytes = xp_row_bytes(in);
        p.next = xp_row(in, r);
        p.end = p.next + bytes;
        p.step = (bytes / steps + 63) / 64 * 64;
    }
    return p;
}

XP_INLINE void xp_prefetch_step(struct xp_prefetch *p)
{
    const char *until = p->next + p->step < p->end ? p->next + p->step : p->end;

    for (; p->next < until; p->next += 64)
        _mm_prefetch(p->next, _MM_HINT_T0);
}

#endif
