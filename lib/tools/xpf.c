/*
 * xpf.c - .xpf files: frames behind a small header, closed by a trailer (hash/FORMAT.md)
 *
 * The trailer chains the headers of all frames, which hold the checksums of their payloads: a frame that is missing,
 * doubled or swapped is noticed like a flipped bit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lib/tools/xpf.h"

#include <string.h>

#include "hash/bytes.h"

enum { AT_VERSION = 4, AT_DTYPE = 5, AT_ZERO1 = 6, AT_DIM = 8, AT_ZERO2 = 12, AT_ROWS = 16, AT_CHECKSUM = 24 };
enum { END_FRAMES = 4, END_CHAIN = 8, END_CHECKSUM = 16 };

#define VERSION 1
#define CHUNK_ROWS 65536
#define CHUNK_BYTES ((size_t)64 << 20)

size_t xp_xpf_chunk(xp_dtype dtype, size_t dim)
{
    size_t rows = CHUNK_BYTES / (dim * xp_dtype_size(dtype));

    return rows < 1 ? 1 : rows < CHUNK_ROWS ? rows : CHUNK_ROWS;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

void xp_xpf_begin(struct xp_xpf *x, xp_dtype dtype, size_t dim, uint64_t rows, uint8_t header[XP_XPF_HEADER])
{
    memset(header, 0, XP_XPF_HEADER);
    memcpy(header, "XPFF", 4);
    header[AT_VERSION] = VERSION;
    header[AT_DTYPE] = (uint8_t)dtype;
    xp_put32(header + AT_DIM, (uint32_t)dim);
    xp_put64(header + AT_ROWS, rows);
    xp_put64(header + AT_CHECKSUM, xp_checksum(header, AT_CHECKSUM));
    *x = (struct xp_xpf){ .dtype = dtype, .dim = dim, .rows = rows, .chain = xp_checksum(header, XP_XPF_HEADER) };
}

void xp_xpf_add(struct xp_xpf *x, const uint8_t *frame, size_t rows)
{
    uint8_t link[8 + XP_FRAME_HEADER];

    xp_put64(link, x->chain);
    memcpy(link + 8, frame, XP_FRAME_HEADER);
    x->chain = xp_checksum(link, sizeof(link));
    x->frames++;
    x->rows_seen += rows;
}

void xp_xpf_end(const struct xp_xpf *x, uint8_t trailer[XP_XPF_TRAILER])
{
    memcpy(trailer, "XPFE", 4);
    xp_put32(trailer + END_FRAMES, x->frames);
    xp_put64(trailer + END_CHAIN, x->chain);
    xp_put64(trailer + END_CHECKSUM, xp_checksum(trailer, END_CHECKSUM));
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static const char *header_fault(const uint8_t *p, size_t len)
{
    if (len < 4 || memcmp(p, "XPFF", 4))
        return "not a .xpf file";
    if (len < XP_XPF_HEADER + XP_XPF_TRAILER)
        return "truncated: shorter than header and trailer";
    if (xp_get64(p + AT_CHECKSUM) != xp_checksum(p, AT_CHECKSUM))
        return "the file header's checksum does not match";
    if (p[AT_VERSION] != VERSION)
        return "a file version that this program does not know";
    if (!xp_dtype_size((xp_dtype)p[AT_DTYPE]) || !xp_get32(p + AT_DIM) || xp_get32(p + AT_DIM) > XP_FRAME_MAX_DIM ||
        xp_get16(p + AT_ZERO1) || xp_get32(p + AT_ZERO2))
        return "a file header with values out of range";
    return NULL;
}

xp_status xp_xpf_open(struct xp_xpf *x, const void *bytes, size_t len, const char **why)
{
    const uint8_t *p = bytes;

    *why = header_fault(p, len);
    if (*why)
        return XP_ERR_CORRUPT;
    *x = (struct xp_xpf){ .dtype = (xp_dtype)p[AT_DTYPE], .dim = xp_get32(p + AT_DIM), .rows = xp_get64(p + AT_ROWS),
                          .chain = xp_checksum(p, XP_XPF_HEADER), .at = p + XP_XPF_HEADER, .end = p + len };
    return XP_OK;
}

static const char *trailer_fault(const struct xp_xpf *x)
{
    uint8_t want[XP_XPF_TRAILER];

    if (x->end - x->at < XP_XPF_TRAILER)
        return "truncated: the trailer is missing";
    if (x->end - x->at > XP_XPF_TRAILER)
        return "trailing bytes behind the last frame";
    xp_xpf_end(x, want);
    return memcmp(x->at, want, sizeof(want)) ? "the trailer does not match the frames" : NULL;
}

static const char *frame_fault(const struct xp_xpf *x, size_t *len, size_t *rows)
{
    size_t room = (size_t)(x->end - x->at);
    struct xp_frame_header h;
    const char *why;

    if (room < XP_FRAME_HEADER + XP_XPF_TRAILER)
        return "truncated: rows are missing";
    if (xp_frame_peek(x->at, &h, &why))
        return why;
    if (h.dtype != x->dtype || h.dim != x->dim)
        return "a frame whose rows are of another type or length than the file's";
    if (!h.rows || h.rows > x->rows - x->rows_seen || h.rows > xp_xpf_chunk(x->dtype, x->dim))
        return "a frame with an impossible number of rows";
    if (h.payload_bytes > room - XP_FRAME_HEADER - XP_XPF_TRAILER)
        return "truncated: a frame is cut off";
    *len = XP_FRAME_HEADER + h.payload_bytes;
    *rows = h.rows;
    return NULL;
}

xp_status xp_xpf_next(struct xp_xpf *x, const uint8_t **frame, size_t *len, size_t *rows, const char **why)
{
    if (x->rows_seen == x->rows) {
        *why = trailer_fault(x);
        return *why ? XP_ERR_CORRUPT : XP_OK;
    }
    *why = frame_fault(x, len, rows);
    if (*why)
        return XP_ERR_CORRUPT;
    *frame = x->at;
    xp_xpf_add(x, x->at, *rows);
    x->at += *len;
    return XP_IN_PROGRESS;
}
