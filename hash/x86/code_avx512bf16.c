/*
 * code_avx512bf16.c - a rotated row of bf16 coded and measured, with AVX-512, its BF16 and its VNNI
 *
 * Groups of up to 16 blocks, half a block at the end of the row among them, take one walk: codes, their rotation back, and the distance
 * of what they mean from the row. Steps are chosen for all blocks of a group at once.
 *
 * Without a base signs are taken off the row and not put back on the values: a difference is squared, so it may be taken between the
 * flipped row and the unflipped values. The distance has the order of the contract (kernels.h): value i joins partial i % 32.
 *
 * Differences are taken by VDPBF16PS, which has no need of a decoded value as f32: x + y * -1 + z * 0, z being the value beside y. It and
 * VCVTNE2PS2BF16 take denormal numbers for zeros, which is allowed here: where a value below 2^-126 decides a bit of a difference, the
 * difference is below 2^-100 and its square is 0.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/hadamard_avx512.h"
#include "hash/x86/half_block_avx512.h"
#include "hash/x86/narrow_avx512.h"
#include "hash/x86/quantise_avx512.h"
#include "hash/x86/tail_avx2.h"
#include "hash/x86/turned_avx512.h"

#include <string.h>

struct steps {
    struct xp_qsteps512 s;
    _Alignas(64) float step[XP_QGROUP], offset[XP_QGROUP]; /* offset: -XP_MAGIC steps */
};

struct constants {
    __m512i plus, minus; /* the last butterfly: words (1, 1) and (1, -1) */
    __m512i upper; /* 0xffff0000 */
    __m512i less_even, less_odd; /* pairs of bf16: -1 for one of two values, 0 for the other */
    __m512i magic, twice; /* XP_MAGIC, and what a value is taken from to negate it */
    __m512i low, high; /* the last trade of unrotate_turned */
    __m512i middle; /* of the codes, in value 0 (x86/dequantise_avx512.c) */
};

static inline struct constants constants(int levels)
{
    const __m512i magic = _mm512_castps_si512(_mm512_set1_ps(XP_MAGIC));
    struct constants k = {_mm512_set1_epi32(0x00010001), _mm512_set1_epi32((int)0xffff0001),
                          _mm512_set1_epi32((int)0xffff0000), _mm512_set1_epi32(0xbf80), _mm512_set1_epi32((int)0xbf800000), magic, _mm512_add_epi32(magic, magic),
                          _mm512_setr_epi32(0, 8, 2, 10, 16, 24, 18, 26, 1, 9, 3, 11, 17, 25, 19, 27),
                          _mm512_setr_epi32(4, 12, 6, 14, 20, 28, 22, 30, 5, 13, 7, 15, 21, 29, 23, 31),
                          _mm512_maskz_set1_epi16(3, (short)(32 * (levels - 1)))};

    XP_KEEP(k.plus);
    XP_KEEP(k.minus);
    XP_KEEP(k.magic);
    XP_KEEP(k.twice);
    XP_KEEP(k.upper);
    XP_KEEP(k.less_even);
    XP_KEEP(k.less_odd);
    XP_KEEP(k.low);
    XP_KEEP(k.high);
    XP_KEEP(k.middle);
    return k;
}

/* Codes in turned order to registers (v4, v6), w0 = v5, w1 w2 = v0 v1, l0 l1 = v2 v3: all of the rotation but v5. */
XP_INLINE void unrotate_turned(__m512i *w, const int blocks, const int regs, __m512i middle, const struct constants *k)
{
    XP_ALL_BLOCKS(xp_across_i16(w + regs * i, regs));
    XP_ALL_PAIRS(xp_trade_unpack64_512); /* w1 w2 = v0 v3, register v1 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_PAIRS(xp_trade_dwords512); /* w1 w2 = v3 v1, register v0 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_PAIRS(xp_trade_quarters512); /* l0 l1 = v4 v0, register v2 */
    XP_ALL_PAIRS(xp_butterfly512);
    XP_UNROLL
    for (int i = 0; i < regs * blocks; i += 2) {
        const __m512i x = _mm512_permutex2var_epi32(w[i], k->low, w[i + 1]);
        w[i + 1] = _mm512_permutex2var_epi32(w[i], k->high, w[i + 1]);
        w[i] = x;
    }
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_BLOCKS(w[regs * i] = _mm512_sub_epi16(w[regs * i], middle));
}

/* How codes are measured: without a base, the same and decoded as well, or with a base. */
enum how { ALONE, DECODED, WITH_BASE };

/* What the codes of a block are measured against. */
struct measure {
    const char *row;
    const float *base; /* NULL: none */
    const uint32_t *signs;
    char *decoded;     /* gets what they mean; NULL: nobody asks */
    __m512 step, offset;
};

/* Words (a, b) to (a +- b) * step: the last butterfly. Exact, so the fused form gives what a product would. Values [16 part, ..) of
 * 32 i .. 32 i + 31. */
XP_INLINE __m512 last_values(__m512i w, __m512i butterfly, const struct measure *m, const enum how how, const int i, const int part,
                             const struct constants *k)
{
    __m512i x = _mm512_dpwssd_epi32(k->magic, w, butterfly);

    if (how != ALONE)
        x = _mm512_mask_sub_epi32(x, (__mmask16)(m->signs[i] >> (16 * part)), k->twice, x);
    const __m512 y = _mm512_fmadd_ps(_mm512_castsi512_ps(x), m->step, m->offset);
    return how == WITH_BASE ? _mm512_add_ps(y, _mm512_loadu_ps(m->base + 32 * i + 16 * part)) : y;
}

/* Values 32 i .. 32 i + 31, of two registers, against those of the row. */
XP_INLINE void add_distance(const __m512i w[2], __m512i butterfly, const struct measure *m, const enum how how, const int i,
                            const struct constants *k, struct xp_pair512 *sum)
{
    const __m512 low = last_values(w[0], butterfly, m, how, i, 0, k), high = last_values(w[1], butterfly, m, how, i, 1, k);
    const __m512i x = how != ALONE ? _mm512_loadu_si512(m->row + 64 * i) : xp_flipped512(m->row, m->signs, i);
    const __m512bh y = _mm512_cvtne2ps_pbh(high, low);
    const __m512 even = _mm512_dpbf16_ps(xp_even_bf16_512(x), y, (__m512bh)k->less_even);
    const __m512 odd = _mm512_dpbf16_ps(_mm512_castsi512_ps(_mm512_and_si512(x, k->upper)), y, (__m512bh)k->less_odd);

    if (how == DECODED)
        _mm512_storeu_si512(m->decoded + 64 * i, (__m512i)y);
    sum->even = xp_add_square512(sum->even, even);
    sum->odd = xp_add_square512(sum->odd, odd);
}

/* Values 32 i .. 32 i + 31 of a block. w: with registers (v4, v6) and v5 still to be rotated, or, narrow, (v4, v5) and v6. */
XP_INLINE void add_part_distance(const struct measure *m, const enum how how, const __m512i w[4], const int narrow, const int i,
                                 const struct constants *k, struct xp_pair512 *sum)
{
    const int second = narrow ? i & 1 : i >> 1, minus = narrow ? i >> 1 : i & 1;

    add_distance(w + 2 * second, minus ? k->minus : k->plus, m, how, i, k, sum);
}

XP_INLINE void distance_of_block(const struct measure *m, const enum how how, const __m512i w[4], const int narrow, const struct constants *k,
                                 struct xp_pair512 *sum)
{
    XP_UNROLL
    for (int i = 0; i < 4; i++)
        add_part_distance(m, how, w, narrow, i, k, sum);
}

/* What code_blocks works on: the row, its base and signs, and what it becomes, all from block `first` on. */
struct part {
    const struct xp_rotated *from;
    size_t first;
    const char *row;
    const float *base; /* NULL: none */
    const uint32_t *signs;
    char *decoded;     /* NULL: nobody asks */
    uint8_t *step, *codes;
};

/* Block b of the part. */
XP_INLINE struct measure measure_of(const struct part *p, const struct steps *s, size_t b, const enum how how)
{
    return (struct measure){p->row + 256 * b, how == WITH_BASE ? p->base + XP_QBLOCK * b : NULL, p->signs + 4 * b,
                            how == DECODED ? p->decoded + 256 * b : NULL, _mm512_set1_ps(s->step[b]), _mm512_set1_ps(s->offset[b])};
}

/*
 * Two blocks whose words, narrow, are waiting to be measured while the next two are coded: multiplications and additions of floats take
 * other ports than shuffles, and the core does not look far enough ahead to find them.
 */
struct waiting {
    const __m512i *w; /* NULL: none */
    const struct measure *m;
    enum how how;
    const struct constants *k;
    struct xp_pair512 *sum;
};

/* Measures eighth i of them. */
XP_INLINE void measure_eighth(const struct waiting *t, const int i)
{
    if (t->w)
        add_part_distance(t->m + i / 4, t->how, t->w + 4 * (i / 4), 1, i % 4, t->k, t->sum);
}

/* Codes are rotated back as bytes first (x86/narrow_avx512.h): four stages of those of up to 4 bits, two of those of 5 or 6. */
enum stages { NO_STAGES = 0, TWO_STAGES = 2, FOUR_STAGES = 4 };

XP_INLINE enum stages stages_of(const int bits, const int paired)
{
    return paired || bits > 6 ? NO_STAGES : bits > 4 ? TWO_STAGES : FOUR_STAGES;
}

struct byte_constants {
    __m512i top;         /* the largest code */
    __m512i less[2];     /* half of what so many bits can say, less 128 where that is one byte of those added up as bytes */
    __m512i plus, minus; /* bytes (1, 1) and (1, -1) */
    __m512i words[2];    /* the last trade before them */
    __m512i order[2];    /* bytes to the order of the codes */
    __m512i middle;      /* what has become of the 128, and in value 0 the middle of the codes with it */
};

static inline struct byte_constants byte_constants(const int levels, const int bits, const enum stages stages)
{
    static const uint8_t order[64] = {
        0, 64, 2, 66, 32, 96, 34, 98, 16, 80, 18, 82, 48, 112, 50, 114,
        4, 68, 6, 70, 36, 100, 38, 102, 20, 84, 22, 86, 52, 116, 54, 118,
        1, 65, 3, 67, 33, 97, 35, 99, 17, 81, 19, 83, 49, 113, 51, 115,
        5, 69, 7, 71, 37, 101, 39, 103, 21, 85, 23, 87, 53, 117, 55, 119};
    static const uint16_t four[32] = {0, 2, 16, 18, 8, 10, 24, 26, 32, 34, 48, 50, 40, 42, 56, 58,
                                      4, 6, 20, 22, 12, 14, 28, 30, 36, 38, 52, 54, 44, 46, 60, 62};
    static const uint16_t two[32] = {0, 4, 8, 12, 1, 5, 9, 13, 32, 36, 40, 44, 33, 37, 41, 45,
                                    16, 20, 24, 28, 17, 21, 25, 29, 48, 52, 56, 60, 49, 53, 57, 61};
    const __m512i words = _mm512_loadu_si512(stages == FOUR_STAGES ? four : two), first = _mm512_loadu_si512(order);
    const char half = (char)(stages == FOUR_STAGES ? 8 : 1 << (bits - 1));
    const __mmask64 one = stages == FOUR_STAGES ? 0x0000030300000303 : 0x0000ffff0000ffff;
    const __m512i sums = stages == FOUR_STAGES ? _mm512_set1_epi16(512) : _mm512_maskz_set1_epi32(0x1111, 2048 * 0x00010001);
    const __m512i less = _mm512_set1_epi8(half);
    struct byte_constants k = {_mm512_set1_epi8((char)(levels - 1)),
                               {_mm512_mask_set1_epi8(less, one, (char)(half - 128)), less},
                               _mm512_set1_epi8(1), _mm512_set1_epi16((short)0xff01),
                               {words, _mm512_add_epi16(words, _mm512_set1_epi16(stages == FOUR_STAGES ? 1 : 2))},
                               {first, _mm512_add_epi8(first, _mm512_set1_epi8(8))},
                               _mm512_mask_add_epi16(sums, 3, sums, _mm512_set1_epi16((short)(32 * (levels - 1) - 64 * half)))};

    XP_KEEP(k.top);
    XP_KEEP(k.less[0]);
    XP_KEEP(k.less[1]);
    XP_KEEP(k.plus);
    XP_KEEP(k.minus);
    return k;
}

/* The codes of block i of a group, whose integers are h, as bytes: bits 0 .. 5 of the byte's number v5 v0 v1 v6 v2 v4, register v3. */
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
        u[j] = _mm512_min_epu8(_mm512_packus_epi16(w[j], w[j + 2]), k->top);
}

XP_INLINE void put_byte_codes(const __m512i u[2], const int bits, const struct byte_constants *k, uint8_t *p)
{
    xp_put_bytes512(bits, _mm512_permutex2var_epi8(u[0], k->order[0], u[1]), _mm512_permutex2var_epi8(u[0], k->order[1], u[1]), p);
}

/* Four stages: bits 1 .. 5 of a byte's number become v6 v1 v4 v2 v3, register v0. */
XP_INLINE void unrotate_four(__m512i *u, const int blocks, const struct byte_constants *k, const struct waiting *t)
{
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_EACH_PAIR(u, 2 * blocks, xp_trade_dwords512); /* bits 2 .. 5: v6 v3 v2 v4, register v1 */
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    measure_eighth(t, 4);
    XP_EACH_PAIR(u, 2 * blocks, xp_trade_quarters512); /* bits 4 5: v4 v1, register v2 */
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_ALL_BLOCKS(xp_trade_words(&u[2 * i], &u[2 * i + 1], k->words));
    measure_eighth(t, 5);
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
}

/* Two: v6 v4 v0 v2 v3, register v1. */
XP_INLINE void unrotate_two(__m512i *u, const int blocks, const struct byte_constants *k, const struct waiting *t)
{
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_EACH_PAIR(u, 2 * blocks, xp_trade_quarters512); /* bits 4 5: v4 v3, register v2 */
    measure_eighth(t, 4);
    XP_EACH_PAIR(u, 2 * blocks, xp_butterfly_bytes);
    XP_ALL_BLOCKS(xp_trade_words(&u[2 * i], &u[2 * i + 1], k->words));
}

/* Codes as bytes to words with w0 = v6, w1 w2 = v0 v1, l0 l1 = v2 v3, registers (v4, v5): all of the rotation but v6. */
XP_INLINE void unrotate_bytes(__m512i *u, __m512i *w, const int blocks, const enum stages stages, const struct byte_constants *k,
                              const struct waiting *t)
{
    enum { regs = 4 };

    XP_UNROLL
    for (int i = 0; i < 2 * blocks; i++)
        u[i] = _mm512_sub_epi8(u[i], k->less[i % 2]);
    if (stages == FOUR_STAGES)
        unrotate_four(u, blocks, k, t);
    else
        unrotate_two(u, blocks, k, t);
    XP_UNROLL
    for (int i = 0; i < blocks; i++) { /* registers (that of the bytes, v5) */
        w[4 * i] = _mm512_maddubs_epi16(u[2 * i], k->plus);
        w[4 * i + 1] = _mm512_maddubs_epi16(u[2 * i + 1], k->plus);
        w[4 * i + 2] = _mm512_maddubs_epi16(u[2 * i], k->minus);
        w[4 * i + 3] = _mm512_maddubs_epi16(u[2 * i + 1], k->minus);
    }
    if (stages == TWO_STAGES) {
        measure_eighth(t, 5);
        XP_ALL_PAIRS(xp_butterfly512);
        XP_ALL_PAIRS(xp_turn_dwords); /* w1 w2 = v1 v4, register v0 */
        measure_eighth(t, 6);
        XP_ALL_PAIRS(xp_butterfly512);
    }
    if (stages == FOUR_STAGES)
        measure_eighth(t, 6);
    XP_ALL_PAIRS(xp_turn_dwords); /* w1 w2 = v0 v1, register v4 */
    measure_eighth(t, 7);
    XP_ALL_PAIRS(xp_butterfly512);
    XP_ALL_BLOCKS(w[4 * i] = _mm512_sub_epi16(w[4 * i], k->middle));
}

XP_INLINE void put_steps(const struct part *p, const struct steps *s, size_t b, const int blocks)
{
    XP_UNROLL
    for (size_t i = 0; i < (size_t)blocks; i++)
        xp_put16(p->step + 2 * (b + i), (uint16_t)s->s.wire[b + i]);
}

/* Codes of one or two blocks, from block b of the part on, as bytes. */
XP_INLINE void narrow_codes(const struct part *p, const struct steps *s, size_t b, const int blocks, const int bits, const enum stages stages,
                            const struct byte_constants *k, const struct waiting *t, __m512i *w)
{
    __m512i u[4];

    XP_UNROLL
    for (int i = 0; i < blocks; i++) {
        byte_codes(xp_qintegers(p->from, p->first + b + (size_t)i), &s->s, b + (size_t)i, k, u + 2 * i);
        measure_eighth(t, i);
    }
    XP_UNROLL
    for (int i = 0; i < blocks; i++) {
        put_byte_codes(u + 2 * i, bits, k, p->codes + (b + (size_t)i) * 16 * (size_t)bits);
        measure_eighth(t, 2 + i);
    }
    unrotate_bytes(u, w, blocks, stages, k, t);
}

/* Pairs of a part's `count` blocks, as bytes, and their distance. Returns how many blocks that were. */
XP_INLINE size_t narrow_pairs(const struct part *p, const struct steps *s, size_t count, const int bits, const enum stages stages,
                              const enum how how, const struct constants *k, const struct byte_constants *bytes, struct xp_pair512 *sum)
{
    const struct waiting none = {.w = NULL};
    struct measure m[2];
    __m512i w[8], next[8];
    size_t b = 0;

    if (count < 2)
        return 0;
    put_steps(p, s, 0, 2);
    narrow_codes(p, s, 0, 2, bits, stages, bytes, &none, w);
    m[0] = measure_of(p, s, 0, how);
    m[1] = measure_of(p, s, 1, how);
    for (b = 2; b + 2 <= count; b += 2) {
        const struct waiting t = {w, m, how, k, sum};
        put_steps(p, s, b, 2);
        narrow_codes(p, s, b, 2, bits, stages, bytes, &t, next);
        m[0] = measure_of(p, s, b, how);
        m[1] = measure_of(p, s, b + 1, how);
        XP_UNROLL
        for (int i = 0; i < 8; i++)
            w[i] = next[i];
    }
    distance_of_block(m, how, w, 1, k, sum);
    distance_of_block(m + 1, how, w + 4, 1, k, sum);
    return b;
}

/* The same as words. */
XP_INLINE void wide_codes(const struct part *p, const struct steps *s, size_t b, const int blocks, const int levels, const int bits,
                          const int paired, const struct constants *k, __m512i *w)
{
    const size_t bytes = (size_t)bits * (paired ? 8 : 16);

    XP_UNROLL
    for (size_t i = 0; i < (size_t)blocks; i++)
        xp_codes512(xp_qintegers(p->from, p->first + b + i), &s->s, b + i, levels, 4, w + 4 * i);
    XP_UNROLL
    for (size_t i = 0; i < (size_t)blocks; i++)
        xp_put_codes512(w + 4 * i, levels, bits, paired, 1, p->codes + (b + i) * bytes);
    unrotate_turned(w, blocks, 4, k->middle, k);
}

/* One or two blocks, from block b of the part on. */
XP_INLINE void codes_of_blocks(const struct part *p, const struct steps *s, size_t b, const int blocks, const int levels, const int bits,
                               const int paired, const enum how how, const struct constants *k, const struct byte_constants *bytes,
                               struct xp_pair512 *sum)
{
    const enum stages stages = stages_of(bits, paired);
    const struct waiting none = {.w = NULL};
    __m512i w[8];

    put_steps(p, s, b, blocks);
    if (stages)
        narrow_codes(p, s, b, blocks, bits, stages, bytes, &none, w);
    else
        wide_codes(p, s, b, blocks, levels, bits, paired, k, w);
    XP_UNROLL
    for (size_t i = 0; i < (size_t)blocks; i++) {
        const struct measure m = measure_of(p, s, b + i, how);
        distance_of_block(&m, how, w + 4 * i, stages != NO_STAGES, k, sum);
    }
}

/* Half a block, block b of the part. */
XP_INLINE void codes_of_half(const struct part *p, const struct steps *s, size_t b, const int levels, const int bits, const int paired,
                             const enum how how, const struct constants *k, struct xp_pair512 *sum)
{
    uint8_t *codes = p->codes + b * (size_t)bits * (paired ? 8 : 16);
    const struct measure m = measure_of(p, s, b, how);
    __m512i w[2];

    xp_put16(p->step + 2 * b, (uint16_t)s->s.wire[b]);
    xp_codes512(xp_qintegers(p->from, p->first + b), &s->s, b, levels, 2, w);
    if (paired)
        xp_put_half_pairs512(levels, bits, w, codes);
    else
        xp_put_half_single512(bits, w, codes);
    unrotate_turned(w, 1, 2, _mm512_maskz_set1_epi16(3, (short)(16 * (levels - 1))), k);
    add_distance(w, k->plus, &m, how, 0, k, sum);
    add_distance(w, k->minus, &m, how, 1, k, sum);
}

XP_INLINE void codes_of_group(const struct part *p, const struct steps *s, struct xp_extent512 n, const int levels, const int bits, const int paired,
                              const enum how how, struct xp_pair512 *distance)
{
    const struct constants k = constants(levels);
    const struct byte_constants bc = byte_constants(levels, bits, stages_of(bits, paired));
    const enum stages stages = stages_of(bits, paired);
    struct xp_pair512 sum = *distance;
    size_t b = stages ? narrow_pairs(p, s, n.whole, bits, stages, how, &k, &bc, &sum) : 0;

    for (; !stages && b + 2 <= n.whole; b += 2)
        codes_of_blocks(p, s, b, 2, levels, bits, paired, how, &k, &bc, &sum);
    if (b < n.whole)
        codes_of_blocks(p, s, b, 1, levels, bits, paired, how, &k, &bc, &sum);
    if (n.half)
        codes_of_half(p, s, n.whole, levels, bits, paired, how, &k, &sum);
    *distance = sum;
}

/* ---- rows -------------------------------------------------------------------------------------------------------------------- */

XP_INLINE void codes_of_format(enum xp_qformat f, const struct part *p, const struct steps *s, struct xp_extent512 n, const enum how how,
                               struct xp_pair512 *sum)
{
    switch (f) {
    case XP_Q_INT2: codes_of_group(p, s, n, 4, 2, 0, how, sum); break;
    case XP_Q_INT25: codes_of_group(p, s, n, 5, 5, 1, how, sum); break;
    case XP_Q_INT3: codes_of_group(p, s, n, 8, 3, 0, how, sum); break;
    case XP_Q_INT35: codes_of_group(p, s, n, 11, 7, 1, how, sum); break;
    case XP_Q_INT4: codes_of_group(p, s, n, 16, 4, 0, how, sum); break;
    case XP_Q_INT45: codes_of_group(p, s, n, 22, 9, 1, how, sum); break;
    case XP_Q_INT5: codes_of_group(p, s, n, 32, 5, 0, how, sum); break;
    case XP_Q_INT55: codes_of_group(p, s, n, 45, 11, 1, how, sum); break;
    case XP_Q_INT6: codes_of_group(p, s, n, 64, 6, 0, how, sum); break;
    case XP_Q_INT65: codes_of_group(p, s, n, 90, 13, 1, how, sum); break;
    case XP_Q_INT7: codes_of_group(p, s, n, 128, 7, 0, how, sum); break;
    case XP_Q_INT75: codes_of_group(p, s, n, 181, 15, 1, how, sum); break;
    default: codes_of_group(p, s, n, 256, 8, 0, how, sum); break;
    }
}

static void codes_alone(enum xp_qformat f, const struct part *p, const struct steps *s, struct xp_extent512 n, struct xp_pair512 *sum)
{
    codes_of_format(f, p, s, n, ALONE, sum);
}

/* f: XP_Q_INT8, what rows are mostly coded in that are wanted decoded. */
static void codes_decoded(enum xp_qformat f, const struct part *p, const struct steps *s, struct xp_extent512 n, struct xp_pair512 *sum)
{
    (void)f;
    codes_of_group(p, s, n, 256, 8, 0, DECODED, sum);
}

static void codes_with_base(enum xp_qformat f, const struct part *p, const struct steps *s, struct xp_extent512 n, struct xp_pair512 *sum)
{
    codes_of_format(f, p, s, n, WITH_BASE, sum);
}

/* A block that is neither whole nor half. */
static void code_tail(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r, size_t first,
                      uint8_t *step, uint8_t *codes, struct xp_pair512 *distance)
{
    const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first;
    const struct xp_qstats s = xp_qstats_get(from, first / XP_QBLOCK);
    uint16_t in[XP_QBLOCK] = {0}, out[XP_QBLOCK] = {0};
    float y[XP_QBLOCK];

    memcpy(in, (const char *)r->row + 2 * first, 2 * have);
    xp_qtail_code_avx2(f, &s, xp_qintegers(from, first / XP_QBLOCK), n, step, codes);
    xp_qtail_decode_avx2(f, q->signs + first / 32, step, codes, n, y);
    xp_restore_avx512(y, r->base ? r->base + first : NULL, have, XP_BF16, out);
    for (size_t i = 0; i < have; i += 32) {
        const __m512i a = _mm512_loadu_si512(in + i), b = _mm512_loadu_si512(out + i);
        distance->even = xp_add_square512(distance->even, _mm512_sub_ps(xp_even_bf16_512(a), xp_even_bf16_512(b)));
        distance->odd = xp_add_square512(distance->odd, _mm512_sub_ps(xp_odd_bf16_512(a), xp_odd_bf16_512(b)));
    }
    if (r->decoded)
        memcpy((char *)r->decoded + 2 * first, out, 2 * have);
}

float xp_code_avx512bf16(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r,
                         uint8_t *out)
{
    const size_t blocks = q->dim / XP_QBLOCK, half = xp_half_block512(q->dim), bytes = xp_qblock_bytes(f, XP_QBLOCK);
    const int decoded = r->decoded && !r->base && f == XP_Q_INT8;
    struct xp_pair512 distance = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);
    struct steps s;

    if (r->type != XP_BF16 || (r->base && !r->typed_base) || f == XP_Q_FP8)
        return xp_code_avx512(q, f, from, r, out);
    for (size_t b = 0; b < blocks + half; b += XP_QGROUP) {
        const struct xp_extent512 n = xp_extent512(blocks, half, b);
        const struct part p = {from, b, (const char *)r->row + 256 * b, r->base ? r->base + XP_QBLOCK * b : NULL, q->signs + 4 * b,
                               decoded ? (char *)r->decoded + 256 * b : NULL, out + 2 * b, codes + b * bytes};
        xp_choose_steps512(from, b, n.whole, n.half, f, &s.s);
        const __m512 steps = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_load_si512(s.s.wire), 16));
        _mm512_store_ps(s.step, steps);
        _mm512_store_ps(s.offset, _mm512_mul_ps(steps, _mm512_set1_ps(-XP_MAGIC)));
        (r->base ? codes_with_base : decoded ? codes_decoded : codes_alone)(f, &p, &s, n, &distance);
    }
    if (!half && blocks * XP_QBLOCK < q->dim)
        code_tail(q, f, from, r, blocks * XP_QBLOCK, out + 2 * blocks, codes + blocks * bytes, &distance);
    if (r->decoded && !(decoded && xp_steps_are_usual(out, xp_qblocks(q->dim))))
        xp_dequantise_avx512bf16(q, f, out, r->base, XP_BF16, r->decoded);
    return xp_fold_pairs512(distance.even, distance.odd);
}
