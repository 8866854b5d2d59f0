/*
 * code_avx2.c - a row rotated once, the error of a format foreseen, and the row coded and measured, with AVX2
 *
 * What the codes mean is compared with the row while it is in registers. Sums have the order of the contract (kernels.h): value i
 * joins partial i % 32. rotate has 8 neighbours in a vector, code those of even and of odd index.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/variants.h"
#include "hash/x86/prefetch.h"
#include "hash/x86/quantise_avx2.h"
#include "hash/x86/tail_avx2.h"
#include "hash/x86/values_avx2.h"

#include <string.h>

XP_INLINE __m256 add_square(__m256 sum, __m256 x)
{
    return _mm256_add_ps(sum, _mm256_mul_ps(x, x));
}

/* ---- rotate -------------------------------------------------------------------------------------------------------- */

struct row_sums {
    __m256 row[4], rest[4]; /* partials 8 k .. 8 k + 7 */
};

static float fold(const __m256 part[4])
{
    const __m256 eight = _mm256_add_ps(_mm256_add_ps(part[0], part[2]), _mm256_add_ps(part[1], part[3]));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* 32 values: what is left of them goes to out, the sum of its magnitudes to low and high. */
XP_INLINE void take_off(const char *row, const xp_dtype t, const float *base, const int has_base, float *out, struct row_sums *s, __m256 *low, __m256 *high)
{
    XP_UNROLL
    for (int k = 0; k < 4; k++) {
        const __m256 x = xp_load256(row + 8 * k * (t == XP_F32 ? 4 : 2), t), y = has_base ? _mm256_sub_ps(x, _mm256_loadu_ps(base + 8 * k)) : x;
        const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), y);
        s->row[k] = add_square(s->row[k], x);
        if (has_base)
            s->rest[k] = add_square(s->rest[k], y);
        if (k & 1)
            *high = _mm256_add_ps(*high, size);
        else
            *low = _mm256_add_ps(*low, size);
        _mm256_storeu_ps(out + 8 * k, y);
    }
}

/* A block. Returns the sum of the magnitudes. */
XP_INLINE float take_off_block(const char *row, const xp_dtype t, const float *base, const int has_base, float *out, struct row_sums *sums)
{
    __m256 low = _mm256_setzero_ps(), high = low;
    struct row_sums s = *sums;

    for (int i = 0; i < XP_QBLOCK; i += 32)
        take_off(row + i * (t == XP_F32 ? 4 : 2), t, has_base ? base + i : NULL, has_base, out + i, &s, &low, &high);
    *sums = s;
    return xp_fold_abs256(low, high);
}

/* A block that is not whole: values of the row are copied, zeros behind them. */
XP_INLINE void rotate_tail(const struct xp_quantiser *q, const char *row, const xp_dtype t, const float *base, const int has_base,
                           size_t first, const struct xp_rotated *to, struct row_sums *sums)
{
    const size_t n = xp_qblock_size(q->dim, first), have = q->dim - first, size = t == XP_F32 ? 4 : 2;
    const char *in = row + first * size;
    __m256 low = _mm256_setzero_ps(), high = low;
    float m[XP_QBLOCK], x[XP_QBLOCK];
    char padded[XP_QBLOCK * 4];
    struct xp_qstats stats;

    base += has_base ? first : 0;
    if (have % 32) {
        memset(padded, 0, sizeof(padded));
        in = memcpy(padded, in, have * size);
    }
    if (has_base && have % 32) {
        memset(m, 0, sizeof(m));
        base = memcpy(m, base, have * sizeof(*m));
    }
    for (size_t i = have; i < n; i++)
        x[i] = 0.0f;
    for (size_t i = 0; i < have; i += 32)
        take_off(in + i * size, t, has_base ? base + i : NULL, has_base, x + i, sums, &low, &high);
    xp_qtail_rotate_avx2(q->signs + first / 32, x, n, xp_qintegers(to, first / XP_QBLOCK), &stats);
    xp_qstats_put(to, first / XP_QBLOCK, stats);
}

XP_INLINE void rotate(const struct xp_quantiser *q, const struct xp_code_row *r, const xp_dtype t, const int has_base,
                      const struct xp_rotated *to, float sums[2])
{
    const size_t blocks = q->dim / XP_QBLOCK, bytes = XP_QBLOCK * (t == XP_F32 ? 4 : 2), groups = xp_qblocks(q->dim);
    const __m256 zero = _mm256_setzero_ps();
    struct row_sums s = {{zero, zero, zero, zero}, {zero, zero, zero, zero}};
    _Alignas(32) float x[XP_QGROUP256][XP_QBLOCK];

    for (size_t b = 0; b < blocks; b += XP_QGROUP256) {
        const size_t count = blocks - b < XP_QGROUP256 ? blocks - b : XP_QGROUP256;
        _Alignas(32) float l1[XP_QGROUP256] = {0};
        for (size_t i = 0; i < count; i++) {
            const size_t at = b + i;
            xp_prefetch_part(r->ahead, q->dim * (t == XP_F32 ? 4 : 2), at, groups); /* the kernels leave the memory idle */
            l1[i] = take_off_block((const char *)r->row + at * bytes, t, has_base ? r->base + at * XP_QBLOCK : NULL, has_base, x[i], &s);
        }
        xp_choose_scales256(l1, to, b);
        for (size_t i = 0; i < count; i++)
            xp_rotate_block256(to, b + i, x[i], q->signs + (b + i) * (XP_QBLOCK / 32));
    }
    if (blocks * XP_QBLOCK < q->dim)
        rotate_tail(q, r->row, t, r->base, has_base, blocks * XP_QBLOCK, to, &s);
    sums[0] = fold(s.row);
    sums[1] = has_base ? fold(s.rest) : sums[0];
}

void xp_rotate_avx2(const struct xp_quantiser *q, const struct xp_code_row *r, const struct xp_rotated *to, float sums[2])
{
    switch (r->type) {
    case XP_BF16: r->base ? rotate(q, r, XP_BF16, 1, to, sums) : rotate(q, r, XP_BF16, 0, to, sums); break;
    case XP_F16: r->base ? rotate(q, r, XP_F16, 1, to, sums) : rotate(q, r, XP_F16, 0, to, sums); break;
    default: r->base ? rotate(q, r, XP_F32, 1, to, sums) : rotate(q, r, XP_F32, 0, to, sums); break;
    }
}

/* ---- forecast ------------------------------------------------------------------------------------------------------ */

XP_INLINE float forecast_block(const struct xp_rotated *from, size_t b, const struct xp_qsteps256 *steps, size_t i, const int levels)
{
    const struct xp_qrounding256 k = xp_qrounding256(steps, i, levels);
    const __m256i middle = _mm256_set1_epi16((short)((levels - 1) << (steps->shift[i] - 1)));
    const __m128i cut = _mm_cvtsi32_si128((int)xp_qcut((unsigned)steps->shift[i]));
    __m256i sum = _mm256_setzero_si256();

    XP_UNROLL
    for (int j = 0; j < 8; j++) {
        const __m256i v = xp_in_steps256(_mm256_loadu_si256((const __m256i *)(xp_qintegers(from, b) + 16 * j)), &k);
        const __m256i code = _mm256_sll_epi16(xp_code_of256(v, &k), k.shift);
        const __m256i left = _mm256_sra_epi16(_mm256_sub_epi16(_mm256_add_epi16(v, middle), code), cut);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(left, left));
    }
    return from->scale[b] == 0.0f ? 0.0f : xp_qforecast((uint32_t)sum_of(sum), (uint16_t)steps->wire[i], (unsigned)steps->shift[i], XP_QBLOCK);
}

/* The steps of the group of blocks that begins with block b, a tail among them. */
static void steps_of_group(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, size_t b, struct xp_qsteps256 *to)
{
    const size_t left = xp_qblocks(q->dim) - b, count = left < XP_QGROUP256 ? left : XP_QGROUP256;

    xp_choose_steps256(from, b, count, xp_qblock_size(q->dim, (b + count - 1) * XP_QBLOCK), f, to);
}

static struct xp_qstep step_of(const struct xp_qsteps256 *s, size_t i)
{
    return (struct xp_qstep){(uint16_t)s->wire[i], (int16_t)s->recip[i], (uint16_t)s->shift[i]};
}

double xp_forecast_avx2(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from)
{
    const size_t whole = q->dim / XP_QBLOCK, blocks = xp_qblocks(q->dim), rest = q->dim % XP_QBLOCK;
    struct xp_qsteps256 steps;
    double error = 0;

    if (f == XP_Q_FP8)
        return 0;
    for (size_t b = 0; b < blocks; b++) {
        const size_t i = b % XP_QGROUP256;
        if (i == 0)
            steps_of_group(q, f, from, b, &steps);
        if (b < whole)
            error += forecast_block(from, b, &steps, i, xp_qinfo[f].levels);
    }
    if (rest && from->scale[whole] != 0.0f) {
        const struct xp_qstep step = step_of(&steps, whole % XP_QGROUP256);
        const size_t last = xp_qblock_size(q->dim, whole * XP_QBLOCK);
        error += xp_qtail_forecast_at_avx2(f, &step, xp_qintegers(from, whole), last) * xp_qshare(last, rest);
    }
    return error;
}

/* ---- code ------------------------------------------------------------------------------------------------------------- */

struct distance {
    __m256 part[4]; /* partials 0 2 .. 14, 1 3 .. 15, 16 18 .. 30, 17 19 .. 31 */
};

/* 16 values of bf16. */
XP_INLINE struct xp_split256 split_bf16(__m256i w)
{
    return (struct xp_split256){_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)),
                                _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000)))};
}

XP_INLINE __m256i joined_bf16(struct xp_split256 x)
{
    return _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(x.even), 16), _mm256_castps_si256(x.odd));
}

XP_INLINE __m256 rounded(__m256 x)
{
    return _mm256_castsi256_ps(_mm256_and_si256(xp_round_bf16_256(x), _mm256_set1_epi32((int)0xffff0000)));
}

XP_INLINE void add_distance(struct distance *d, const int half, struct xp_split256 x, struct xp_split256 y)
{
    d->part[2 * half] = add_square(d->part[2 * half], _mm256_sub_ps(x.even, y.even));
    d->part[2 * half + 1] = add_square(d->part[2 * half + 1], _mm256_sub_ps(x.odd, y.odd));
}

static float fold_distance(const struct distance *d)
{
    const __m256 even = _mm256_add_ps(d->part[0], d->part[2]), odd = _mm256_add_ps(d->part[1], d->part[3]);
    const __m128 e = _mm_add_ps(_mm256_castps256_ps128(even), _mm256_extractf128_ps(even, 1));
    const __m128 o = _mm_add_ps(_mm256_castps256_ps128(odd), _mm256_extractf128_ps(odd, 1));
    const __m128 two = _mm_add_ps(_mm_unpacklo_ps(e, o), _mm_unpackhi_ps(e, o));
    const __m128 one = _mm_add_ps(two, _mm_movehl_ps(two, two));

    return _mm_cvtss_f32(_mm_add_ss(one, _mm_movehdup_ps(one)));
}

/* w: codes, in the order of a block's integers. decoded: gets what they mean; NULL: nobody asks. */
XP_INLINE void measure_block(__m256i w[8], const uint32_t *signs, uint32_t wire, __m256i middle, const char *row, const float *base,
                             const int has_base, char *decoded, struct distance *d)
{
    const __m256 step = _mm256_castsi256_ps(_mm256_set1_epi32((int)(wire << 16)));

    xp_unrotate256(w);
    w[0] = _mm256_sub_epi16(w[0], middle);
    XP_UNROLL
    for (int i = 0; i < 8; i++) {
        struct xp_split256 y = xp_values256(w[i], signs[i / 2] >> (16 * (i & 1)), step, has_base ? base + 16 * i : NULL, has_base);
        y.even = rounded(y.even);
        y.odd = rounded(y.odd);
        if (decoded)
            _mm256_storeu_si256((__m256i *)(decoded + 32 * i), joined_bf16(y));
        add_distance(d, i & 1, split_bf16(_mm256_loadu_si256((const __m256i *)(row + 32 * i))), y);
    }
}

enum measure { MEASURE_NOT, MEASURE_ALONE, MEASURE_AND_DECODE, MEASURE_WITH_BASE };

/* Leaves the step of a tail at tail. */
XP_INLINE void code_blocks(const struct xp_quantiser *q, enum xp_qformat f, const int levels, const int bits, const int paired,
                           const struct xp_rotated *from, const struct xp_code_row *r, const enum measure measure, uint8_t *out,
                           struct distance *distance, struct xp_qstep *tail)
{
    const size_t blocks = q->dim / XP_QBLOCK, bytes = (size_t)bits * (paired ? 8 : 16);
    const int has_base = measure == MEASURE_WITH_BASE;
    uint8_t *codes = out + 2 * xp_qblocks(q->dim);
    const __m256i middle = xp_middle256(levels);
    struct distance d = *distance;
    struct xp_qsteps256 steps;
    __m256i w[8];

    for (size_t b = 0; b < xp_qblocks(q->dim); b++) {
        const size_t i = b % XP_QGROUP256;
        if (i == 0)
            steps_of_group(q, f, from, b, &steps);
        if (b == blocks) {
            *tail = step_of(&steps, i);
            break;
        }
        const struct xp_qrounding256 k = xp_qrounding256(&steps, i, levels);
        xp_put16(out + 2 * b, (uint16_t)steps.wire[i]);
        xp_codes256(xp_qintegers(from, b), &k, w);
        if (from->scale[b] == 0.0f)
            memset(codes + b * bytes, 0, bytes);
        else
            xp_put_codes256(w, levels, bits, paired, codes + b * bytes);
        if (measure != MEASURE_NOT)
            measure_block(w, q->signs + b * (XP_QBLOCK / 32), (uint32_t)steps.wire[i], middle, (const char *)r->row + b * 2 * XP_QBLOCK,
                          has_base ? r->base + b * XP_QBLOCK : NULL, has_base,
                          measure == MEASURE_AND_DECODE ? (char *)r->decoded + b * 2 * XP_QBLOCK : NULL, &d);
    }
    *distance = d;
}

/* Apart, since each is the code of all formats. */
#define CODE_BLOCKS(name, measure)                                                                                                \
    static void name(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r, \
                     uint8_t *out, struct distance *d, struct xp_qstep *tail)                                                     \
    {                                                                                                                             \
        XP_EACH_FORMAT256(f, measure)                                                                                             \
    }
#define CODE_NOT(levels, bits, paired) code_blocks(q, f, levels, bits, paired, from, r, MEASURE_NOT, out, d, tail)
#define CODE_ALONE(levels, bits, paired) code_blocks(q, f, levels, bits, paired, from, r, MEASURE_ALONE, out, d, tail)
#define CODE_WITH_BASE(levels, bits, paired) code_blocks(q, f, levels, bits, paired, from, r, MEASURE_WITH_BASE, out, d, tail)
CODE_BLOCKS(code_not_measured, CODE_NOT)
CODE_BLOCKS(code_alone, CODE_ALONE)
CODE_BLOCKS(code_with_base, CODE_WITH_BASE)

/* f: XP_Q_INT8, what rows are mostly coded in that are wanted decoded. */
static void code_and_decode(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r,
                            uint8_t *out, struct distance *d, struct xp_qstep *tail)
{
    code_blocks(q, f, 256, 8, 0, from, r, MEASURE_AND_DECODE, out, d, tail);
}

/* A block of bf16 that is not whole; y: what its codes mean, room for a whole block. */
static void measure_tail(const struct xp_code_row *r, size_t first, size_t have, float *y, struct distance *d)
{
    const size_t n = (have + 15) / 16 * 16;
    const char *row = (const char *)r->row + 2 * first;
    const float *base = r->base ? r->base + first : NULL;
    uint16_t padded[XP_QBLOCK];

    if (have < n) {
        memset(padded, 0, sizeof(padded));
        row = memcpy(padded, row, 2 * have);
    }
    for (size_t i = 0; base && i < have; i++)
        y[i] += base[i];
    for (size_t i = have; i < n; i++)
        y[i] = 0.0f;
    if (r->decoded)
        xp_restore_avx2(y, NULL, have, XP_BF16, (char *)r->decoded + 2 * first);
    for (size_t i = 0; i < n / 16; i++) {
        const struct xp_split256 v = xp_split256(y + 16 * i), w = {rounded(v.even), rounded(v.odd)};
        add_distance(d, i & 1, split_bf16(_mm256_loadu_si256((const __m256i *)(row + 32 * i))), w);
    }
}

/* A block that is not whole. */
static void code_tail(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r,
                      const struct xp_qstep *step, uint8_t *wire, uint8_t *codes, const int measured, struct distance *d)
{
    const size_t b = q->dim / XP_QBLOCK, first = b * XP_QBLOCK, n = xp_qblock_size(q->dim, first);
    float y[XP_QBLOCK];

    xp_put16(wire, step->wire);
    if (from->scale[b] != 0.0f) {
        xp_qtail_code_at_avx2(f, step, q->signs + first / 32, xp_qintegers(from, b), n, codes, measured ? y : NULL);
    } else {
        memset(codes, 0, xp_qblock_bytes(f, n));
        memset(y, 0, sizeof(y));
    }
    if (measured)
        measure_tail(r, first, q->dim - first, y, d);
}

/* How far the bytes at out are from the row. It decodes them, so that somebody may have what it makes. */
static float deviation(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_code_row *r, const uint8_t *out)
{
    return xp_deviation_avx2(q, f, out, r->base, r->type, r->row, r->decoded ? r->decoded : r->scratch);
}

/* Blocks of zeros, whose codes are not those of their integers. */
static int has_zeros(const struct xp_rotated *from, size_t blocks)
{
    int zeros = 0;

    for (size_t b = 0; b < blocks; b++)
        zeros |= from->scale[b] == 0.0f;
    return zeros;
}

float xp_code_avx2(const struct xp_quantiser *q, enum xp_qformat f, const struct xp_rotated *from, const struct xp_code_row *r,
                   uint8_t *out)
{
    const __m256 zero = _mm256_setzero_ps();
    struct distance d = {{zero, zero, zero, zero}};
    const int decoded = r->decoded && r->type == XP_BF16 && !r->base && f == XP_Q_INT8;
    const int measured = decoded || (r->type == XP_BF16 && !r->decoded);
    const size_t blocks = q->dim / XP_QBLOCK;
    struct xp_qstep tail;

    if (f == XP_Q_FP8) { /* its codes have another order than the integers */
        xp_residual_avx2(r->row, r->type, r->base, q->dim, r->residual);
        xp_quantise_avx2(q, f, r->residual, out);
        return deviation(q, f, r, out);
    }
    (!measured ? code_not_measured : r->base ? code_with_base : decoded ? code_and_decode : code_alone)(q, f, from, r, out, &d, &tail);
    if (blocks * XP_QBLOCK < q->dim)
        code_tail(q, f, from, r, &tail, out + 2 * blocks, out + 2 * xp_qblocks(q->dim) + blocks * xp_qblock_bytes(f, XP_QBLOCK), measured, &d);
    if (decoded && has_zeros(from, xp_qblocks(q->dim)))
        xp_dequantise_avx2(q, f, out, NULL, r->type, r->decoded);
    return measured ? fold_distance(&d) : deviation(q, f, r, out);
}
