/*
 * frame.h - the 64-byte header of a frame (FORMAT.md): write, read, check
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_FRAME_H
#define XP_HASH_FRAME_H

#include "crosspress/crosspress.h"

#define XP_FRAME_HEADER 64
#define XP_FRAME_VERSION 1
#define XP_FRAME_MAX_DIM (1u << 20)

struct xp_frame_header {
    uint8_t version, dtype;
    uint16_t codec;
    uint32_t dim;
    uint64_t rows, payload_bytes, seed;
    uint64_t checksum; /* XXH3-64 of the payload */
};

/* Writes header bytes for a payload that lies right behind them. */
void xp_frame_write(uint8_t *frame, const struct xp_frame_header *h);

/* Reads and checks the 64 bytes of a header alone. XP_ERR_CORRUPT; *why (may be NULL) gets a static text. */
xp_status xp_frame_peek(const uint8_t header[XP_FRAME_HEADER], struct xp_frame_header *h, const char **why);

/* Reads and checks the header (magic, version, own checksum, length equals len); with payload != 0 also the payload's
 * checksum. XP_ERR_CORRUPT; *why gets a static text. */
xp_status xp_frame_read(const uint8_t *frame, size_t len, int payload, struct xp_frame_header *h, const char **why);

/* XXH3-64 (checksum.c). */
uint64_t xp_checksum(const void *data, size_t len);

#endif
