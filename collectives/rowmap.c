/*
 * rowmap.c - head messages of coded streams
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "collectives/rowmap.h"

#include <string.h>

#include "collectives/wire.h"
#include "hash/codec.h"

#define ROWMAP_MAGIC 0x4d525058u /* "XPRM" */
enum { ROWMAP_MAPPED = 1, ROWMAP_FRAMED = 2, ROWMAP_BOOK = 4 };

/* Copies must be at least one row in SAVING_STEP before they are looked for. */
#define SAVING_STEP 32

static unsigned number_bits(size_t distinct)
{
    unsigned bits = 0;
    while (distinct > 1 && (distinct - 1) >> bits)
        bits++;
    return bits;
}

size_t xp_rowmap_bytes(size_t rows, size_t distinct)
{
    size_t copies = rows - distinct;
    return XP_ROWMAP_HEADER + (rows + 7) / 8 + (copies * number_bits(distinct) + 7) / 8;
}

size_t xp_rowmap_bound(size_t rows)
{
    return XP_ROWMAP_HEADER + (rows + 7) / 8 + rows * 4;
}

size_t xp_rowmap_write(uint8_t *out, size_t rows, size_t distinct, const uint32_t *map, int framed)
{
    unsigned bits = number_bits(distinct);
    xp_put32(out, ROWMAP_MAGIC);
    xp_put32(out + 4, (map ? ROWMAP_MAPPED : 0) | (framed ? ROWMAP_FRAMED : 0) | (uint32_t)bits << 8);
    xp_put64(out + 8, rows);
    xp_put64(out + 16, distinct);
    if (!map)
        return XP_ROWMAP_HEADER;

    uint8_t *is_new = out + XP_ROWMAP_HEADER, *at = is_new + (rows + 7) / 8;
    memset(is_new, 0, (rows + 7) / 8);
    uint64_t held = 0;
    unsigned held_bits = 0;
    size_t next = 0;
    for (size_t r = 0; r < rows; r++) {
        if (map[r] == next) {
            is_new[r / 8] |= (uint8_t)(1u << (r % 8));
            next++;
            continue;
        }
        held |= (uint64_t)map[r] << held_bits;
        for (held_bits += bits; held_bits >= 8; held_bits -= 8, held >>= 8)
            *at++ = (uint8_t)held;
    }
    if (held_bits)
        *at++ = (uint8_t)held;
    return (size_t)(at - out);
}

void xp_rowmap_announce_book(uint8_t *head)
{
    head[4] |= ROWMAP_BOOK;
}

int xp_rowmap_has_book(const uint8_t *head)
{
    return (head[4] & ROWMAP_BOOK) != 0;
}

xp_status xp_rowmap_read(const uint8_t *in, size_t len, size_t rows, size_t *distinct, int *mapped, int *framed, uint32_t *map,
                         uint32_t *first)
{
    if (len < XP_ROWMAP_HEADER || xp_get32(in) != ROWMAP_MAGIC)
        return XP_ERR_CORRUPT;
    uint32_t word = xp_get32(in + 4);
    uint64_t n = xp_get64(in + 16);
    if (xp_get64(in + 8) != rows || n > rows || (rows && !n) || word >> 16 || (word & 0xff) > 7 ||
        ((word & ROWMAP_BOOK) && !(word & ROWMAP_FRAMED)) ||
        (word >> 8 & 0xff) != number_bits(n))
        return XP_ERR_CORRUPT;
    *distinct = n;
    *mapped = word & ROWMAP_MAPPED;
    *framed = (word & ROWMAP_FRAMED) != 0;
    if (!*mapped)
        return len == XP_ROWMAP_HEADER && n == rows ? XP_OK : XP_ERR_CORRUPT;
    if (len != xp_rowmap_bytes(rows, n))
        return XP_ERR_CORRUPT;

    const uint8_t *is_new = in + XP_ROWMAP_HEADER, *at = is_new + (rows + 7) / 8, *end = in + len;
    unsigned bits = number_bits(n), held_bits = 0;
    uint64_t held = 0;
    size_t next = 0;
    for (size_t r = 0; r < rows; r++) {
        if (is_new[r / 8] >> (r % 8) & 1) {
            if (next == n)
                return XP_ERR_CORRUPT;
            first[next] = (uint32_t)r;
            map[r] = (uint32_t)next++;
            continue;
        }
        for (; held_bits < bits; held_bits += 8) {
            if (at == end)
                return XP_ERR_CORRUPT;
            held |= (uint64_t)*at++ << held_bits;
        }
        map[r] = (uint32_t)(held & (((uint64_t)1 << bits) - 1));
        held >>= bits;
        held_bits -= bits;
        if (map[r] >= next)
            return XP_ERR_CORRUPT;
    }
    return next == n ? XP_OK : XP_ERR_CORRUPT;
}

int xp_rowmap_may_pay(const struct xp_rows *in, uint32_t *work)
{
    size_t needed = in->rows / SAVING_STEP + 1, seen_twice = 0, bytes = xp_row_bytes(in);
    size_t slots = 1;
    while (slots < 2 * in->rows)
        slots *= 2;
    memset(work, 0, slots * sizeof *work);
    /* Linear probing over a table that is at most half full; unlike samples that share 32 bits only make the answer "yes". */
    for (size_t r = 0; r < in->rows; r++) {
        uint64_t h = xp_row_sample(xp_row(in, r), bytes);
        uint32_t key = (uint32_t)(h >> 32) | 1;
        size_t at = h & (slots - 1);
        while (work[at] && work[at] != key)
            at = (at + 1) & (slots - 1);
        if (work[at] && ++seen_twice >= needed)
            return 1;
        work[at] = key;
    }
    return 0;
}
