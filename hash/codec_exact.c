/*
 * codec_exact.c - lossless: equal rows travel once, a map says where they go
 *
 * Payload (FORMAT.md): number of distinct rows u32, bits of a map entry u32, the map (one entry a row, packed), the
 * distinct rows. A row that is new takes the next number, so the map is checked on the way: an entry is at most the
 * count of distinct rows seen so far.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "hash/bits.h"
#include "hash/bytes.h"
#include "hash/coder_impl.h"

#define PREFIX 8

static xp_status exact_encode(struct xp_coder *c, const struct xp_rows *in, uint8_t *out, size_t cap, size_t *len,
                              xp_codec_stats *st)
{
    size_t distinct = xp_dedup(in, c->first, c->map, c->work);
    unsigned width = xp_bit_width(distinct);
    size_t map_bytes = xp_packed_bytes(in->rows, width);
    size_t bytes = PREFIX + map_bytes + distinct * c->row_bytes;
    uint8_t *rows = out + PREFIX + map_bytes;

    if (bytes >= cap)
        return XP_ERR_UNSUPPORTED;
    xp_put32(out, (uint32_t)distinct);
    xp_put32(out + 4, width);
    xp_pack_bits(c->map, in->rows, width, out + PREFIX);
    for (size_t u = 0; u < distinct; u++)
        memcpy(rows + u * c->row_bytes, xp_row(in, c->first[u]), c->row_bytes);
    st->rows_unique = distinct;
    st->rows_raw = distinct;
    *len = bytes;
    return XP_OK;
}

static xp_status exact_decode(struct xp_coder *c, const uint8_t *in, size_t len, size_t rows, void *out)
{
    struct xp_bit_reader map;
    size_t distinct, map_bytes, seen = 0;
    unsigned width;

    if (len < PREFIX)
        return xp_corrupt(c, "exact: shorter than its prefix");
    distinct = xp_get32(in);
    width = xp_get32(in + 4);
    if (distinct > rows || width != xp_bit_width(distinct))
        return xp_corrupt(c, "exact: the number of distinct rows is impossible");
    map_bytes = xp_packed_bytes(rows, width);
    if (len != PREFIX + map_bytes + distinct * c->row_bytes)
        return xp_corrupt(c, "exact: the length does not match the number of distinct rows");
    xp_bit_reader_init(&map, in + PREFIX, map_bytes, width);
    in += PREFIX + map_bytes;
    for (size_t r = 0; r < rows; r++) {
        size_t u = xp_read_bits(&map);

        if (u > seen || u >= distinct)
            return xp_corrupt(c, "exact: a row refers to a distinct row that is not there");
        seen += u == seen;
        memcpy((char *)out + r * c->row_bytes, in + u * c->row_bytes, c->row_bytes);
    }
    if (seen != distinct || !xp_bits_clean(&map))
        return xp_corrupt(c, "exact: the map does not use all distinct rows, or has stray bits");
    return XP_OK;
}

const struct xp_codec_ops xp_codec_exact = {
    .size = sizeof(struct xp_codec_ops),
    .id = XP_CODEC_EXACT,
    .name = "exact",
    .about = "lossless: equal rows once",
    .caps = XP_CAP_LOSSLESS,
    .encode = exact_encode,
    .decode = exact_decode,
};
