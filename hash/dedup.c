/*
 * dedup.c - finds equal rows: a hash of every row, open addressing, equality proven byte by byte
 *
 * Rows that differ mostly do so in the bytes of their samples, so only these are hashed: the rest of a row is read when it may be a
 * copy. Where that holds of too few rows, whole rows are hashed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "hash/codec.h"
#include "hash/frame.h"

#define SAMPLE_BYTES 32 /* from the front and from the middle of a row */
#define AHEAD 8         /* rows whose samples are fetched before they are needed */

/* A slot of the table: half of the row's hash, and the number of the distinct row plus one (0: empty). */
struct slot {
    uint32_t tag, distinct;
};

static size_t middle(size_t bytes)
{
    return bytes / 2 - SAMPLE_BYTES / 2;
}

uint64_t xp_row_sample(const void *row, size_t bytes)
{
    const char *p = row;

    if (bytes <= 2 * SAMPLE_BYTES)
        return XXH3_64bits(p, bytes);
    return XXH3_64bits(p, SAMPLE_BYTES) * 31 + XXH3_64bits(p + middle(bytes), SAMPLE_BYTES);
}

static void fetch_sample(const struct xp_rows *in, size_t r, size_t bytes)
{
    if (r >= in->rows || bytes <= 2 * SAMPLE_BYTES)
        return;
    __builtin_prefetch(xp_row(in, r));
    __builtin_prefetch((const char *)xp_row(in, r) + middle(bytes));
}

/* Returns the number of distinct rows, or 0 when more than `most` rows had the hash of one that they do not equal. */
static size_t find(const struct xp_rows *in, uint64_t (*hash_of)(const void *, size_t), size_t most, uint32_t *first, uint32_t *map,
                   struct slot *table)
{
    size_t bytes = xp_row_bytes(in), mask = 1, found = 0;

    while (mask < 2 * in->rows)
        mask *= 2;
    memset(table, 0, mask * sizeof(*table));
    mask--;
    for (size_t r = 0; r < in->rows; r++) {
        const void *row = xp_row(in, r);
        uint64_t hash = hash_of(row, bytes);
        uint32_t tag = (uint32_t)(hash >> 32);
        size_t at = hash & mask;

        fetch_sample(in, r + AHEAD, bytes);
        for (; table[at].distinct; at = (at + 1) & mask) {
            if (table[at].tag != tag)
                continue;
            if (!memcmp(row, xp_row(in, first[table[at].distinct - 1]), bytes))
                break;
            if (most-- == 0)
                return 0;
        }
        if (!table[at].distinct) {
            first[found++] = (uint32_t)r;
            table[at] = (struct slot){ tag, (uint32_t)found };
        }
        map[r] = table[at].distinct - 1;
    }
    return found;
}

size_t xp_dedup(const struct xp_rows *in, uint32_t *first, uint32_t *map, uint32_t *work)
{
    size_t found = find(in, xp_row_sample, in->rows, first, map, (struct slot *)work);

    return found ? found : find(in, xp_checksum, SIZE_MAX, first, map, (struct slot *)work);
}
