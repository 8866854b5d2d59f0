/*
 * means_avx2.c - mean rows of clusters, as rows, with AVX2
 *
 * A row may be in many clusters, and those of a cluster lie anywhere. So a few columns are done for all clusters before the next few: those of
 * all rows fit the second cache. They are copied as f32; of bf16 as they are, which is half as much to load for every cluster, and then the even
 * values and the odd ones are summed apart.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/rows_avx2.h"

#include <string.h>

#define RUN 4096 /* rows summed before the sum joins the total (centroid.c) */
#define VECTORS (XP_TILE / 8)
#define AHEAD 8 /* rows */

XP_INLINE void load_tile(const struct xp_rows *in, const xp_dtype t, const size_t size, size_t first, float *work)
{
    const size_t bytes = in->dim * size;
    const char *row = (const char *)in->data + first * size;

    for (size_t r = 0; r < in->rows; r++, row += bytes) {
        _mm_prefetch(row + AHEAD * bytes, _MM_HINT_T0);
        XP_UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            _mm256_store_ps(work + r * XP_TILE + v * 8, xp_load256(row + v * 8 * size, t));
    }
}

/* The mean of the rows order[0 .. count), count > 1. */
XP_INLINE void mean_tile(const uint32_t *order, size_t count, const xp_dtype t, const size_t size, const float *work, char *out)
{
    const __m256 n = _mm256_set1_ps((float)count);
    __m256 total[VECTORS];

    XP_UNROLL
    for (size_t v = 0; v < VECTORS; v++)
        total[v] = _mm256_setzero_ps();
    for (size_t r = 0; r < count; r += RUN) {
        __m256 sum[VECTORS];

        XP_UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            sum[v] = _mm256_setzero_ps();
        for (size_t q = r; q < count && q < r + RUN; q++)
            XP_UNROLL
            for (size_t v = 0; v < VECTORS; v++)
                sum[v] = _mm256_add_ps(sum[v], _mm256_load_ps(work + (size_t)order[q] * XP_TILE + v * 8));
        XP_UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            total[v] = _mm256_add_ps(total[v], sum[v]);
    }
    XP_UNROLL
    for (size_t v = 0; v < VECTORS; v += 2)
        xp_store16_256(out + v * 8 * size, t, _mm256_div_ps(total[v], n), _mm256_div_ps(total[v + 1], n));
}

XP_INLINE size_t mean_tiles(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, const xp_dtype t, const size_t size,
                            float *work, char *out)
{
    size_t first = 0;

    for (; first + XP_TILE <= in->dim; first += XP_TILE) {
        load_tile(in, t, size, first, work);
        for (size_t k = 0; k < K; k++) {
            const size_t count = start[k + 1] - start[k];
            char *to = out + (k * in->dim + first) * size;

            if (count == 1)
                memcpy(to, (const char *)in->data + (order[start[k]] * in->dim + first) * size, XP_TILE * size);
            else if (count == 0)
                memset(to, 0, XP_TILE * size);
            else
                mean_tile(order + start[k], count, t, size, work, to);
        }
    }
    return first;
}

/* ---- bf16 ------------------------------------------------------------------------------------------------------------------ */

#define PAIRS (XP_TILE * 2 / 16) /* vectors of 16 values in the scratch of a row */
#define COLUMNS (PAIRS * 16)

XP_INLINE void load_tile_bf16(const struct xp_rows *in, size_t first, __m256i *work)
{
    const size_t bytes = in->dim * 2;
    const char *row = (const char *)in->data + first * 2;

    for (size_t r = 0; r < in->rows; r++, row += bytes, work += PAIRS) {
        XP_UNROLL
        for (size_t v = 0; v < PAIRS; v += 2)
            _mm_prefetch(row + AHEAD * bytes + v * 32, _MM_HINT_T0);
        XP_UNROLL
        for (size_t v = 0; v < PAIRS; v++)
            _mm256_store_si256(work + v, _mm256_loadu_si256((const __m256i *)row + v));
    }
}

XP_INLINE __m256 even_values(__m256i w)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}

XP_INLINE __m256 odd_values(__m256i w)
{
    return _mm256_castsi256_ps(_mm256_andnot_si256(_mm256_set1_epi32(0xffff), w));
}

struct bf16_sums {
    __m256 even[PAIRS], odd[PAIRS];
};

XP_INLINE void add_row_bf16(struct bf16_sums *sum, const __m256i *row)
{
    XP_UNROLL
    for (size_t v = 0; v < PAIRS; v++) {
        const __m256i w = _mm256_load_si256(row + v);

        sum->even[v] = _mm256_add_ps(sum->even[v], even_values(w));
        sum->odd[v] = _mm256_add_ps(sum->odd[v], odd_values(w));
    }
}

XP_INLINE void add_sums_bf16(struct bf16_sums *total, const struct bf16_sums *sum)
{
    XP_UNROLL
    for (size_t v = 0; v < PAIRS; v++) {
        total->even[v] = _mm256_add_ps(total->even[v], sum->even[v]);
        total->odd[v] = _mm256_add_ps(total->odd[v], sum->odd[v]);
    }
}

/* The sum of more than RUN rows. */
static __attribute__((noinline)) struct bf16_sums sum_runs_bf16(const uint32_t *order, size_t count, const __m256i *work)
{
    struct bf16_sums total = {0};

    for (size_t r = 0; r < count; r += RUN) {
        struct bf16_sums sum = {0};

        for (size_t q = r; q < count && q < r + RUN; q++)
            add_row_bf16(&sum, work + (size_t)order[q] * PAIRS);
        add_sums_bf16(&total, &sum);
    }
    return total;
}

XP_INLINE void mean_tile_bf16(const uint32_t *order, size_t count, const __m256i *work, char *out)
{
    const __m256 n = _mm256_set1_ps((float)count);
    struct bf16_sums sum = {0};

    if (count <= RUN)
        for (size_t q = 0; q < count; q++)
            add_row_bf16(&sum, work + (size_t)order[q] * PAIRS);
    else
        sum = sum_runs_bf16(order, count, work);
    XP_UNROLL
    for (size_t v = 0; v < PAIRS; v++) {
        const __m256i even = _mm256_srli_epi32(xp_round_bf16_any256(_mm256_div_ps(sum.even[v], n)), 16);
        const __m256i odd = xp_round_bf16_any256(_mm256_div_ps(sum.odd[v], n));

        _mm256_storeu_si256((__m256i *)out + v, _mm256_blend_epi16(even, odd, 0xaa));
    }
}

static size_t mean_tiles_bf16(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, __m256i *work, char *out)
{
    size_t first = 0;

    for (; first + COLUMNS <= in->dim; first += COLUMNS) {
        load_tile_bf16(in, first, work);
        for (size_t k = 0; k < K; k++) {
            const size_t count = start[k + 1] - start[k];
            char *to = out + (k * in->dim + first) * 2;

            if (count == 1)
                memcpy(to, work + (size_t)order[start[k]] * PAIRS, COLUMNS * 2);
            else if (count == 0)
                memset(to, 0, COLUMNS * 2);
            else
                mean_tile_bf16(order + start[k], count, work, to);
        }
    }
    return first;
}

/* ---- any type -------------------------------------------------------------------------------------------------------------- */

void xp_means_avx2(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *work, void *out)
{
    const size_t done = in->dtype == XP_BF16  ? mean_tiles_bf16(in, order, start, K, (__m256i *)work, out)
                        : in->dtype == XP_F16 ? mean_tiles(in, order, start, K, XP_F16, 2, work, out)
                                              : mean_tiles(in, order, start, K, XP_F32, 4, work, out);

    if (done < in->dim)
        xp_means_columns(in, order, start, K, done, out);
}
