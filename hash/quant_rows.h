/*
 * quant_rows.h - one row, coded in the fewest bytes that keep the promise of bounded mode
 *
 * Used by the codecs that write quantised rows (codec_quant.c, codec_lsh.c). A coded row is a format byte, kept apart, and the
 * bytes of that format; what it is coded against, its base, is the mean row of the frame, a decoded centroid, or nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_QUANT_ROWS_H
#define XP_HASH_QUANT_ROWS_H

#include "hash/coder_impl.h"

#define XP_ROW_FORMATS (XP_Q_BASE + 1)
#define XP_ROW_NO_ROOM SIZE_MAX

/* Rows with more energy stay out of means, as NaN and Inf do: one such row must not decide for the others. */
#define XP_MEAN_LARGEST 1e30f

/* What rows of one frame have in common. */
struct xp_row_plan {
    size_t bytes[XP_ROW_FORMATS]; /* of a row in each format */
    uint8_t order[XP_ROW_FORMATS];/* the formats that may be tried, shortest first; all are shorter than the raw row */
    unsigned count;
    int base_was_enough;          /* for the row before: more like it may follow, and would be rotated for nothing */
    double eps2;                  /* eps squared */
    double margin;                /* bound of the relative error of a sum of squares in f32 */
    double least;                 /* squared errors allowed below this are too close to underflow to be measured */
    const float *reference;       /* the mean row that eps may refer to; NULL: none (or XP_EPS_REF_ROW) */
    double reference_norm;        /* its norm, rather too long */
    const void *typed_base;       /* the base of all rows in their type, where it is exactly that; NULL: there is none, or none such. Set by the codec */
    void *decoded;                /* where xp_row_encode leaves what it codes as receivers will have it; NULL: nowhere. Set by the codec */
};

/* formats: set of enum xp_qformat. mean: the mean row of the frame as it will be decoded, or NULL. */
void xp_row_plan_init(struct xp_row_plan *p, const struct xp_coder *c, uint16_t formats, const float *mean);

/*
 * Codes one row at out and its format at *format. base NULL: none. Returns the bytes, or XP_ROW_NO_ROOM.
 * next: the row that will be coded after this one, fetched meanwhile; NULL: none.
 * The promise holds for what the receiver decodes: the row is decoded here and compared; a row that misses, or holds
 * NaN or Inf, is XP_Q_RAW. Adds to st: rows_raw, err_mean (a sum over rows: divide by their number), err_max, err_ref_max.
 */
size_t xp_row_encode(struct xp_coder *c, struct xp_row_plan *p, const void *row, const void *next, const float *base, uint8_t *out,
                     size_t room, uint8_t *format, xp_codec_stats *st);

/* What the choice of the first format to try rests on, for kernels that make it on a device. */
struct xp_row_prediction {
    float expected[XP_ROW_FORMATS]; /* squared error in units of the residual's energy */
    double rounding;                /* of the row type, in units of the row's energy */
    double optimism;                /* a format whose prediction misses by up to this factor is tried */
};
void xp_row_predict(xp_dtype t, struct xp_row_prediction *p);

/* Is this a format that xp_row_decode knows? Its length is plan.bytes[format]. */
int xp_row_format_known(unsigned format, int has_base);

/* One row of a known format. base as for the encoder, finite. */
void xp_row_decode(struct xp_coder *c, const struct xp_row_plan *p, unsigned format, const uint8_t *in, const float *base, void *row);

#endif
