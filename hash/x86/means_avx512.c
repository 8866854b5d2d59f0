/*
 * means_avx512.c - mean rows of clusters, as rows, with AVX-512
 *
 * The rows of a cluster, fetched while those before it are summed, stay in the first cache for all of its columns. Values of 16 bits become
 * f32 in place, in pairs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/rows_avx512.h"

#include <string.h>

#define RUN 4096 /* rows summed before the sum joins the total (centroid.c) */
#define WIDE 256 /* bytes of a row that are summed at a time, */
#define VALUES 32 /* and values that make a pair of vectors */
#define AHEAD 4  /* rows */

XP_INLINE void mean_columns(const struct xp_rows *in, const uint32_t *order, size_t count, const xp_dtype t, const size_t size, size_t first,
                            const size_t pairs, char *out)
{
    const __m512 n = _mm512_set1_ps(count ? (float)count : 1.0f);
    const char *rows = (const char *)in->data + first * size;
    const size_t bytes = in->dim * size;
    struct xp_pair512 total[WIDE / 2 / VALUES], sum[WIDE / 2 / VALUES];

    XP_UNROLL
    for (size_t v = 0; v < pairs; v++)
        total[v] = (struct xp_pair512){_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (size_t r = 0; r < count; r += RUN) {
        XP_UNROLL
        for (size_t v = 0; v < pairs; v++)
            sum[v] = (struct xp_pair512){_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (size_t q = r; q < count && q < r + RUN; q++)
            XP_UNROLL
            for (size_t v = 0; v < pairs; v++) {
                const struct xp_pair512 x = xp_load_pair512(rows + order[q] * bytes + v * VALUES * size, t);

                sum[v].even = _mm512_add_ps(sum[v].even, x.even);
                sum[v].odd = _mm512_add_ps(sum[v].odd, x.odd);
            }
        XP_UNROLL
        for (size_t v = 0; v < pairs; v++) {
            total[v].even = _mm512_add_ps(total[v].even, sum[v].even);
            total[v].odd = _mm512_add_ps(total[v].odd, sum[v].odd);
        }
    }
    XP_UNROLL
    for (size_t v = 0; v < pairs; v++)
        xp_store_pair512(out + v * VALUES * size, t,
                         (struct xp_pair512){_mm512_div_ps(total[v].even, n), _mm512_div_ps(total[v].odd, n)});
}

XP_INLINE void prefetch_row(const struct xp_rows *in, uint32_t row, size_t bytes)
{
    for (size_t line = 0; line < bytes; line += 64)
        _mm_prefetch((const char *)in->data + row * bytes + line, _MM_HINT_T0);
}

/* Returns how many columns are done. */
XP_INLINE size_t mean_rows(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, const xp_dtype t, const size_t size,
                           char *out)
{
    const size_t pairs = WIDE / size / VALUES, bytes = in->dim * size, wide = in->dim / (pairs * VALUES) * (pairs * VALUES);
    const size_t done = in->dim / VALUES * VALUES;

    for (size_t k = 0; k < K; k++) {
        const uint32_t *rows = order + start[k];
        const size_t count = start[k + 1] - start[k];
        char *to = out + k * bytes;

        for (size_t q = start[k] + AHEAD; q < start[k + 1] + AHEAD && q < start[K]; q++)
            prefetch_row(in, order[q], bytes);
        if (count == 1) {
            memcpy(to, xp_row(in, rows[0]), done * size);
            continue;
        }
        for (size_t first = 0; first < wide; first += pairs * VALUES)
            mean_columns(in, rows, count, t, size, first, pairs, to + first * size);
        for (size_t first = wide; first < done; first += VALUES)
            mean_columns(in, rows, count, t, size, first, 1, to + first * size);
    }
    return done;
}

void xp_means_avx512(const struct xp_rows *in, const uint32_t *order, const uint32_t *start, size_t K, float *work, void *out)
{
    const size_t done = in->dtype == XP_BF16  ? mean_rows(in, order, start, K, XP_BF16, 2, out)
                        : in->dtype == XP_F16 ? mean_rows(in, order, start, K, XP_F16, 2, out)
                                              : mean_rows(in, order, start, K, XP_F32, 4, out);

    (void)work;
    if (done < in->dim)
        xp_means_columns(in, order, start, K, done, out);
}
