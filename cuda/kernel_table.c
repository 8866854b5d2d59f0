/*
 * kernel_table.c - the kernels that device plans use, as a table
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cuda/cuda_kernels.h"

const struct xp_cuda_table xp_cuda_table = {
    .means = xp_cuda_means,
    .frame_signs = xp_cuda_frame_signs,
    .signs_of_seeds = xp_cuda_signs_of_seeds,
    .row_encode = xp_cuda_row_encode,
    .row_decode = xp_cuda_row_decode,
    .pack_scratch = xp_cuda_pack_scratch,
    .pack = xp_cuda_pack,
    .row_copies_scratch = xp_cuda_row_copies_scratch,
    .row_copies = xp_cuda_row_copies,
    .rows_gather = xp_cuda_rows_gather,
    .rows_sums = xp_cuda_rows_sums,
    .row_spread = xp_cuda_row_spread,
    .decode_sums = xp_cuda_decode_sums,
    .rows_dots = xp_cuda_rows_dots,
    .hasher_bytes = xp_cuda_hasher_bytes,
    .hasher = xp_cuda_hasher,
    .hash = xp_cuda_hash,
    .centroid = xp_cuda_centroid,
    .mean_rows = xp_cuda_mean_rows,
    .row_distances = xp_cuda_row_distances,
    .fold_combine = xp_cuda_fold_combine,
    .fold_combine_backward = xp_cuda_fold_combine_backward,
    .fold_dispatch_backward = xp_cuda_fold_dispatch_backward,
    .fold_products = xp_cuda_fold_products,
};
