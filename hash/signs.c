/*
 * signs.c - Philox 4x32-10 and cuRAND's order of its words
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/signs.h"

#include <string.h>

/* cuRAND deals blocks of four words round robin to this many subsequences; the subsequence is the counter's upper half. */
#define CURAND_SUBSEQUENCES 65536

void xp_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];

    for (int r = 0; r < XP_PHILOX_ROUNDS; r++) {
        const uint64_t p0 = (uint64_t)XP_PHILOX_M0 * c0, p1 = (uint64_t)XP_PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += XP_PHILOX_W0;
        k1 += XP_PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Block b of cuRAND's sequence. */
static void curand_block(uint64_t seed, uint64_t b, uint32_t out[4])
{
    const uint64_t step = b / CURAND_SUBSEQUENCES;
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)step, (uint32_t)(step >> 32), (uint32_t)(b % CURAND_SUBSEQUENCES), 0};

    xp_philox(counter, key, out);
}

void xp_philox_words(uint64_t seed, uint64_t first, size_t n, uint32_t *out)
{
    while (n > 0) {
        uint32_t block[4];
        const size_t skip = (size_t)(first % 4), take = n < 4 - skip ? n : 4 - skip;

        curand_block(seed, first / 4, block);
        memcpy(out, block + skip, take * sizeof(*out));
        out += take;
        first += take;
        n -= take;
    }
}

void xp_signs_fill(uint64_t seed, uint32_t stream, size_t n, uint32_t *words)
{
    const size_t used = (n + 31) / 32;

    xp_philox_words(seed, (uint64_t)stream << XP_SIGNS_STREAM_SHIFT, used, words);
    if (n % 32)
        words[used - 1] &= (1u << n % 32) - 1;
    memset(words + used, 0, (xp_sign_words(n) - used) * sizeof(*words));
}
