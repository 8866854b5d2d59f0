/*
 * polytope_avx2.c - the cross-polytope hash with AVX2
 *
 * A rotated row is cut into blocks of 128 values, 8 ymm registers. A rotation is a pass inside the blocks and a pass
 * across them; neighbouring rotations share a pass, so that three rotations are four passes over L1.
 *
 * The folded row is kept "split": for 16 values the 8 of even index, then the 8 of odd index. That is how bf16 pairs
 * come apart (low and high half of a 32-bit lane) and how the contract orders the energy.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/polytope.h"
#include "hash/variants.h"
#include "hash/x86/hadamard_avx2.h"
#include "hash/x86/minpos.h"
#include "hash/x86/prefetch.h"

#include <string.h>

#define WIDE XP_HASH_MAX_WIDTH
#define BLOCK 128  /* values of 8 registers */
#define COLUMNS 16 /* values folded by one pair of accumulators */
#define GROUP 4    /* pairs of accumulators that fit the registers */

/* ---- fold ---- */

XP_INLINE void split_pair(__m256 *a, __m256 *b)
{
    const __m256d even = _mm256_castps_pd(_mm256_shuffle_ps(*a, *b, 0x88)), odd = _mm256_castps_pd(_mm256_shuffle_ps(*a, *b, 0xDD));

    *a = _mm256_castpd_ps(_mm256_permute4x64_pd(even, 0xD8));
    *b = _mm256_castpd_ps(_mm256_permute4x64_pd(odd, 0xD8));
}

XP_INLINE __m256 load_f32(const char *p, const uint16_t *flips)
{
    const __m256i minus = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)flips)), 16);

    return _mm256_castsi256_ps(_mm256_xor_si256(_mm256_loadu_si256((const __m256i *)p), minus));
}

XP_INLINE __m256 load_f16(const char *p, const uint16_t *flips)
{
    return _mm256_cvtph_ps(_mm_xor_si128(_mm_loadu_si128((const __m128i *)p), _mm_loadu_si128((const __m128i *)flips)));
}

/* Adds 16 signed values at p: bf16 even and odd ones apart, the other types in their order. */
XP_INLINE void add_columns(__m256 *a, __m256 *b, const char *p, const uint16_t *flips, const xp_dtype t)
{
    if (t == XP_BF16) {
        const __m256i high = _mm256_set1_epi32((int)0xffff0000);
        const __m256i x = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)p), _mm256_load_si256((const __m256i *)flips));
        *a = _mm256_add_ps(*a, _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)));
        *b = _mm256_add_ps(*b, _mm256_castsi256_ps(_mm256_and_si256(x, high)));
    } else if (t == XP_F16) {
        *a = _mm256_add_ps(*a, load_f16(p, flips));
        *b = _mm256_add_ps(*b, load_f16(p + 16, flips + 8));
    } else {
        *a = _mm256_add_ps(*a, load_f32(p, flips));
        *b = _mm256_add_ps(*b, load_f32(p + 32, flips + 8));
    }
}

/* Where the values of a row lie: whole strips of n values, then a zero-padded copy of the rest. */
struct strips {
    const char *row;
    size_t whole, count; /* strips */
    char rest[WIDE * sizeof(float)] __attribute__((aligned(64)));
};

XP_INLINE void cut_row(struct strips *s, const void *row, size_t dim, unsigned n, const xp_dtype t)
{
    const size_t size = t == XP_F32 ? 4 : 2, rest = dim % n;

    s->row = row;
    s->whole = dim / n;
    s->count = s->whole + (rest > 0);
    if (rest) {
        memcpy(s->rest, s->row + s->whole * n * size, rest * size);
        memset(s->rest + rest * size, 0, (n - rest) * size);
    }
}

/* Partials 0 - 7 and 8 - 15 of the lane sum. */
struct energy {
    __m256 low, high;
};

/* Folds GROUP times 16 columns from column `first` on, subtracts the mean, stores them and adds to the energy. */
XP_INLINE void fold_columns(const struct xp_hasher *h, const struct strips *s, unsigned n, unsigned first, const float *mean,
                            float *f, struct energy *e, struct xp_prefetch *ahead, const xp_dtype t)
{
    const size_t size = t == XP_F32 ? 4 : 2;
    __m256 a[GROUP], b[GROUP];

    XP_UNROLL
    for (int i = 0; i < GROUP; i++)
        a[i] = b[i] = _mm256_setzero_ps();
    for (size_t q = 0; q < s->count; q++) {
        const char *p = (q < s->whole ? s->row + q * n * size : s->rest) + first * size;
        const uint16_t *flips = h->fold_flips + q * n + first;
        XP_UNROLL
        for (int i = 0; i < GROUP; i++)
            add_columns(&a[i], &b[i], p + (size_t)i * COLUMNS * size, flips + i * COLUMNS, t);
        xp_prefetch_step(ahead);
    }
    XP_UNROLL
    for (int i = 0; i < GROUP; i++) {
        __m256 *sum = i % 2 ? &e->high : &e->low;
        if (t != XP_BF16)
            split_pair(&a[i], &b[i]);
        a[i] = _mm256_sub_ps(a[i], _mm256_load_ps(mean + first + i * COLUMNS));
        b[i] = _mm256_sub_ps(b[i], _mm256_load_ps(mean + first + i * COLUMNS + 8));
        *sum = _mm256_add_ps(*sum, _mm256_mul_ps(a[i], a[i]));
        *sum = _mm256_add_ps(*sum, _mm256_mul_ps(b[i], b[i]));
        _mm256_store_ps(f + first + i * COLUMNS, a[i]);
        _mm256_store_ps(f + first + i * COLUMNS + 8, b[i]);
    }
}

/* Partials p and p + 8, p + 4, p + 2, p + 1. */
XP_INLINE float lane_sum(struct energy e)
{
    const __m256 s8 = _mm256_add_ps(e.low, e.high);
    const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));

    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

/* Step 1 of the contract; f and mean are split. Returns the lane sum of the squares. */
XP_INLINE float fold(const struct xp_hasher *h, const void *row, const unsigned n, const float *mean, float *f, struct xp_prefetch *ahead, const xp_dtype t)
{
    struct energy e = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    struct strips s;

    cut_row(&s, row, h->dim, n, t);
    xp_prefetch_spread(ahead, 2, s.count * n / (GROUP * COLUMNS));
    for (unsigned first = 0; first < n; first += GROUP * COLUMNS)
        fold_columns(h, &s, n, first, mean, f, &e, ahead, t);
    return lane_sum(e);
}

/* ---- scale and rotate ---- */

/* 16 split values to int16 in their own order. They fit: see the contract. */
XP_INLINE __m256i to_i16(const float *f, __m256 s)
{
    const __m256i even = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(f), s));
    const __m256i odd = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(f + 8), s));

    return _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xAA);
}

XP_INLINE void load(__m256i *r, const int regs, const int16_t *x, const size_t stride)
{
    XP_UNROLL
    for (int i = 0; i < regs; i++)
        r[i] = _mm256_load_si256((const __m256i *)(x + (size_t)i * stride));
}

XP_INLINE void store(const __m256i *r, const int regs, int16_t *x, const size_t stride)
{
    XP_UNROLL
    for (int i = 0; i < regs; i++)
        _mm256_store_si256((__m256i *)(x + (size_t)i * stride), r[i]);
}

XP_INLINE void rescale(__m256i *r, const int regs, const int16_t *scale, const size_t stride)
{
    XP_UNROLL
    for (int i = 0; i < regs; i++)
        r[i] = _mm256_mulhrs_epi16(r[i], _mm256_load_si256((const __m256i *)(scale + (size_t)i * stride)));
}

/* In a block: lane bits 0 1 2 3 change places with register bits 2 1 0 0. Done by `out` and undone by `home`, with a
 * butterfly after each exchange; two rounds need no other shuffles. */
XP_INLINE void exchange(__m256i *r, const int bit, void (*const move)(__m256i *, __m256i *), const int butterfly)
{
    XP_UNROLL
    for (int i = 0; i < 8; i++)
        if (!(i & bit)) {
            move(&r[i], &r[i + bit]);
            if (butterfly)
                xp_butterfly_i16(&r[i], &r[i + bit]);
        }
}

XP_INLINE void lanes_out(__m256i *r, const int butterfly)
{
    exchange(r, 1, xp_turn_words, butterfly);
    exchange(r, 2, xp_turn_words, butterfly);
    exchange(r, 4, xp_turn_words, butterfly);
    exchange(r, 1, xp_swap_halves, butterfly);
}

XP_INLINE void lanes_home(__m256i *r)
{
    exchange(r, 1, xp_swap_halves, 1);
    exchange(r, 1, xp_turn_words, 1);
    exchange(r, 2, xp_turn_words, 1);
    exchange(r, 4, xp_turn_words, 1);
}

/* First pass inside block b; `out`: leave the lanes exchanged. */
XP_INLINE void first_inside(const float *f, __m256 s, const int out, int16_t *x)
{
    __m256i r[8];

    XP_UNROLL
    for (int i = 0; i < 8; i++)
        r[i] = to_i16(f + i * 16, s);
    xp_across_i16(r, 8);
    if (out)
        lanes_out(r, 1);
    else
        xp_lanes_i16(r, 8);
    store(r, 8, x, 16);
}

/* End of the second rotation; with scale also the start of the third. */
XP_INLINE void later_inside(int16_t *x, const int16_t *scale)
{
    __m256i r[8];

    load(r, 8, x, 16);
    xp_across_i16(r, 8);
    lanes_home(r);
    if (scale) {
        rescale(r, 8, scale, 16);
        xp_across_i16(r, 8);
        xp_lanes_i16(r, 8);
    }
    store(r, 8, x, 16);
}

/* Across the blocks, 16 columns: the end of a rotation; with scale also the start of the next. */
XP_INLINE void across_blocks(int16_t *x, const int blocks, const int16_t *scale)
{
    __m256i r[4];

    load(r, blocks, x, BLOCK);
    xp_across_i16(r, blocks);
    if (scale) {
        rescale(r, blocks, scale, BLOCK);
        xp_across_i16(r, blocks);
    }
    store(r, blocks, x, BLOCK);
}

static size_t prefetch_steps(const struct xp_hasher *h)
{
    const size_t blocks = h->n / BLOCK, columns = BLOCK / 16;

    return h->rounds == 1 ? blocks + columns : h->rounds == 2 ? 2 * blocks + columns : 2 * (blocks + columns);
}

/* Steps 2 and 3. scale_out: the first table of scales, laid out as lanes_out leaves the values. */
XP_INLINE void rotate(const struct xp_hasher *h, const float *f, float s, const int blocks, const int16_t *scale_out,
                      struct xp_prefetch p, int16_t *x)
{
    const __m256 factor = _mm256_set1_ps(s);

    xp_prefetch_spread(&p, 1, prefetch_steps(h));
    for (int b = 0; b < blocks; b++) {
        if (h->rounds > 1)
            first_inside(f + b * BLOCK, factor, 1, x + b * BLOCK);
        else
            first_inside(f + b * BLOCK, factor, 0, x + b * BLOCK);
        xp_prefetch_step(&p);
    }
    if (h->rounds > 1) {
        for (int column = 0; column < BLOCK; column += 16) {
            across_blocks(x + column, blocks, scale_out + column);
            xp_prefetch_step(&p);
        }
        for (int b = 0; b < blocks; b++) {
            later_inside(x + b * BLOCK, h->rounds > 2 ? h->round_scale + h->n + b * BLOCK : NULL);
            xp_prefetch_step(&p);
        }
    }
    if (h->rounds != 2)
        for (int column = 0; column < BLOCK; column += 16) {
            across_blocks(x + column, blocks, NULL);
            xp_prefetch_step(&p);
        }
}

/* ---- argmax ---- */

/* Index of the largest |r| among w values, w a multiple of 32; lowest index wins. */
XP_INLINE unsigned argmax_wide(const int16_t *r, unsigned w)
{
    const __m256i lane = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m256i best = _mm256_abs_epi16(_mm256_load_si256((const __m256i *)r)), index = lane, at = lane;
    __m128i q;

    for (unsigned i = 16; i < w; i += 16) {
        const __m256i a = _mm256_abs_epi16(_mm256_load_si256((const __m256i *)(r + i)));
        at = _mm256_add_epi16(at, _mm256_set1_epi16(16));
        index = _mm256_blendv_epi8(index, at, _mm256_cmpgt_epi16(a, best));
        best = _mm256_max_epi16(best, a);
    }
    q = _mm_max_epi16(_mm256_castsi256_si128(best), _mm256_extracti128_si256(best, 1));
    const __m256i largest = _mm256_cmpeq_epi16(best, _mm256_set1_epi16((int16_t)xp_max_of_8(q)));
    index = _mm256_blendv_epi8(_mm256_set1_epi16(-1), index, largest);
    q = _mm_min_epu16(_mm256_castsi256_si128(index), _mm256_extracti128_si256(index, 1));
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
    int16_t scale_out[WIDE] __attribute__((aligned(64))); /* see rotate */
};

static void make_tables(const struct xp_hasher *h, struct tables *t)
{
    for (unsigned i = 0; i < h->n; i += COLUMNS) {
        __m256 a = _mm256_load_ps(h->fold_mean + i), b = _mm256_load_ps(h->fold_mean + i + 8);
        split_pair(&a, &b);
        _mm256_store_ps(t->mean + i, a);
        _mm256_store_ps(t->mean + i + 8, b);
    }
    for (unsigned i = 0; i < h->n && h->rounds > 1; i += BLOCK) {
        __m256i r[8];
        load(r, 8, h->round_scale + i, 16);
        lanes_out(r, 0);
        store(r, 8, t->scale_out + i, 16);
    }
}

/* Steps 2 and 3 for a folded row; zeros where s is 0. */
XP_INLINE void finish(const struct xp_hasher *h, const struct tables *t, const float *f, float s, const unsigned n, struct xp_prefetch ahead,
                      int16_t *r)
{
    if (s == 0)
        memset(r, 0, n * sizeof(*r));
    else
        rotate(h, f, s, (int)n / BLOCK, t->scale_out, ahead, r);
}

XP_INLINE void hash_rows(const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch, const unsigned n,
                         const xp_dtype t)
{
    int16_t r[WIDE] __attribute__((aligned(64)));
    float f[WIDE] __attribute__((aligned(64)));
    struct tables tables;

    make_tables(h, &tables);
    for (size_t i = 0; i < in->rows; i++) {
        struct xp_prefetch ahead = xp_prefetch_row(in, i + 1);
        const float s = xp_hash_scale(h, fold(h, xp_row(in, i), n, tables.mean, f, &ahead, t));
        finish(h, &tables, f, s, n, ahead, r);
        if (ids)
            ids[i] = s == 0 ? XP_HASH_NONE : bucket_id(h, r);
        if (sketch)
            memcpy(sketch + i * h->sketch, r, h->sketch * sizeof(*r));
    }
}

XP_INLINE void hash_type(const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch, const xp_dtype t)
{
    switch (h->n) {
    case 128: hash_rows(h, in, ids, sketch, 128, t); break;
    case 256: hash_rows(h, in, ids, sketch, 256, t); break;
    default: hash_rows(h, in, ids, sketch, WIDE, t); break;
    }
}

void xp_hash_avx2(const struct xp_hasher *h, const struct xp_rows *in, uint32_t *ids, int16_t *sketch)
{
    if (h->n < BLOCK)
        xp_hash_c(h, in, ids, sketch);
    else if (in->dtype == XP_BF16)
        hash_type(h, in, ids, sketch, XP_BF16);
    else if (in->dtype == XP_F16)
        hash_type(h, in, ids, sketch, XP_F16);
    else
        hash_type(h, in, ids, sketch, XP_F32);
}
