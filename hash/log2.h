/*
 * log2.h - log2 of a double, the same bits on every machine: what a choice of the coder rests on must not depend on a mathematics library
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_LOG2_H
#define XP_HASH_LOG2_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "hash/anywhere.h"

/*
 * log2 of v >= 0, about 3 units in the last place off; exact for powers of two; log2(0) = -inf.
 * v = m 2^e with m about 1; s = (m - 1) / (m + 1); log(m) = 2 s (1 + s^2 / 3 + s^4 / 5 + ...), |s| < 0.172.
 */
XP_ANYWHERE double xp_log2(double v)
{
    const double log2_e = 1.4426950408889634;
    const uint64_t above_root_half = 0x0006a09e667f3bceu; /* the digits of the value next to sqrt(1/2) */
    double m, s, z, z2, z4, low, high, last;
    uint64_t bits, octave;
    int e = 0;

    if (!(v > 0) || v > 1.7976931348623157e308)
        return v == 0 ? -INFINITY : v;
    if (v < 2.2250738585072014e-308) {
        v *= 18014398509481984.0; /* 2^54 */
        e = -54;
    }
    /* m is in (sqrt(1/2), sqrt(2)], without a branch: which half of an octave a value is in cannot be guessed. */
    memcpy(&bits, &v, sizeof(bits));
    octave = (bits - above_root_half) >> 52; /* from 2^-1022: does not go below 0 */
    e += (int)octave - 1022;
    bits -= (octave - 1022) << 52;
    memcpy(&m, &bits, sizeof(m));
    s = (m - 1) / (m + 1);
    z = s * s;
    /* In pairs (Estrin), which do not wait for one another as sums of Horner's scheme do. */
    z2 = z * z;
    z4 = z2 * z2;
    low = (1.0 / 3 + z * (1.0 / 5)) + z2 * (1.0 / 7 + z * (1.0 / 9));
    high = (1.0 / 11 + z * (1.0 / 13)) + z2 * (1.0 / 15 + z * (1.0 / 17));
    last = 1.0 / 19 + z * (1.0 / 21);
    return (double)e + 2 * s * (1 + z * ((low + z4 * high) + z4 * z4 * last)) * log2_e;
}

#endif
