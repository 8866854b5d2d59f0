/*
 * values.h - typed values to double and back, written without any code of the library
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TEST_VALUES_H
#define XP_TEST_VALUES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "crosspress/crosspress.h"

static inline double value_get(const void *row, xp_dtype t, size_t i)
{
    uint16_t h;
    uint32_t w;
    float f;

    if (t == XP_F32) {
        memcpy(&f, (const char *)row + 4 * i, 4);
        return f;
    }
    memcpy(&h, (const char *)row + 2 * i, 2);
    if (t == XP_BF16) {
        w = (uint32_t)h << 16;
        memcpy(&f, &w, 4);
        return f;
    }
    double sign = h & 0x8000 ? -1 : 1, m = h & 0x3ff;
    int e = h >> 10 & 31;
    if (e == 31)
        return m != 0 ? NAN : sign * INFINITY;
    return sign * (e ? ldexp(m + 1024, e - 25) : ldexp(m, -24));
}

/* Nearest value of the type, ties to even; overflow gives infinity. */
static inline void value_put(void *row, xp_dtype t, size_t i, double v)
{
    float f = (float)v;
    uint32_t w;
    uint16_t h;

    memcpy(&w, &f, 4);
    if (t == XP_F32) {
        memcpy((char *)row + 4 * i, &f, 4);
        return;
    }
    if (t == XP_BF16) {
        h = isnan(v) ? 0x7fc0 : (uint16_t)((w + 0x7fff + (w >> 16 & 1)) >> 16);
    } else {
        int e = 0;
        double a = fabs(v), unit;

        h = signbit(v) ? 0x8000 : 0;
        if (isnan(v)) {
            h |= 0x7e00;
        } else if (a >= 65520) {
            h |= 0x7c00;
        } else if (a > 0) {
            frexp(a, &e);
            unit = ldexp(1, e < -13 ? -24 : e - 11);
            a = nearbyint(a / unit) * unit;
            frexp(a, &e);
            if (a > 0)
                h = (uint16_t)(h | (e < -13 ? (unsigned)ldexp(a, 24) : (unsigned)(e + 14) << 10 | ((unsigned)ldexp(a, 11 - e) & 0x3ff)));
        }
    }
    memcpy((char *)row + 2 * i, &h, 2);
}

/* |a - b| and |a| over two rows. */
static inline double value_distance(const void *a, const void *b, xp_dtype t, size_t dim)
{
    double sum = 0;

    for (size_t i = 0; i < dim; i++) {
        double d = value_get(a, t, i) - value_get(b, t, i);
        sum += d * d;
    }
    return sqrt(sum);
}

static inline double value_norm(const void *a, xp_dtype t, size_t dim)
{
    double sum = 0;

    for (size_t i = 0; i < dim; i++)
        sum += value_get(a, t, i) * value_get(a, t, i);
    return sqrt(sum);
}

#endif
