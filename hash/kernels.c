/*
 * kernels.c - fills the kernel table: C first, then what the CPU can do better; the names of the instruction sets
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config.h"
#include "hash/variants.h"

#include <string.h>

static const char *const isa_names[] = {"c", "avx2", "avx512", "avx512bf16"};

static void fill_c(struct xp_kernels *k)
{
    k->fht_i16 = xp_fht_i16_c;
    k->fht_i32 = xp_fht_i32_c;
    k->energy = xp_energy_c;
    k->distance = xp_distance_c;
    k->residual = xp_residual_c;
    k->residual_sums = xp_residual_sums_c;
    k->restore = xp_restore_c;
    k->mean_add = xp_mean_add_c;
    k->centroid = xp_centroid_c;
    k->means = xp_means_c;
    k->fold_sums = xp_fold_sums_c;
    k->row_sum = xp_row_sum_c;
    k->hash = xp_hash_c;
    k->assign = xp_assign_c;
    k->assign_listed = xp_assign_listed_c;
    k->distances = xp_distances_c;
    k->closest = xp_closest_c;
    k->sketch_mean = xp_sketch_mean_c;
    k->quantise = xp_quantise_c;
    k->dequantise = xp_dequantise_c;
    k->deviation = xp_deviation_c;
    k->rotate = xp_rotate_c;
    k->forecast = xp_forecast_c;
    k->code = xp_code_c;
    k->reorder = xp_reorder_c;
    k->vector_dots = xp_vector_dots_c;
    k->vector_adds = xp_vector_adds_c;
    k->uniform_spread = xp_uniform_spread_c;
    k->uniform_view = xp_uniform_view_c;
    k->uniform_dither = xp_uniform_dither_c;
    k->uniform_error = xp_uniform_error_c;
    k->uniform_code = xp_uniform_code_c;
    k->uniform_restore = xp_uniform_restore_c;
    k->rans_encode = xp_rans_encode_c;
    k->rans_decode = xp_rans_decode_c;
}

#if XP_ARCH_X86_64
static void fill_avx2(struct xp_kernels *k)
{
    k->reorder = xp_reorder_avx2;
    k->vector_dots = xp_vector_dots_avx2;
    k->vector_adds = xp_vector_adds_avx2;
    k->uniform_spread = xp_uniform_spread_avx2;
    k->uniform_view = xp_uniform_view_avx2;
    k->uniform_dither = xp_uniform_dither_avx2;
    k->uniform_error = xp_uniform_error_avx2;
    k->uniform_code = xp_uniform_code_avx2;
    k->uniform_restore = xp_uniform_restore_avx2;
    k->rans_encode = xp_rans_encode_avx2;
    k->rans_decode = xp_rans_decode_avx2;
    k->fht_i16 = xp_fht_i16_avx2;
    k->fht_i32 = xp_fht_i32_avx2;
    k->hash = xp_hash_avx2;
    k->means = xp_means_avx2;
    k->fold_sums = xp_fold_sums_avx2;
    k->row_sum = xp_row_sum_avx2;
    k->assign = xp_assign_avx2;
    k->assign_listed = xp_assign_listed_avx2;
    k->distances = xp_distances_avx2;
    k->closest = xp_closest_avx2;
    k->sketch_mean = xp_sketch_mean_avx2;
    k->energy = xp_energy_avx2;
    k->distance = xp_distance_avx2;
    k->residual = xp_residual_avx2;
    k->residual_sums = xp_residual_sums_avx2;
    k->restore = xp_restore_avx2;
    k->mean_add = xp_mean_add_avx2;
    k->centroid = xp_centroid_avx2;
    k->quantise = xp_quantise_avx2;
    k->dequantise = xp_dequantise_avx2;
    k->deviation = xp_deviation_avx2;
    k->rotate = xp_rotate_avx2;
    k->forecast = xp_forecast_avx2;
    k->code = xp_code_avx2;
}

static void fill_avx512(struct xp_kernels *k)
{
    k->fht_i16 = xp_fht_i16_avx512;
    k->fht_i32 = xp_fht_i32_avx512;
    k->energy = xp_energy_avx512;
    k->distance = xp_distance_avx512;
    k->residual = xp_residual_avx512;
    k->residual_sums = xp_residual_sums_avx512;
    k->restore = xp_restore_avx512;
    k->mean_add = xp_mean_add_avx512;
    k->centroid = xp_centroid_avx512;
    k->hash = xp_hash_avx512;
    k->means = xp_means_avx512;
    k->assign = xp_assign_avx512;
    k->assign_listed = xp_assign_listed_avx512;
    k->distances = xp_distances_avx512;
    k->closest = xp_closest_avx512;
    k->sketch_mean = xp_sketch_mean_avx512;
    k->quantise = xp_quantise_avx512;
    k->dequantise = xp_dequantise_avx512;
    k->deviation = xp_deviation_avx512;
    k->rotate = xp_rotate_avx512;
    k->forecast = xp_forecast_avx512;
    k->code = xp_code_avx512;
    k->reorder = xp_reorder_avx512;
    k->vector_dots = xp_vector_dots_avx512;
    k->vector_adds = xp_vector_adds_avx512;
    k->uniform_spread = xp_uniform_spread_avx512;
    k->uniform_view = xp_uniform_view_avx512;
    k->uniform_dither = xp_uniform_dither_avx512;
    k->uniform_error = xp_uniform_error_avx512;
    k->uniform_code = xp_uniform_code_avx512;
    k->uniform_restore = xp_uniform_restore_avx512;
    k->rans_encode = xp_rans_encode_avx512;
    k->rans_decode = xp_rans_decode_avx512;
}

static void fill_avx512bf16(struct xp_kernels *k)
{
    k->dequantise = xp_dequantise_avx512bf16;
    k->rotate = xp_rotate_avx512bf16;
    k->code = xp_code_avx512bf16;
    k->assign = xp_assign_avx512bf16;
    k->assign_listed = xp_assign_listed_avx512bf16;
    k->distances = xp_distances_avx512bf16;
    k->uniform_code = xp_uniform_code_avx512bf16;
    k->uniform_restore = xp_uniform_restore_avx512bf16;
    k->rans_encode = xp_rans_encode_avx512bf16;
    k->rans_decode = xp_rans_decode_avx512bf16;
}
#else
static void fill_avx2(struct xp_kernels *k)
{
}

static void fill_avx512(struct xp_kernels *k)
{
}

static void fill_avx512bf16(struct xp_kernels *k)
{
}
#endif

void xp_kernels_init(struct xp_kernels *k, enum xp_isa max)
{
    const enum xp_isa best = xp_cpu_isa();
    const enum xp_isa isa = max < best ? max : best;

    *k = (struct xp_kernels){.size = sizeof(*k), .isa = xp_isa_name(isa)};
    fill_c(k);
    if (isa >= XP_ISA_AVX2)
        fill_avx2(k);
    if (isa >= XP_ISA_AVX512)
        fill_avx512(k);
    if (isa >= XP_ISA_AVX512BF16)
        fill_avx512bf16(k);
}

const char *xp_isa_name(enum xp_isa isa)
{
    return (unsigned)isa < sizeof(isa_names) / sizeof(isa_names[0]) ? isa_names[isa] : "unknown";
}

int xp_isa_parse(const char *text)
{
    const enum xp_isa best = xp_cpu_isa();

    if (!text || !strcmp(text, "auto"))
        return best;
    for (int i = XP_ISA_C; i <= XP_ISA_BEST; i++)
        if (!strcmp(text, isa_names[i]))
            return i <= (int)best ? i : -2;
    return -1;
}
