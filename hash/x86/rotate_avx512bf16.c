/*
 * rotate_avx512bf16.c - a row of bf16, less its base, as rotated integers, with AVX-512, its BF16 and its VNNI
 *
 * Groups of up to 16 blocks go through two walks over data in L1: sums (what scales the blocks, and the energies); integers, rotation,
 * statistics. Scales are chosen for all blocks of a group at once. Half a block at the end of a row, 64 values, is one of the group.
 * A base must be of bf16 itself, as the mean row of a frame is: even and odd values then come apart without a shuffle. Others take the
 * way of AVX-512.
 *
 * The sums of the row have the order of the contract (kernels.h): value i joins partial i % 32.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/hadamard_avx512.h"
#include "hash/x86/narrow_avx512.h"
#include "hash/x86/quantise_avx512.h"
#include "hash/x86/tail_avx2.h"
#include "hash/x86/turned_avx512.h"

#include <string.h>

/* Partial results of a group: 16 words of 32 bits a block, to be folded. */
struct partials {
    _Alignas(64) float l1[XP_QGROUP][16];
    _Alignas(64) int32_t squares[XP_QGROUP][16], peaks[XP_QGROUP][16];
};

/* ---- 16 partials of each of 16 blocks to one result a block ------------------------------------------------------------ */

enum fold_op { FOLD_FLOATS, FOLD_INTS, FOLD_PEAKS };

XP_INLINE __m512 join(const enum fold_op op, __m512 a, __m512 b)
{
    const __m512i i = _mm512_castps_si512(a), j = _mm512_castps_si512(b);

    return op == FOLD_FLOATS ? _mm512_add_ps(a, b)
                             : _mm512_castsi512_ps(op == FOLD_INTS ? _mm512_add_epi32(i, j) : _mm512_max_epu16(i, j));
}

/* Word w is joined with w + 4 (of 8, so that floats keep the order of their contract), then with w + 2, w + 1, then w + 8. Of `count`
 * blocks, one more where that is odd; the others' results are 0. */
XP_INLINE __m512i fold_blocks(const void *partials, size_t count, const enum fold_op op)
{
    const __m512i from = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    const float *p = partials;
    __m512 y[8], z[4], w[2];

    XP_UNROLL
    for (int k = 0; k < 8; k++) {
        y[k] = _mm512_setzero_ps();
        if (2 * (size_t)k < count) {
            const __m512 a = _mm512_load_ps(p + 32 * k), b = _mm512_load_ps(p + 32 * k + 16);
            y[k] = join(op, _mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
        }
    }
    XP_UNROLL
    for (int k = 0; k < 4; k++) {
        const __m512d a = _mm512_castps_pd(y[2 * k]), b = _mm512_castps_pd(y[2 * k + 1]);
        z[k] = join(op, _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    XP_UNROLL
    for (int k = 0; k < 2; k++)
        w[k] = join(op, _mm512_shuffle_ps(z[2 * k], z[2 * k + 1], 0x88), _mm512_shuffle_ps(z[2 * k], z[2 * k + 1], 0xdd));
    const __m512 all = join(op, _mm512_shuffle_f32x4(w[0], w[1], 0x88), _mm512_shuffle_f32x4(w[0], w[1], 0xdd));
    return _mm512_permutexvar_epi32(from, _mm512_castps_si512(all));
}

/* ---- first walk: sum |x| of a block, and the energies of the row ---------------------------------------------------------- */

struct split {
    __m256 even, odd;
};

/* By halves of 32 values: partials 0 2 .. 14 and 1 3 .. 15, 16 18 .. 30 and 17 19 .. 31. */
struct row_sums {
    struct split row[2], rest[2]; /* rest: what is left without the base */
};

/* What is summed and rotated; base: of bf16, NULL: none. */
struct input {
    const char *row, *base;
};

XP_INLINE struct split split_at(const char *p)
{
    const __m256i w = _mm256_loadu_si256((const __m256i *)p);

    return (struct split){_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)),
                          _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000)))};
}

XP_INLINE __m256 magnitude(__m256 x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

/* |x| of 16 values. */
XP_INLINE struct split magnitudes_at(const char *p)
{
    const __m256i w = _mm256_loadu_si256((const __m256i *)p);

    return (struct split){magnitude(_mm256_castsi256_ps(_mm256_slli_epi32(w, 16))),
                          _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(0x7fff0000)))};
}

XP_INLINE __m256 add_square256(__m256 sum, __m256 x)
{
    return _mm256_add_ps(sum, _mm256_mul_ps(x, x));
}

XP_INLINE void sums_of_block(struct input in, const int has_base, const int regs, float *l1, struct row_sums *sum)
{
    __m256 even_l1, odd_l1;

    XP_UNROLL
    for (int i = 0; i < 2 * regs; i++) {
        struct split x = has_base ? split_at(in.row + 32 * i) : magnitudes_at(in.row + 32 * i);
        sum->row[i & 1].even = add_square256(sum->row[i & 1].even, x.even);
        sum->row[i & 1].odd = add_square256(sum->row[i & 1].odd, x.odd);
        if (has_base) {
            const struct split m = split_at(in.base + 32 * i);
            x.even = _mm256_sub_ps(x.even, m.even);
            x.odd = _mm256_sub_ps(x.odd, m.odd);
            sum->rest[i & 1].even = add_square256(sum->rest[i & 1].even, x.even);
            sum->rest[i & 1].odd = add_square256(sum->rest[i & 1].odd, x.odd);
            x = (struct split){magnitude(x.even), magnitude(x.odd)};
        }
        even_l1 = i ? _mm256_add_ps(even_l1, x.even) : x.even;
        odd_l1 = i ? _mm256_add_ps(odd_l1, x.odd) : x.odd;
    }
    _mm512_store_ps(l1, _mm512_insertf32x8(_mm512_castps256_ps512(even_l1), odd_l1, 1)); /* one store, as one load will want it */
}

/* Brings the row to come to the cache, as many lines a block as a block has: all at once there would be more of them on their way than
 * the core can track. group: where the group's blocks begin in it. */
XP_INLINE void fetch(const char *group, size_t b, const int blocks)
{
    if (group)
        for (int i = 0; i < 4 * blocks; i++)
            _mm_prefetch(group + 256 * b + 64 * i, _MM_HINT_T0);
}

/* ---- second walk: integers, rotated ------------------------------------------------------------------------------------------ */

/* Registers (v5, v6), w0 w1 w2 = v1 v2 v0, l0 l1 = v3 v4 to turned order; of half a block without v6. */
XP_INLINE void rotate_turned(__m512i *w, const int blocks, const int regs)
{
    XP_ALL_BLOCKS(xp_across_i16(w + regs * i, regs));
    XP_ALL_PAIRS(xp_turn_words); /* w0 w1 w2 = v5 v1 v2, register v0 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_PAIRS(xp_trade_dwords512); /* w1 w2 = v2 v0, register v1 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_PAIRS(xp_trade_dwords512); /* w1 w2 = v0 v1, register v2 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_PAIRS(xp_swap_halves); /* l0 l1 = v3 v2, register v4 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_PAIRS(xp_trade_quarters512); /* l0 l1 = v2 v4, register v3 */
    XP_ALL_PAIRS(xp_butterfly512);
}

XP_INLINE __m512i integers_of(struct input in, const int has_base, const uint32_t *signs, __m512 scale, const int i)
{
    const __m512i x = xp_flipped512(in.row, signs, i);
    __m512 even = xp_even_bf16_512(x), odd = xp_odd_bf16_512(x);

    if (has_base) {
        const __m512i m = xp_flipped512(in.base, signs, i);
        even = _mm512_sub_ps(even, xp_even_bf16_512(m));
        odd = _mm512_sub_ps(odd, xp_odd_bf16_512(m));
    }
    return _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(even, scale)), _mm512_cvtps_epi32(_mm512_mul_ps(odd, scale)));
}

/* Block `at` of a group. */
XP_INLINE struct input input_at(struct input in, const int has_base, size_t at)
{
    return (struct input){in.row + 256 * at, has_base ? in.base + 256 * at : NULL};
}

/* One or two blocks of so many registers, from block `first + b` of the row on; in and signs are those of block `first`. */
XP_INLINE void integers_of_blocks(const struct xp_rotated *to, struct partials *p, size_t first, size_t b, const int blocks, const int regs,
                                  struct input in, const int has_base, const uint32_t *signs)
{
    __m512i w[8], squares[2];

    XP_UNROLL
    for (int i = 0; i < regs * blocks; i++) {
        const size_t n = b + (size_t)(i / regs);
        w[i] = integers_of(input_at(in, has_base, n), has_base, signs + 4 * n, _mm512_set1_ps(to->scale[first + n]), i % regs);
    }
    XP_UNROLL
    for (int i = 0; i < blocks; i++) {
        squares[i] = _mm512_setzero_si512();
        XP_UNROLL
        for (int k = 0; k < regs; k++)
            squares[i] = _mm512_dpwssd_epi32(squares[i], w[regs * i + k], w[regs * i + k]);
        _mm512_store_si512(p->squares[b + (size_t)i], squares[i]);
    }
    rotate_turned(w, blocks, regs);
    XP_UNROLL
    for (int i = 0; i < blocks; i++) {
        __m512i most, least;
        XP_UNROLL
        for (int k = 0; k < regs; k++) {
            const __m512i x = w[regs * i + k];
            _mm512_storeu_si512(xp_qintegers(to, first + b + (size_t)i) + 32 * k, x);
            most = k ? _mm512_max_epi16(most, x) : x;
            least = k ? _mm512_min_epi16(least, x) : x;
        }
        _mm512_store_si512(p->peaks[b + (size_t)i], _mm512_max_epi16(most, _mm512_sub_epi16(_mm512_setzero_si512(), least)));
    }
}

/* ---- rows -------------------------------------------------------------------------------------------------------------------- */

XP_INLINE void first_walk(const struct xp_rotated *to, struct partials *p, size_t first, struct input in, const int has_base, struct xp_extent512 n,
                          struct row_sums *sums)
{
    const size_t count = n.whole + n.half;
    _Alignas(64) float l1[XP_QGROUP];
    struct row_sums s = *sums;

    if (count % 2)
        _mm512_store_ps(p->l1[count], _mm512_setzero_ps());
    for (size_t b = 0; b < n.whole; b++)
        sums_of_block(input_at(in, has_base, b), has_base, 4, p->l1[b], &s);
    if (n.half)
        sums_of_block(input_at(in, has_base, n.whole), has_base, 2, p->l1[n.whole], &s);
    *sums = s;
    _mm512_store_si512(l1, fold_blocks(p->l1, count, FOLD_FLOATS));
    xp_choose_scales512(l1, to, first);
}

XP_INLINE void second_walk(const struct xp_rotated *to, struct partials *p, size_t first, struct input in, const int has_base,
                           const uint32_t *signs, struct xp_extent512 n, const char *ahead)
{
    const size_t count = n.whole + n.half;
    size_t b = 0;

    if (count % 2) {
        _mm512_store_si512(p->squares[count], _mm512_setzero_si512());
        _mm512_store_si512(p->peaks[count], _mm512_setzero_si512());
    }
    for (; b + 2 <= n.whole; b += 2) {
        fetch(ahead, b, 2);
        integers_of_blocks(to, p, first, b, 2, 4, in, has_base, signs);
    }
    if (b < n.whole) {
        fetch(ahead, b, 1);
        integers_of_blocks(to, p, first, b, 1, 4, in, has_base, signs);
    }
    if (n.half) {
        fetch(ahead, n.whole, 1);
        integers_of_blocks(to, p, first, n.whole, 1, 2, in, has_base, signs);
    }
    const __m512i peaks = fold_blocks(p->peaks, count, FOLD_PEAKS), low = _mm512_set1_epi32(0xffff);
    _mm512_storeu_si512(to->largest + first, _mm512_max_epi32(_mm512_and_si512(peaks, low), _mm512_srli_epi32(peaks, 16)));
    _mm512_storeu_si512(to->energy + first, fold_blocks(p->squares, count, FOLD_INTS));
}

/* A block that is neither whole nor half: from value `first` on. */
static void rotate_tail(const struct xp_quantiser *q, const struct xp_code_row *r, size_t first, const struct xp_rotated *to,
                        struct xp_pair512 *row, struct xp_pair512 *rest)
{
    const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first;
    uint16_t in[XP_QBLOCK] = {0}, base[XP_QBLOCK] = {0};
    float x[XP_QBLOCK] = {0};
    struct xp_qstats s;

    memcpy(in, (const char *)r->row + 2 * first, 2 * have);
    if (r->base)
        memcpy(base, (const char *)r->typed_base + 2 * first, 2 * have);
    xp_residual_avx512(in, XP_BF16, r->base ? r->base + first : NULL, have, x);
    xp_qtail_rotate_avx2(q->signs + first / 32, x, n, xp_qintegers(to, first / XP_QBLOCK), &s);
    xp_qstats_put(to, first / XP_QBLOCK, s);
    for (size_t i = 0; i < have; i += 32) {
        const __m512i a = _mm512_loadu_si512(in + i), m = _mm512_loadu_si512(base + i);
        row->even = xp_add_square512(row->even, xp_even_bf16_512(a));
        row->odd = xp_add_square512(row->odd, xp_odd_bf16_512(a));
        rest->even = xp_add_square512(rest->even, _mm512_sub_ps(xp_even_bf16_512(a), xp_even_bf16_512(m)));
        rest->odd = xp_add_square512(rest->odd, _mm512_sub_ps(xp_odd_bf16_512(a), xp_odd_bf16_512(m)));
    }
}

XP_INLINE struct xp_pair512 both_halves(const struct split s[2])
{
    return (struct xp_pair512){_mm512_insertf32x8(_mm512_castps256_ps512(s[0].even), s[1].even, 1),
                               _mm512_insertf32x8(_mm512_castps256_ps512(s[0].odd), s[1].odd, 1)};
}

XP_INLINE void rotate(const struct xp_quantiser *q, const struct xp_code_row *r, const int has_base, const struct xp_rotated *to, float sums[2])
{
    const size_t blocks = q->dim / XP_QBLOCK, half = xp_half_block512(q->dim);
    const struct split zero = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    struct row_sums s = {{zero, zero}, {zero, zero}};
    struct partials p;

    for (size_t b = 0; b < blocks + half; b += XP_QGROUP) {
        const struct xp_extent512 n = xp_extent512(blocks, half, b);
        const struct input in = input_at((struct input){r->row, r->typed_base}, has_base, b);
        first_walk(to, &p, b, in, has_base, n, &s);
        second_walk(to, &p, b, in, has_base, q->signs + 4 * b, n, r->ahead ? (const char *)r->ahead + 256 * b : NULL);
    }
    struct xp_pair512 whole = both_halves(s.row), rest = both_halves(s.rest);
    if (!half && blocks * XP_QBLOCK < q->dim)
        rotate_tail(q, r, blocks * XP_QBLOCK, to, &whole, &rest);
    sums[0] = xp_fold_pairs512(whole.even, whole.odd);
    sums[1] = has_base ? xp_fold_pairs512(rest.even, rest.odd) : sums[0];
}

static void rotate_alone(const struct xp_quantiser *q, const struct xp_code_row *r, const struct xp_rotated *to, float sums[2])
{
    rotate(q, r, 0, to, sums);
}

static void rotate_with_base(const struct xp_quantiser *q, const struct xp_code_row *r, const struct xp_rotated *to, float sums[2])
{
    rotate(q, r, 1, to, sums);
}

void xp_rotate_avx512bf16(const struct xp_quantiser *q, const struct xp_code_row *r, const struct xp_rotated *to, float sums[2])
{
    if (r->type != XP_BF16 || (r->base && !r->typed_base))
        xp_rotate_avx512(q, r, to, sums);
    else
        (r->base ? rotate_with_base : rotate_alone)(q, r, to, sums);
}
