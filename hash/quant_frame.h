/*
 * quant_frame.h - frames of codec quant, for those who code their rows elsewhere: on a device
 *
 * A frame that is put together here is byte for byte what xp_coder_encode makes of the same rows, if the mean row, the formats and the
 * rows' bytes are.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_QUANT_FRAME_H
#define XP_HASH_QUANT_FRAME_H

#include <math.h>

#include "hash/anywhere.h"
#include "hash/frame.h"
#include "hash/log2.h"
#include "hash/quant_rows.h"

#define XP_QUANT_PREFIX 4

/* The mean is taken over all rows of a frame up to this many, over as many at equal distances of a longer one. Where eps does not
 * refer to it fewer do: a sample of n rows leaves a share of 1 / n more energy, 0.006 bits a value at 128. */
#define XP_MEAN_ROWS 1024
#define XP_MEAN_ROWS_UNREFERRED 128
#define XP_MEAN_LEAST_ROWS 4 /* fewer rows have no mean worth the name */
#define XP_MEAN_PROBES 32    /* rows that say whether sending the mean pays */

/* Bits a value that coding a row against the mean saves, from the energy of the row and of what is left of it. */
XP_ANYWHERE double xp_mean_saves(double row, double rest)
{
    return row > 0 ? -0.5 * xp_log2(fmax(rest, 1e-6 * row) / row) : 0;
}

/*
 * Does the mean of n rows earn more than its own bytes? saved: by a row that it is of, on average. Those that it is not of save less, for its
 * noise is in them: what is left of them has (n + 1) / (n - 1) of the energy.
 */
XP_ANYWHERE int xp_mean_pays(double saved, uint32_t n, double rows, size_t value_bytes)
{
    const double unseen_loss = 0.5 * xp_log2(((double)n + 1) / ((double)n - 1));

    return saved * rows - unseen_loss * (rows - n) > 8.0 * (double)value_bytes;
}

/* Where the rows' bytes begin in a frame. */
size_t xp_quant_head_bytes(const struct xp_coder *c, size_t rows, int has_mean);

/* Whether a frame of so many rows, whose rows take `length` bytes, is shorter than the rows, or row-wise fits the bound; else the encoder writes codec raw. */
int xp_quant_pays(const struct xp_coder *c, size_t rows, int has_mean, size_t length);

/* Writes a payload up to the rows' bytes. mean: a row in the rows' type, NULL: none. Returns the bytes written. */
size_t xp_quant_write_head(const struct xp_coder *c, uint8_t *payload, const void *mean, const uint8_t *formats, size_t rows);

/* Completes a frame of this seed whose rows' bytes lie in their place. Returns its length. */
size_t xp_quant_close(const struct xp_coder *c, uint8_t *frame, uint64_t seed, const void *mean, const uint8_t *formats, size_t rows, size_t length);
/* The same for a frame of codec raw, whose rows begin at XP_FRAME_HEADER. */
size_t xp_raw_close(const struct xp_coder *c, uint8_t *frame, uint64_t seed, size_t rows);

/* What a payload holds. */
struct xp_quant_parts {
    const float *mean;      /* the mean row, in the coder; NULL: none */
    const uint8_t *formats; /* [rows]; NULL: codec raw */
    const uint8_t *bytes;   /* of all rows, back to back */
    size_t length;
    uint64_t seed;          /* of the frame (xp_quant_open) */
};

/* Checks a payload of codec quant (codec_quant.c) before anything is decoded. p: of xp_row_plan_init. XP_ERR_CORRUPT. */
xp_status xp_quant_read(struct xp_coder *c, const struct xp_row_plan *p, const uint8_t *in, size_t len, size_t rows, struct xp_quant_parts *out);

/* The same for the beginning of a payload alone: everything before the rows' bytes, of which out->length says how many follow. Returns the bytes
 * read, or 0 (xp_coder_why). */
size_t xp_quant_read_head(struct xp_coder *c, const struct xp_row_plan *p, const uint8_t *in, size_t len, size_t rows, struct xp_quant_parts *out);

/* Checks a whole frame of these rows, which must be of codec quant, with the coder's seed where it does not dither, or raw. XP_ERR_CORRUPT. */
xp_status xp_quant_open(struct xp_coder *c, const struct xp_row_plan *p, const uint8_t *frame, size_t len, size_t rows, struct xp_quant_parts *out);

#endif
