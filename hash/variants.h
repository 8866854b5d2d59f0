/*
 * variants.h - every variant of every kernel, by name; only kernels.c and tests/checkkernels need it
 *
 * Contracts: kernels.h. A variant may be called only on a CPU that xp_cpu_isa says is able.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_VARIANTS_H
#define XP_HASH_VARIANTS_H

#include "hash/kernels.h"

/* fht.c, x86/fht_*.c */
void xp_fht_i16_c(int16_t *x, unsigned log2n, size_t nrows);
void xp_fht_i16_avx2(int16_t *x, unsigned log2n, size_t nrows);
void xp_fht_i16_avx512(int16_t *x, unsigned log2n, size_t nrows);
void xp_fht_i32_c(int32_t *x, unsigned log2n, size_t nrows);
void xp_fht_i32_avx2(int32_t *x, unsigned log2n, size_t nrows);
void xp_fht_i32_avx512(int32_t *x, unsigned log2n, size_t nrows);

/* polytope.c, x86/polytope_*.c */
void xp_hash_c(const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch);
void xp_hash_avx2(const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch);
void xp_hash_avx512(const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch);

/* assign.c, x86/assign_*.c */
void xp_assign_c(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *assign);
void xp_assign_avx2(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *assign);
void xp_assign_avx512(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *assign);
void xp_assign_avx512bf16(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *assign);
void xp_assign_listed_c(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t count, uint32_t *assign);
void xp_assign_listed_avx2(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t count, uint32_t *assign);
void xp_assign_listed_avx512(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t count, uint32_t *assign);
void xp_assign_listed_avx512bf16(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t count,
                                 uint32_t *assign);
void xp_distances_c(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *out);
void xp_distances_avx2(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *out);
void xp_distances_avx512(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *out);
void xp_distances_avx512bf16(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *out);
void xp_closest_c(const uint32_t *d, size_t n, unsigned most, uint16_t *out);
void xp_closest_avx2(const uint32_t *d, size_t n, unsigned most, uint16_t *out);
void xp_closest_avx512(const uint32_t *d, size_t n, unsigned most, uint16_t *out);

/* sketch_mean.c, x86/sketch_mean_*.c */
void xp_sketch_mean_c(const int16_t *sketch, unsigned s, const uint32_t *order, size_t n, int16_t *out);
void xp_sketch_mean_avx2(const int16_t *sketch, unsigned s, const uint32_t *order, size_t n, int16_t *out);
void xp_sketch_mean_avx512(const int16_t *sketch, unsigned s, const uint32_t *order, size_t n, int16_t *out);

/* residual.c, x86/residual_*.c */
float xp_energy_c(const float *x, size_t n);
float xp_energy_avx2(const float *x, size_t n);
float xp_energy_avx512(const float *x, size_t n);
float xp_distance_c(const void *a, const void *b, xp_dtype t, size_t dim);
float xp_distance_avx2(const void *a, const void *b, xp_dtype t, size_t dim);
float xp_distance_avx512(const void *a, const void *b, xp_dtype t, size_t dim);
void xp_residual_c(const void *row, xp_dtype t, const float *base, size_t dim, float *out);
void xp_residual_avx2(const void *row, xp_dtype t, const float *base, size_t dim, float *out);
void xp_residual_avx512(const void *row, xp_dtype t, const float *base, size_t dim, float *out);
void xp_residual_sums_c(const void *row, xp_dtype t, const float *base, size_t dim, float *out, float sums[2]);
void xp_restore_c(const float *in, const float *base, size_t dim, xp_dtype t, void *row);
void xp_residual_sums_avx2(const void *row, xp_dtype t, const float *base, size_t dim, float *out, float sums[2]);
void xp_restore_avx2(const float *in, const float *base, size_t dim, xp_dtype t, void *row);
void xp_residual_sums_avx512(const void *row, xp_dtype t, const float *base, size_t dim, float *out, float sums[2]);
void xp_restore_avx512(const float *in, const float *base, size_t dim, xp_dtype t, void *row);
int xp_mean_add_c(const void *row, xp_dtype t, size_t dim, float most, const void *ahead, float *sum);
int xp_mean_add_avx2(const void *row, xp_dtype t, size_t dim, float most, const void *ahead, float *sum);
int xp_mean_add_avx512(const void *row, xp_dtype t, size_t dim, float most, const void *ahead, float *sum);

/* centroid.c, x86/centroid_*.c */
void xp_centroid_c(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *out);
void xp_centroid_avx2(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *out);
void xp_centroid_avx512(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *out);

/* means.c, x86/means_*.c; fold_sums.c, x86/fold_sums_avx2.c: caches set the pace of sums, so wider registers have no variant */
void xp_means_c(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *work, void *out);
void xp_means_avx2(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *work, void *out);
void xp_means_avx512(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *work, void *out);
void xp_fold_sums_c(const struct xp_fold_sums *s, const void *x, float *work, void *y);
void xp_fold_sums_avx2(const struct xp_fold_sums *s, const void *x, float *work, void *y);
/* The same of the columns from `first` on, without scratch. */
void xp_means_columns(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, size_t first, void *out);
void xp_fold_sums_columns(const struct xp_fold_sums *s, const void *x, size_t first, void *y);

/* row_sum.c, x86/row_sum_avx2.c: likewise */
void xp_row_sum_c(const struct xp_sum_term *terms, size_t n, xp_dtype t, size_t dim, void *row);
void xp_row_sum_avx2(const struct xp_sum_term *terms, size_t n, xp_dtype t, size_t dim, void *row);

/* quantise.c, x86/quantise_*.c */
void xp_quantise_c(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out);
void xp_quantise_avx2(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out);
void xp_quantise_avx512(const struct xp_quantiser *q, enum xp_qformat f, const float *res, uint8_t *out);
void xp_dequantise_c(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, void *row);
float xp_deviation_c(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, const void *row,
                     void *scratch);
void xp_dequantise_avx2(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, void *row);
float xp_deviation_avx2(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, const void *row,
                     void *scratch);
void xp_dequantise_avx512(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, void *row);
void xp_dequantise_avx512bf16(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, void *row);
float xp_deviation_avx512(const struct xp_quantiser *q, enum xp_qformat f, const uint8_t *in, const float *base, xp_dtype t, const void *row,
                     void *scratch);

/* quantise.c, x86/quantise_*.c, x86/rotate_avx512bf16.c, x86/code_avx512bf16.c */
void xp_rotate_c(const struct xp_quantiser *q, const struct xp_code_row *r, const struct xp_rotated *to, float sums[2]);
double xp_forecast_c(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from);
float xp_code_c(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r,
                uint8_t *out);
void xp_rotate_avx2(const struct xp_quantiser *q, const struct xp_code_row *r, const struct xp_rotated *to, float sums[2]);
double xp_forecast_avx2(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from);
float xp_code_avx2(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r,
                uint8_t *out);
void xp_rotate_avx512(const struct xp_quantiser *q, const struct xp_code_row *r, const struct xp_rotated *to, float sums[2]);
double xp_forecast_avx512(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from);
float xp_code_avx512(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r,
                uint8_t *out);
void xp_rotate_avx512bf16(const struct xp_quantiser *q, const struct xp_code_row *r, const struct xp_rotated *to, float sums[2]);
float xp_code_avx512bf16(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r,
                uint8_t *out);

/* reorder.c, x86/reorder_*.c */
void xp_reorder_c(const void *in, const uint8_t *index, size_t n, size_t size, void *out);
void xp_reorder_avx2(const void *in, const uint8_t *index, size_t n, size_t size, void *out);
void xp_reorder_avx512(const void *in, const uint8_t *index, size_t n, size_t size, void *out);

/* vector.c, x86/vector_*.c */
void xp_vector_dots_c(const float *a, const float *b, size_t stride, size_t count, size_t groups, float *out);
void xp_vector_adds_c(float *a, const float *b, size_t stride, const float *factor, size_t count, size_t groups);
void xp_vector_dots_avx2(const float *a, const float *b, size_t stride, size_t count, size_t groups, float *out);
void xp_vector_adds_avx2(float *a, const float *b, size_t stride, const float *factor, size_t count, size_t groups);
void xp_vector_dots_avx512(const float *a, const float *b, size_t stride, size_t count, size_t groups, float *out);
void xp_vector_adds_avx512(float *a, const float *b, size_t stride, const float *factor, size_t count, size_t groups);

/* uniform.c, x86/uniform_*.c; dither: dither.c, x86/dither_*.c */
float xp_uniform_spread_c(const float *x, size_t groups, const float *weight);
/* uniform_view kernel by kernel, for variants that have no pass of their own. */
struct xp_view_kernels {
    xp_distance_fn distance;
    xp_reorder_fn reorder;
    xp_residual_fn residual;
    xp_energy_fn energy;
    xp_uniform_spread_fn spread;
};
void xp_uniform_view_by(const struct xp_view_kernels *k, const struct xp_uniform_view *v, void *typed, float *rest, struct xp_uniform_sums *sums);
void xp_uniform_view_c(const struct xp_uniform_view *v, void *typed, float *rest, struct xp_uniform_sums *sums);
void xp_uniform_dither_c(uint64_t key, uint64_t row, size_t groups, float *out);
float xp_uniform_error_c(const float *x, size_t groups, float inverse, const float *bias, const float *dither);
float xp_uniform_code_c(const struct xp_uniform_row *r, int16_t *q);
void xp_uniform_restore_c(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row);

float xp_uniform_spread_avx2(const float *x, size_t groups, const float *weight);
void xp_uniform_view_avx2(const struct xp_uniform_view *v, void *typed, float *rest, struct xp_uniform_sums *sums);
void xp_uniform_dither_avx2(uint64_t key, uint64_t row, size_t groups, float *out);
float xp_uniform_error_avx2(const float *x, size_t groups, float inverse, const float *bias, const float *dither);
float xp_uniform_code_avx2(const struct xp_uniform_row *r, int16_t *q);
void xp_uniform_restore_avx2(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row);
float xp_uniform_spread_avx512(const float *x, size_t groups, const float *weight);
void xp_uniform_view_avx512(const struct xp_uniform_view *v, void *typed, float *rest, struct xp_uniform_sums *sums);
void xp_uniform_dither_avx512(uint64_t key, uint64_t row, size_t groups, float *out);
float xp_uniform_error_avx512(const float *x, size_t groups, float inverse, const float *bias, const float *dither);
float xp_uniform_code_avx512(const struct xp_uniform_row *r, int16_t *q);
void xp_uniform_restore_avx512(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row);
float xp_uniform_code_avx512bf16(const struct xp_uniform_row *r, int16_t *q);
void xp_uniform_restore_avx512bf16(const int16_t *q, const float *base, size_t n, float step, const float *dither, xp_dtype t, void *row);

/* rans.c, x86/rans_*.c */
void xp_rans_encode_c(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes);
void xp_rans_decode_c(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes);
void xp_rans_encode_avx2(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes);
void xp_rans_decode_avx2(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes);
void xp_rans_encode_avx512(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes);
void xp_rans_decode_avx512(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes);
void xp_rans_encode_avx512bf16(struct xp_rans_source *s, size_t count, size_t n, unsigned lanes);
void xp_rans_decode_avx512bf16(struct xp_rans_stream *s, size_t count, size_t n, unsigned lanes);

/* checksum.c chooses by itself; the result is the same. */
uint64_t xp_checksum_avx2(const void *data, size_t len);
void xp_checksum_update_avx2(void *state, const void *data, size_t len); /* state: XXH3_state_t */

#endif
