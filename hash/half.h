/*
 * half.h - one value of a typed row to f32 and back, in plain C
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_HALF_H
#define XP_HASH_HALF_H

#include "crosspress/crosspress.h"

#include <string.h>

static inline float xp_f32_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static inline uint32_t xp_f32_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

static inline float xp_bf16_to_f32(uint16_t v)
{
    return xp_f32_from_bits((uint32_t)v << 16);
}

/* Exact; a NaN becomes quiet and keeps its payload, as VCVTPH2PS does. */
static inline float xp_f16_to_f32(uint16_t v)
{
    const uint32_t sign = (uint32_t)(v & 0x8000) << 16, exponent = v >> 10 & 31, mantissa = v & 1023;

    if (exponent == 31)
        return xp_f32_from_bits(sign | 0x7f800000 | (mantissa ? 0x400000 : 0) | mantissa << 13);
    if (exponent == 0) /* zero or denormal: mantissa * 2^-24, exact in f32 */
        return xp_f32_from_bits(sign | xp_f32_bits((float)mantissa * 0x1p-24f));
    return xp_f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* Value i of a row, without branches, so that loops over it become vector code: a denormal is (2^-14 + value) - 2^-14. */
static inline float xp_f16_to_f32_straight(const void *row, size_t i)
{
    uint16_t v;
    memcpy(&v, (const char *)row + 2 * i, sizeof(v));
    const uint32_t sign = (uint32_t)(v & 0x8000) << 16, exponent = v & 0x7c00, mantissa = v & 0x3ff;
    const uint32_t tiny = exponent == 0, huge = exponent == 0x7c00, quiet = (huge & (mantissa != 0)) << 22;
    const uint32_t whole = ((uint32_t)(v & 0x7fff) << 13 | quiet) + ((112 + tiny + 112 * huge) << 23), less = (113 * tiny) << 23;

    return xp_f32_from_bits(sign | xp_f32_bits(xp_f32_from_bits(whole) - xp_f32_from_bits(less)));
}

/* Value i of a row of any float type, at any alignment. */
static inline float xp_load_f32(const void *row, xp_dtype t, size_t i)
{
    uint16_t h;
    float f;

    if (t == XP_F32) {
        memcpy(&f, (const char *)row + 4 * i, sizeof(f));
        return f;
    }
    memcpy(&h, (const char *)row + 2 * i, sizeof(h));
    return t == XP_BF16 ? xp_bf16_to_f32(h) : xp_f16_to_f32(h);
}

/* To a narrower type: nearest, ties to even; overflow becomes Inf; a NaN stays one (quiet, its upper payload kept). */
static inline uint16_t xp_f32_to_bf16(float f)
{
    const uint32_t u = xp_f32_bits(f);

    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline uint16_t xp_f32_to_f16(float f)
{
    const uint32_t u = xp_f32_bits(f), rest = u & 0x7fffffffu;
    const uint32_t sign = u >> 16 & 0x8000;

    if (rest > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
    if (rest >= 0x477ff000u) /* 65520 and above */
        return (uint16_t)(sign | 0x7c00);
    if (rest >= 0x38800000u) /* normal: rebias, drop 13 bits */
        return (uint16_t)(sign | (rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13);
    /* Denormal: adding 0.5 leaves value * 2^24, rounded to even, in the lowest bits of the sum. */
    return (uint16_t)(sign | (xp_f32_bits(xp_f32_from_bits(rest) + 0.5f) - 0x3f000000u));
}

/* The reverse of xp_load_f32. */
static inline void xp_store_f32(void *row, xp_dtype t, size_t i, float f)
{
    if (t == XP_F32) {
        memcpy((char *)row + 4 * i, &f, sizeof(f));
        return;
    }
    const uint16_t h = t == XP_BF16 ? xp_f32_to_bf16(f) : xp_f32_to_f16(f);
    memcpy((char *)row + 2 * i, &h, sizeof(h));
}

#endif
