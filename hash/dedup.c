/*
 * dedup.c - finds equal rows: XXH3 of every row, open addressing, equality proven byte by byte
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "hash/codec.h"
#include "hash/frame.h"

/* A slot of the table: half of the row's hash, and the number of the distinct row plus one (0: empty). */
struct slot {
    uint32_t tag, distinct;
};

size_t xp_dedup(const struct xp_rows *in, uint32_t *first, uint32_t *map, uint32_t *work)
{
    struct slot *table = (struct slot *)work;
    size_t bytes = xp_row_bytes(in), mask = 1, found = 0;

    while (mask < 2 * in->rows)
        mask *= 2;
    memset(table, 0, mask * sizeof(*table));
    mask--;
    for (size_t r = 0; r < in->rows; r++) {
        const void *row = xp_row(in, r);
        uint64_t hash = xp_checksum(row, bytes);
        uint32_t tag = (uint32_t)(hash >> 32);
        size_t at = hash & mask;

        while (table[at].distinct &&
               (table[at].tag != tag || memcmp(row, xp_row(in, first[table[at].distinct - 1]), bytes)))
            at = (at + 1) & mask;
        if (!table[at].distinct) {
            first[found++] = (uint32_t)r;
            table[at] = (struct slot){ tag, (uint32_t)found };
        }
        map[r] = table[at].distinct - 1;
    }
    return found;
}
