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

/* XXH3-64 (checksum.c), and its key, for those who compute it elsewhere. */
#define XP_CHECKSUM_KEY 192
uint64_t xp_checksum(const void *data, size_t len);
void xp_checksum_key(uint8_t *out);

/*
 * The same of a payload while it is written, so that it is read from the cache: start says where it will lie, reach that all bytes
 * before `end` are there and final, drop that this does not hold any more. finish gives the checksum of any bytes, from what has been
 * summed if it was of these.
 */
struct xp_running;
struct xp_running *xp_running_create(void);
void xp_running_destroy(struct xp_running *r);
void xp_running_start(struct xp_running *r, const uint8_t *data);
void xp_running_reach(struct xp_running *r, const uint8_t *end);
void xp_running_drop(struct xp_running *r);
uint64_t xp_running_finish(struct xp_running *r, const uint8_t *data, size_t len);

#endif
