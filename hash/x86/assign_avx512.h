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
#define FEW 16 /* rows that would leave too many lanes empty, and those that go through a list together */
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

/* Distances of ROWS rows from `count` centroids, whose |c|^2 are in square. */
XP_INLINE void measure(int32_t (*rows)[ROWS], const uint32_t *norm, unsigned s, const int16_t *c, const uint32_t *square, const int count,
                       __m512i dot[BATCH][VECTORS])
{
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
            dot[k][v] = _mm512_sub_epi32(_mm512_sub_epi32(sum, dot[k][v]), dot[k][v]);
        }
    }
}

/* What `count` centroids, whose |c|^2 are in square, change about the nearest ones of ROWS rows. */
XP_INLINE void try_centroids(int32_t (*rows)[ROWS], const uint32_t *norm, unsigned s, const int16_t *c, const uint32_t *square, size_t first,
                             const int count, struct nearest *best)
{
    __m512i d[BATCH][VECTORS];

    measure(rows, norm, s, c, square, count, d);
    XP_UNROLL
    for (int k = 0; k < count; k++)
        XP_UNROLL
        for (int v = 0; v < VECTORS; v++) {
            const __mmask16 nearer = _mm512_cmplt_epu32_mask(d[k][v], best->distance[v]);
            best->distance[v] = _mm512_min_epu32(best->distance[v], d[k][v]);
            best->index[v] = _mm512_mask_mov_epi32(best->index[v], nearer, _mm512_set1_epi32((int)(first + (size_t)k)));
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

/* ---- all distances ---------------------------------------------------------------------------------------------------------- */

/* Of `count` sketches from up to ROWS centroids, which are the rows here: K values from one sketch's to the next one's. */
XP_INLINE void put_distances(int32_t (*rows)[ROWS], const uint32_t *norm, unsigned s, const int16_t *sketch, const int count, size_t left, size_t K,
                             uint32_t *out)
{
    __m512i d[BATCH][VECTORS];
    uint32_t squares[BATCH];

    XP_UNROLL
    for (int i = 0; i < count; i++)
        squares[i] = square_norm(sketch + (size_t)i * s, s);
    measure(rows, norm, s, sketch, squares, count, d);
    XP_UNROLL
    for (int i = 0; i < count; i++)
        XP_UNROLL
        for (int v = 0; v < VECTORS; v++) {
            const size_t here = left < (size_t)v * LANES ? 0 : left - (size_t)v * LANES;
            const __mmask16 these = here < LANES ? (__mmask16)((1u << here) - 1) : 0xffff;
            _mm512_mask_storeu_epi32(out + (size_t)i * K + v * LANES, these, d[i][v]);
        }
}

XP_INLINE void distances_rows(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *out)
{
    int32_t rows[MAX_PAIRS][ROWS] __attribute__((aligned(64)));
    uint32_t norm[ROWS];

    for (size_t k = 0; k < K; k += ROWS) {
        const size_t left = K - k < ROWS ? K - k : ROWS;
        size_t r = 0;

        transpose(centroids + k * s, left, s, rows, norm);
        for (; r + BATCH <= n; r += BATCH)
            put_distances(rows, norm, s, sketch + r * s, BATCH, left, K, out + r * K + k);
        for (; r < n; r++)
            put_distances(rows, norm, s, sketch + r * s, 1, left, K, out + r * K + k);
    }
}

/* ---- centroids of a list -------------------------------------------------------------------------------------------------- */

/* Lanes 0 8 4 12, 1 9 5 13, 2 10 6 14, 3 11 7 15: the sums of lanes of v[0], v[1], and so on. */
XP_INLINE __m512i sums_of16(__m512i v[LANES])
{
    XP_UNROLL
    for (int i = 0; i < 8; i++)
        v[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[i], v[i + 8]), _mm512_unpackhi_epi32(v[i], v[i + 8]));
    XP_UNROLL
    for (int i = 0; i < 4; i++)
        v[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(v[i], v[i + 4]), _mm512_unpackhi_epi32(v[i], v[i + 4]));
    XP_UNROLL
    for (int i = 0; i < 2; i++)
        v[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(v[i], v[i + 2], 0x88), _mm512_shuffle_i32x4(v[i], v[i + 2], 0xdd));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(v[0], v[1], 0x88), _mm512_shuffle_i32x4(v[0], v[1], 0xdd));
}

/* Products of a with 16 centroids. */
XP_INLINE __m512i products16(const int16_t *a, const int16_t *const c[LANES], const unsigned s)
{
    __m512i v[LANES];

    XP_UNROLL
    for (int k = 0; k < LANES; k++)
        v[k] = ADD_PRODUCTS(_mm512_setzero_si512(), _mm512_loadu_si512(a), _mm512_loadu_si512(c[k]));
    for (unsigned i = 32; i < s; i += 32) {
        const __m512i x = _mm512_loadu_si512(a + i);

        XP_UNROLL
        for (int k = 0; k < LANES; k++)
            v[k] = ADD_PRODUCTS(v[k], x, _mm512_loadu_si512(c[k] + i));
    }
    return sums_of16(v);
}

/* Of each with itself. */
XP_INLINE __m512i squares16(const int16_t *const c[LANES], const unsigned s)
{
    __m512i v[LANES];

    XP_UNROLL
    for (int k = 0; k < LANES; k++) {
        const __m512i x = _mm512_loadu_si512(c[k]);
        v[k] = _mm512_madd_epi16(x, x);
    }
    for (unsigned i = 32; i < s; i += 32)
        XP_UNROLL
        for (int k = 0; k < LANES; k++) {
            const __m512i x = _mm512_loadu_si512(c[k] + i);
            v[k] = ADD_PRODUCTS(v[k], x, x);
        }
    return sums_of16(v);
}

/* The centroids of a list of up to 16, in the order that sums_of16 undoes; behind the last comes the last. */
XP_INLINE void take16(const int16_t *centroids, const uint32_t *list, size_t count, unsigned s, const int16_t *c[LANES])
{
    const __m512i lane = _mm512_setr_epi32(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15);
    const __m512i number = _mm512_maskz_loadu_epi32((__mmask16)((1u << count) - 1), list);
    const __m512i filled = _mm512_permutexvar_epi32(_mm512_min_epu32(lane, _mm512_set1_epi32((int)count - 1)), number);
    const __m512i first = _mm512_set1_epi64((long long)(uintptr_t)centroids), bytes = _mm512_set1_epi64((long long)s * 2);
    const __m512i low = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(filled)), high = _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(filled, 1));

    _mm512_storeu_si512(c, _mm512_add_epi64(first, _mm512_mul_epu32(low, bytes)));
    _mm512_storeu_si512(c + 8, _mm512_add_epi64(first, _mm512_mul_epu32(high, bytes)));
}

/* All lanes: the least of them. */
XP_INLINE __m512i least_of16(__m512i v)
{
    v = _mm512_min_epu32(v, _mm512_shuffle_i32x4(v, v, 0x4e));
    v = _mm512_min_epu32(v, _mm512_shuffle_i32x4(v, v, 0xb1));
    v = _mm512_min_epu32(v, _mm512_shuffle_epi32(v, 0x4e));
    return _mm512_min_epu32(v, _mm512_shuffle_epi32(v, 0xb1));
}

/* What up to 16 centroids of a list, the first of it or not, change about the nearest ones of n <= FEW rows. */
XP_INLINE void try_listed(const int16_t *sketch, size_t n, const unsigned s, const int16_t *centroids, const uint32_t *list, size_t count,
                          const int first, uint32_t nearest[FEW], uint32_t *assign)
{
    const int16_t *c[LANES];

    take16(centroids, list, count, s, c);
    const __m512i squares = squares16(c, s);
    for (size_t r = 0; r < n; r++) {
        __asm__ volatile("" ::: "memory"); /* else centroids are loaded once for all rows, to be spilled */
        const __m512i dots = products16(sketch + r * s, c, s), norm = _mm512_set1_epi32((int)square_norm(sketch + r * s, s));
        const __m512i d = _mm512_sub_epi32(_mm512_add_epi32(squares, norm), _mm512_slli_epi32(dots, 1)), least = least_of16(d);
        const uint32_t distance = (uint32_t)_mm_cvtsi128_si32(_mm512_castsi512_si128(least));

        if (first || distance < nearest[r]) {
            nearest[r] = distance;
            assign[r] = list[__builtin_ctz(_mm512_cmpeq_epi32_mask(d, least))];
        }
    }
}

XP_INLINE void assign_few_listed(const int16_t *sketch, size_t n, const unsigned s, const int16_t *centroids, const uint32_t *list, size_t count,
                                 uint32_t *assign)
{
    uint32_t nearest[FEW];

    try_listed(sketch, n, s, centroids, list, count < LANES ? count : LANES, 1, nearest, assign);
    for (size_t k = LANES; k < count; k += LANES)
        try_listed(sketch, n, s, centroids, list + k, count - k < LANES ? count - k : LANES, 0, nearest, assign);
}

XP_INLINE void assign_listed_rows(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t count,
                                  uint32_t *assign)
{
    for (size_t r = 0; r < n; r += FEW) {
        const size_t some = n - r < FEW ? n - r : FEW;

        if (s == 64) /* folded mode's */
            assign_few_listed(sketch + r * s, some, 64, centroids, list, count, assign + r);
        else
            assign_few_listed(sketch + r * s, some, s, centroids, list, count, assign + r);
    }
}
