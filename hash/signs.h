/*
 * signs.h - random signs from a counter: any bit of any stream at any time, the same on every rank and device
 *
 * The generator is Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011) in the order in which cuRAND's
 * CURAND_RNG_PSEUDO_PHILOX4_32_10 hands out its words: curandSetPseudoRandomGeneratorSeed(seed),
 * curandSetGeneratorOffset(stream << XP_SIGNS_STREAM_SHIFT), curandGenerate give the words of a stream.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_HASH_SIGNS_H
#define XP_HASH_SIGNS_H

#include <stddef.h>
#include <stdint.h>

/* A stream holds 2^28 words, 2^33 signs. Which stream serves what is part of the wire format (FORMAT.md). */
#define XP_SIGNS_STREAM_SHIFT 28
enum xp_signs_stream {
    XP_SIGNS_FOLD = 0,      /* the fold of the hash */
    XP_SIGNS_ROUND = 1,     /* between rotation r and r + 1: stream XP_SIGNS_ROUND + r */
    XP_SIGNS_QUANTISE = 8   /* the block rotation of the quantisers */
};

/* Multipliers and key increments (golden ratio, sqrt(3) - 1) of Philox 4x32. */
#define XP_PHILOX_M0 0xD2511F53u
#define XP_PHILOX_M1 0xCD9E8D57u
#define XP_PHILOX_W0 0x9E3779B9u
#define XP_PHILOX_W1 0xBB67AE85u
#define XP_PHILOX_ROUNDS 10

/* One Philox 4x32-10 block. */
void xp_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* Words first .. first + n - 1 of the sequence that cuRAND's host generator makes from this seed. */
void xp_philox_words(uint64_t seed, uint64_t first, size_t n, uint32_t *out);

/* Words that hold n signs, rounded up to whole 64-byte lines: the room that xp_signs_fill needs. */
static inline size_t xp_sign_words(size_t n)
{
    return (n + 511) / 512 * 16;
}

/* Fills xp_sign_words(n) words: bit i % 32 of word i / 32 is sign i (1 = minus) of the stream; bits from n on are 0. */
void xp_signs_fill(uint64_t seed, uint32_t stream, size_t n, uint32_t *words);

static inline unsigned xp_sign(const uint32_t *words, size_t i)
{
    return words[i / 32] >> (i % 32) & 1;
}

#endif
