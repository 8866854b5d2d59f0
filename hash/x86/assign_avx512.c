/*
 * assign_avx512.c - nearest centroid of a sketch with AVX-512
 *
 * One row in each 32-bit lane: the sketches are transposed in pairs of values, so that VPMADDWD with a broadcast pair
 * of a centroid adds two products to 16 rows at once and no sum has to be taken across lanes.
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
#define FEW 16 /* rows that would leave too many lanes empty */
#define MAX_PAIRS (XP_HASH_MAX_WIDTH / 2)

/* rows[pair][row]: pairs of values of ROWS sketches; rows from n on repeat the last one. norm: |a|^2. */
static void transpose(const int16_t *sketch, size_t n, unsigned s, int32_t (*rows)[ROWS], uint32_t *norm)
{
    for (unsigned r = 0; r < ROWS; r++) {
        const int16_t *a = sketch + (r < n ? r : n - 1) * s;
        uint32_t sum = 0;
        for (unsigned p = 0; p < s / 2; p++) {
            memcpy(&rows[p][r], a + 2 * p, sizeof(rows[p][r]));
            sum += (uint32_t)(a[2 * p] * a[2 * p]) + (uint32_t)(a[2 * p + 1] * a[2 * p + 1]);
        }
        norm[r] = sum;
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

/* Dot products of ROWS rows with `count` centroids, and what they change about the nearest ones. */
XP_INLINE void try_centroids(int32_t (*rows)[ROWS], const uint32_t *norm, unsigned s, const int16_t *c, size_t first, const int count,
                             struct nearest *best)
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
                dot[k][v] = _mm512_add_epi32(dot[k][v], _mm512_madd_epi16(a[v], b));
        }
    }
    XP_UNROLL
    for (int k = 0; k < count; k++) {
        const __m512i cc = _mm512_set1_epi32((int)square_norm(c + (size_t)k * s, s));
        XP_UNROLL
        for (int v = 0; v < VECTORS; v++) {
            const __m512i sum = _mm512_add_epi32(_mm512_loadu_si512(norm + v * LANES), cc);
            const __m512i d = _mm512_sub_epi32(sum, _mm512_slli_epi32(dot[k][v], 1));
            const __mmask16 nearer = _mm512_cmplt_epu32_mask(d, best->distance[v]);
            best->distance[v] = _mm512_min_epu32(best->distance[v], d);
            best->index[v] = _mm512_mask_mov_epi32(best->index[v], nearer, _mm512_set1_epi32((int)(first + (size_t)k)));
        }
    }
}

void xp_assign_avx512(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *assign)
{
    int32_t rows[MAX_PAIRS][ROWS] __attribute__((aligned(64)));
    uint32_t norm[ROWS], found[ROWS];

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
        for (; k + BATCH <= K; k += BATCH)
            try_centroids(rows, norm, s, centroids + k * s, k, BATCH, &best);
        for (; k < K; k++)
            try_centroids(rows, norm, s, centroids + k * s, k, 1, &best);
        for (int v = 0; v < VECTORS; v++)
            _mm512_storeu_si512(found + v * LANES, best.index[v]);
        memcpy(assign + r, found, left * sizeof(*assign));
    }
}

/* ---- the closest of many -------------------------------------------------------------------------------------------------- */

/* The closest so far, 16 and 16, in order, with their numbers. */
struct closest {
    __m512i d[2], number[2];
};

/* Behind those that are not farther; the last one drops out. */
XP_INLINE void insert(struct closest *c, uint32_t d, uint32_t number, __mmask16 filled[2])
{
    const __m512i vd = _mm512_set1_epi32((int)d), vn = _mm512_set1_epi32((int)number);
    const __mmask16 before = _mm512_mask_cmple_epu32_mask(filled[0], c->d[0], vd), before1 = _mm512_mask_cmple_epu32_mask(filled[1], c->d[1], vd);

    if (before == 0xffff) {
        const __mmask16 others = (__mmask16)~(before1 + 1u); /* all but the first that is farther */
        c->d[1] = _mm512_mask_expand_epi32(vd, others, c->d[1]);
        c->number[1] = _mm512_mask_expand_epi32(vn, others, c->number[1]);
    } else {
        const __mmask16 others = (__mmask16)~(before + 1u);
        c->d[1] = _mm512_alignr_epi32(c->d[1], c->d[0], 15);
        c->number[1] = _mm512_alignr_epi32(c->number[1], c->number[0], 15);
        c->d[0] = _mm512_mask_expand_epi32(vd, others, c->d[0]);
        c->number[0] = _mm512_mask_expand_epi32(vn, others, c->number[0]);
    }
    filled[1] = (__mmask16)(filled[1] << 1 | filled[0] >> 15);
    filled[0] = (__mmask16)(filled[0] << 1 | 1);
}

void xp_closest_avx512(const uint32_t *d, size_t n, unsigned most, uint16_t *out)
{
    const size_t got = n < most ? n : most;
    struct closest c = {{_mm512_setzero_si512(), _mm512_setzero_si512()}, {_mm512_setzero_si512(), _mm512_setzero_si512()}};
    __mmask16 filled[2] = {0, 0};
    uint32_t farthest[LANES];
    size_t h = 0;

    for (; h < n && h < XP_MOST_CLOSEST; h++)
        insert(&c, d[h], (uint32_t)h, filled);
    for (; h < n; h += LANES) {
        const __mmask16 here = n - h < LANES ? (__mmask16)((1u << (n - h)) - 1) : 0xffff;
        const __m512i some = _mm512_maskz_loadu_epi32(here, d + h), last = _mm512_permutexvar_epi32(_mm512_set1_epi32(LANES - 1), c.d[1]);
        unsigned nearer = _mm512_mask_cmplt_epu32_mask(here, some, last);

        for (; nearer; nearer &= nearer - 1) {
            const size_t at = h + (size_t)__builtin_ctz(nearer);
            _mm512_storeu_si512(farthest, c.d[1]);
            if (d[at] < farthest[LANES - 1])
                insert(&c, d[at], (uint32_t)at, filled);
        }
    }
    uint16_t number[2 * LANES];
    _mm256_storeu_si256((__m256i *)number, _mm512_cvtepi32_epi16(c.number[0]));
    _mm256_storeu_si256((__m256i *)(number + LANES), _mm512_cvtepi32_epi16(c.number[1]));
    memcpy(out, number, got * sizeof(*out));
}
