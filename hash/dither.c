/*
 * dither.c - the random part of a step that is added before rounding and taken off after decoding (C variant)
 *
 * Rounding alone makes the same error wherever it meets the same value: over many rows, as in a sum of gradients, such errors add up.
 * A number between -1/2 and 1/2 that both ends know, added before and taken off after, makes errors that know nothing of the values or
 * of each other (subtractive dither; Schuchman 1964), and costs no bytes but those of small values that would have become 0.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/rans.h"
#include "hash/signs.h"
#include "hash/variants.h"

void xp_uniform_dither_c(uint64_t key, uint64_t row, size_t groups, float *out)
{
    const uint32_t words[2] = { (uint32_t)key, (uint32_t)(key >> 32) };

    for (size_t g = 0; g < groups; g++) {
        const uint32_t counter[4] = { (uint32_t)g, (uint32_t)row, (uint32_t)(row >> 32), 1 };
        uint32_t block[4];

        xp_philox(counter, words, block);
        for (unsigned i = 0; i < XP_RANS_GROUP; i++)
            *out++ = (float)(block[i / 4] >> (i % 4 * 8) & 255) * 0x1p-8f - 255.0f / 512;
    }
}
