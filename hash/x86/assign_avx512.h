/*
 * assign_avx512.h - nearest centroid of a sketch with AVX-512, for files that say what ADD_PRODUCTS(sum, a, b) is: 32-bit sums of products of
 * 16-bit neighbours in a and b added to sum
 *
 * One row in each 32-bit lane: the sketches are transposed in pairs of values, so that a product with a broadcast pair of a centroid adds
 * two products to 16 rows at once and no sum has to be taken across lanes.
 * |a - c|^2 = |a|^2 + |c|^2 - 2 a c, all modulo 2^32 as the contract has it, so overflow of a part does no harm.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>
#include <string.h>

#define LANES 16
#define VECTORS 2 /* row vectors that share a broadcast */
#define BATCH 4   /* centroids that share a load of rows */
#define ROWS (LANES * VECTORS)
#define SQUARES 1024 /* norms of centroids that are kept; whole batches */
#define FEW 16 /* rows that would leave too many lanes empty */
#define MAX_PAIRS (XP_HASH_MAX_WIDTH / 2)

/* 16 vectors of 16 lanes of 32 bits: lane i of vector j and lane j of vector i change places. */
XP_INLINE void turn(__m512i v[LANES])
{
    __m512i t[LANES];

    XP_UNROLL
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    XP_UNROLL
    for (int i = 0; i < LANES; i += 4)
        XP_UNROLL
        for (int j = 0; j < 2; j++) {
            v[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            v[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    /* v[4 a + b]: lanes b, b + 4, .. of vectors 4 a to 4 a + 3 */
    XP_UNROLL
    for (int b = 0; b < 4; b++) {
        const __m512i low = _mm512_shuffle_i32x4(v[b], v[b + 4], 0x88), high = _mm512_shuffle_i32x4(v[b], v[b + 4], 0xdd);
        const __m512i low1 = _mm512_shuffle_i32x4(v[b + 8], v[b + 12], 0x88), high1 = _mm512_shuffle_i32x4(v[b + 8], v[b + 12], 0xdd);

        v[b] = _mm512_shuffle_i32x4(low, low1, 0x88);
        v[b + 8] = _mm512_shuffle_i32x4(low, low1, 0xdd);
        v[b + 4] = _mm512_shuffle_i32x4(high, high1, 0x88);
        v[b + 12] = _mm512_shuffle_i32x4(high, high1, 0xdd);
    }
}

/* rows[pair][row]: pairs of values of ROWS sketches; rows from n on repeat the last one. norm: |a|^2. */
static void transpose(const int16_t *sketch, size_t n, unsigned s, int32_t (*rows)[ROWS], uint32_t *norm)
{
    for (size_t r = 0; r < ROWS; r += LANES) {
        __m512i sum = _mm512_setzero_si512();

        for (unsigned p = 0; p < s / 2; p += LANES) {
            __m512i v[LANES];

            XP_UNROLL
            for (size_t i = 0; i < LANES; i++)
                v[i] = _mm512_loadu_si512(sketch + (r + i < n ? r + i : n - 1) * s + 2 * p);
            turn(v);
            XP_UNROLL
            for (size_t i = 0; i < LANES; i++) {
                _mm512_store_si512(rows[p + i] + r, v[i]);
                sum = _mm512_add_epi32(sum, _mm512_madd_epi16(v[i], v[i]));
            }
        }
        _mm512_storeu_si512(norm + r, sum);
    }
}

static uint32_t square_norm(const int16_t *c, unsigned s)
{
    __m512i sum = _mm512_setzero_si512();

    for (unsigned i = 0; i < s; i += 32) {
        const __m512i v = _mm512_loadu_si512(c + i);
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(v, v));
    }
    /* Not _mm512_reduce_add_epi32: the compiler's header adds in int, where wrapping is undefined. */
    const __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4E));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(q);
}

struct nearest {
    __m512i distance[VECTORS], index[VECTORS];
};

/* Dot products of ROWS rows with `count` centroids, whose |c|^2 are in square, and what they change about the nearest ones. */
XP_INLINE void try_centroids(int32_t (*rows)[ROWS], const uint32_t *norm, unsigned s, const int16_t *c, const uint32_t *square, size_t first,
                             const int count, struct nearest *best)
{
    __m512i dot[BATCH][VECTORS];

    XP_UNROLL
    for (int k = 0; k < count; k++)
        XP_UNROLL
        for (int v = 0; v < VECTORS; v++)
            dot[k][v] = _mm512_setzero_si512();
    for (unsigned p = 0; p < s / 2; p++) {
        __m512i a[VECTORS];
        XP_UNROLL
        for (int v = 0; v < VECTORS; v++)
            a[v] = _mm512_load_si512(rows[p] + v * LANES);
        XP_UNROLL
        for (int k = 0; k < count; k++) {
            int32_t pair;
            memcpy(&pair, c + (size_t)k * s + 2 * p, sizeof(pair));
            const __m512i b = _mm512_set1_epi32(pair);
            XP_UNROLL
            for (int v = 0; v < VECTORS; v++)
                dot[k][v] = ADD_PRODUCTS(dot[k][v], a[v], b);
        }
    }
    XP_UNROLL
    for (int k = 0; k < count; k++) {
        const __m512i cc = _mm512_set1_epi32((int)square[k]);
        XP_UNROLL
        for (int v = 0; v < VECTORS; v++) {
            const __m512i sum = _mm512_add_epi32(_mm512_loadu_si512(norm + v * LANES), cc);
            const __m512i d = _mm512_sub_epi32(_mm512_sub_epi32(sum, dot[k][v]), dot[k][v]);
            const __mmask16 nearer = _mm512_cmplt_epu32_mask(d, best->distance[v]);
            best->distance[v] = _mm512_min_epu32(best->distance[v], d);
            best->index[v] = _mm512_mask_mov_epi32(best->index[v], nearer, _mm512_set1_epi32((int)(first + (size_t)k)));
        }
    }
}

XP_INLINE void assign_rows(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *assign)
{
    int32_t rows[MAX_PAIRS][ROWS] __attribute__((aligned(64)));
    uint32_t norm[ROWS], found[ROWS], squares[SQUARES];

    for (size_t k = 0; n > FEW && k < K && k < SQUARES; k++)
        squares[k] = square_norm(centroids + k * s, s);
    for (size_t r = 0; r < n; r += ROWS) {
        const size_t left = n - r < ROWS ? n - r : ROWS;
        struct nearest best;
        size_t k = 0;

        if (left <= FEW) {
            xp_assign_avx2(sketch + r * s, left, s, centroids, K, assign + r);
            return;
        }
        transpose(sketch + r * s, left, s, rows, norm);
        for (int v = 0; v < VECTORS; v++) {
            best.distance[v] = _mm512_set1_epi32(-1);
            best.index[v] = _mm512_setzero_si512();
        }
        for (; k + BATCH <= K; k += BATCH) {
            uint32_t own[BATCH];

            for (size_t i = 0; i < BATCH && k >= SQUARES; i++)
                own[i] = square_norm(centroids + (k + i) * s, s);
            try_centroids(rows, norm, s, centroids + k * s, k < SQUARES ? squares + k : own, k, BATCH, &best);
        }
        for (; k < K; k++) {
            const uint32_t own = square_norm(centroids + k * s, s);

            try_centroids(rows, norm, s, centroids + k * s, &own, k, 1, &best);
        }
        for (int v = 0; v < VECTORS; v++)
            _mm512_storeu_si512(found + v * LANES, best.index[v]);
        memcpy(assign + r, found, left * sizeof(*assign));
    }
}
