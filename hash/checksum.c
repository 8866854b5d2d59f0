/*
 * checksum.c - XXH3-64, the checksum of frames and of rows
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define XXH_INLINE_ALL
#define XXH3_STREAM_USE_STACK 1
#include <xxhash.h>

#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "hash/frame.h"
#include "hash/variants.h"

#define LONG 1024 /* bytes; below it the wider form gains nothing */

uint64_t xp_checksum(const void *data, size_t len)
{
#if XP_ARCH_X86_64
    if (len >= LONG && __builtin_cpu_supports("avx2"))
        return xp_checksum_avx2(data, len);
#endif
    return XXH3_64bits(data, len);
}

void xp_checksum_key(uint8_t *out)
{
    memcpy(out, XXH3_kSecret, XP_CHECKSUM_KEY);
}

/* ---- bytes that become final one after the other ----------------------------------------------------------------- */

#define PIECE 16384 /* bytes hashed at once: still in a near cache, and enough to be worth the call */

struct xp_running {
    XXH3_state_t state;           /* of the bytes before `done` */
    const uint8_t *start, *done;  /* start NULL: nothing is being summed */
};

struct xp_running *xp_running_create(void)
{
    struct xp_running *r = aligned_alloc(64, (sizeof(*r) + 63) / 64 * 64);

    if (r)
        r->start = NULL;
    return r;
}

void xp_running_destroy(struct xp_running *r)
{
    free(r);
}

void xp_running_start(struct xp_running *r, const uint8_t *data)
{
    XXH3_64bits_reset(&r->state);
    r->start = r->done = data;
}

void xp_running_drop(struct xp_running *r)
{
    r->start = NULL;
}

static void take(struct xp_running *r, const uint8_t *end)
{
#if XP_ARCH_X86_64
    if (__builtin_cpu_supports("avx2"))
        xp_checksum_update_avx2(&r->state, r->done, (size_t)(end - r->done));
    else
#endif
        XXH3_64bits_update(&r->state, r->done, (size_t)(end - r->done));
    r->done = end;
}

void xp_running_reach(struct xp_running *r, const uint8_t *end)
{
    if (r->start && end - r->done >= PIECE)
        take(r, end);
}

uint64_t xp_running_finish(struct xp_running *r, const uint8_t *data, size_t len)
{
    if (r->start != data || r->done > data + len)
        return xp_checksum(data, len);
    take(r, data + len);
    r->start = NULL;
    return XXH3_64bits_digest(&r->state);
}
