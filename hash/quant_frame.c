/*
 * quant_frame.c - frames of codec quant, for those who code their rows elsewhere (quant_frame.h)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/quant_frame.h"

#include <string.h>

#include "hash/bytes.h"

size_t xp_quant_head_bytes(const struct xp_coder *c, size_t rows, int has_mean)
{
    return XP_FRAME_HEADER + XP_QUANT_PREFIX + (has_mean ? c->row_bytes : 0) + rows;
}

/* As the encoder decides: first whether a mean row has room at all, then whether everything has. Row-wise there is no mean row, and only what does not
 * fit the frame is left as it is. */
int xp_quant_pays(const struct xp_coder *c, size_t rows, int has_mean, size_t length)
{
    const size_t raw = rows * c->row_bytes, payload = xp_quant_head_bytes(c, rows, has_mean) - XP_FRAME_HEADER + length;

    if (c->desc.row_wise)
        return XP_FRAME_HEADER + payload <= xp_frame_bound(c->desc.dtype, c->desc.dim, rows);
    return XP_QUANT_PREFIX + c->row_bytes < raw && payload < raw;
}

static size_t close_frame(const struct xp_coder *c, uint8_t *frame, unsigned codec, uint64_t seed, size_t rows, size_t payload)
{
    const struct xp_frame_header h = {.version = XP_FRAME_VERSION, .dtype = (uint8_t)c->desc.dtype, .codec = (uint16_t)codec,
                                      .dim = (uint32_t)c->desc.dim, .rows = rows, .payload_bytes = payload, .seed = seed,
                                      .checksum = xp_checksum(frame + XP_FRAME_HEADER, payload)};

    xp_frame_write(frame, &h);
    return XP_FRAME_HEADER + payload;
}

size_t xp_quant_write_head(const struct xp_coder *c, uint8_t *payload, const void *mean, const uint8_t *formats, size_t rows)
{
    const size_t mean_bytes = mean ? c->row_bytes : 0;

    xp_put32(payload, mean != NULL);
    if (mean)
        memcpy(payload + XP_QUANT_PREFIX, mean, mean_bytes);
    memcpy(payload + XP_QUANT_PREFIX + mean_bytes, formats, rows);
    return XP_QUANT_PREFIX + mean_bytes + rows;
}

size_t xp_quant_close(const struct xp_coder *c, uint8_t *frame, uint64_t seed, const void *mean, const uint8_t *formats, size_t rows, size_t length)
{
    const size_t head = xp_quant_write_head(c, frame + XP_FRAME_HEADER, mean, formats, rows);

    return close_frame(c, frame, XP_CODEC_QUANT, seed, rows, head + length);
}

size_t xp_raw_close(const struct xp_coder *c, uint8_t *frame, uint64_t seed, size_t rows)
{
    return close_frame(c, frame, XP_CODEC_RAW, seed, rows, rows * c->row_bytes);
}

xp_status xp_quant_open(struct xp_coder *c, const struct xp_row_plan *p, const uint8_t *frame, size_t len, size_t rows, struct xp_quant_parts *out)
{
    struct xp_frame_header h;
    const xp_status s = xp_frame_read(frame, len, 1, &h, &c->why);

    if (s)
        return s;
    if (h.dtype != c->desc.dtype || h.dim != c->desc.dim || h.rows != rows)
        return xp_corrupt(c, "the frame holds rows of another type, length or number");
    if (h.codec == XP_CODEC_RAW) {
        *out = (struct xp_quant_parts){.bytes = frame + XP_FRAME_HEADER, .length = h.payload_bytes};
        return h.payload_bytes == rows * c->row_bytes ? XP_OK : xp_corrupt(c, "raw: not as long as the rows");
    }
    if (h.codec != XP_CODEC_QUANT || (h.seed != c->desc.seed && !c->desc.dither))
        return xp_corrupt(c, "the frame is not of codec quant with the plan's seed");
    out->seed = h.seed;
    return xp_quant_read(c, p, frame + XP_FRAME_HEADER, h.payload_bytes, rows, out);
}
