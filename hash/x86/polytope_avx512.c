/*
 * polytope_avx512.c - the cross-polytope hash with AVX-512
 *
 * A folded row of 512 values is 16 zmm registers of int16: all rotations happen without a store. The core issues no
 * loads while it rotates, so the next row is prefetched then, a few lines at a time.
 *
 * The folded row is kept "split": for 32 values the 16 of even index, then the 16 of odd index. That is how bf16 pairs
 * come apart (low and high half of a 32-bit lane) and how the contract orders the energy.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/polytope.h"
#include "hash/variants.h"
#include "hash/x86/hadamard_avx512.h"
#include "hash/x86/minpos.h"
#include "hash/x86/prefetch.h"
#include "hash/x86/rows_avx512.h"
#include "hash/x86/window_avx512.h"

#include <string.h>

#define WIDE XP_HASH_MAX_WIDTH
#define COLUMNS 32 /* values folded by one pair of accumulators */
#define GROUP 8    /* pairs of accumulators that fit the registers */

/* ---- fold ---- */

XP_INLINE void split_pair(__m512 *a, __m512 *b)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512 e = _mm512_permutex2var_ps(*a, even, *b);

    *b = _mm512_permutex2var_ps(*a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), *b);
    *a = e;
}

/* Adds the first n of 32 signed values at p: bf16 even and odd ones apart, the other types in their order. n: a constant where speed
 * counts. */
XP_INLINE void add_columns(__m512 *a, __m512 *b, const char *p, uint32_t signs, const xp_dtype t, size_t n)
{
    if (t == XP_BF16) {
        const __m512i flips = _mm512_maskz_mov_epi16(signs, _mm512_set1_epi16(INT16_MIN));
        const __m512i x = _mm512_xor_si512(xp_load_first32(p, n), flips);
        const __m512i high = _mm512_set1_epi32((int)0xffff0000);
        *a = _mm512_add_ps(*a, _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)));
        *b = _mm512_add_ps(*b, _mm512_castsi512_ps(_mm512_and_si512(x, high)));
    } else {
        const size_t size = t == XP_F32 ? 4 : 2;
        const __m512i minus = _mm512_set1_epi32(INT32_MIN);
        __m512i x = _mm512_castps_si512(xp_load512(p, t, n)), y = _mm512_castps_si512(xp_load512(p + 16 * size, t, n >= 32 ? 16 : xp_left32(n, 16)));

        x = _mm512_mask_xor_epi32(x, (__mmask16)signs, x, minus);
        y = _mm512_mask_xor_epi32(y, (__mmask16)(signs >> 16), y, minus);
        *a = _mm512_add_ps(*a, _mm512_castsi512_ps(x));
        *b = _mm512_add_ps(*b, _mm512_castsi512_ps(y));
    }
}

/* Where the values of a row lie: whole strips of n values, then the rest of one. */
struct strips {
    const char *row;
    size_t whole, rest; /* strips; values */
};

XP_INLINE struct strips cut_row(const void *row, size_t dim, unsigned n)
{
    return (struct strips){row, dim / n, dim % n};
}

/* Folds `pairs` times 32 columns from column `first` on, subtracts the mean, stores them and adds to the energy. */
XP_INLINE void fold_columns(const struct xp_hasher *h, const struct strips *s, unsigned n, unsigned first, const int pairs,
                            const float *mean, float *f, __m512 *energy, struct xp_prefetch *ahead, const xp_dtype t)
{
    const size_t size = t == XP_F32 ? 4 : 2;
    const uint32_t *signs = h->fold_signs + first / 32;
    const char *p = s->row + first * size;
    __m512 a[GROUP], b[GROUP];

    XP_UNROLL
    for (int i = 0; i < pairs; i++)
        a[i] = b[i] = _mm512_setzero_ps();
    for (size_t q = 0; q < s->whole; q++, p += n * size, signs += n / 32) {
        XP_UNROLL
        for (int i = 0; i < pairs; i++)
            add_columns(&a[i], &b[i], p + (size_t)i * COLUMNS * size, signs[i], t, COLUMNS);
        xp_prefetch_step(ahead);
    }
    if (s->rest) {
        XP_UNROLL
        for (int i = 0; i < pairs; i++)
            if (s->rest > first + (size_t)i * COLUMNS)
                add_columns(&a[i], &b[i], p + (size_t)i * COLUMNS * size, signs[i], t, s->rest - first - (size_t)i * COLUMNS);
        xp_prefetch_step(ahead);
    }
    XP_UNROLL
    for (int i = 0; i < pairs; i++) {
        if (t != XP_BF16)
            split_pair(&a[i], &b[i]);
        a[i] = _mm512_sub_ps(a[i], _mm512_load_ps(mean + first + i * COLUMNS));
        b[i] = _mm512_sub_ps(b[i], _mm512_load_ps(mean + first + i * COLUMNS + 16));
        *energy = _mm512_add_ps(*energy, _mm512_mul_ps(a[i], a[i]));
        *energy = _mm512_add_ps(*energy, _mm512_mul_ps(b[i], b[i]));
        _mm512_store_ps(f + first + i * COLUMNS, a[i]);
        _mm512_store_ps(f + first + i * COLUMNS + 16, b[i]);
    }
}

/* Partials p and p + 8, p + 4, p + 2, p + 1. */
XP_INLINE float lane_sum(__m512 v)
{
    const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));

    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

/* Step 1 of the contract; f and mean are split. Returns the lane sum of the squares. */
XP_INLINE float fold(const struct xp_hasher *h, const void *row, const unsigned n, const float *mean, float *f, struct xp_prefetch *ahead, const xp_dtype t)
{
    __m512 energy = _mm512_setzero_ps();
    const struct strips s = cut_row(row, h->dim, n);
    const size_t count = s.whole + (s.rest > 0);

    xp_prefetch_spread(ahead, 2, n == WIDE ? 2 * count : count);
    if (n == WIDE) {
        fold_columns(h, &s, n, 0, GROUP, mean, f, &energy, ahead, t);
        fold_columns(h, &s, n, WIDE / 2, GROUP, mean, f, &energy, ahead, t);
    } else {
        fold_columns(h, &s, n, 0, (int)n / COLUMNS, mean, f, &energy, ahead, t);
    }
    return lane_sum(energy);
}

/* ---- scale and rotate ---- */

/* 32 split values to int16 in their own order. They fit: see the contract. */
XP_INLINE __m512i to_i16(const float *f, __m512 s)
{
    const __m512i even = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(f), s));
    const __m512i odd = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(f + 16), s));

    return _mm512_mask_mov_epi16(even, 0xAAAAAAAA, _mm512_slli_epi32(odd, 16));
}

XP_INLINE void rescale(__m512i *r, const int regs, const int16_t *scale)
{
    XP_UNROLL
    for (int i = 0; i < regs; i++)
        r[i] = _mm512_mulhrs_epi16(r[i], _mm512_load_si512(scale + i * 32));
}

/* For 512 values: lane bits 0 1 2 3 4 change places with register bits 2 1 0 3 0. Done by `out` and undone by `home`,
 * with a butterfly after each exchange; two rounds need no other shuffles. */
XP_INLINE void exchange(__m512i *r, const int bit, void (*const move)(__m512i *, __m512i *), const int butterfly)
{
    XP_UNROLL
    for (int i = 0; i < 16; i++)
        if (!(i & bit)) {
            move(&r[i], &r[i + bit]);
            if (butterfly)
                xp_butterfly_i16(&r[i], &r[i + bit]);
        }
}

XP_INLINE void lanes_out(__m512i *r, const int butterfly)
{
    exchange(r, 1, xp_turn_words, butterfly);
    exchange(r, 2, xp_turn_words, butterfly);
    exchange(r, 4, xp_turn_words, butterfly);
    exchange(r, 8, xp_swap_quarters, butterfly);
    exchange(r, 1, xp_swap_halves, butterfly);
}

XP_INLINE void lanes_home(__m512i *r)
{
    exchange(r, 1, xp_swap_halves, 1);
    exchange(r, 8, xp_swap_quarters, 1);
    exchange(r, 1, xp_turn_words, 1);
    exchange(r, 2, xp_turn_words, 1);
    exchange(r, 4, xp_turn_words, 1);
}

/* Steps 2 and 3 for n = 512. scale_out: the first table of scales, laid out as lanes_out leaves the values. */
static void rotate_wide(const struct xp_hasher *h, const float *f, float s, const int16_t *scale_out, struct xp_prefetch p, int16_t *out)
{
    const __m512 factor = _mm512_set1_ps(s);
    __m512i r[16];

    xp_prefetch_spread(&p, 1, h->rounds == 1 ? 2 : h->rounds == 2 ? 5 : 6);
    XP_UNROLL
    for (int i = 0; i < 16; i++)
        r[i] = to_i16(f + i * 32, factor);
    xp_prefetch_step(&p);
    if (h->rounds > 1) {
        xp_across_i16(r, 16);
        xp_prefetch_step(&p);
        lanes_out(r, 1);
        rescale(r, 16, scale_out);
        xp_prefetch_step(&p);
        xp_across_i16(r, 16);
        xp_prefetch_step(&p);
        lanes_home(r);
        xp_prefetch_step(&p);
    }
    if (h->rounds == 3)
        rescale(r, 16, h->round_scale + WIDE);
    if (h->rounds != 2) {
        xp_across_i16(r, 16);
        xp_prefetch_step(&p);
        xp_lanes_i16(r, 16);
    }
    XP_UNROLL
    for (int i = 0; i < 16; i++)
        _mm512_store_si512(out + i * 32, r[i]);
}

/* Steps 2 and 3 for n = 64, 128, 256. */
XP_INLINE void rotate_narrow(const struct xp_hasher *h, const float *f, float s, const int regs, int16_t *out)
{
    const __m512 factor = _mm512_set1_ps(s);
    __m512i r[8];

    XP_UNROLL
    for (int i = 0; i < regs; i++)
        r[i] = to_i16(f + i * 32, factor);
    xp_across_i16(r, regs);
    xp_lanes_i16(r, regs);
    for (unsigned round = 0; round + 1 < h->rounds; round++) {
        rescale(r, regs, h->round_scale + round * h->n);
        xp_across_i16(r, regs);
        xp_lanes_i16(r, regs);
    }
    XP_UNROLL
    for (int i = 0; i < regs; i++)
        _mm512_store_si512(out + i * 32, r[i]);
}

/* ---- argmax ---- */

/* Index of the largest |r| among w values, w a multiple of 32; lowest index wins. */
XP_INLINE unsigned argmax_wide(const int16_t *r, unsigned w)
{
    const __m512i lane = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12,
                                          11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i best = _mm512_abs_epi16(_mm512_load_si512(r)), index = lane, at = lane;
    __m256i m;
    __m128i q;

    for (unsigned i = 32; i < w; i += 32) {
        const __m512i a = _mm512_abs_epi16(_mm512_load_si512(r + i));
        at = _mm512_add_epi16(at, _mm512_set1_epi16(32));
        index = _mm512_mask_mov_epi16(index, _mm512_cmpgt_epi16_mask(a, best), at);
        best = _mm512_max_epi16(best, a);
    }
    m = _mm256_max_epi16(_mm512_castsi512_si256(best), _mm512_extracti64x4_epi64(best, 1));
    q = _mm_max_epi16(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    const __mmask32 largest = _mm512_cmpeq_epi16_mask(best, _mm512_set1_epi16((int16_t)xp_max_of_8(q)));
    index = _mm512_mask_mov_epi16(_mm512_set1_epi16(-1), largest, index);
    m = _mm256_min_epu16(_mm512_castsi512_si256(index), _mm512_extracti64x4_epi64(index, 1));
    q = _mm_min_epu16(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    return (unsigned)_mm_extract_epi16(_mm_minpos_epu16(q), 0);
}

XP_INLINE uint32_t bucket_id(const struct xp_hasher *h, const int16_t *r)
{
    uint32_t id = 0;

    for (unsigned b = 0; b < h->k; b++, r += h->w) {
        const unsigned i = h->w < 32 ? xp_argmax_narrow(r, h->w) : argmax_wide(r, h->w);
        id = id * h->combine + 2 * i + (r[i] < 0);
    }
    return id;
}

/* ---- batches ---- */

/* What all rows of a batch share. */
struct tables {
    float mean[WIDE] __attribute__((aligned(64)));        /* split */
    int16_t scale_out[WIDE] __attribute__((aligned(64))); /* see rotate_wide */
};

static void make_tables(const struct xp_hasher *h, struct tables *t)
{
    for (unsigned i = 0; i < h->n; i += COLUMNS) {
        __m512 a = _mm512_load_ps(h->fold_mean + i), b = _mm512_load_ps(h->fold_mean + i + 16);
        split_pair(&a, &b);
        _mm512_store_ps(t->mean + i, a);
        _mm512_store_ps(t->mean + i + 16, b);
    }
    if (h->n == WIDE && h->rounds > 1) {
        __m512i r[16];
        for (int i = 0; i < 16; i++)
            r[i] = _mm512_load_si512(h->round_scale + i * 32);
        lanes_out(r, 0);
        for (int i = 0; i < 16; i++)
            _mm512_store_si512(t->scale_out + i * 32, r[i]);
    }
}

/* Steps 2 and 3 for a folded row; zeros where s is 0. */
XP_INLINE void finish(const struct xp_hasher *h, const struct tables *t, const float *f, float s, const unsigned n, struct xp_prefetch ahead,
                      int16_t *r)
{
    if (s == 0)
        memset(r, 0, n * sizeof(*r));
    else if (n == WIDE)
        rotate_wide(h, f, s, t->scale_out, ahead, r);
    else
        rotate_narrow(h, f, s, (int)n / 32, r);
}

/* The next row is folded before a row is rotated: its long chain of dependent sums then runs beside the rotation. */
XP_INLINE void hash_rows(const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch, const unsigned n,
                         const xp_dtype t)
{
    int16_t r[WIDE] __attribute__((aligned(64)));
    float f[2][WIDE] __attribute__((aligned(64)));
    struct tables tables;
    float s = 0, s_next = 0;

    make_tables(h, &tables);
    for (size_t i = 0; i <= in->rows; i++, s = s_next) {
        struct xp_prefetch ahead = xp_prefetch_row(in, i + 1);
        if (i < in->rows)
            s_next = xp_hash_scale(h, fold(h, xp_row(in, i), n, tables.mean, f[i % 2], &ahead, t));
        if (i == 0)
            continue;
        finish(h, &tables, f[(i - 1) % 2], s, n, ahead, r);
        if (ids)
            ids[i - 1] = s == 0 ? XP_HASH_NONE : bucket_id(h, r);
        if (sketch)
            memcpy(sketch + (i - 1) * h->sketch, r, h->sketch * sizeof(*r));
    }
}

XP_INLINE void hash_type(const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch, const xp_dtype t)
{
    switch (h->n) {
    case 64: hash_rows(h, in, ids, sketch, 64, t); break;
    case 128: hash_rows(h, in, ids, sketch, 128, t); break;
    case 256: hash_rows(h, in, ids, sketch, 256, t); break;
    default: hash_rows(h, in, ids, sketch, WIDE, t); break;
    }
}

void xp_hash_avx512(const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch)
{
    if (h->n < 64)
        xp_hash_c(h, in, ids, sketch);
    else if (in->dtype == XP_BF16)
        hash_type(h, in, ids, sketch, XP_BF16);
    else if (in->dtype == XP_F16)
        hash_type(h, in, ids, sketch, XP_F16);
    else
        hash_type(h, in, ids, sketch, XP_F32);
}
