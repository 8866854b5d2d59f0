/*
 * crosspress/codec.h - rows to frames and back, without any communication
 *
 * The same codecs that the exchanges use, for files, tests and frameworks that move the bytes themselves.
 * The bytes of a frame are described in hash/FORMAT.md. Unstable: may change before version 1.0.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CROSSPRESS_CODEC_H
#define CROSSPRESS_CODEC_H

#include "crosspress/crosspress.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct xp_codec xp_codec; /* an encoder and decoder for one shape; one thread at a time */

typedef struct xp_codec_desc {
    size_t size;        /* sizeof(xp_codec_desc), set by xp_codec_desc_init */
    xp_dtype dtype;     /* required */
    size_t dim;         /* values in a row; required */
    xp_mode mode;       /* exact or bounded; default exact */
    double eps;         /* bounded: 0 < eps < 1 */
    xp_eps_ref eps_ref; /* default XP_EPS_REF_MIN */
    xp_dither dither;   /* bounded; default off */
    const char *codec;  /* NULL or "auto", "raw", "exact", "fp8", "int8" ... "int2", "quant", "book", "lsh+int4" ... */
    const char *isa;    /* NULL = the best of this machine; "c", "avx2", "avx512", "avx512bf16" */
    uint64_t seed;      /* of the random signs; 0 = built-in. Travels in the frame; with dither, mixed with what the rows are */
    unsigned lsh_hashes, lsh_width, lsh_rounds; /* lsh: concatenated hashes, argmax width, rotation rounds; 0 = defaults */
    int lsh_refine;     /* lsh: Lloyd rounds in the sketch; 0 = default, -1 = none */
    int lsh_center;     /* lsh: remove the mean row before hashing; 0 = default (on), 1 on, -1 off */
} xp_codec_desc;

typedef struct xp_codec_stats {
    size_t size;        /* sizeof(xp_codec_stats), set by the caller */
    uint64_t rows, rows_raw, rows_unique; /* all; sent raw; distinct (exact) */
    uint64_t raw_bytes, frame_bytes;
    uint64_t clusters;  /* lsh */
    double rho;         /* lsh: residual energy / row energy, mean row removed */
    double err_mean, err_max; /* relative to |x| */
    double err_ref_max; /* relative to the reference of eps */
    char codec[16];     /* the codec that was used */
} xp_codec_stats;

/* Fills *d with defaults. */
XP_API void xp_codec_desc_init(xp_codec_desc *d);

/*
 * Creates a codec. Returns XP_OK; XP_ERR_INVALID_ARG (type, dim, eps out of range); XP_ERR_UNSUPPORTED (unknown codec
 * or isa, lossy codec in exact mode); XP_ERR_NO_MEMORY. Text: xp_last_error. Owns: the caller owns *out.
 */
XP_API xp_status xp_codec_create(xp_codec **out, const xp_codec_desc *d);
XP_API void xp_codec_destroy(xp_codec *c);

/* Returns the most bytes a frame of `rows` rows can take: rows * row bytes + 64 + 4 * rows. */
XP_API size_t xp_codec_bound(const xp_codec *c, size_t rows);

/*
 * Encodes rows into one frame. Encoding the same rows twice gives the same bytes, on every isa.
 *   rows, nrows  contiguous rows.  frame, cap  room of at least xp_codec_bound bytes.  len  bytes written.  stats  NULL or filled.
 * Returns XP_OK; XP_ERR_INVALID_ARG (NULL, cap too small); XP_ERR_NO_MEMORY.
 */
XP_API xp_status xp_encode(xp_codec *c, const void *rows, size_t nrows, void *frame, size_t cap, size_t *len,
                           xp_codec_stats *stats);

/*
 * Reads type, dim and number of rows of a frame without decoding it; checks header and length, not the payload.
 * Returns XP_OK; XP_ERR_CORRUPT (text says what is wrong).
 */
typedef struct xp_frame_info {
    size_t size;
    xp_dtype dtype;
    size_t dim, rows;
    char codec[16];
} xp_frame_info;
XP_API xp_status xp_frame_inspect(const void *frame, size_t len, xp_frame_info *info);

/*
 * Decodes a frame of this codec's type and dim (any codec id). The input is treated as hostile.
 *   rows, max_rows  room.   nrows  rows written.
 * Returns XP_OK; XP_ERR_CORRUPT (nothing useful was written); XP_ERR_INVALID_ARG (more rows than room, other type or dim).
 */
XP_API xp_status xp_decode(xp_codec *c, const void *frame, size_t len, void *rows, size_t max_rows, size_t *nrows);

#ifdef __cplusplus
}
#endif
#endif
