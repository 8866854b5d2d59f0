/*
 * codec_raw.c - the rows as they are
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "hash/coder_impl.h"

static xp_status raw_encode(struct xp_coder *c, const struct xp_rows *in, uint8_t *out, size_t cap, size_t *len,
                            xp_codec_stats *st)
{
    size_t bytes = in->rows * c->row_bytes;

    if (bytes > cap)
        return XP_ERR_UNSUPPORTED;
    if (in->index) {
        for (size_t r = 0; r < in->rows; r++)
            memcpy(out + r * c->row_bytes, xp_row(in, r), c->row_bytes);
    } else if (bytes) {
        memcpy(out, in->data, bytes);
    }
    st->rows_raw = in->rows;
    *len = bytes;
    return XP_OK;
}

static xp_status raw_decode(struct xp_coder *c, const uint8_t *in, size_t len, size_t rows, void *out)
{
    if (len != rows * c->row_bytes)
        return xp_corrupt(c, "raw: the payload is not a whole number of rows");
    if (len)
        memcpy(out, in, len);
    return XP_OK;
}

const struct xp_codec_ops xp_codec_raw = {
    .size = sizeof(struct xp_codec_ops),
    .id = XP_CODEC_RAW,
    .name = "raw",
    .about = "the rows as they are",
    .caps = XP_CAP_LOSSLESS,
    .encode = raw_encode,
    .decode = raw_decode,
};
