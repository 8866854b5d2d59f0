/*
 * kernels.h - every kernel of the codecs: one typedef with its contract, and the table that holds them
 *
 * The C entries (hash/<kernel>.c) are the specification. Variants (hash/x86/<kernel>_avx2.c, _avx512.c, cuda/) must
 * give the same bits where the contract says *exact*; tests/checkkernels compares them. Kernels do not allocate, log
 * or wait. Floating-point contracts assume round-to-nearest, no contraction (-ffp-contract=off), no flush to zero.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_KERNELS_H
#define XP_HASH_KERNELS_H

#include "hash/rows.h"

/* ---- sums in a fixed order ------------------------------------------------------------------------------
 * "lane sum" of f(0) .. f(n-1): 16 partial sums in f32; element i is added to partial (i / 2) % 16, in increasing i;
 * then partials p and p + 8, p + 4, p + 2, p + 1 are added pairwise. (bf16 pairs load as even/odd halves of a 32-bit lane.)
 * "row sum" of f(0) .. f(n-1): 32 partial sums in f32; element i is added to partial i % 32, in increasing i; then partials p and
 * p + 16, p + 8, p + 4, p + 2, p + 1 are added pairwise. (More partials, so that the additions of a long row do not wait for each other.)
 */

/* energy: row sum of x[i] * x[i]. NaN or Inf in, or overflow, gives NaN or Inf. Exact. */
typedef float (*xp_energy_fn)(const float *x, size_t n);

/* distance: row sum of (a[i] - b[i])^2 over two typed rows; b NULL: of a[i]^2. Exact. */
typedef float (*xp_distance_fn)(const void *a, const void *b, xp_dtype t, size_t dim);

/* ---- typed rows to f32 and back --------------------------------------------------------------------------- */

/* residual: out[i] = (float)row[i] - base[i] (base NULL: no subtraction). Any alignment of row. Exact, but for which NaN. */
typedef void (*xp_residual_fn)(const void *row, xp_dtype t, const float *base, size_t dim, float *out);

/* residual_sums: residual, and with it sums[0] = row sum of row[i]^2 (as distance with b NULL), sums[1] = row sum of out[i]^2
 * (as energy). Exact, but for which NaN. */
typedef void (*xp_residual_sums_fn)(const void *row, xp_dtype t, const float *base, size_t dim, float *out, float sums[2]);

/* restore: row[i] = round_to_type(in[i] + base[i]) (base NULL: no addition); nearest-even; NaN stays NaN. Exact. */
typedef void (*xp_restore_fn)(const float *in, const float *base, size_t dim, xp_dtype t, void *row);

/* mean_add: where the row sum of row[i]^2 is at most `most`, sum[i] += (float)row[i] and 1 is returned, else 0. ahead: the row that
 * comes next, which may be fetched; NULL: none. Exact. */
typedef int (*xp_mean_add_fn)(const void *row, xp_dtype t, size_t dim, float most, const void *ahead, float *sum);

/* centroid: out[k * dim + i] = mean in f32 of rows order[start[k]] .. order[start[k+1] - 1], summed in that order in
 * runs of at most 4096 rows, run sums added in order, divided once by the count. K clusters; empty ones give 0. Exact. */
typedef void (*xp_centroid_fn)(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *out);

/* Columns that the next two do at a time, and so the values of scratch, on a 64-byte boundary, that they ask for. */
#define XP_TILE 32

/* means: row k of out = what restore makes of centroid k, as kernel centroid has it, of these clusters; of a single row: that row, bit for
 * bit. in->index is NULL. work: XP_TILE values for every row of in. Exact, but for which NaN. */
typedef void (*xp_means_fn)(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *work, void *out);

/* What experts in folded mode made of centroids. */
struct xp_fold_sums {
    xp_dtype dtype;
    size_t dim, clusters, tokens, topk;
    const void *results, *centroids; /* [clusters][dim] */
    const float *alpha;              /* [clusters]; 0: neither is the centroid read */
    const int32_t *cluster_of;       /* [tokens][topk] -1: none */
    const float *weight;             /* [tokens][topk] */
    const float *scale;              /* [tokens] of a token's own row; 0: it is not read */
};

/* fold_sums: y[t] = round_to_type(scale * x[t] + weight * (result - alpha * centroid) of its clusters, added in order), in f32; where scale
 * is 0 the sum begins with 0. work: XP_TILE values for every cluster. Exact, but for which NaN. */
typedef void (*xp_fold_sums_fn)(const struct xp_fold_sums *s, const void *x, float *work, void *y);

/* A row in a sum of rows. ends_part: the terms since the last that did make a part, which is summed for itself. */
struct xp_sum_term {
    const void *row;
    float weight;
    int ends_part; /* of the last term: always */
};

/* row_sum: row[i] = round_to_type(sum of the parts), each the sum of weight * row[i] of its terms; all in order, from 0 on, in f32.
 * Any alignment of rows. Exact, but for which NaN. */
typedef void (*xp_row_sum_fn)(const struct xp_sum_term *terms, size_t n, xp_dtype t, size_t dim, void *row);

/* ---- Hadamard ----------------------------------------------------------------------------------------------- */

/* fht_i16 / fht_i32: in place x <- H x, H the 2^log2n Hadamard matrix in natural order, unnormalised, wrapping
 * arithmetic (so the order of the butterflies does not matter). nrows vectors one after another. log2n <= 14. Exact. */
typedef void (*xp_fht_i16_fn)(int16_t *x, unsigned log2n, size_t nrows);
typedef void (*xp_fht_i32_fn)(int32_t *x, unsigned log2n, size_t nrows);

/* ---- cross-polytope hash -------------------------------------------------------------------------------------
 * Source: Andoni, Indyk, Laarhoven, Razenshteyn, Schmidt, NIPS 2015; fold = signed feature hashing.
 */
#define XP_HASH_MAX_WIDTH 512 /* widest rotation; longer rows are folded to it */
#define XP_HASH_MIN_WIDTH 32
#define XP_HASH_MAX_ROUNDS 3
#define XP_HASH_MAX_K 8
#define XP_HASH_NONE UINT32_MAX /* id of a row that has no direction: zero, infinite or NaN */

/* Made by xp_hasher_init (hasher.h). All tables lie on 64-byte boundaries. */
struct xp_hasher {
    size_t dim;
    unsigned n;      /* rotation width: min(512, next power of two >= dim), at least 32 */
    unsigned k;      /* concatenated hashes, each an argmax over its own block of width w: k * w <= n */
    unsigned w;      /* argmax width, power of two >= 4 */
    unsigned rounds; /* rotations, 1 .. 3 */
    unsigned sketch; /* values of the sketch: the first `sketch` rotated coordinates; 0 .. n, multiple of 32 */
    uint32_t combine;     /* id = id * combine + code, over the blocks: 2 w where k codes fit 32 bits, else a mixing odd constant */
    float target;         /* rms that a row is scaled to: 31744 / n, so that no sum below can leave int16 */
    uint32_t *fold_signs; /* bit i: sign of value i (1 = minus); xp_sign_words(dim) words */
    uint16_t *fold_flips; /* the same as 0x8000 or 0, one for each value, zeros up to a multiple of 512 */
    int16_t *round_scale; /* [rounds - 1][n]: +-c, c = round(2^15 / sqrt(n)): rescale and flip between rotations */
    float *fold_mean;     /* [n] folded mean row, subtracted after folding; zeros when not centred */
    void *memory;         /* the one block that all tables lie in */
};

/*
 * hash: bucket id and sketch of every row. in->dim equals h->dim; the type is any but XP_BYTE. Steps, each exact:
 *   1 fold     f[j] = sum over q of +-x[j + q n], in increasing q, in f32, minus fold_mean[j]
 *   2 scale    e = (lane sum of f[j]^2) / n; s = target / sqrt(e); r[j] = round-to-nearest-even(f[j] * s) as int16
 *   3 rotate   r <- H r; for further rounds r <- H ((r * scale + 2^14) >> 15)
 *   4 argmax   per block b of w coordinates, r[b w] .. : index of the largest |r|, lowest index wins;
 *              code = 2 * index + (r < 0); id = id * combine + code, block 0 first
 * With e normal and finite, |r| stays below 32767 in every step (sqrt(n) * |r| bounds a rotation), so nothing wraps.
 * A row whose e is not finite or below FLT_MIN (2^-126) gets id XP_HASH_NONE and an all-zero sketch.
 *   ids NULL or [rows]; sketch NULL or [rows][h->sketch], any alignment. Exact.
 */
typedef void (*xp_hash_fn)(const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch);

/* assign: nearest of K >= 1 centroids for n sketches of s values (multiple of 32, at most 512): smallest sum of
 * (a - c)^2 modulo 2^32; lowest index wins. (|a| < 2^15 for what hash makes and for means of it, so that there the
 * modulo never bites.) Exact. */
typedef void (*xp_assign_fn)(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *assign);

/* assign_listed: the same where row r may be assigned to count centroids only, whose numbers are in list, any order: assign[r] is such a
 * number, the first in list of equally near ones. count >= 1. Exact. */
typedef void (*xp_assign_listed_fn)(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t count,
                                    uint32_t *assign);

/* distances: out[r * K + k] = that sum for sketch r and centroid k. Exact. */
typedef void (*xp_distances_fn)(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *out);

/* closest: numbers of the `most` (at most XP_MOST_CLOSEST) smallest of n distances, n <= 65536, smaller ones before others and lower numbers before
 * others of equal ones; all n where there are no more. Exact. */
#define XP_MOST_CLOSEST 32
typedef void (*xp_closest_fn)(const uint32_t *d, size_t n, unsigned most, uint16_t *out);

/* sketch_mean: floor(sum / n + 1/2) of every value of the n >= 1 sketches order[0 .. n). Exact. */
typedef void (*xp_sketch_mean_fn)(const int16_t *sketch, unsigned s, const uint32_t *order, size_t n, int16_t *out);

/* ---- block-rotated quantisers ----------------------------------------------------------------------------------
 * A row is cut into blocks of 128 values; the last block has next_power_of_two(rest) values, at least 8, zero-padded.
 * Each block: random signs, Hadamard, one bf16 step, integer codes. Bytes: hash/FORMAT.md; how they are chosen: qblock.c.
 */
#define XP_QBLOCK 128

/* Row formats; the numbers are part of the wire format; those that may be allowed or not fit a 16-bit set. INT25 is 2.5 bits a value, and so on. */
enum xp_qformat {
    XP_Q_RAW = 0,
    XP_Q_INT75 = 1,
    XP_Q_INT2 = 2,
    XP_Q_INT3 = 3,
    XP_Q_INT4 = 4,
    XP_Q_INT5 = 5,
    XP_Q_INT6 = 6,
    XP_Q_INT7 = 7,
    XP_Q_INT8 = 8,
    XP_Q_FP8 = 9,
    XP_Q_ZERO = 10,
    XP_Q_INT25 = 11,
    XP_Q_INT35 = 12,
    XP_Q_INT45 = 13,
    XP_Q_INT55 = 14,
    XP_Q_INT65 = 15,
    XP_Q_BASE = 16 /* no bytes: the row is its base (the mean row, a centroid) */
};
#define XP_Q_ALL_INTS 0xf9feu /* the set of all INT formats */

struct xp_quantiser {
    size_t dim;
    uint32_t *signs; /* bit i: sign of value i; padded like fold_signs */
    int base_is_usual; /* the base that dequantise is given has no values between 0 and 2^-100; 0: it may have some */
};

/* Bytes of one quantised row (a function of dim and format alone); for XP_Q_RAW use the row's own size. */
size_t xp_qrow_bytes(enum xp_qformat f, size_t dim);

/* quantise: res (f32, finite; only dim values are read) to the xp_qrow_bytes of format f. A block whose sum of |x| is not within
 * [2^-100, 2^100] becomes zeros. Exact (equal bytes on every variant). */
typedef void (*xp_quantise_fn)(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out);

/* dequantise: bytes of format f to row[i] = round_to_type(value[i] + base[i]) (base NULL: none; base is finite). Any bytes are
 * accepted. Exact. */
typedef void (*xp_dequantise_fn)(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, void *row);

/* ---- values in another order (codec book) ----------------------------------------------------------------------------- */

#define XP_REORDER_WINDOW 256

/* reorder: out[w + i] = in[w + index[w + i]] for every window of 256 values that begins at w (the last may be shorter, its
 * indices are below its length). size: bytes of a value, 2 or 4; any alignment. out does not overlap. Exact. */
typedef void (*xp_reorder_fn)(const void *in, const uint8_t *index, size_t n, size_t size, void *out);

/* ---- uniform quantiser, one step per row (codec book) ---------------------------------------------------------------
 * x: f32 values in groups of 16, zeros behind the last; finite. "16-lane sum" of f(0) ..: element i is added to partial
 * i % 16, in increasing i; then partials p and p + 8, p + 4, p + 2, p + 1 are added pairwise.
 */

/* vector_dots: for each of `count` vectors that begin `stride` values apart, out[j] = 16-lane sum of a[i] * b[j * stride + i]. Exact. */
typedef void (*xp_vector_dots_fn)(const float *a, const float *b, size_t stride, size_t count, size_t groups, float *out);

/* vector_adds: for each vector in turn whose factor is not 0, a[i] += factor[j] * b[j * stride + i]. Exact. */
typedef void (*xp_vector_adds_fn)(float *a, const float *b, size_t stride, const float *factor, size_t count, size_t groups);

/* uniform_spread: 16-lane sum of (x[i] * weight[i / 16])^2. Exact. */
typedef float (*xp_uniform_spread_fn)(const float *x, size_t groups, const float *weight);

/* A row, by channel, that is to be coded, in the order of index (kernel reorder) and less base. base and mean are in that order, with zeros
 * up to whole groups. */
struct xp_uniform_view {
    const void *row;
    xp_dtype dtype;
    size_t dim;
    const uint8_t *index;    /* 32 bytes behind the last may be read */
    const float *base, *mean, *weight; /* mean: NULL: to_mean is not asked for; weight: one for each group */
    const void *row_ahead;   /* what comes next, which may be fetched; NULL: nothing */
    const float *base_ahead;
};

struct xp_uniform_sums {
    float row;     /* as distance of the row from nothing */
    float rest;    /* as energy of rest */
    float to_mean; /* as energy of what would be left beyond the mean */
    float spread;  /* uniform_spread of rest */
};

/* uniform_view: typed = what reorder makes of the row; rest = what residual makes of that, with zeros up to whole groups; sums. Exact,
 * but for which NaN. */
typedef void (*xp_uniform_view_fn)(const struct xp_uniform_view *v, void *typed, float *rest, struct xp_uniform_sums *sums);

/* uniform_dither: out[i] = (2 b - 255) / 512, b being byte i % 16 (words little endian) of the Philox block (signs.h) of this key and
 * counter {i / 16, row, row >> 32, 1}. There is room for 16 groups more than asked for, which may be written. Exact. */
#define XP_DITHER_ROOM 256 /* values behind the last */
typedef void (*xp_uniform_dither_fn)(uint64_t key, uint64_t row, size_t groups, float *out);

/* The integer of a value: sign(v) * trunc(min(|v| + bias[group], 30000)), v = x * inverse + dither (dither NULL: without); bias is 0.5
 * or a little less.
 * uniform_error: 16-lane sum of (|v| - |integer|)^2: the squared error in squared steps. Exact. */
typedef float (*xp_uniform_error_fn)(const float *x, size_t groups, float inverse, const float *bias, const float *dither);

/* A row to be quantised with one step. Behind its values, up to whole groups, x and base have zeros, dither (NULL: without) has any values. */
struct xp_uniform_row {
    const float *x, *bias, *dither, *base; /* base: finite, as are x and base + x */
    float step, inverse;
    xp_dtype dtype;
    size_t dim;
    const void *row; /* what is coded: base + x, about; any alignment */
};

/* uniform_code: q gets the integers of whole groups; returns the squared error of the row that uniform_restore makes of them, as kernel
 * distance has it. Exact, but for which NaN. */
typedef float (*xp_uniform_code_fn)(const struct xp_uniform_row *r, int16_t *q);

/* uniform_restore: row[i] = round_to_type((q[i] - dither[i]) * step + base[i]), n values. q, base and dither may be read up to the
 * next multiple of 16. Any alignment of row. Exact. */
typedef void (*xp_uniform_restore_fn)(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row);

/* ---- entropy coding (rans.h) -------------------------------------------------------------------------------------- */

/* Rows given together are coded side by side where that is faster: the more of them share one array of classes, the
 * better. */

/* rans_encode: `count` rows of n integers each to bytes (FORMAT.md). Exact. */
struct xp_rans_source;
typedef void (*xp_rans_encode_fn)(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes);

/* rans_decode: `count` rows of n integers each back. Any bytes are safe: s->ok says whether they are a row. Exact where
 * ok. */
struct xp_rans_stream;
typedef void (*xp_rans_decode_fn)(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes);

/* deviation: the distance between `row` and what dequantise would write. scratch: room for a row of this type, may be
 * written. Exact, but for which NaN. */
typedef float (*xp_deviation_fn)(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t,
                                 const void *row, void *scratch);

/* A row that is to be coded. */
struct xp_code_row {
    const void *row;
    xp_dtype type;
    const float *base; /* NULL: none */
    const void *ahead; /* the row that will be coded next, which may be fetched; NULL: none */
    float *residual;   /* room for what residual_sums writes, */
    void *scratch;     /* and for a row of this type: both may be written */
    const void *typed_base; /* the base in the row's type, where that is exactly what it is; NULL: there is none, or it is not */
    void *decoded;     /* gets what dequantise makes of the coded row; NULL: nobody asks */
};

/* What every format of a row is made from: row - base as rotated integers, block by block (qblock.c). Only kernels of one table
 * understand each other: the order within a block is theirs. There is room for a multiple of 16 blocks. */
struct xp_rotated {
    int16_t *h;                 /* [blocks][XP_QBLOCK] */
    float *scale;               /* [blocks] 0: the block is zeros */
    int32_t *energy, *largest;  /* [blocks] struct xp_qstats */
};

/*
 * rotate: makes `to` of row - base; sums as residual_sums gives them. A row with values that are not finite is accepted; then only
 * that a sum is not finite means anything.
 * forecast: about the squared error that format f leaves, less what rounding to the row's type adds to it or takes off; of values in a
 * padded block only what is certain, and 0 for FP8.
 * code: the rotated row in format f at out, and decoded where that is asked for. Returns its deviation from the row.
 * Exact.
 */
typedef void (*xp_rotate_fn)(const struct xp_quantiser *q, const struct xp_code_row *r, const struct xp_rotated *to, float sums[2]);
typedef double (*xp_forecast_fn)(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from);
typedef float (*xp_code_fn)(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r,
                            uint8_t *out);

/* ---- the table ---------------------------------------------------------------------------------------------------- */
struct xp_kernels {
    size_t size;
    const char *isa; /* "c", "avx2", "avx512", "avx512bf16": the highest variant in it */
    xp_energy_fn energy;
    xp_distance_fn distance;
    xp_residual_fn residual;
    xp_residual_sums_fn residual_sums;
    xp_restore_fn restore;
    xp_mean_add_fn mean_add;
    xp_centroid_fn centroid;
    xp_means_fn means;
    xp_fold_sums_fn fold_sums;
    xp_row_sum_fn row_sum;
    xp_fht_i16_fn fht_i16;
    xp_fht_i32_fn fht_i32;
    xp_hash_fn hash;
    xp_assign_fn assign;
    xp_assign_listed_fn assign_listed;
    xp_distances_fn distances;
    xp_closest_fn closest;
    xp_sketch_mean_fn sketch_mean;
    xp_quantise_fn quantise;
    xp_dequantise_fn dequantise;
    xp_deviation_fn deviation;
    xp_rotate_fn rotate;
    xp_forecast_fn forecast;
    xp_code_fn code;
    xp_reorder_fn reorder;
    xp_vector_dots_fn vector_dots;
    xp_vector_adds_fn vector_adds;
    xp_uniform_spread_fn uniform_spread;
    xp_uniform_view_fn uniform_view;
    xp_uniform_dither_fn uniform_dither;
    xp_uniform_error_fn uniform_error;
    xp_uniform_code_fn uniform_code;
    xp_uniform_restore_fn uniform_restore;
    xp_rans_encode_fn rans_encode;
    xp_rans_decode_fn rans_decode;
};

/* avx512: F, BW, VL and DQ; avx512bf16: BF16, VNNI, VBMI, VBMI2 and GFNI, too. */
enum xp_isa { XP_ISA_C = 0, XP_ISA_AVX2 = 1, XP_ISA_AVX512 = 2, XP_ISA_AVX512BF16 = 3, XP_ISA_BEST = XP_ISA_AVX512BF16 };

/* Highest isa of this CPU (cpu.c). */
enum xp_isa xp_cpu_isa(void);

/* Fills k: C entries, then those of every isa up to min(max, this CPU's). */
void xp_kernels_init(struct xp_kernels *k, enum xp_isa max);

/* Parses "c", "avx2", "avx512", "avx512bf16" (NULL or "auto": the CPU's best). Returns -1 when unknown, -2 when this CPU lacks it. */
int xp_isa_parse(const char *text);
const char *xp_isa_name(enum xp_isa isa);

#endif
