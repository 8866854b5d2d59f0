/*
 * checksum.cuh - XXH3-64 of rows (hash/checksum.c): rows of more than 240 bytes by a warp, shorter ones by a thread
 *
 * The 8 sums of the long form are in lanes 8 q + l; q is one of four stripes that the warp takes at a time, because sums may be taken in any order
 * until a block of 16 stripes ends.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_CUDA_CHECKSUM_CUH
#define XP_CUDA_CHECKSUM_CUH

#include "cuda/port.cuh"

extern "C" {
#include "hash/frame.h"
}

namespace
{

constexpr unsigned CHECKSUM_SHORT = 240; /* most bytes that a thread takes */

/* XXH3's own key, as words. */
struct Key {
    uint64_t word[XP_CHECKSUM_KEY / 8];
};

constexpr uint64_t P32_1 = 0x9e3779b1, P32_2 = 0x85ebca77, P32_3 = 0xc2b2ae3d;
constexpr uint64_t P64_1 = 0x9e3779b185ebca87, P64_2 = 0xc2b2ae3d27d4eb4f, P64_3 = 0x165667b19e3779f9, P64_4 = 0x85ebca77c2b2ae63, P64_5 = 0x27d4eb2f165667c5;

/* 8 bytes of the key at any place. */
static __device__ __forceinline__ uint64_t key_at(const Key &k, unsigned at)
{
    const unsigned shift = at % 8 * 8;

    return shift ? k.word[at / 8] >> shift | k.word[at / 8 + 1] << (64 - shift) : k.word[at / 8];
}

/* n = 4 or 8 bytes at an even place. */
static __device__ __forceinline__ uint64_t bytes_at(const unsigned char *p, unsigned n)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < n / 2; i++)
        v |= (uint64_t)*reinterpret_cast<const uint16_t *>(p + 2 * i) << (16 * i);
    return v;
}

static __device__ __forceinline__ uint64_t fold128(uint64_t a, uint64_t b)
{
    return a * b ^ xp_mul_high(a, b);
}

static __device__ __forceinline__ uint64_t avalanche(uint64_t h)
{
    h = (h ^ h >> 37) * 0x165667919e3779f9;
    return h ^ h >> 32;
}

/* ---- short rows; lengths are even ---- */

static __device__ __forceinline__ uint64_t mix16(const unsigned char *p, const Key &k, unsigned at)
{
    return fold128(bytes_at(p, 8) ^ key_at(k, at), bytes_at(p + 8, 8) ^ key_at(k, at + 8));
}

static __device__ __forceinline__ uint64_t checksum2(const unsigned char *p, const Key &k)
{
    const uint64_t flip = (k.word[0] ^ k.word[0] >> 32) & 0xffffffff;
    uint64_t h = ((uint32_t)p[0] << 16 | (uint32_t)p[1] << 24 | p[1] | 2 << 8) ^ flip;

    h = (h ^ h >> 33) * P64_2;
    h = (h ^ h >> 29) * P64_3;
    return h ^ h >> 32;
}

static __device__ __forceinline__ uint64_t checksum8(const unsigned char *p, unsigned len, const Key &k)
{
    constexpr uint64_t MULTIPLIER = 0x9fb21c651e98df25;
    uint64_t h = (bytes_at(p + len - 4, 4) + (bytes_at(p, 4) << 32)) ^ key_at(k, 8) ^ key_at(k, 16);

    h ^= (h << 49 | h >> 15) ^ (h << 24 | h >> 40);
    h *= MULTIPLIER;
    h = (h ^ ((h >> 35) + len)) * MULTIPLIER;
    return h ^ h >> 28;
}

static __device__ __forceinline__ uint64_t checksum16(const unsigned char *p, unsigned len, const Key &k)
{
    const uint64_t low = bytes_at(p, 8) ^ key_at(k, 24) ^ key_at(k, 32), high = bytes_at(p + len - 8, 8) ^ key_at(k, 40) ^ key_at(k, 48);
    uint64_t swapped = 0;

    for (unsigned i = 0; i < 8; i++)
        swapped |= (low >> (8 * i) & 0xff) << (56 - 8 * i);
    return avalanche(len + swapped + high + fold128(low, high));
}

static __device__ __forceinline__ uint64_t checksum128(const unsigned char *p, unsigned len, const Key &k)
{
    uint64_t h = len * P64_1;

    for (unsigned i = 0; i < (len + 31) / 32; i++) /* from both ends */
        h += mix16(p + 16 * i, k, 32 * i) + mix16(p + len - 16 * (i + 1), k, 32 * i + 16);
    return avalanche(h);
}

static __device__ __forceinline__ uint64_t checksum240(const unsigned char *p, unsigned len, const Key &k)
{
    uint64_t h = len * P64_1;

    for (unsigned i = 0; i < 8; i++)
        h += mix16(p + 16 * i, k, 16 * i);
    h = avalanche(h);
    for (unsigned i = 8; i < len / 16; i++)
        h += mix16(p + 16 * i, k, 16 * (i - 8) + 3);
    return avalanche(h + mix16(p + len - 16, k, 136 - 17));
}

static __device__ __forceinline__ uint64_t checksum_of_short(const unsigned char *p, unsigned len, const Key &k)
{
    return len < 4 ? checksum2(p, k) : len <= 8 ? checksum8(p, len, k) : len <= 16 ? checksum16(p, len, k) : len <= 128 ? checksum128(p, len, k)
                                                                                                           : checksum240(p, len, k);
}

/* ---- long rows ---- */

/* What a lane adds for its 8 bytes, which its neighbour adds as they are. All lanes of the warp call it. */
static __device__ __forceinline__ uint64_t round_of(uint64_t data, uint64_t key)
{
    const uint64_t keyed = data ^ key;

    return (uint64_t)(uint32_t)keyed * (keyed >> 32) + __shfl_xor_sync(XP_FULL_WARP, (unsigned long long)data, 1);
}

/* Stripes [0, count) at p, in lanes by four; aligned: to 8 bytes. */
static __device__ __forceinline__ uint64_t add_stripes(const unsigned char *p, unsigned count, bool aligned, const Key &k, unsigned lane)
{
    uint64_t sum = 0;

    for (unsigned first = 0; first < count; first += 4) {
        const unsigned stripe = first + lane / 8;
        const unsigned char *from = p + 64 * stripe + 8 * (lane % 8);
        const bool mine = stripe < count;
        const uint64_t data = !mine ? 0 : aligned ? *reinterpret_cast<const uint64_t *>(from) : bytes_at(from, 8);
        const uint64_t added = round_of(data, mine ? k.word[stripe + lane % 8] : 0);
        sum += mine ? added : 0;
    }
    sum += __shfl_xor_sync(XP_FULL_WARP, (unsigned long long)sum, 8);
    return sum + __shfl_xor_sync(XP_FULL_WARP, (unsigned long long)sum, 16);
}

static __device__ __forceinline__ uint64_t first_sum(unsigned l)
{
    const uint64_t low = l == 0 ? P32_3 : l == 1 ? P64_1 : l == 2 ? P64_2 : P64_3, high = l == 4 ? P64_4 : l == 5 ? P32_2 : l == 6 ? P64_5 : P32_1;

    return l < 4 ? low : high;
}

/* The same in all lanes, which all call it. */
static __device__ __forceinline__ uint64_t checksum_of_long(const unsigned char *p, size_t len, const Key &k, unsigned lane)
{
    const unsigned l = lane % 8;
    const bool aligned = (uintptr_t)p % 8 == 0;
    const size_t blocks = (len - 1) / 1024;
    uint64_t sum = first_sum(l);

    for (size_t b = 0; b < blocks; b++) {
        sum += add_stripes(p + 1024 * b, 16, aligned, k, lane);
        sum = (sum ^ sum >> 47 ^ k.word[16 + l]) * P32_1;
    }
    sum += add_stripes(p + 1024 * blocks, (unsigned)(len - 1 - 1024 * blocks) / 64, aligned, k, lane);
    sum += round_of(bytes_at(p + len - 64 + 8 * l, 8), key_at(k, 121 + 8 * l));
    uint64_t h = sum ^ key_at(k, 11 + 8 * l);
    h = fold128(h, __shfl_xor_sync(XP_FULL_WARP, (unsigned long long)h, 1));
    h += __shfl_xor_sync(XP_FULL_WARP, (unsigned long long)h, 2);
    h += __shfl_xor_sync(XP_FULL_WARP, (unsigned long long)h, 4);
    return avalanche(h + len * P64_1);
}

} // namespace

#endif
