/*
 * tail_avx2.c - the last block of a row where it is not whole: 8, 16, 32, 64 or 128 values in registers
 *
 * Values of up to 64 keep their order, in registers of 16 words (8 values: the lower half of one), as their codes do in the bytes.
 * 128 go the way of a whole block.
 * Fields of the codes (FORMAT.md) pass through an array of bytes, one an element: all sizes are constants, so that this is a few
 * stores and loads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/x86/tail_avx2.h"
#include "hash/x86/hadamard_avx2.h"
#include "hash/x86/quantise_avx2.h"
#include "hash/x86/values_avx2.h"

#include <string.h>

#define EACH_WORDS(i, n) XP_UNROLL for (int i = 0; i < ((n) + 15) / 16; i++)

/* Calls f(..., n) with n a constant. */
#define WITH_SIZE(n, f, ...)              \
    switch (n) {                          \
    case 8: f(__VA_ARGS__, 8); break;     \
    case 16: f(__VA_ARGS__, 16); break;   \
    case 32: f(__VA_ARGS__, 32); break;   \
    case 64: f(__VA_ARGS__, 64); break;   \
    default: f(__VA_ARGS__, 128); break;  \
    }

/* ---- rotation of up to 64 values ------------------------------------------------------------------------------------------ */

/* Lanes are done in pairs of registers. Of 8 values, with zeros behind them, the upper half becomes what the lower one does. */
XP_INLINE void hadamard(__m256i *w, const int n)
{
    w[1] = n <= 16 ? _mm256_setzero_si256() : w[1];
    xp_across_i16(w, n / 16);
    xp_lanes_i16(w, n <= 16 ? 2 : n / 16);
}

/* The 16 words at h of a block of n, zeros behind them. */
XP_INLINE __m256i words_at(const int16_t *h, const int n)
{
    return n < 16 ? _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i *)h)) : _mm256_loadu_si256((const __m256i *)h);
}

/* Negates those of 16 words whose bit is set. */
XP_INLINE __m256i flip(__m256i x, uint32_t minus)
{
    const __m256i bit = _mm256_setr_epi16(1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10,
                                          1 << 11, 1 << 12, 1 << 13, 1 << 14, (short)(1 << 15));
    const __m256i mask = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16((short)minus), bit), bit);

    return _mm256_sign_epi16(x, _mm256_or_si256(mask, _mm256_set1_epi16(1)));
}

/* The sign bits of words 16 i .. 16 i + 15. */
XP_INLINE uint32_t signs_of(const uint32_t *signs, const int i)
{
    return signs[i / 2] >> (16 * (i & 1));
}

XP_INLINE float sum_abs(const float *x, const int n)
{
    __m256 low = magnitude(x), high = n < 16 ? _mm256_setzero_ps() : magnitude(x + 8);

    XP_UNROLL
    for (int i = 16; i < n; i += 16) {
        low = _mm256_add_ps(low, magnitude(x + i));
        high = _mm256_add_ps(high, magnitude(x + i + 8));
    }
    return xp_fold_abs256(low, high);
}

XP_INLINE void rotate_values(const uint32_t *signs, const float *x, const __m256 scale, int16_t *h, struct xp_qstats *s, const int n)
{
    __m256i w[4], squares = _mm256_setzero_si256(), peak = squares;

    EACH_WORDS(i, n) {
        w[i] = _mm256_packs_epi32(scaled(x + 16 * i, scale), n < 16 ? _mm256_setzero_si256() : scaled(x + 16 * i + 8, scale));
        squares = _mm256_add_epi32(squares, _mm256_madd_epi16(w[i], w[i]));
        w[i] = flip(_mm256_permute4x64_epi64(w[i], 0xd8), signs_of(signs, i));
    }
    hadamard(w, n);
    EACH_WORDS(i, n) {
        peak = _mm256_max_epu16(peak, _mm256_abs_epi16(w[i]));
        _mm256_storeu_si256((__m256i *)(h + 16 * i), w[i]);
    }
    s->energy = sum_of(squares);
    s->largest = largest_of(peak);
}

XP_INLINE void rotate(const uint32_t *signs, const float *x, int16_t *h, struct xp_qstats *s, const int n)
{
    const float l1 = sum_abs(x, n);

    *s = (struct xp_qstats){0};
    if (!(l1 >= XP_QMIN_L1 && l1 <= XP_QMAX_L1))
        return;
    s->scale = XP_QTARGET / l1;
    if (n < XP_QBLOCK) {
        rotate_values(signs, x, _mm256_set1_ps(s->scale), h, s, n);
    } else {
        const struct xp_rotated to = {h, &s->scale, &s->energy, &s->largest};
        xp_rotate_block256(&to, 0, x, signs);
    }
}

void xp_qtail_rotate_avx2(const uint32_t *signs, const float *x, size_t n, int16_t *h, struct xp_qstats *s)
{
    WITH_SIZE(n, rotate, signs, x, h, s)
}

/* ---- forecast ------------------------------------------------------------------------------------------------------------- */

XP_INLINE struct xp_qrounding256 rounding_of(const struct xp_qstep *s, unsigned levels)
{
    return (struct xp_qrounding256){_mm256_set1_epi16(s->recip), _mm256_set1_epi16((short)(levels << (s->shift - 1))),
                                    _mm256_set1_epi16((short)(levels - 1)), _mm_cvtsi32_si128(s->shift)};
}

XP_INLINE void forecast(enum xp_qformat f, const struct xp_qstep *s, const int16_t *h, float *error, const int n)
{
    const unsigned levels = xp_qinfo[f].levels;
    const struct xp_qrounding256 r = rounding_of(s, levels);
    const __m256i middle = _mm256_set1_epi16((short)((levels - 1) << (s->shift - 1)));
    const __m128i cut = _mm_cvtsi32_si128((int)xp_qcut(s->shift));
    __m256i sum = _mm256_setzero_si256();

    EACH_WORDS(i, n) {
        const __m256i v = xp_in_steps256(words_at(h + 16 * i, n), &r), code = _mm256_sll_epi16(xp_code_of256(v, &r), r.shift);
        const __m256i left = _mm256_sra_epi16(_mm256_sub_epi16(_mm256_add_epi16(v, middle), code), cut);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(left, left));
    }
    if (n < 16)
        sum = _mm256_zextsi128_si256(_mm256_castsi256_si128(sum));
    *error = xp_qforecast((uint32_t)sum_of(sum), s->wire, s->shift, (size_t)n);
}

float xp_qtail_forecast_at_avx2(enum xp_qformat f, const struct xp_qstep *step, const int16_t *h, size_t n)
{
    float error;

    WITH_SIZE(n, forecast, f, step, h, &error)
    return error;
}

float xp_qtail_forecast_avx2(enum xp_qformat f, const struct xp_qstats *s, const int16_t *h, size_t n)
{
    if (s->scale == 0.0f)
        return 0.0f;
    const struct xp_qstep step = xp_qstep_choose_avx2(f, s, h, n);
    return xp_qtail_forecast_at_avx2(f, &step, h, n);
}

/* ---- fields of the codes: `e` elements, one in a byte of c; n is a constant ------------------------------------------------- */

/* n bytes, 32 at most. */
XP_INLINE __m256i load_part(const uint8_t *p, const int n)
{
    __m128i x = _mm_setzero_si128();

    if (n >= 32)
        return _mm256_loadu_si256((const __m256i *)p);
    memcpy(&x, p, (size_t)n);
    return _mm256_zextsi128_si256(x);
}

XP_INLINE void store_part(uint8_t *p, __m256i x, const int n)
{
    const __m128i low = _mm256_castsi256_si128(x);

    if (n >= 32)
        _mm256_storeu_si256((__m256i *)p, x);
    else
        memcpy(p, &low, (size_t)n);
}

XP_INLINE void put_nibbles(const uint8_t *c, uint8_t *p, const int e)
{
    XP_UNROLL
    for (int i = 0; i < e / 2; i += 32)
        store_part(p + i, xp_join256(xp_low_bits256(load_part(c + i, e / 2), 4), xp_low_bits256(load_part(c + e / 2 + i, e / 2), 4), 4), e / 2);
}

XP_INLINE void put_quads(const uint8_t *c, unsigned at, uint8_t *p, const int e)
{
    const __m128i down = _mm_cvtsi32_si128((int)at);
    __m256i x[4];

    XP_UNROLL
    for (int k = 0; k < 4; k++)
        x[k] = xp_low_bits256(_mm256_srl_epi16(load_part(c + k * e / 4, e / 4), down), 2);
    store_part(p, xp_join256(xp_join256(x[0], x[1], 2), xp_join256(x[2], x[3], 2), 4), e / 4);
}

XP_INLINE void put_plane(const uint8_t *c, unsigned at, uint8_t *p, const int e)
{
    const __m128i up = _mm_cvtsi32_si128((int)(7 - at));

    XP_UNROLL
    for (int i = 0; i < e; i += 32) {
        const int bits = _mm256_movemask_epi8(_mm256_sll_epi16(load_part(c + i, e), up));
        memcpy(p + i / 8, &bits, e < 32 ? (size_t)(e + 7) / 8 : 4);
    }
}

/* Less than 8 bits. */
XP_INLINE void put_fields(unsigned bits, const uint8_t *c, uint8_t *p, const int e)
{
    unsigned at = 0;

    if (bits & 4) {
        put_nibbles(c, p, e);
        p += e / 2;
        at = 4;
    }
    if (bits & 2) {
        put_quads(c, at, p, e);
        p += e / 4;
        at += 2;
    }
    if (bits & 1)
        put_plane(c, at, p, e);
}

XP_INLINE void get_fields(unsigned bits, const uint8_t *p, uint8_t *c, const int e)
{
    unsigned at = 0;

    memset(c, 0, (size_t)e);
    if (bits & 4) {
        XP_UNROLL
        for (int i = 0; i < e / 2; i += 32) {
            const __m256i x = load_part(p + i, e / 2);
            store_part(c + i, xp_low_bits256(x, 4), e / 2);
            store_part(c + e / 2 + i, xp_low_bits256(_mm256_srli_epi16(x, 4), 4), e / 2);
        }
        p += e / 2;
        at = 4;
    }
    if (bits & 2) {
        const __m256i x = load_part(p, e / 4);
        const __m128i up = _mm_cvtsi32_si128((int)at);
        XP_UNROLL
        for (int k = 0; k < 4; k++) {
            uint8_t *to = c + k * e / 4;
            const __m256i field = _mm256_sll_epi16(xp_low_bits256(_mm256_srli_epi16(x, 2 * k), 2), up);
            store_part(to, _mm256_or_si256(load_part(to, e / 4), field), e / 4);
        }
        p += e / 4;
        at += 2;
    }
    if (bits & 1) {
        uint8_t plane[16] = {0};
        memcpy(plane, p, (size_t)(e + 7) / 8);
        XP_UNROLL
        for (int i = 0; i < e; i += 32)
            store_part(c + i, _mm256_or_si256(load_part(c + i, e), xp_get_plane32(plane + i / 8, 1 << at)), e);
    }
}

/* ---- codes to elements: words of a code each, or of two --------------------------------------------------------------------- */

/* Code i and code i + n / 2; n / 2 elements take their place. */
XP_INLINE void pair_up(__m256i *w, unsigned levels, const int n)
{
    const __m256i l = _mm256_set1_epi16((short)levels);

    XP_UNROLL
    for (int i = 0; i < (n + 31) / 32; i++) {
        const __m256i second = n == 8    ? _mm256_srli_si256(w[0], 8)
                               : n == 16 ? _mm256_permute2x128_si256(w[0], w[0], 1)
                                         : w[i + n / 32];
        w[i] = _mm256_add_epi16(_mm256_mullo_epi16(w[i], l), second);
    }
}

XP_INLINE void part_pairs(__m256i *w, const struct xp_qinfo *q, const int n)
{
    XP_UNROLL
    for (int i = 0; i < (n + 31) / 32; i++) {
        __m256i first, second;
        xp_part_pairs256(w[i], q, &first, &second);
        if (n == 8) {
            w[0] = _mm256_unpacklo_epi64(first, second);
        } else if (n == 16) {
            w[0] = _mm256_permute2x128_si256(first, second, 0x20);
        } else {
            w[i] = first;
            w[i + n / 32] = second;
        }
    }
}

/* The lower or the upper bytes of e elements; a block of 128 has them by turns in two registers. */
XP_INLINE void put_bytes(const __m256i *w, const int upper, uint8_t *c, const int e, const int n)
{
    XP_UNROLL
    for (int k = 0; k < (e + 31) / 32; k++) {
        const __m256i low = _mm256_set1_epi16(0xff), a = w[2 * k], b = e < 32 ? _mm256_setzero_si256() : w[2 * k + 1];
        __m256i x;
        if (n == XP_QBLOCK)
            x = upper ? _mm256_or_si256(_mm256_srli_epi16(a, 8), _mm256_andnot_si256(low, b)) : xp_join256(_mm256_and_si256(a, low), b, 8);
        else
            x = _mm256_permute4x64_epi64(upper ? _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8))
                                               : _mm256_packus_epi16(_mm256_and_si256(a, low), _mm256_and_si256(b, low)), 0xd8);
        _mm256_store_si256((__m256i *)(c + 32 * k), x);
    }
}

XP_INLINE void get_bytes(const uint8_t *c, __m256i *w, const int e, const int n)
{
    XP_UNROLL
    for (int k = 0; k < (e + 31) / 32; k++) {
        const __m256i x = _mm256_load_si256((const __m256i *)(c + 32 * k));
        w[2 * k] = n == XP_QBLOCK ? _mm256_and_si256(x, _mm256_set1_epi16(0xff)) : _mm256_cvtepu8_epi16(_mm256_castsi256_si128(x));
        w[2 * k + 1] = n == XP_QBLOCK ? _mm256_srli_epi16(x, 8) : _mm256_cvtepu8_epi16(_mm256_extracti128_si256(x, 1));
    }
}

XP_INLINE void put_elements(const __m256i *w, unsigned bits, uint8_t *p, const int e, const int n)
{
    _Alignas(32) uint8_t c[XP_QBLOCK];

    put_bytes(w, 0, c, e, n);
    if (bits & 8) {
        memcpy(p, c, (size_t)e);
        p += e;
        put_bytes(w, 1, c, e, n);
    }
    put_fields(bits & 7, c, p, e);
}

XP_INLINE void get_elements(const uint8_t *p, unsigned bits, __m256i *w, const int e, const int n)
{
    _Alignas(32) uint8_t c[XP_QBLOCK], upper[XP_QBLOCK];
    __m256i u[8];

    if (!(bits & 8)) {
        get_fields(bits, p, c, e);
        get_bytes(c, w, e, n);
        return;
    }
    memcpy(c, p, (size_t)e);
    get_bytes(c, w, e, n);
    if (bits == 8)
        return;
    get_fields(bits & 7, p + e, upper, e);
    get_bytes(upper, u, e, n);
    XP_UNROLL
    for (int i = 0; i < (e + 15) / 16; i++)
        w[i] = xp_join256(w[i], u[i], 8);
}

/* ---- code and decode -------------------------------------------------------------------------------------------------------- */

/* 16 values. */
XP_INLINE void put_values(__m256i w, __m256 step, float *out)
{
    const __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(w)), high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(w, 1));

    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(low), step));
    _mm256_storeu_ps(out + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(high), step));
}

XP_INLINE void put_split(struct xp_split256 v, float *out)
{
    const __m256 low = _mm256_unpacklo_ps(v.even, v.odd), high = _mm256_unpackhi_ps(v.even, v.odd);

    _mm256_storeu_ps(out, _mm256_permute2f128_ps(low, high, 0x20));
    _mm256_storeu_ps(out + 8, _mm256_permute2f128_ps(low, high, 0x31));
}

/* w: codes. */
XP_INLINE void mean_values(__m256i *w, unsigned levels, const uint32_t *signs, uint16_t wire, float *out, const int n)
{
    const __m256 step = _mm256_set1_ps(xp_qstep_value(wire));

    if (n == XP_QBLOCK) {
        xp_unrotate256(w);
        w[0] = _mm256_sub_epi16(w[0], xp_middle256((int)levels));
        EACH_WORDS(i, n)
            put_split(xp_values256(w[i], signs_of(signs, i), step, NULL, 0), out + 16 * i);
        return;
    }
    if (n < 16)
        w[0] = _mm256_zextsi128_si256(_mm256_castsi256_si128(w[0]));
    hadamard(w, n);
    w[0] = _mm256_sub_epi16(w[0], _mm256_zextsi128_si256(_mm_cvtsi32_si128(n * ((int)levels - 1) / 2)));
    EACH_WORDS(i, n)
        put_values(flip(w[i], signs_of(signs, i)), step, out + 16 * i);
}

XP_INLINE void code(enum xp_qformat f, const struct xp_qstep *s, const uint32_t *signs, const int16_t *h, uint8_t *codes, float *values,
                    const int n)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    const struct xp_qrounding256 r = rounding_of(s, q->levels);
    __m256i w[8], v[8];

    EACH_WORDS(i, n)
        v[i] = w[i] = xp_code_of256(xp_in_steps256(words_at(h + 16 * i, n), &r), &r);
    if (q->paired) {
        pair_up(w, q->levels, n);
        put_elements(w, q->bits, codes, n / 2, n);
    } else {
        put_elements(w, q->bits, codes, n, n);
    }
    if (values)
        mean_values(v, q->levels, signs, s->wire, values, n);
}

void xp_qtail_code_at_avx2(enum xp_qformat f, const struct xp_qstep *step, const uint32_t *signs, const int16_t *h, size_t n, uint8_t *codes,
                           float *values)
{
    WITH_SIZE(n, code, f, step, signs, h, codes, values)
}

void xp_qtail_code_avx2(enum xp_qformat f, const struct xp_qstats *s, const int16_t *h, size_t n, uint8_t *step, uint8_t *codes)
{
    if (s->scale == 0.0f) {
        xp_put16(step, 0);
        memset(codes, 0, xp_qblock_bytes(f, n));
        return;
    }
    const struct xp_qstep chosen = xp_qstep_choose_avx2(f, s, h, n);
    xp_put16(step, chosen.wire);
    xp_qtail_code_at_avx2(f, &chosen, NULL, h, n, codes, NULL);
}

void xp_qtail_encode_avx2(enum xp_qformat f, const uint32_t *signs, const float *x, size_t n, uint8_t *step, uint8_t *codes)
{
    _Alignas(32) int16_t h[XP_QBLOCK];
    struct xp_qstats s;

    if (f == XP_Q_FP8) {
        xp_qblock_encode_avx2(f, signs, x, n, step, codes);
        return;
    }
    xp_qtail_rotate_avx2(signs, x, n, h, &s);
    xp_qtail_code_avx2(f, &s, h, n, step, codes);
}

XP_INLINE void decode(enum xp_qformat f, const uint32_t *signs, const uint8_t *step, const uint8_t *codes, float *out, const int n)
{
    const struct xp_qinfo *q = &xp_qinfo[f];
    __m256i w[8];

    if (q->paired) {
        get_elements(codes, q->bits, w, n / 2, n);
        part_pairs(w, q, n);
    } else {
        get_elements(codes, q->bits, w, n, n);
    }
    mean_values(w, q->levels, signs, xp_get16(step), out, n);
}

void xp_qtail_decode_avx2(enum xp_qformat f, const uint32_t *signs, const uint8_t *step, const uint8_t *codes, size_t n, float *out)
{
    if (f == XP_Q_FP8)
        xp_qblock_decode_avx2(f, signs, step, codes, n, out);
    else
        WITH_SIZE(n, decode, f, signs, step, codes, out)
}
