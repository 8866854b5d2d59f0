/*
 * frame.c - the 64-byte header of a frame (FORMAT.md): write, read, check
 *
 * Every byte of a frame is covered: the header by its own checksum, the payload by the one in the header.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <string.h>

#include "hash/bytes.h"
#include "hash/frame.h"

enum { AT_MAGIC = 0, AT_VERSION = 4, AT_DTYPE = 5, AT_CODEC = 6, AT_DIM = 8, AT_ZERO1 = 12, AT_ROWS = 16,
       AT_PAYLOAD = 24, AT_SEED = 32, AT_CHECKSUM = 40, AT_ZERO2 = 48, AT_HEADER_CHECKSUM = 56 };

static const uint8_t magic[4] = { 'X', 'P', 'F', '1' };

void xp_frame_write(uint8_t *frame, const struct xp_frame_header *h)
{
    memset(frame, 0, XP_FRAME_HEADER);
    memcpy(frame + AT_MAGIC, magic, sizeof(magic));
    frame[AT_VERSION] = h->version;
    frame[AT_DTYPE] = h->dtype;
    xp_put16(frame + AT_CODEC, h->codec);
    xp_put32(frame + AT_DIM, h->dim);
    xp_put64(frame + AT_ROWS, h->rows);
    xp_put64(frame + AT_PAYLOAD, h->payload_bytes);
    xp_put64(frame + AT_SEED, h->seed);
    xp_put64(frame + AT_CHECKSUM, h->checksum);
    xp_put64(frame + AT_HEADER_CHECKSUM, xp_checksum(frame, AT_HEADER_CHECKSUM));
}

/* Returns NULL or what is wrong with the header alone. */
static const char *header_fault(const uint8_t *frame, const struct xp_frame_header *h)
{
    if (memcmp(frame + AT_MAGIC, magic, sizeof(magic)))
        return "not a frame (wrong magic)";
    if (xp_get64(frame + AT_HEADER_CHECKSUM) != xp_checksum(frame, AT_HEADER_CHECKSUM))
        return "the header's checksum does not match";
    if (h->version != XP_FRAME_VERSION)
        return "a format version that this library does not know";
    if (!xp_dtype_size((xp_dtype)h->dtype) || !h->dim || h->dim > XP_FRAME_MAX_DIM)
        return "a type or row length out of range";
    if (xp_get32(frame + AT_ZERO1) || xp_get64(frame + AT_ZERO2))
        return "reserved header bytes are not zero";
    return NULL;
}

static const char *length_fault(const struct xp_frame_header *h, size_t len)
{
    if (h->payload_bytes > len - XP_FRAME_HEADER)
        return "truncated: the payload is shorter than the header says";
    if (h->payload_bytes < len - XP_FRAME_HEADER)
        return "trailing bytes behind the payload";
    return NULL;
}

xp_status xp_frame_peek(const uint8_t header[XP_FRAME_HEADER], struct xp_frame_header *h, const char **why)
{
    const char *fault;

    h->version = header[AT_VERSION];
    h->dtype = header[AT_DTYPE];
    h->codec = xp_get16(header + AT_CODEC);
    h->dim = xp_get32(header + AT_DIM);
    h->rows = xp_get64(header + AT_ROWS);
    h->payload_bytes = xp_get64(header + AT_PAYLOAD);
    h->seed = xp_get64(header + AT_SEED);
    h->checksum = xp_get64(header + AT_CHECKSUM);
    fault = header_fault(header, h);
    if (why)
        *why = fault;
    return fault ? XP_ERR_CORRUPT : XP_OK;
}

xp_status xp_frame_read(const uint8_t *frame, size_t len, int payload, struct xp_frame_header *h, const char **why)
{
    const char *fault = "truncated: shorter than a frame header";

    if (len >= XP_FRAME_HEADER) {
        if (xp_frame_peek(frame, h, why))
            return XP_ERR_CORRUPT;
        fault = length_fault(h, len);
        if (!fault && payload && h->checksum != xp_checksum(frame + XP_FRAME_HEADER, h->payload_bytes))
            fault = "the payload's checksum does not match";
    }
    if (why)
        *why = fault;
    return fault ? XP_ERR_CORRUPT : XP_OK;
}
