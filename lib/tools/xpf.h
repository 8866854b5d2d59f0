/*
 * xpf.h - .xpf files: frames behind a small header, closed by a trailer (hash/FORMAT.md)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_XPF_H
#define XP_XPF_H

#include "hash/frame.h"

#define XP_XPF_HEADER 32
#define XP_XPF_TRAILER 24

/* Rows of one frame of such a file: at most 65536, and at most 64 MiB of them. */
size_t xp_xpf_chunk(xp_dtype dtype, size_t dim);

/* ---- writing: header, then every frame is passed through xp_xpf_add, then trailer ---- */

struct xp_xpf {
    xp_dtype dtype;
    size_t dim;
    uint64_t rows, rows_seen;
    uint32_t frames;
    uint64_t chain; /* checksum over the file header and all frame headers so far */
    const uint8_t *at, *end; /* reading */
};

void xp_xpf_begin(struct xp_xpf *x, xp_dtype dtype, size_t dim, uint64_t rows, uint8_t header[XP_XPF_HEADER]);
void xp_xpf_add(struct xp_xpf *x, const uint8_t *frame, size_t rows);
void xp_xpf_end(const struct xp_xpf *x, uint8_t trailer[XP_XPF_TRAILER]);

/* ---- reading from memory: XP_ERR_CORRUPT and *why (static text) on any disagreement ---- */

xp_status xp_xpf_open(struct xp_xpf *x, const void *bytes, size_t len, const char **why);

/* The next frame (its header is checked, its payload is not); XP_IN_PROGRESS with a frame, XP_OK behind the last one. */
xp_status xp_xpf_next(struct xp_xpf *x, const uint8_t **frame, size_t *len, size_t *rows, const char **why);

#endif
