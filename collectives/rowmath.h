/*
 * rowmath.h - sums and products of rows in f32, a block of columns at a time
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_ROWMATH_H
#define XP_ROWMATH_H

#include "hash/half.h"

#define XP_ROW_BLOCK 1024 /* columns summed at once: they stay in the first-level cache */

/* acc[i] += w * row[at + i] */
static inline void xp_row_add(float *restrict acc, const void *row, xp_dtype t, size_t at, size_t n, float w)
{
    if (t == XP_BF16) {
        for (size_t i = 0; i < n; i++)
            acc[i] += w * xp_load_f32(row, XP_BF16, at + i);
    } else if (t == XP_F16) {
        for (size_t i = 0; i < n; i++)
            acc[i] += w * xp_f16_to_f32_straight(row, at + i);
    } else {
        for (size_t i = 0; i < n; i++)
            acc[i] += w * xp_load_f32(row, XP_F32, at + i);
    }
}

/* row[at + i] = acc[i], rounded to the type */
static inline void xp_row_store(void *row, xp_dtype t, size_t at, size_t n, const float *restrict acc)
{
    if (t == XP_BF16) {
        for (size_t i = 0; i < n; i++)
            xp_store_f32(row, XP_BF16, at + i, acc[i]);
    } else if (t == XP_F16) {
        for (size_t i = 0; i < n; i++)
            xp_store_f32(row, XP_F16, at + i, acc[i]);
    } else {
        for (size_t i = 0; i < n; i++)
            xp_store_f32(row, XP_F32, at + i, acc[i]);
    }
}

/* <a, b> in f64: eight sums over columns i mod 8, added in order. */
static inline float xp_row_dot(const void *a, const void *b, xp_dtype t, size_t dim)
{
    double s[8] = {0}, sum = 0;
    size_t whole = dim - dim % 8;
    for (size_t i = 0; i < whole; i += 8)
        for (size_t k = 0; k < 8; k++)
            s[k] += (double)xp_load_f32(a, t, i + k) * (double)xp_load_f32(b, t, i + k);
    for (size_t k = 0; k < dim % 8; k++)
        s[k] += (double)xp_load_f32(a, t, whole + k) * (double)xp_load_f32(b, t, whole + k);
    for (size_t k = 0; k < 8; k++)
        sum += s[k];
    return (float)sum;
}

#endif
