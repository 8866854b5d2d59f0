/*
 * checksum.c - XXH3-64, the checksum of frames and of rows
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

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
