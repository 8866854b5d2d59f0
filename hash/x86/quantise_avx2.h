/*
 * quantise_avx2.h - what the quantisers with AVX2 share: scales and steps of 8 blocks at once, rotation, codes to bytes
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_QUANTISE_AVX2_H
#define XP_QUANTISE_AVX2_H

#include "hash/bytes.h"
#include "hash/qblock.h"
#include "hash/x86/qblock_avx2.h"
#include "hash/x86/rows_avx2.h"

#define XP_QGROUP256 8 /* blocks that go through each step together */

/* What depends on the format alone, as constants of the code that is called with them. */
#define XP_EACH_FORMAT256(f, call)          \
    switch (f) {                            \
    case XP_Q_INT2: call(4, 2, 0); break;   \
    case XP_Q_INT25: call(5, 5, 1); break;  \
    case XP_Q_INT3: call(8, 3, 0); break;   \
    case XP_Q_INT35: call(11, 7, 1); break; \
    case XP_Q_INT4: call(16, 4, 0); break;  \
    case XP_Q_INT45: call(22, 9, 1); break; \
    case XP_Q_INT5: call(32, 5, 0); break;  \
    case XP_Q_INT55: call(45, 11, 1); break;\
    case XP_Q_INT6: call(64, 6, 0); break;  \
    case XP_Q_INT65: call(90, 13, 1); break;\
    case XP_Q_INT7: call(128, 7, 0); break; \
    case XP_Q_INT75: call(181, 15, 1); break;\
    default: call(256, 8, 0); break;        \
    }

/* ---- integers ---------------------------------------------------------------------------------------------------------- */

XP_INLINE __m256 magnitude(const float *x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(x));
}

/* Partials 0 .. 7 and 8 .. 15. */
XP_INLINE float xp_fold_abs256(__m256 low, __m256 high)
{
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

XP_INLINE float xp_sum_abs256(const float *x)
{
    __m256 low = magnitude(x), high = magnitude(x + 8);

    XP_UNROLL
    for (int k = 1; k < 8; k++) {
        low = _mm256_add_ps(low, magnitude(x + 16 * k));
        high = _mm256_add_ps(high, magnitude(x + 16 * k + 8));
    }
    return xp_fold_abs256(low, high);
}

/* Of blocks b .. b + 7. */
XP_INLINE void xp_choose_scales256(const float *sums, const struct xp_rotated *to, size_t b)
{
    const __m256 l1 = _mm256_load_ps(sums);
    const __m256 ok = _mm256_and_ps(_mm256_cmp_ps(l1, _mm256_set1_ps(XP_QMIN_L1), _CMP_GE_OQ),
                                    _mm256_cmp_ps(l1, _mm256_set1_ps(XP_QMAX_L1), _CMP_LE_OQ));

    _mm256_storeu_ps(to->scale + b, _mm256_and_ps(ok, _mm256_div_ps(_mm256_set1_ps(XP_QTARGET), l1)));
}

XP_INLINE __m256i scaled(const float *x, __m256 scale)
{
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), scale));
}

/* Signs (16 bits in index order; words lie as v0 v1 v3, v2) and the butterfly of v0: (a, b) becomes (a + b, a - b). */
XP_INLINE __m256i sign_and_pair(__m256i x, uint32_t minus)
{
    const __m256i bit = _mm256_setr_epi16(1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 4, 1 << 5, 1 << 6,
                                          1 << 7, 1 << 12, 1 << 13, 1 << 14, (short)(1 << 15));
    const __m256i swap = _mm256_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9,
                                          14, 15, 12, 13);
    const __m256i mask = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16((short)minus), bit), bit);
    const __m256i a = _mm256_sign_epi16(x, _mm256_or_si256(mask, _mm256_set1_epi16(1)));
    const __m256i b = _mm256_sign_epi16(a, _mm256_set1_epi32((int)0xffff0001));

    return _mm256_add_epi16(_mm256_shuffle_epi8(a, swap), b);
}

XP_INLINE int32_t sum_of(__m256i x)
{
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));

    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

/* Largest of 16 unsigned words. */
XP_INLINE int32_t largest_of(__m256i x)
{
    const __m128i y = _mm_max_epu16(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));

    return 0xffff - _mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(y, _mm_set1_epi32(-1))), 0);
}

/* x and signs are the block's. */
XP_INLINE void xp_rotate_block256(const struct xp_rotated *to, size_t b, const float *x, const uint32_t *signs)
{
    const __m256 scale = _mm256_set1_ps(to->scale[b]);
    __m256i w[8], squares = _mm256_setzero_si256(), peak = squares;

    XP_UNROLL
    for (int i = 0; i < 8; i++) {
        w[i] = _mm256_packs_epi32(scaled(x + 16 * i, scale), scaled(x + 16 * i + 8, scale));
        squares = _mm256_add_epi32(squares, _mm256_madd_epi16(w[i], w[i]));
        w[i] = sign_and_pair(w[i], signs[i / 2] >> (16 * (i & 1)));
    }
    xp_rotate256(w);
    XP_UNROLL
    for (int i = 0; i < 8; i++) {
        peak = _mm256_max_epu16(peak, _mm256_abs_epi16(w[i]));
        _mm256_storeu_si256((__m256i *)(xp_qintegers(to, b) + 16 * i), w[i]);
    }
    to->energy[b] = sum_of(squares);
    to->largest[b] = largest_of(peak);
}

/* ---- steps --------------------------------------------------------------------------------------------------------------- */

struct xp_qsteps256 {
    _Alignas(32) int32_t wire[XP_QGROUP256], recip[XP_QGROUP256], shift[XP_QGROUP256];
};

/* Of `count` blocks from block b on, the last of which has `last` values (quantise_avx2.c). Wire is 0 where a block is zeros. */
void xp_choose_steps256(const struct xp_rotated *r, size_t b, size_t count, size_t last, enum xp_qformat f, struct xp_qsteps256 *to);

/* ---- codes ----------------------------------------------------------------------------------------------------------------- */

XP_INLINE void store_bytes(uint8_t *p, __m256i x)
{
    _mm256_storeu_si256((__m256i *)p, x);
}

/* Bits at .. at + 1 of each byte. */
XP_INLINE __m256i quad_of(__m256i c, const int at)
{
    return xp_low_bits256(_mm256_srli_epi16(c, at), 2);
}

/* 128 elements. */
XP_INLINE void put_single(const int bits, const __m256i c[4], uint8_t *p)
{
    int at = 0;

    if (bits == 8) {
        XP_UNROLL
        for (int k = 0; k < 4; k++)
            store_bytes(p + 32 * k, c[k]);
        return;
    }
    if (bits & 4) {
        store_bytes(p, xp_join256(xp_low_bits256(c[0], 4), xp_low_bits256(c[2], 4), 4));
        store_bytes(p + 32, xp_join256(xp_low_bits256(c[1], 4), xp_low_bits256(c[3], 4), 4));
        p += 64;
        at = 4;
    }
    if (bits & 2) {
        store_bytes(p, xp_join256(xp_join256(quad_of(c[0], at), quad_of(c[1], at), 2),
                                  xp_join256(quad_of(c[2], at), quad_of(c[3], at), 2), 4));
        p += 32;
        at += 2;
    }
    if (bits & 1) {
        XP_UNROLL
        for (int k = 0; k < 4; k++)
            xp_put_plane32(p + 4 * k, c[k], at);
    }
}

/* 64 elements of an odd number of bits below 8. */
XP_INLINE void put_pair_part(const int bits, const __m256i c[2], uint8_t *p)
{
    int at = 0;

    if (bits & 4) {
        store_bytes(p, xp_join256(xp_low_bits256(c[0], 4), xp_low_bits256(c[1], 4), 4));
        p += 32;
        at = 4;
    }
    if (bits & 2) {
        const __m256i x = xp_join256(quad_of(c[0], at), quad_of(c[1], at), 4);
        const __m128i y = _mm_or_si128(_mm256_castsi256_si128(x), _mm_slli_epi16(_mm256_extracti128_si256(x, 1), 2));
        _mm_storeu_si128((__m128i *)p, y);
        p += 16;
        at += 2;
    }
    xp_put_plane32(p, c[0], at);
    xp_put_plane32(p + 4, c[1], at);
}

XP_INLINE void put_pairs(const int levels, const int bits, const __m256i w[8], uint8_t *p)
{
    const __m256i l = _mm256_set1_epi16((short)levels), low = _mm256_set1_epi16(0xff);
    __m256i lower[2], upper[2];

    XP_UNROLL
    for (int k = 0; k < 2; k++) {
        const __m256i even = _mm256_add_epi16(_mm256_mullo_epi16(w[2 * k], l), w[4 + 2 * k]);
        const __m256i odd = _mm256_add_epi16(_mm256_mullo_epi16(w[2 * k + 1], l), w[5 + 2 * k]);
        lower[k] = xp_join256(_mm256_and_si256(even, low), odd, 8);
        upper[k] = _mm256_or_si256(_mm256_srli_epi16(even, 8), _mm256_andnot_si256(low, odd));
    }
    if (bits < 8) {
        put_pair_part(bits, lower, p);
        return;
    }
    store_bytes(p, lower[0]);
    store_bytes(p + 32, lower[1]);
    put_pair_part(bits & 7, upper, p + 64);
}

/* Rounding of one block's integers. */
struct xp_qrounding256 {
    __m256i recip, middle, top;
    __m128i shift;
};

XP_INLINE struct xp_qrounding256 xp_qrounding256(const struct xp_qsteps256 *s, size_t i, const int levels)
{
    return (struct xp_qrounding256){_mm256_set1_epi16((short)s->recip[i]), _mm256_set1_epi16((short)(levels << (s->shift[i] - 1))),
                                    _mm256_set1_epi16((short)(levels - 1)), _mm_cvtsi32_si128(s->shift[i])};
}

/* 16 integers in steps of 2^-shift, and their codes. */
XP_INLINE __m256i xp_in_steps256(__m256i h, const struct xp_qrounding256 *r)
{
    return _mm256_mulhrs_epi16(h, r->recip);
}

XP_INLINE __m256i xp_code_of256(__m256i v, const struct xp_qrounding256 *r)
{
    const __m256i u = _mm256_sra_epi16(_mm256_adds_epi16(v, r->middle), r->shift);

    return _mm256_min_epi16(_mm256_max_epi16(u, _mm256_setzero_si256()), r->top);
}

/* The codes of a block, in the order of its integers. */
XP_INLINE void xp_codes256(const int16_t *h, const struct xp_qrounding256 *r, __m256i w[8])
{
    XP_UNROLL
    for (int i = 0; i < 8; i++)
        w[i] = xp_code_of256(xp_in_steps256(_mm256_loadu_si256((const __m256i *)(h + 16 * i)), r), r);
}

XP_INLINE void xp_put_codes256(const __m256i w[8], const int levels, const int bits, const int paired, uint8_t *p)
{
    __m256i c[4];

    if (paired) {
        put_pairs(levels, bits, w, p);
        return;
    }
    XP_UNROLL
    for (int k = 0; k < 4; k++)
        c[k] = xp_join256(w[2 * k], w[2 * k + 1], 8);
    put_single(bits, c, p);
}

#endif
