/*
 * half.h - one value of a typed row to f32, in plain C
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

#endif
