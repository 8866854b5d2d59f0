/*
 * immintrin.h - AVX-512 for the kernels of hash/x86 on a CPU that has AVX2 only: SIMDe's, and here what it lacks or does differently
 *
 * Stands in front of the compiler's header of that name (meson.build). What is neither here nor there does not compile, as the compiler's
 * own intrinsic wants AVX-512. Where AVX2 has the instruction for half a vector it does the work, as in SIMDe (FMA, minimum, division):
 * rounding, NaN and values out of range are then the hardware's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_EMULATED_IMMINTRIN_H
#define XP_EMULATED_IMMINTRIN_H

#pragma GCC system_header /* for #include_next, and so that names below may replace those of the headers */

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include "hash/x86/unroll.h"

#include <stdlib.h>
#include <string.h>

/* No register holds these vectors: nothing is gained by unrolled code, and it would take minutes to compile. */
#undef XP_KEEP
#undef XP_UNROLL
#undef XP_INLINE
#define XP_KEEP(v) ((void)0)
#define XP_UNROLL
#define XP_INLINE static inline

#define EMULATE static inline __attribute__((always_inline))

/* A vector as an array of lanes. */
union emulated {
    __m512i i;
    __m512 ps;
    __m512d pd;
    __m256i half[2];
    __m256 half_ps[2];
    __m256d half_pd[2];
    uint16_t u16[32];
    uint32_t u32[16];
    uint64_t u64[8];
    float f32[16];
};

#define EMULATED_I(v) ((union emulated){.i = (v)})
#define EMULATED_PS(v) ((union emulated){.ps = (v)})
#define EMULATED_PD(v) ((union emulated){.pd = (v)})

/* ---- masks ------------------------------------------------------------------------------------------------------------- */

#define _cvtmask32_u32(k) ((uint32_t)(k))
#define _cvtmask64_u64(k) ((uint64_t)(k))
#define _cvtu32_mask32(k) ((__mmask32)(k))
#define _cvtu64_mask64(k) ((__mmask64)(k))
#define _store_mask32(p, k) ((void)(*(__mmask32 *)(p) = (k)))

/* Bit i of the result: whether lanes x and y at i are as said. */
#define EMULATED_COMPARE(name, vector, mask, lane, said)                          \
    EMULATE mask emulated_##name(vector a, vector b)                              \
    {                                                                             \
        lane to[2][sizeof(vector) / sizeof(lane)];                                \
        mask k = 0;                                                               \
                                                                                  \
        memcpy(to[0], &a, sizeof(a));                                             \
        memcpy(to[1], &b, sizeof(b));                                             \
        for (size_t i = 0; i < sizeof(vector) / sizeof(lane); i++) {              \
            const lane x = to[0][i], y = to[1][i];                                \
            k |= (mask)((mask)(said) << i);                                       \
        }                                                                         \
        return k;                                                                 \
    }

EMULATED_COMPARE(testn_epi16, __m512i, __mmask32, int16_t, (x & y) == 0)
EMULATED_COMPARE(cmpeq_epi16, __m512i, __mmask32, int16_t, x == y)
EMULATED_COMPARE(cmpgt_epi16, __m512i, __mmask32, int16_t, x > y)
EMULATED_COMPARE(cmpgt_epu16, __m512i, __mmask32, uint16_t, x > y)
EMULATED_COMPARE(cmplt_epu16, __m512i, __mmask32, uint16_t, x < y)
EMULATED_COMPARE(cmplt_epu32, __m512i, __mmask16, uint32_t, x < y)
EMULATED_COMPARE(half_cmpeq_epi16, __m256i, __mmask16, int16_t, x == y)
EMULATED_COMPARE(half_cmpneq_epi16, __m256i, __mmask16, int16_t, x != y)
EMULATED_COMPARE(half_cmpgt_epu16, __m256i, __mmask16, uint16_t, x > y)
EMULATED_COMPARE(half_test_epi16, __m256i, __mmask16, int16_t, (x & y) != 0)
EMULATED_COMPARE(half_testn_epi16, __m256i, __mmask16, int16_t, (x & y) == 0)
EMULATED_COMPARE(quarter_testn_epi8, __m128i, __mmask16, int8_t, (x & y) == 0)
EMULATED_COMPARE(half_test_epi8, __m256i, __mmask32, int8_t, (x & y) != 0)
#define _mm512_testn_epi16_mask emulated_testn_epi16
#define _mm512_cmpeq_epi16_mask emulated_cmpeq_epi16
#define _mm512_cmpgt_epi16_mask emulated_cmpgt_epi16
#define _mm512_cmpgt_epu16_mask emulated_cmpgt_epu16
#define _mm512_cmplt_epu16_mask emulated_cmplt_epu16
#define _mm512_cmplt_epu32_mask emulated_cmplt_epu32
#define _mm512_mask_cmpgt_epu16_mask(k, a, b) ((__mmask32)((k) & emulated_cmpgt_epu16(a, b)))
#define _mm512_mask_cmplt_epu32_mask(k, a, b) ((__mmask16)((k) & emulated_cmplt_epu32(a, b)))
#define _mm256_cmpeq_epi16_mask emulated_half_cmpeq_epi16
#define _mm256_cmpneq_epi16_mask emulated_half_cmpneq_epi16
#define _mm256_cmpgt_epu16_mask emulated_half_cmpgt_epu16
#define _mm256_test_epi16_mask emulated_half_test_epi16
#define _mm256_testn_epi16_mask emulated_half_testn_epi16
#define _mm_testn_epi8_mask emulated_quarter_testn_epi8
#define _mm256_test_epi8_mask emulated_half_test_epi8

/* Class 0x20: denormals. */
EMULATE __mmask16 emulated_fpclass_ps_mask(__m512 a, int which)
{
    const union emulated x = {.ps = a};
    unsigned k = 0;

    if (which != 0x20)
        abort();
    for (int i = 0; i < 16; i++)
        k |= (unsigned)((x.u32[i] & 0x7f800000) == 0 && (x.u32[i] & 0x007fffff) != 0) << i;
    return (__mmask16)k;
}

#define _mm512_fpclass_ps_mask emulated_fpclass_ps_mask

/* SIMDe's name for it takes an argument more than it has. */
#define _mm512_mask_cmple_epu32_mask simde_mm512_mask_cmple_epu32_mask

/* ---- memory: nothing but the chosen lanes is touched, and aligned means aligned ------------------------------------------- */

#define EMULATED_LOAD(name, vector, mask, lane)                                   \
    EMULATE vector emulated_##name(mask k, const void *p)                         \
    {                                                                             \
        lane r[sizeof(vector) / sizeof(lane)] = {0};                              \
        vector v;                                                                 \
                                                                                  \
        for (size_t i = 0; i < sizeof(r) / sizeof(r[0]); i++)                     \
            if (k >> i & 1)                                                       \
                memcpy(&r[i], (const lane *)p + i, sizeof(lane));                 \
        memcpy(&v, r, sizeof(v));                                                 \
        return v;                                                                 \
    }

#define EMULATED_STORE(name, vector, mask, lane)                                  \
    EMULATE void emulated_##name(void *p, mask k, vector v)                       \
    {                                                                             \
        lane r[sizeof(vector) / sizeof(lane)];                                    \
                                                                                  \
        memcpy(r, &v, sizeof(v));                                                 \
        for (size_t i = 0; i < sizeof(r) / sizeof(r[0]); i++)                     \
            if (k >> i & 1)                                                       \
                memcpy((lane *)p + i, &r[i], sizeof(lane));                       \
    }

EMULATED_LOAD(maskz_loadu_ps, __m512, __mmask16, uint32_t)
EMULATED_LOAD(maskz_loadu_epi32, __m512i, __mmask16, uint32_t)
EMULATED_LOAD(maskz_loadu_epi16, __m512i, __mmask32, uint16_t)
EMULATED_LOAD(maskz_loadu_epi16_256, __m256i, __mmask16, uint16_t)
EMULATED_STORE(mask_storeu_ps, __m512, __mmask16, uint32_t)
EMULATED_STORE(mask_storeu_epi32, __m512i, __mmask16, uint32_t)
EMULATED_STORE(mask_storeu_epi16, __m512i, __mmask32, uint16_t)
EMULATED_STORE(mask_storeu_epi16_256, __m256i, __mmask16, uint16_t)
#define _mm512_maskz_loadu_ps emulated_maskz_loadu_ps
#define _mm512_maskz_loadu_epi32 emulated_maskz_loadu_epi32
#define _mm512_maskz_loadu_epi16 emulated_maskz_loadu_epi16
#define _mm256_maskz_loadu_epi16 emulated_maskz_loadu_epi16_256
#define _mm512_mask_storeu_ps emulated_mask_storeu_ps
#define _mm512_mask_storeu_epi32 emulated_mask_storeu_epi32
#define _mm512_mask_storeu_epi16 emulated_mask_storeu_epi16
#define _mm256_mask_storeu_epi16 emulated_mask_storeu_epi16_256

EMULATE void *emulated_aligned(const void *p)
{
    if ((uintptr_t)p % 64)
        abort();
    return (void *)(uintptr_t)p;
}

/* SIMDe copies from any address. */
#define _mm512_load_ps(p) _mm512_loadu_ps(emulated_aligned(p))
#define _mm512_load_si512(p) _mm512_loadu_si512(emulated_aligned(p))
#define _mm512_store_ps(p, v) _mm512_storeu_ps(emulated_aligned(p), v)
#define _mm512_store_si512(p, v) _mm512_storeu_si512(emulated_aligned(p), v)

#define _mm512_i64gather_epi32(index, base, scale)                                                                         \
    _mm256_set_m128i(_mm256_i64gather_epi32((const int *)(base), EMULATED_I(index).half[1], scale),                       \
                     _mm256_i64gather_epi32((const int *)(base), EMULATED_I(index).half[0], scale))
#define _mm512_i64gather_epi64(index, base, scale)                                                                         \
    (((union emulated){.half = {_mm256_i64gather_epi64((const long long *)(base), EMULATED_I(index).half[0], scale),       \
                                _mm256_i64gather_epi64((const long long *)(base), EMULATED_I(index).half[1], scale)}}).i)

/* ---- conversions ------------------------------------------------------------------------------------------------------- */

/* f does a half of the result; lanes that become wider come from a vector of 256 bits. */
#define EMULATED_HALVES(result, f, low, high) (((union emulated){.result = {f(low), f(high)}}))
#define EMULATED_WIDEN(f, a) EMULATED_HALVES(half, f, _mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)).i

#define _mm512_cvtepi16_epi32(a) EMULATED_WIDEN(_mm256_cvtepi16_epi32, a)
#define _mm512_cvtepu16_epi32(a) EMULATED_WIDEN(_mm256_cvtepu16_epi32, a)
#define _mm512_cvtepu32_epi64(a) EMULATED_WIDEN(_mm256_cvtepu32_epi64, a)
#define _mm512_cvtepu8_epi16(a) EMULATED_WIDEN(_mm256_cvtepu8_epi16, a)
#define _mm512_cvtepu8_epi32(a) EMULATED_HALVES(half, _mm256_cvtepu8_epi32, a, _mm_srli_si128(a, 8)).i
#define _mm512_cvtepi32_pd(a) EMULATED_HALVES(half_pd, _mm256_cvtepi32_pd, _mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)).pd
#define _mm512_cvtph_ps(a) EMULATED_HALVES(half_ps, _mm256_cvtph_ps, _mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)).ps
#define _mm512_cvtepi32_ps(a) EMULATED_HALVES(half_ps, _mm256_cvtepi32_ps, EMULATED_I(a).half[0], EMULATED_I(a).half[1]).ps
#define _mm512_cvtps_epi32(a) EMULATED_HALVES(half, _mm256_cvtps_epi32, EMULATED_PS(a).half_ps[0], EMULATED_PS(a).half_ps[1]).i
#define _mm512_cvttps_epi32(a) EMULATED_HALVES(half, _mm256_cvttps_epi32, EMULATED_PS(a).half_ps[0], EMULATED_PS(a).half_ps[1]).i
#define _mm512_cvttpd_epi32(a) _mm256_set_m128i(_mm256_cvttpd_epi32(EMULATED_PD(a).half_pd[1]), _mm256_cvttpd_epi32(EMULATED_PD(a).half_pd[0]))
#define _mm512_cvtps_ph(a, how) _mm256_set_m128i(_mm256_cvtps_ph(EMULATED_PS(a).half_ps[1], how), _mm256_cvtps_ph(EMULATED_PS(a).half_ps[0], how))

EMULATE __m512 emulated_cvtepu32_ps(__m512i a)
{
    union emulated r = {.i = a};

    for (int i = 0; i < 16; i++)
        r.f32[i] = (float)r.u32[i];
    return r.ps;
}

EMULATE __m512i emulated_cvttps_epu32(__m512 a)
{
    union emulated r = {.ps = a};

    for (int i = 0; i < 16; i++) /* what has no place, and NaN, becomes all ones */
        r.u32[i] = r.f32[i] > -1.0f && r.f32[i] < 0x1p32f ? (uint32_t)r.f32[i] : UINT32_MAX;
    return r.i;
}

EMULATE __m256i emulated_cvtepi32_epi16(__m512i a)
{
    const union emulated x = {.i = a};
    union emulated r;

    for (int i = 0; i < 16; i++)
        r.u16[i] = (uint16_t)x.u32[i];
    return r.half[0];
}

EMULATE __m128i emulated_half_cvtepi16_epi8(__m256i a)
{
    const __m128i low = _mm_set1_epi16(0xff);

    return _mm_packus_epi16(_mm_and_si128(_mm256_castsi256_si128(a), low), _mm_and_si128(_mm256_extracti128_si256(a, 1), low));
}

/* To nearest even whatever the rounding mode; denormals count as zero, NaN becomes a quiet one. */
EMULATE uint16_t emulated_bf16(uint32_t bits)
{
    const uint32_t magnitude = bits & 0x7fffffff;

    if (magnitude < 0x00800000)
        return (uint16_t)(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x0040);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

EMULATE __m512bh emulated_cvtne2ps_pbh(__m512 high, __m512 low)
{
    const union emulated h = {.ps = high}, l = {.ps = low};
    union emulated r;

    for (int i = 0; i < 16; i++) {
        r.u16[i] = emulated_bf16(l.u32[i]);
        r.u16[16 + i] = emulated_bf16(h.u32[i]);
    }
    return (__m512bh)r.i;
}

#define _mm512_cvtepu32_ps emulated_cvtepu32_ps
#define _mm512_cvttps_epu32 emulated_cvttps_epu32
#define _mm512_cvtepi32_epi16 emulated_cvtepi32_epi16
#define _mm256_cvtepi16_epi8 emulated_half_cvtepi16_epi8
#define _mm512_cvtne2ps_pbh emulated_cvtne2ps_pbh

/* ---- arithmetic -------------------------------------------------------------------------------------------------------- */

#define EMULATED_BOTH(f, a, b)                                                                                             \
    (((union emulated){.half = {f(EMULATED_I(a).half[0], EMULATED_I(b).half[0]), f(EMULATED_I(a).half[1], EMULATED_I(b).half[1])}}).i)

#define _mm512_madd_epi16(a, b) EMULATED_BOTH(_mm256_madd_epi16, a, b)
#define _mm512_srli_epi16(a, by) _mm512_srl_epi16(a, _mm_cvtsi32_si128((int)(by))) /* SIMDe wants a constant where clang compiles */
#define _mm512_mulhi_epu16(a, b) EMULATED_BOTH(_mm256_mulhi_epu16, a, b)
#define _mm512_mask_sub_epi16(from, k, a, b) _mm512_mask_mov_epi16(from, k, _mm512_sub_epi16(a, b))
#define _mm512_mask_slli_epi32(from, k, a, by) _mm512_mask_mov_epi32(from, k, _mm512_slli_epi32(a, by))
#define _mm512_mask_srli_epi32(from, k, a, by) _mm512_mask_mov_epi32(from, k, _mm512_srli_epi32(a, by))
#define _mm512_maskz_srli_epi32(k, a, by) _mm512_maskz_mov_epi32(k, _mm512_srli_epi32(a, by))

#define _mm512_roundscale_ps(a, how)                                                                                       \
    (((union emulated){.half_ps = {_mm256_round_ps(EMULATED_PS(a).half_ps[0], how), _mm256_round_ps(EMULATED_PS(a).half_ps[1], how)}}).ps)

/* How 2: the smaller magnitude, with the sign of a. */
EMULATE __m512 emulated_range_ps(__m512 a, __m512 b, int how)
{
    const union emulated x = {.ps = a}, y = {.ps = b};
    union emulated r;

    if (how != 2)
        abort();
    for (int i = 0; i < 16; i++) {
        const uint32_t p = x.u32[i] & 0x7fffffff, q = y.u32[i] & 0x7fffffff;

        r.u32[i] = (x.u32[i] & 0x80000000) | (p < q ? p : q);
    }
    return r.ps;
}

#define _mm512_range_ps emulated_range_ps

EMULATE __m512i emulated_mask_shldi_epi32(__m512i from, __mmask16 k, __m512i high, __m512i low, int by)
{
    const union emulated h = {.i = high}, l = {.i = low};
    union emulated r = {.i = from};

    for (int i = 0; i < 16; i++)
        if (k >> i & 1)
            r.u32[i] = h.u32[i] << by | l.u32[i] >> (32 - by);
    return r.i;
}

EMULATE __m512i emulated_shrdv_epi64(__m512i low, __m512i high, __m512i by)
{
    const union emulated h = {.i = high}, n = {.i = by};
    union emulated r = {.i = low};

    for (int i = 0; i < 8; i++)
        if (n.u64[i] & 63)
            r.u64[i] = r.u64[i] >> (n.u64[i] & 63) | h.u64[i] << (64 - (n.u64[i] & 63));
    return r.i;
}

#define _mm512_shldi_epi32(high, low, by) emulated_mask_shldi_epi32(high, 0xffff, high, low, by)
#define _mm512_mask_shldi_epi32 emulated_mask_shldi_epi32
#define _mm512_shrdv_epi64 emulated_shrdv_epi64

/* SIMDe leaves the sign of -0 and of NaN. */
#define _mm512_abs_ps(a) _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)))

/* ---- lanes to other places ---------------------------------------------------------------------------------------------- */

EMULATE __m512i emulated_mask_expand_epi32(__m512i from, __mmask16 k, __m512i a)
{
    const union emulated x = {.i = a};
    union emulated r = {.i = from};

    for (int i = 0, next = 0; i < 16; i++)
        if (k >> i & 1)
            r.u32[i] = x.u32[next++];
    return r.i;
}

EMULATE __m512i emulated_alignr_epi32(__m512i high, __m512i low, int by)
{
    const union emulated h = {.i = high}, l = {.i = low};
    union emulated r;

    for (int i = 0; i < 16; i++)
        r.u32[i] = i + (by & 15) < 16 ? l.u32[i + (by & 15)] : h.u32[i + (by & 15) - 16];
    return r.i;
}

/* Every 8 bytes of rows are a matrix by which those of `a` are multiplied; `with` is added. */
EMULATE __m256i emulated_half_gf2p8affine(__m256i a, __m256i rows, int with)
{
    uint8_t x[32], m[32], r[32];
    __m256i v;

    memcpy(x, &a, sizeof(x));
    memcpy(m, &rows, sizeof(m));
    for (int i = 0; i < 32; i++) {
        r[i] = (uint8_t)with;
        for (int bit = 0; bit < 8; bit++)
            r[i] ^= (uint8_t)(__builtin_parity(m[i / 8 * 8 + 7 - bit] & x[i]) << bit);
    }
    memcpy(&v, r, sizeof(v));
    return v;
}

#define _mm256_gf2p8affine_epi64_epi8 emulated_half_gf2p8affine
#define _mm_gf2p8affine_epi64_epi8(a, rows, with)                                                                          \
    _mm256_castsi256_si128(emulated_half_gf2p8affine(_mm256_castsi128_si256(a), _mm256_castsi128_si256(rows), with))
#define _mm512_bslli_epi128(a, by)                                                                                         \
    (((union emulated){.half = {_mm256_bslli_epi128(EMULATED_I(a).half[0], by), _mm256_bslli_epi128(EMULATED_I(a).half[1], by)}}).i)
EMULATE __m256i emulated_half_maskz_compress_epi16(__mmask16 k, __m256i a)
{
    const union emulated x = {.half = {a}};
    union emulated r = {.half = {{0}}};

    for (int i = 0, next = 0; i < 16; i++)
        if (k >> i & 1)
            r.u16[next++] = x.u16[i];
    return r.half[0];
}

#define _mm256_maskz_compress_epi16 emulated_half_maskz_compress_epi16
#define _mm512_mask_expand_epi32 emulated_mask_expand_epi32
#define _mm512_maskz_expand_epi32(k, a) emulated_mask_expand_epi32(_mm512_setzero_si512(), k, a)
#define _mm512_alignr_epi32 emulated_alignr_epi32
#define _mm512_extractf32x8_ps(a, which) (EMULATED_PS(a).half_ps[which])
#define _mm512_shuffle_epi32(a, how)                                                                                       \
    (((union emulated){.half = {_mm256_shuffle_epi32(EMULATED_I(a).half[0], how), _mm256_shuffle_epi32(EMULATED_I(a).half[1], how)}}).i)
#define _mm512_maskz_shuffle_epi32(k, a, how) _mm512_maskz_mov_epi32(k, _mm512_shuffle_epi32(a, how))
#define _mm512_shuffle_f32x4(a, b, how) _mm512_castsi512_ps(_mm512_shuffle_i32x4(_mm512_castps_si512(a), _mm512_castps_si512(b), how))
#define _mm256_maskz_set1_epi8(k, x) _mm256_maskz_mov_epi8(k, _mm256_set1_epi8(x))
#define _mm512_mask_shuffle_i64x2(from, k, a, b, how) _mm512_mask_mov_epi64(from, k, _mm512_shuffle_i32x4(a, b, how))

#endif
