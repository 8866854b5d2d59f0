/*
 * code_avx512bf16.c - a row of bf16 without a base rotated, coded and measured, with AVX-512, its BF16 and its VNNI
 *
 * rotate takes groups of up to 16 blocks in two walks over data in L1: sums (what scales the blocks, and the row's energy); integers,
 * rotation, statistics. code takes them in one: codes, their rotation back, and the distance of what they mean from the row. Scales and
 * steps are chosen for all blocks of a group at once.
 *
 * Signs are taken off the row and not put back: a difference is squared, so it may be taken between the flipped row and the
 * unflipped values. The sums of the row have the order of the contract (kernels.h): value i joins partial i % 32.
 *
 * VCVTNE2PS2BF16 takes denormal numbers for zeros, which is allowed here: where a value below 2^-126 decides a bit of a difference, the
 * difference is below 2^-100 and its square is 0.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/hadamard_avx512.h"
#include "hash/x86/narrow_avx512.h"
#include "hash/x86/quantise_avx512.h"
#include "hash/x86/tail_avx2.h"

#include <string.h>

/*
 * Integers lie "turned": w0 = v5, w1 w2 = v0 v1, l0 l1 = v2 v4, registers (v3, v6) (x86/qblock_avx512.h).
 * Partial results of a group: 16 words of 32 bits a block, to be folded.
 */
struct partials {
    _Alignas(64) float l1[XP_QGROUP][16];
    _Alignas(64) int32_t squares[XP_QGROUP][16], peaks[XP_QGROUP][16];
};

struct steps {
    struct xp_qsteps512 s;
    _Alignas(64) float step[XP_QGROUP], offset[XP_QGROUP]; /* offset: -XP_MAGIC steps */
};

/* ---- 16 partials of each of 16 blocks to one result a block ------------------------------------------------------------ */

enum fold_op { FOLD_FLOATS, FOLD_INTS, FOLD_PEAKS };

XP_INLINE __m512 join(const enum fold_op op, __m512 a, __m512 b)
{
    const __m512i i = _mm512_castps_si512(a), j = _mm512_castps_si512(b);

    return op == FOLD_FLOATS ? _mm512_add_ps(a, b)
                             : _mm512_castsi512_ps(op == FOLD_INTS ? _mm512_add_epi32(i, j) : _mm512_max_epu16(i, j));
}

/* Word w is joined with w + 4 (of 8, so that floats keep the order of their contract), then with w + 2, w + 1, then w + 8. */
XP_INLINE __m512i fold_blocks(const void *partials, const enum fold_op op)
{
    const __m512i from = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    const float *p = partials;
    __m512 y[8], z[4], w[2];

    XP_UNROLL
    for (int k = 0; k < 8; k++) {
        const __m512 a = _mm512_load_ps(p + 32 * k), b = _mm512_load_ps(p + 32 * k + 16);
        y[k] = join(op, _mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
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

/* ---- first walk: sum |x| of a block, and the energy of the row ----------------------------------------------------------- */

struct row_sum {
    __m256 even[2], odd[2]; /* partials 0 2 .. 14, 16 18 .. 30 and 1 3 .. 15, 17 .. 31 */
};

XP_INLINE __m256 add_square256(__m256 sum, __m256 x)
{
    return _mm256_add_ps(sum, _mm256_mul_ps(x, x));
}

XP_INLINE void sums_of_block(const char *row, float *l1, struct row_sum *sum)
{
    const __m256i low = _mm256_set1_epi32(0x7fff), high = _mm256_set1_epi32(0x7fff0000);
    __m256 even_l1 = _mm256_setzero_ps(), odd_l1 = even_l1;

    XP_UNROLL
    for (int i = 0; i < 8; i++) {
        const __m256i w = _mm256_loadu_si256((const __m256i *)(row + 32 * i));
        const __m256 even = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_and_si256(w, low), 16));
        const __m256 odd = _mm256_castsi256_ps(_mm256_and_si256(w, high));
        even_l1 = i ? _mm256_add_ps(even_l1, even) : even;
        odd_l1 = i ? _mm256_add_ps(odd_l1, odd) : odd;
        sum->even[i & 1] = add_square256(sum->even[i & 1], even);
        sum->odd[i & 1] = add_square256(sum->odd[i & 1], odd);
    }
    _mm256_store_ps(l1, even_l1);
    _mm256_store_ps(l1 + 8, odd_l1);
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

/*
 * Two blocks go side by side where there are two: the chain of one leaves the core half idle, and the core looks less than a block
 * ahead. The stages are written one after another for the same reason.
 */
#define EACH_BLOCK(body)                 \
    do {                                 \
        XP_UNROLL                        \
        for (int i = 0; i < blocks; i++) \
            body;                        \
    } while (0)
#define EACH_PAIR(f) XP_EACH_PAIR(w, 4 * blocks, f)

/* Registers (v5, v6), w0 w1 w2 = v1 v2 v0, l0 l1 = v3 v4 to what struct code_group says. */
XP_INLINE void rotate_turned(__m512i *w, const int blocks)
{
    EACH_BLOCK(xp_across_i16(w + 4 * i, 4));
    EACH_PAIR(xp_turn_words); /* w0 w1 w2 = v5 v1 v2, register v0 */
    EACH_PAIR(xp_butterfly512);
    EACH_PAIR(xp_trade_dwords512); /* w1 w2 = v2 v0, register v1 */
    EACH_PAIR(xp_butterfly512);
    EACH_PAIR(xp_trade_dwords512); /* w1 w2 = v0 v1, register v2 */
    EACH_PAIR(xp_butterfly512);
    EACH_PAIR(xp_swap_halves); /* l0 l1 = v3 v2, register v4 */
    EACH_PAIR(xp_butterfly512);
    EACH_PAIR(xp_trade_quarters512); /* l0 l1 = v2 v4, register v3 */
    EACH_PAIR(xp_butterfly512);
}

/* Values 32 i .. 32 i + 31 of a block, those that the signs say negated. */
XP_INLINE __m512i flipped(const char *row, const uint32_t *signs, const int i)
{
    const __m512i in = _mm512_loadu_si512(row + 64 * i);

    return _mm512_mask_add_epi16(in, signs[i], in, _mm512_set1_epi16((short)0x8000));
}

XP_INLINE __m512i integers_of(const char *row, const uint32_t *signs, __m512 scale, const int i)
{
    const __m512i x = flipped(row, signs, i);
    const __m512 even = xp_even_bf16_512(x), odd = xp_odd_bf16_512(x);

    return _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(even, scale)), _mm512_cvtps_epi32(_mm512_mul_ps(odd, scale)));
}

/* One or two blocks, from block `first + b` of the row on; row and signs are those of block `first`. */
XP_INLINE void integers_of_blocks(const struct xp_rotated *to, struct partials *p, size_t first, size_t b, const int blocks, const char *row,
                                  const uint32_t *signs)
{
    __m512i w[8], squares[2];

    XP_UNROLL
    for (int i = 0; i < 4 * blocks; i++) {
        const size_t n = b + (size_t)i / 4;
        w[i] = integers_of(row + 256 * n, signs + 4 * n, _mm512_set1_ps(to->scale[first + n]), i % 4);
    }
    XP_UNROLL
    for (int i = 0; i < blocks; i++) {
        squares[i] = _mm512_setzero_si512();
        XP_UNROLL
        for (int k = 0; k < 4; k++)
            squares[i] = _mm512_dpwssd_epi32(squares[i], w[4 * i + k], w[4 * i + k]);
        _mm512_store_si512(p->squares[b + (size_t)i], squares[i]);
    }
    rotate_turned(w, blocks);
    XP_UNROLL
    for (int i = 0; i < blocks; i++) {
        __m512i most, least;
        XP_UNROLL
        for (int k = 0; k < 4; k++) {
            _mm512_storeu_si512(xp_qintegers(to, first + b + (size_t)i) + 32 * k, w[4 * i + k]);
            most = k ? _mm512_max_epi16(most, w[4 * i + k]) : w[0 + 4 * i];
            least = k ? _mm512_min_epi16(least, w[4 * i + k]) : w[0 + 4 * i];
        }
        _mm512_store_si512(p->peaks[b + (size_t)i], _mm512_max_epi16(most, _mm512_sub_epi16(_mm512_setzero_si512(), least)));
    }
}

/* ---- third walk: codes, and how far they are from the row --------------------------------------------------------------- */

struct constants {
    __m512i plus, minus; /* the last butterfly: words (1, 1) and (1, -1) */
    __m512i upper; /* 0xffff0000 */
    __m512i magic;
    __m512i low, high; /* the last trade of unrotate_turned */
    __m512i middle; /* of the codes, in value 0 (x86/dequantise_avx512.c) */
};

static inline struct constants constants(int levels)
{
    struct constants k = {_mm512_set1_epi32(0x00010001), _mm512_set1_epi32((int)0xffff0001),
                          _mm512_set1_epi32((int)0xffff0000), _mm512_castps_si512(_mm512_set1_ps(XP_MAGIC)),
                          _mm512_setr_epi32(0, 8, 2, 10, 16, 24, 18, 26, 1, 9, 3, 11, 17, 25, 19, 27),
                          _mm512_setr_epi32(4, 12, 6, 14, 20, 28, 22, 30, 5, 13, 7, 15, 21, 29, 23, 31),
                          _mm512_maskz_set1_epi16(3, (short)(32 * (levels - 1)))};

    XP_KEEP(k.plus);
    XP_KEEP(k.minus);
    XP_KEEP(k.magic);
    XP_KEEP(k.upper);
    XP_KEEP(k.low);
    XP_KEEP(k.high);
    XP_KEEP(k.middle);
    return k;
}

/* Codes in turned order to registers (v4, v6), w0 = v5, w1 w2 = v0 v1, l0 l1 = v2 v3: all of the rotation but v5. */
XP_INLINE void unrotate_turned(__m512i *w, const int blocks, const struct constants *k)
{
    EACH_BLOCK(xp_across_i16(w + 4 * i, 4));
    EACH_PAIR(xp_trade_unpack64_512); /* w1 w2 = v0 v3, register v1 */
    EACH_PAIR(xp_butterfly512);
    EACH_PAIR(xp_trade_dwords512); /* w1 w2 = v3 v1, register v0 */
    EACH_PAIR(xp_butterfly512);
    EACH_PAIR(xp_trade_quarters512); /* l0 l1 = v4 v0, register v2 */
    EACH_PAIR(xp_butterfly512);
    XP_UNROLL
    for (int i = 0; i < 4 * blocks; i += 2) {
        const __m512i x = _mm512_permutex2var_epi32(w[i], k->low, w[i + 1]);
        w[i + 1] = _mm512_permutex2var_epi32(w[i], k->high, w[i + 1]);
        w[i] = x;
    }
    EACH_PAIR(xp_butterfly512);
    EACH_BLOCK(w[4 * i] = _mm512_sub_epi16(w[4 * i], k->middle));
}

/* Codes of up to 4 bits are rotated back as bytes first (x86/narrow_avx512.h). */
struct byte_constants {
    __m512i top;         /* the largest code */
    __m512i less;        /* 8, less that 128 */
    __m512i plus, minus; /* bytes (1, 1) and (1, -1) */
    __m512i words[2];    /* words with w0 w1 w2 = v0 v6 v3, l0 l1 = v4 v1, register v2 to w0 w1 w2 = v6 v1 v4, l0 l1 = v2 v3, register v0 */
    __m512i order;       /* bytes to the order of the codes */
    __m512i middle;      /* twice the 256 that two of 128 are, and in value 0 the middle of the codes less 8 */
};

static inline struct byte_constants byte_constants(const int levels)
{
    static const uint8_t order[64] = {
        0, 8, 2, 10, 32, 40, 34, 42, 16, 24, 18, 26, 48, 56, 50, 58,
        4, 12, 6, 14, 36, 44, 38, 46, 20, 28, 22, 30, 52, 60, 54, 62,
        1, 9, 3, 11, 33, 41, 35, 43, 17, 25, 19, 27, 49, 57, 51, 59,
        5, 13, 7, 15, 37, 45, 39, 47, 21, 29, 23, 31, 53, 61, 55, 63};
    static const uint16_t low[32] = {0, 2, 16, 18, 8, 10, 24, 26, 32, 34, 48, 50, 40, 42, 56, 58,
                                     4, 6, 20, 22, 12, 14, 28, 30, 36, 38, 52, 54, 44, 46, 60, 62};
    struct byte_constants k = {_mm512_set1_epi8((char)(levels - 1)),
                               _mm512_mask_set1_epi8(_mm512_set1_epi8(8), 0x300000003, 8 - 128),
                               _mm512_set1_epi8(1), _mm512_set1_epi16((short)0xff01),
                               {_mm512_loadu_si512(low), _mm512_add_epi16(_mm512_loadu_si512(low), _mm512_set1_epi16(1))},
                               _mm512_loadu_si512(order),
                               _mm512_mask_set1_epi16(_mm512_set1_epi16(512), 3, (short)(32 * (levels - 1)))};

    XP_KEEP(k.top);
    XP_KEEP(k.less);
    XP_KEEP(k.plus);
    XP_KEEP(k.minus);
    return k;
}

/* The codes of block i of a group, whose integers are h, as bytes: bits 0 .. 5 of the byte's number v5 v0 v1 v3 v2 v4, register v6. */
XP_INLINE void byte_codes(const int16_t *h, const struct xp_qsteps512 *s, size_t i, const struct byte_constants *k, __m512i u[2])
{
    const __m512i recip = _mm512_set1_epi16((short)s->recip[i]), middle = _mm512_set1_epi16((short)s->middle[i]);
    const __m128i shift = _mm_cvtsi32_si128(s->shift[i]);
    __m512i w[4];

    XP_UNROLL
    for (int j = 0; j < 4; j++)
        w[j] = xp_fixed512(_mm512_loadu_si512(h + 32 * j), recip, middle, shift);
    XP_UNROLL
    for (int j = 0; j < 2; j++)
        u[j] = _mm512_min_epu8(_mm512_packus_epi16(w[2 * j], w[2 * j + 1]), k->top);
}

XP_INLINE void put_byte_codes(const __m512i u[2], const int bits, const struct byte_constants *k, uint8_t *p)
{
    if (bits == 4)
        _mm512_storeu_si512(p, _mm512_permutexvar_epi8(k->order, _mm512_or_si512(u[0], xp_shift_up512(u[1], 4))));
    else
        xp_put_bytes512(bits, _mm512_permutexvar_epi8(k->order, u[0]), _mm512_permutexvar_epi8(k->order, u[1]), p);
}

/* Codes as bytes to words with w0 = v6, w1 w2 = v0 v1, l0 l1 = v2 v3, registers (v4, v5): all of the rotation but v6. */
XP_INLINE void unrotate_bytes(__m512i *u, __m512i *w, const int blocks, const struct byte_constants *k)
{
    XP_UNROLL
    for (int i = 0; i < 2 * blocks; i++)
        u[i] = _mm512_sub_epi8(u[i], k->less);
    XP_EACH_PAIR(u, 2 * blocks, xp_trade_unpack64_512); /* bits 3 .. 5: v6 v2 v4, register v3 */
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_EACH_PAIR(u, 2 * blocks, xp_trade_dwords512); /* bits 2 .. 5: v6 v3 v2 v4, register v1 */
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_EACH_PAIR(u, 2 * blocks, xp_trade_quarters512); /* bits 4 5: v4 v1, register v2 */
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    EACH_BLOCK(xp_trade_words(&u[2 * i], &u[2 * i + 1], k->words)); /* bits 1 .. 5: v6 v1 v4 v2 v3, register v0 */
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_UNROLL
    for (int i = 0; i < blocks; i++) { /* registers (v0, v5) */
        w[4 * i] = _mm512_maddubs_epi16(u[2 * i], k->plus);
        w[4 * i + 1] = _mm512_maddubs_epi16(u[2 * i + 1], k->plus);
        w[4 * i + 2] = _mm512_maddubs_epi16(u[2 * i], k->minus);
        w[4 * i + 3] = _mm512_maddubs_epi16(u[2 * i + 1], k->minus);
    }
    EACH_PAIR(xp_turn_dwords); /* w1 w2 = v0 v1, register v4 */
    EACH_PAIR(xp_butterfly512);
    EACH_BLOCK(w[4 * i] = _mm512_sub_epi16(w[4 * i], k->middle));
}

/* Words (a, b) to (a +- b) * step: the last butterfly. Exact, so the fused form gives what a product would. */
XP_INLINE __m512 last_values(__m512i magic, __m512i w, __m512i butterfly, __m512 step, __m512 offset)
{
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_dpwssd_epi32(magic, w, butterfly)), step, offset);
}

/* 32 values of two registers, against those of the row. */
XP_INLINE void add_distance(__m512i x, const __m512i w[2], __m512i butterfly, __m512 step, __m512 offset, const struct constants *k,
                            struct xp_pair512 *sum)
{
    const __m512 low = last_values(k->magic, w[0], butterfly, step, offset), high = last_values(k->magic, w[1], butterfly, step, offset);
    const __m512bh y = _mm512_cvtne2ps_pbh(high, low);
    const __m512 even = _mm512_sub_ps(xp_even_bf16_512(x), xp_even_bf16_512((__m512i)y));
    const __m512 odd = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_and_si512(x, k->upper)),
                                     _mm512_castsi512_ps(_mm512_and_si512((__m512i)y, k->upper)));

    sum->even = xp_add_square512(sum->even, even);
    sum->odd = xp_add_square512(sum->odd, odd);
}

/* w: with registers (v4, v6) and v5 still to be rotated, or, narrow, (v4, v5) and v6. row and signs are the block's. */
XP_INLINE void distance_of_block(const struct steps *s, size_t i, const __m512i w[4], const int narrow, const char *row, const uint32_t *signs,
                                 const struct constants *k, struct xp_pair512 *sum)
{
    const __m512 step = _mm512_set1_ps(s->step[i]), offset = _mm512_set1_ps(s->offset[i]);
    const int second = narrow ? 2 : 0, third = 2 - second;

    add_distance(flipped(row, signs, 0), w, k->plus, step, offset, k, sum);
    add_distance(flipped(row, signs, 1), w + second, narrow ? k->plus : k->minus, step, offset, k, sum);
    add_distance(flipped(row, signs, 2), w + third, narrow ? k->minus : k->plus, step, offset, k, sum);
    add_distance(flipped(row, signs, 3), w + 2, k->minus, step, offset, k, sum);
}

/* What code_blocks works on: the row and its signs, and what it becomes, all from block `first` on. */
struct part {
    const struct xp_rotated *from;
    size_t first;
    const char *row;
    const uint32_t *signs;
    uint8_t *step, *codes;
};

/* Codes of one or two blocks, from block b of the part on, as bytes. */
XP_INLINE void narrow_codes(const struct part *p, const struct steps *s, size_t b, const int blocks, const int bits,
                            const struct byte_constants *k, __m512i *w)
{
    __m512i u[4];

    XP_UNROLL
    for (size_t i = 0; i < (size_t)blocks; i++)
        byte_codes(xp_qintegers(p->from, p->first + b + i), &s->s, b + i, k, u + 2 * i);
    XP_UNROLL
    for (size_t i = 0; i < (size_t)blocks; i++)
        put_byte_codes(u + 2 * i, bits, k, p->codes + (b + i) * 16 * (size_t)bits);
    unrotate_bytes(u, w, blocks, k);
}

/* The same as words. */
XP_INLINE void wide_codes(const struct part *p, const struct steps *s, size_t b, const int blocks, const int levels, const int bits,
                          const int paired, const struct constants *k, __m512i *w)
{
    const size_t bytes = (size_t)bits * (paired ? 8 : 16);

    XP_UNROLL
    for (size_t i = 0; i < (size_t)blocks; i++)
        xp_codes512(xp_qintegers(p->from, p->first + b + i), &s->s, b + i, levels, w + 4 * i);
    XP_UNROLL
    for (size_t i = 0; i < (size_t)blocks; i++)
        xp_put_codes512(w + 4 * i, levels, bits, paired, 1, p->codes + (b + i) * bytes);
    unrotate_turned(w, blocks, k);
}

/* One or two blocks, from block b of the part on. */
XP_INLINE void codes_of_blocks(const struct part *p, const struct steps *s, size_t b, const int blocks, const int levels, const int bits,
                               const int paired, const struct constants *k, const struct byte_constants *bytes, struct xp_pair512 *sum)
{
    const int narrow = bits <= 4 && !paired;
    __m512i w[8];

    XP_UNROLL
    for (size_t i = 0; i < (size_t)blocks; i++)
        xp_put16(p->step + 2 * (b + i), (uint16_t)s->s.wire[b + i]);
    if (narrow)
        narrow_codes(p, s, b, blocks, bits, bytes, w);
    else
        wide_codes(p, s, b, blocks, levels, bits, paired, k, w);
    XP_UNROLL
    for (size_t i = 0; i < (size_t)blocks; i++)
        distance_of_block(s, b + i, w + 4 * i, narrow, p->row + 256 * (b + i), p->signs + 4 * (b + i), k, sum);
}

XP_INLINE void codes_of_group(const struct part *p, const struct steps *s, size_t count, const int levels, const int bits, const int paired,
                              struct xp_pair512 *distance)
{
    const struct constants k = constants(levels);
    const struct byte_constants bc = byte_constants(levels);
    struct xp_pair512 sum = *distance;
    size_t b = 0;

    for (; b + 2 <= count; b += 2)
        codes_of_blocks(p, s, b, 2, levels, bits, paired, &k, &bc, &sum);
    if (b < count)
        codes_of_blocks(p, s, b, 1, levels, bits, paired, &k, &bc, &sum);
    *distance = sum;
}

/* ---- rows -------------------------------------------------------------------------------------------------------------------- */

static void codes_of_format(enum xp_qformat f, const struct part *p, const struct steps *s, size_t count, struct xp_pair512 *sum)
{
    switch (f) {
    case XP_Q_INT2: codes_of_group(p, s, count, 4, 2, 0, sum); break;
    case XP_Q_INT25: codes_of_group(p, s, count, 5, 5, 1, sum); break;
    case XP_Q_INT3: codes_of_group(p, s, count, 8, 3, 0, sum); break;
    case XP_Q_INT35: codes_of_group(p, s, count, 11, 7, 1, sum); break;
    case XP_Q_INT4: codes_of_group(p, s, count, 16, 4, 0, sum); break;
    case XP_Q_INT45: codes_of_group(p, s, count, 22, 9, 1, sum); break;
    case XP_Q_INT5: codes_of_group(p, s, count, 32, 5, 0, sum); break;
    case XP_Q_INT55: codes_of_group(p, s, count, 45, 11, 1, sum); break;
    case XP_Q_INT6: codes_of_group(p, s, count, 64, 6, 0, sum); break;
    case XP_Q_INT65: codes_of_group(p, s, count, 90, 13, 1, sum); break;
    case XP_Q_INT7: codes_of_group(p, s, count, 128, 7, 0, sum); break;
    case XP_Q_INT75: codes_of_group(p, s, count, 181, 15, 1, sum); break;
    default: codes_of_group(p, s, count, 256, 8, 0, sum); break;
    }
}

static void first_walk(const struct xp_rotated *to, struct partials *p, size_t first, const char *row, size_t count, struct row_sum *energy)
{
    _Alignas(64) float l1[XP_QGROUP];

    if (count < XP_QGROUP) /* the blocks that are not there are folded, too */
        memset(p->l1, 0, sizeof(p->l1));
    for (size_t b = 0; b < count; b++)
        sums_of_block(row + 256 * b, p->l1[b], energy);
    _mm512_store_si512(l1, fold_blocks(p->l1, FOLD_FLOATS));
    xp_choose_scales512(l1, to, first);
}

static void second_walk(const struct xp_rotated *to, struct partials *p, size_t first, const char *row, const uint32_t *signs, size_t count,
                        const char *ahead)
{
    size_t b = 0;

    if (count < XP_QGROUP) {
        memset(p->squares, 0, sizeof(p->squares));
        memset(p->peaks, 0, sizeof(p->peaks));
    }
    for (; b + 2 <= count; b += 2) {
        fetch(ahead, b, 2);
        integers_of_blocks(to, p, first, b, 2, row, signs);
    }
    if (b < count) {
        fetch(ahead, b, 1);
        integers_of_blocks(to, p, first, b, 1, row, signs);
    }
    const __m512i peaks = fold_blocks(p->peaks, FOLD_PEAKS), low = _mm512_set1_epi32(0xffff);
    _mm512_storeu_si512(to->largest + first, _mm512_max_epi32(_mm512_and_si512(peaks, low), _mm512_srli_epi32(peaks, 16)));
    _mm512_storeu_si512(to->energy + first, fold_blocks(p->squares, FOLD_INTS));
}

/* A block that is not whole. */
static void rotate_tail(const struct xp_quantiser *q, const char *row, size_t first, const struct xp_rotated *to, struct xp_pair512 *energy)
{
    const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first;
    uint16_t in[XP_QBLOCK] = {0};
    float x[XP_QBLOCK] = {0};
    struct xp_qstats s;

    memcpy(in, row + 2 * first, 2 * have);
    xp_residual_avx512(in, XP_BF16, NULL, have, x);
    xp_qtail_rotate_avx2(q->signs + first / 32, x, n, xp_qintegers(to, first / XP_QBLOCK), &s);
    xp_qstats_put(to, first / XP_QBLOCK, s);
    for (size_t i = 0; i < have; i += 32) {
        const __m512i a = _mm512_loadu_si512(in + i);
        energy->even = xp_add_square512(energy->even, xp_even_bf16_512(a));
        energy->odd = xp_add_square512(energy->odd, xp_odd_bf16_512(a));
    }
}

static void code_tail(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const char *row, size_t first,
                      uint8_t *step, uint8_t *codes, struct xp_pair512 *distance)
{
    const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first;
    const struct xp_qstats s = xp_qstats_get(from, first / XP_QBLOCK);
    uint16_t in[XP_QBLOCK] = {0}, out[XP_QBLOCK] = {0};
    float y[XP_QBLOCK];

    memcpy(in, row + 2 * first, 2 * have);
    xp_qtail_code_avx2(f, &s, xp_qintegers(from, first / XP_QBLOCK), n, step, codes);
    xp_qtail_decode_avx2(f, q->signs + first / 32, step, codes, n, y);
    xp_restore_avx512(y, NULL, have, XP_BF16, out);
    for (size_t i = 0; i < have; i += 32) {
        const __m512i a = _mm512_loadu_si512(in + i), b = _mm512_loadu_si512(out + i);
        distance->even = xp_add_square512(distance->even, _mm512_sub_ps(xp_even_bf16_512(a), xp_even_bf16_512(b)));
        distance->odd = xp_add_square512(distance->odd, _mm512_sub_ps(xp_odd_bf16_512(a), xp_odd_bf16_512(b)));
    }
}

void xp_rotate_avx512bf16(const struct xp_quantiser *q, const struct xp_code_row *r, const struct xp_rotated *to, float sums[2])
{
    const size_t blocks = q->dim / XP_QBLOCK;
    const __m256 zero = _mm256_setzero_ps();
    struct row_sum sum = {{zero, zero}, {zero, zero}};
    struct partials p;

    if (r->type != XP_BF16 || r->base) {
        xp_rotate_avx512(q, r, to, sums);
        return;
    }
    for (size_t b = 0; b < blocks; b += XP_QGROUP) {
        const size_t count = blocks - b < XP_QGROUP ? blocks - b : XP_QGROUP;
        const char *row = (const char *)r->row + 256 * b;
        first_walk(to, &p, b, row, count, &sum);
        second_walk(to, &p, b, row, q->signs + 4 * b, count, r->ahead ? (const char *)r->ahead + 256 * b : NULL);
    }
    struct xp_pair512 energy = {_mm512_insertf32x8(_mm512_castps256_ps512(sum.even[0]), sum.even[1], 1),
                                _mm512_insertf32x8(_mm512_castps256_ps512(sum.odd[0]), sum.odd[1], 1)};
    if (blocks * XP_QBLOCK < q->dim)
        rotate_tail(q, r->row, blocks * XP_QBLOCK, to, &energy);
    sums[0] = sums[1] = xp_fold_pairs512(energy.even, energy.odd);
}

float xp_code_avx512bf16(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r,
                         uint8_t *out)
{
    const size_t blocks = q->dim / XP_QBLOCK, bytes = xp_qblock_bytes(f, XP_QBLOCK);
    struct xp_pair512 distance = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);
    struct steps s;

    if (r->type != XP_BF16 || r->base || f == XP_Q_FP8)
        return xp_code_avx512(q, f, from, r, out);
    for (size_t b = 0; b < blocks; b += XP_QGROUP) {
        const size_t count = blocks - b < XP_QGROUP ? blocks - b : XP_QGROUP;
        const struct part p = {from, b, (const char *)r->row + 256 * b, q->signs + 4 * b, out + 2 * b, codes + b * bytes};
        xp_choose_steps512(from, b, count, f, &s.s);
        const __m512 steps = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_load_si512(s.s.wire), 16));
        _mm512_store_ps(s.step, steps);
        _mm512_store_ps(s.offset, _mm512_mul_ps(steps, _mm512_set1_ps(-XP_MAGIC)));
        codes_of_format(f, &p, &s, count, &distance);
    }
    if (blocks * XP_QBLOCK < q->dim)
        code_tail(q, f, from, r->row, blocks * XP_QBLOCK, out + 2 * blocks, codes + blocks * bytes, &distance);
    return xp_fold_pairs512(distance.even, distance.odd);
}
