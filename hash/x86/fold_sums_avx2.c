/*
 * fold_sums_avx2.c - rows of the results of centroids with AVX2
 *
 * A centroid is in the rows of many tokens, which lie anywhere. So a few columns are done for all tokens before the next few: what they
 * take from every centroid is computed once, and fits the second cache.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/rows_avx2.h"

#define VECTORS (XP_TILE / 8)
#define AHEAD 8 /* rows */

/* Columns of result - alpha * centroid, cluster by cluster. */
XP_INLINE void load_tile(const struct xp_fold_sums *s, const xp_dtype t, const size_t size, size_t first, float *work)
{
    const size_t bytes = s->dim * size;
    const char *result = (const char *)s->results + first * size, *centroid = (const char *)s->centroids + first * size;

    for (size_t c = 0; c < s->clusters; c++, result += bytes, centroid += bytes) {
        const __m256 alpha = _mm256_set1_ps(s->alpha[c]);

        _mm_prefetch(result + AHEAD * bytes, _MM_HINT_T0);
        _mm_prefetch(centroid + AHEAD * bytes, _MM_HINT_T0);
        XP_UNROLL
        for (size_t v = 0; v < VECTORS; v++) {
            __m256 value = xp_load256(result + v * 8 * size, t);

            if (s->alpha[c] != 0.0f)
                value = _mm256_sub_ps(value, _mm256_mul_ps(alpha, xp_load256(centroid + v * 8 * size, t)));
            _mm256_store_ps(work + c * XP_TILE + v * 8, value);
        }
    }
}

XP_INLINE void sum_token(const struct xp_fold_sums *s, size_t token, const char *x, const xp_dtype t, const size_t size, const float *work, char *y)
{
    const __m256 scale = _mm256_set1_ps(s->scale[token]);
    __m256 sum[VECTORS];

    XP_UNROLL
    for (size_t v = 0; v < VECTORS; v++)
        sum[v] = s->scale[token] != 0.0f ? _mm256_mul_ps(scale, xp_load256(x + v * 8 * size, t)) : _mm256_setzero_ps();
    for (size_t slot = token * s->topk; slot < (token + 1) * s->topk; slot++) {
        const __m256 w = _mm256_set1_ps(s->weight[slot]);
        const float *value = work + (size_t)s->cluster_of[slot] * XP_TILE;

        if (s->cluster_of[slot] < 0)
            continue;
        XP_UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            sum[v] = _mm256_add_ps(sum[v], _mm256_mul_ps(w, _mm256_load_ps(value + v * 8)));
    }
    XP_UNROLL
    for (size_t v = 0; v < VECTORS; v += 2)
        xp_store16_256(y + v * 8 * size, t, sum[v], sum[v + 1]);
}

/* Sums wait for the second cache, and what the next columns of centroids are made of comes from memory: a share of it with every token. */
XP_INLINE void fetch_share(const struct xp_fold_sums *s, const size_t size, size_t first, size_t token)
{
    const size_t bytes = s->dim * size, end = (token + 1) * s->clusters / s->tokens;

    for (size_t c = token * s->clusters / s->tokens; c < end; c++) {
        _mm_prefetch((const char *)s->results + c * bytes + first * size, _MM_HINT_T0);
        _mm_prefetch((const char *)s->centroids + c * bytes + first * size, _MM_HINT_T0);
    }
}

XP_INLINE size_t sum_tiles(const struct xp_fold_sums *s, const void *x, const xp_dtype t, const size_t size, float *work, void *y)
{
    size_t first = 0;

    for (; first + XP_TILE <= s->dim; first += XP_TILE) {
        load_tile(s, t, size, first, work);
        for (size_t token = 0; token < s->tokens; token++) {
            const size_t at = (token * s->dim + first) * size;

            _mm_prefetch((const char *)x + at + AHEAD * s->dim * size, _MM_HINT_T0);
            fetch_share(s, size, first + XP_TILE, token);
            sum_token(s, token, (const char *)x + at, t, size, work, (char *)y + at);
        }
    }
    return first;
}

void xp_fold_sums_avx2(const struct xp_fold_sums *s, const void *x, float *work, void *y)
{
    const size_t done = s->dtype == XP_BF16  ? sum_tiles(s, x, XP_BF16, 2, work, y)
                        : s->dtype == XP_F16 ? sum_tiles(s, x, XP_F16, 2, work, y)
                                             : sum_tiles(s, x, XP_F32, 4, work, y);

    if (done < s->dim)
        xp_fold_sums_columns(s, x, done, y);
}
