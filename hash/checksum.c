/*
 * checksum.c - XXH3-64, the checksum of frames and of rows; the one file that instantiates xxhash
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "hash/frame.h"

uint64_t xp_checksum(const void *data, size_t len)
{
    return XXH3_64bits(data, len);
}
