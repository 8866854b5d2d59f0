/*
 * prefetch.h - brings the next row into the cache a few lines at a time, while the core is busy with the current one
 *
 * The hardware prefetcher stops at page ends, and a core that rotates in registers issues no loads of its own. Half of
 * the row is fetched during the fold and half during the rotation: all of it in either leaves the memory idle meanwhile.
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
    int large;   /* two such rows would not leave room for anything else in L1: fetch to L2 */
};

#define XP_PREFETCH_LARGE 8192 /* bytes of a row; L1 has 32 KiB */

/* Row r of the batch; nothing behind the last row. Fetches nothing before xp_prefetch_spread. */
XP_INLINE struct xp_prefetch xp_prefetch_row(const struct xp_rows *in, size_t r)
{
    static const char nothing[1];
    struct xp_prefetch p = {nothing, nothing, 0, xp_row_bytes(in) > XP_PREFETCH_LARGE};

    if (r < in->rows) {
        p.next = xp_row(in, r);
        p.end = p.next + xp_row_bytes(in);
    }
    return p;
}

/* The next `steps` steps fetch one part in `parts` of what is left, rounded up to whole lines. */
XP_INLINE void xp_prefetch_spread(struct xp_prefetch *p, size_t parts, size_t steps)
{
    p->step = ((size_t)(p->end - p->next) / (parts * steps) + 63) / 64 * 64;
}

XP_INLINE void xp_prefetch_step(struct xp_prefetch *p)
{
    const char *until = p->next + p->step < p->end ? p->next + p->step : p->end;

    if (p->large)
        for (; p->next < until; p->next += 64)
            _mm_prefetch(p->next, _MM_HINT_T1);
    else
        for (; p->next < until; p->next += 64)
            _mm_prefetch(p->next, _MM_HINT_T0);
}

/* Part i of `parts` of a row (NULL: of none), to L2. */
XP_INLINE void xp_prefetch_part(const void *row, size_t bytes, size_t i, size_t parts)
{
    const size_t part = (bytes / parts + 63) / 64 * 64, end = (i + 1) * part < bytes ? (i + 1) * part : bytes;

    for (size_t at = i * part; row && at < end; at += 64)
        _mm_prefetch((const char *)row + at, _MM_HINT_T1);
}

#endif
