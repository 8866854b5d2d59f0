/*
 * assign_avx2.c - nearest centroid of a sketch with AVX2
 *
 * One row in each 32-bit lane: the sketches are transposed in pairs of values, so that VPMADDWD with a broadcast pair
 * of a centroid adds two products to 8 rows at once and no sum has to be taken across lanes.
 * |a - c|^2 = |a|^2 + |c|^2 - 2 a c, all modulo 2^32 as the contract has it, so overflow of a part does no harm.
 * Where rows are too few to fill the lanes there is one centroid in each, and sums are taken across.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/unroll.h"

#include <immintrin.h>
#include <string.h>

#define LANES 8
#define VECTORS 3 /* row vectors that share a broadcast */
#define BATCH 2   /* centroids that share a load of rows; with more the sums do not stay in registers */
#define ROWS (LANES * VECTORS)
#define FEW 16    /* rows that would leave too many lanes empty */
#define KEPT 1024 /* centroids whose squares are kept from one vector of rows to the next */
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
    __m256i sum = _mm256_setzero_si256();

    for (unsigned i = 0; i < s; i += 16) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)(c + i));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(v, v));
    }
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4E));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(q);
}

struct nearest {
    __m256i distance[VECTORS], index[VECTORS];
};

/* Dot products of ROWS rows with `count` centroids, whose squares these are, and what they change about the nearest ones. */
XP_INLINE void try_centroids(int32_t (*rows)[ROWS], const uint32_t *norm, unsigned s, const int16_t *c, const uint32_t *squares, size_t first,
                             const int count, struct nearest *best)
{
    __m256i dot[BATCH][VECTORS];

    XP_UNROLL
    for (int k = 0; k < count; k++)
        XP_UNROLL
        for (int v = 0; v < VECTORS; v++)
            dot[k][v] = _mm256_setzero_si256();
    for (unsigned p = 0; p < s / 2; p++) {
        __m256i a[VECTORS];
        XP_UNROLL
        for (int v = 0; v < VECTORS; v++)
            a[v] = _mm256_load_si256((const __m256i *)(rows[p] + v * LANES));
        XP_UNROLL
        for (int k = 0; k < count; k++) {
            int32_t pair;
            memcpy(&pair, c + (size_t)k * s + 2 * p, sizeof(pair));
            const __m256i b = _mm256_set1_epi32(pair);
            XP_UNROLL
            for (int v = 0; v < VECTORS; v++)
                dot[k][v] = _mm256_add_epi32(dot[k][v], _mm256_madd_epi16(a[v], b));
        }
    }
    XP_UNROLL
    for (int k = 0; k < count; k++) {
        const __m256i cc = _mm256_set1_epi32((int)squares[k]);
        XP_UNROLL
        for (int v = 0; v < VECTORS; v++) {
            const __m256i sum = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)(norm + v * LANES)), cc);
            const __m256i d = _mm256_sub_epi32(sum, _mm256_slli_epi32(dot[k][v], 1));
            const __m256i least = _mm256_min_epu32(best->distance[v], d);
            const __m256i kept = _mm256_cmpeq_epi32(least, best->distance[v]);
            best->index[v] = _mm256_blendv_epi8(_mm256_set1_epi32((int)(first + (size_t)k)), best->index[v], kept);
            best->distance[v] = least;
        }
    }
}

/* ---- few rows ----------------------------------------------------------------------------------------------------------- */

/* [k]: the sum of lanes of v[k]. */
XP_INLINE __m256i sums_of8(const __m256i v[LANES])
{
    const __m256i low = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    const __m256i high = _mm256_hadd_epi32(_mm256_hadd_epi32(v[4], v[5]), _mm256_hadd_epi32(v[6], v[7]));

    return _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31));
}

/* Squares of 8 centroids. */
XP_INLINE __m256i norms8(const int16_t *const c[LANES], unsigned s)
{
    __m256i sum[LANES];

    XP_UNROLL
    for (int k = 0; k < LANES; k++)
        sum[k] = _mm256_setzero_si256();
    for (unsigned i = 0; i < s; i += 16)
        XP_UNROLL
        for (int k = 0; k < LANES; k++) {
            const __m256i v = _mm256_loadu_si256((const __m256i *)(c[k] + i));
            sum[k] = _mm256_add_epi32(sum[k], _mm256_madd_epi16(v, v));
        }
    return sums_of8(sum);
}

/* Distances of a row from 8 centroids, whose norms and whose own these are. */
XP_INLINE __m256i distances8(const int16_t *a, uint32_t norm, const int16_t *const c[LANES], __m256i norms, unsigned s)
{
    __m256i dot[LANES];

    XP_UNROLL
    for (int k = 0; k < LANES; k++)
        dot[k] = _mm256_setzero_si256();
    for (unsigned i = 0; i < s; i += 16) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)(a + i));
        XP_UNROLL
        for (int k = 0; k < LANES; k++)
            dot[k] = _mm256_add_epi32(dot[k], _mm256_madd_epi16(v, _mm256_loadu_si256((const __m256i *)(c[k] + i))));
    }
    return _mm256_sub_epi32(_mm256_add_epi32(norms, _mm256_set1_epi32((int)norm)), _mm256_slli_epi32(sums_of8(dot), 1));
}

/* 8 centroids of a list (NULL: all) from `first` on; behind the last comes the last. */
XP_INLINE void take8(const int16_t *centroids, const uint32_t *list, size_t first, size_t K, unsigned s, const int16_t *c[LANES])
{
    for (size_t k = 0; k < LANES; k++) {
        const size_t at = first + k < K ? first + k : K - 1;
        c[k] = centroids + (list ? list[at] : at) * s;
    }
}

/* All lanes: the least of them. */
XP_INLINE __m256i least_lane(__m256i v)
{
    v = _mm256_min_epu32(v, _mm256_permute2x128_si256(v, v, 1));
    v = _mm256_min_epu32(v, _mm256_shuffle_epi32(v, 0x4E));
    return _mm256_min_epu32(v, _mm256_shuffle_epi32(v, 0xB1));
}

/* The lowest index of the least distance; no branch could guess which. */
XP_INLINE uint32_t least_of8(__m256i distance, __m256i index)
{
    const __m256i nearest = _mm256_cmpeq_epi32(distance, least_lane(distance));
    const __m256i candidates = _mm256_or_si256(index, _mm256_xor_si256(nearest, _mm256_set1_epi32(-1)));

    return (uint32_t)_mm256_cvtsi256_si32(least_lane(candidates));
}

/* n <= FEW. */
static void assign_few(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t K, uint32_t *assign)
{
    __m256i distance[FEW], index[FEW];
    uint32_t norm[FEW];

    for (size_t r = 0; r < n; r++) {
        distance[r] = _mm256_set1_epi32(-1);
        index[r] = _mm256_setzero_si256();
        norm[r] = square_norm(sketch + r * s, s);
    }
    for (size_t k = 0; k < K; k += LANES) {
        const int16_t *c[LANES];

        take8(centroids, list, k, K, s, c);
        const __m256i norms = norms8(c, s), number = _mm256_add_epi32(_mm256_set1_epi32((int)k), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        for (size_t r = 0; r < n; r++) {
            const __m256i least = _mm256_min_epu32(distance[r], distances8(sketch + r * s, norm[r], c, norms, s));
            const __m256i kept = _mm256_cmpeq_epi32(least, distance[r]);
            index[r] = _mm256_blendv_epi8(number, index[r], kept);
            distance[r] = least;
        }
    }
    for (size_t r = 0; r < n; r++) {
        assign[r] = least_of8(distance[r], index[r]);
        if (list)
            assign[r] = list[assign[r]];
    }
}

void xp_assign_listed_avx2(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, const uint32_t *list, size_t count, uint32_t *assign)
{
    for (size_t r = 0; r < n; r += FEW)
        assign_few(sketch + r * s, n - r < FEW ? n - r : FEW, s, centroids, list, count, assign + r);
}

void xp_distances_avx2(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *out)
{
    for (size_t k = 0; k < K; k += LANES) {
        const int16_t *c[LANES];

        take8(centroids, NULL, k, K, s, c);
        const __m256i norms = norms8(c, s);
        for (size_t r = 0; r < n; r++) {
            const int16_t *a = sketch + r * s;
            uint32_t d[LANES];

            _mm256_storeu_si256((__m256i *)d, distances8(a, square_norm(a, s), c, norms, s));
            memcpy(out + r * K + k, d, (K - k < LANES ? K - k : LANES) * sizeof(*d));
        }
    }
}

/* ---- all rows ----------------------------------------------------------------------------------------------------------- */

/* The squares of BATCH centroids from k on: kept ones, or made in `made`. */
XP_INLINE const uint32_t *squares_of(const uint32_t *kept, uint32_t made[BATCH], const int16_t *centroids, size_t k, size_t K, unsigned s)
{
    if (k + BATCH <= KEPT)
        return kept + k;
    for (size_t i = 0; i < BATCH && k + i < K; i++)
        made[i] = square_norm(centroids + (k + i) * s, s);
    return made;
}

void xp_assign_avx2(const int16_t *sketch, size_t n, unsigned s, const int16_t *centroids, size_t K, uint32_t *assign)
{
    int32_t rows[MAX_PAIRS][ROWS] __attribute__((aligned(64)));
    uint32_t norm[ROWS], found[ROWS], kept[KEPT], made[BATCH];

    for (size_t k = 0; k < K && k < KEPT && n > FEW; k++)
        kept[k] = square_norm(centroids + k * s, s);
    for (size_t r = 0; r < n; r += ROWS) {
        const size_t left = n - r < ROWS ? n - r : ROWS;
        struct nearest best;
        size_t k = 0;

        if (left <= FEW) {
            assign_few(sketch + r * s, left, s, centroids, NULL, K, assign + r);
            return;
        }
        transpose(sketch + r * s, left, s, rows, norm);
        for (int v = 0; v < VECTORS; v++) {
            best.distance[v] = _mm256_set1_epi32(-1);
            best.index[v] = _mm256_setzero_si256();
        }
        for (; k + BATCH <= K; k += BATCH)
            try_centroids(rows, norm, s, centroids + k * s, squares_of(kept, made, centroids, k, K, s), k, BATCH, &best);
        for (; k < K; k++)
            try_centroids(rows, norm, s, centroids + k * s, squares_of(kept, made, centroids, k, K, s), k, 1, &best);
        for (int v = 0; v < VECTORS; v++)
            _mm256_storeu_si256((__m256i *)(found + v * LANES), best.index[v]);
        memcpy(assign + r, found, left * sizeof(*assign));
    }
}

/* ---- the closest of many -------------------------------------------------------------------------------------------------- */

#define CLOSEST_VECTORS (XP_MOST_CLOSEST / LANES)

/* The closest so far, in order, and their numbers. Distances have their top bit changed, since AVX2 compares signed numbers. */
struct closest {
    __m256i d[CLOSEST_VECTORS], number[CLOSEST_VECTORS];
};

/* Every lane: what is in the one before it. */
XP_INLINE __m256i lane_before(__m256i before, __m256i v)
{
    return _mm256_alignr_epi8(v, _mm256_permute2x128_si256(before, v, 0x21), 12);
}

/* Behind those that are not farther, if there is a place; the last one drops out. Distance `number` is the first, second, ... of all, so
 * that places from there on are free. */
XP_INLINE void insert(struct closest *c, __m256i d, uint32_t number)
{
    const __m256i n = _mm256_set1_epi32((int)number), filled = _mm256_set1_epi32((int)number - 1);

    XP_UNROLL
    for (int v = CLOSEST_VECTORS - 1; v >= 0; v--) {
        const __m256i place = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(v * LANES));
        const __m256i before = lane_before(v > 0 ? c->d[v - 1] : _mm256_set1_epi32(INT32_MIN), c->d[v]);
        const __m256i number_before = lane_before(v > 0 ? c->number[v - 1] : n, c->number[v]);
        const __m256i farther = _mm256_or_si256(_mm256_cmpgt_epi32(c->d[v], d), _mm256_cmpgt_epi32(place, filled));

        c->number[v] = _mm256_blendv_epi8(_mm256_blendv_epi8(c->number[v], n, farther), number_before, _mm256_cmpgt_epi32(before, d));
        c->d[v] = _mm256_max_epi32(before, _mm256_min_epi32(c->d[v], d));
    }
}

void xp_closest_avx2(const uint32_t *d, size_t n, unsigned most, uint16_t *out)
{
    const __m256i top = _mm256_set1_epi32(INT32_MIN);
    uint16_t number[XP_MOST_CLOSEST];
    struct closest c;
    size_t h = 0;

    for (int v = 0; v < CLOSEST_VECTORS; v++) {
        c.d[v] = _mm256_set1_epi32(INT32_MAX);
        c.number[v] = _mm256_setzero_si256();
    }
    for (; h < n && h < XP_MOST_CLOSEST; h++)
        insert(&c, _mm256_xor_si256(_mm256_set1_epi32((int)d[h]), top), (uint32_t)h);
    for (; h < n; h += LANES) {
        const size_t here = n - h < LANES ? n - h : LANES;
        const __m256i farthest = _mm256_permutevar8x32_epi32(c.d[CLOSEST_VECTORS - 1], _mm256_set1_epi32(LANES - 1));
        const __m256i is_here = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)here), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        const __m256i some = _mm256_xor_si256(_mm256_maskload_epi32((const int *)d + h, is_here), top);
        const __m256i nearer = _mm256_and_si256(_mm256_cmpgt_epi32(farthest, some), is_here);

        for (unsigned left = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(nearer)); left; left &= left - 1) {
            const size_t at = h + (size_t)__builtin_ctz(left);
            insert(&c, _mm256_xor_si256(_mm256_set1_epi32((int)d[at]), top), (uint32_t)at);
        }
    }
    for (int v = 0; v < CLOSEST_VECTORS; v += 2) {
        const __m256i packed = _mm256_packus_epi32(c.number[v], c.number[v + 1]);
        _mm256_storeu_si256((__m256i *)(number + v * LANES), _mm256_permute4x64_epi64(packed, 0xD8));
    }
    memcpy(out, number, (n < most ? n : most) * sizeof(*out));
}
