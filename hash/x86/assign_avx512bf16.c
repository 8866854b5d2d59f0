/*
 * assign_avx512bf16.c - nearest centroid of a sketch with AVX-512 and its VNNI, whose sums of products need no addition
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <immintrin.h>

#define ADD_PRODUCTS(sum, a, b) _mm512_dpwssd_epi32(sum, a, b)
#include "hash/x86/assign_avx512.h"

void xp_assign_avx512bf16(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *out)
{
    assign_rows(sketch, n, s, centroids, K, out);
}

void xp_assign_listed_avx512bf16(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t count,
                                 uint32_t *out)
{
    assign_listed_rows(sketch, n, s, centroids, list, count, out);
}

void xp_distances_avx512bf16(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *out)
{
    distances_rows(sketch, n, s, centroids, K, out);
}
