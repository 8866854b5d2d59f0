/*
 * test_signs.c - Philox against its published answers, signs against cuRAND
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "hash/signs.h"

#include <criterion/criterion.h>
#include <string.h>
#ifdef XP_HAVE_CURAND
#include <curand.h>
#endif

/* The philox4x32-10 lines of Random123's kat_vectors. */
Test(signs, philox_known_answers)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        uint32_t out[4];
        xp_philox(known[i].counter, known[i].key, out);
        for (int w = 0; w < 4; w++)
            cr_assert_eq(out[w], known[i].out[w], "vector %zu word %d: %08x, not %08x", i, w, out[w], known[i].out[w]);
    }
}

Test(signs, words_do_not_depend_on_where_one_starts)
{
    enum { N = 300 };
    /* Around the place where cuRAND's subsequences start their second round, and far behind it. */
    static const uint64_t starts[] = {0, 4 * 65536 - 150, ((uint64_t)3 << 28) - 10, (uint64_t)1 << 45};

    for (size_t s = 0; s < sizeof(starts) / sizeof(starts[0]); s++) {
        uint32_t whole[N], part[N];
        xp_philox_words(77, starts[s], N, whole);
        for (size_t first = 0; first < 12; first++)
            for (size_t n = 0; n < 12; n++) {
                xp_philox_words(77, starts[s] + first, n, part);
                cr_assert_arr_eq(part, whole + first, n * sizeof(*part));
            }
    }
}

Test(signs, streams_and_seeds_differ)
{
    uint32_t a[16], b[16];

    xp_signs_fill(1, XP_SIGNS_FOLD, 512, a);
    xp_signs_fill(1, XP_SIGNS_ROUND, 512, b);
    cr_assert_arr_neq(a, b, sizeof(a));
    xp_signs_fill(2, XP_SIGNS_FOLD, 512, b);
    cr_assert_arr_neq(a, b, sizeof(a));
    xp_signs_fill((uint64_t)1 << 32, XP_SIGNS_FOLD, 512, a);
    xp_signs_fill(0, XP_SIGNS_FOLD, 512, b);
    cr_assert_arr_neq(a, b, sizeof(a), "the upper half of the seed counts");
}

Test(signs, a_shorter_fill_is_a_prefix_with_zeros)
{
    uint32_t full[32], some[32];

    xp_signs_fill(5, 3, 1024, full);
    for (size_t n = 0; n <= 1024; n += 13) {
        memset(some, 0xff, sizeof(some));
        xp_signs_fill(5, 3, n, some);
        for (size_t i = 0; i < xp_sign_words(n) * 32; i++)
            cr_assert_eq(xp_sign(some, i), i < n ? xp_sign(full, i) : 0u, "n %zu sign %zu", n, i);
        for (size_t w = xp_sign_words(n); w < 32; w++)
            cr_assert_eq(some[w], 0xffffffff, "wrote word %zu of %zu", w, xp_sign_words(n));
    }
}

Test(signs, are_balanced_and_uncorrelated)
{
    enum { N = 1 << 16 };
    static uint32_t words[N / 32];
    long ones = 0, equal_next = 0;

    xp_signs_fill(20241108, XP_SIGNS_FOLD, N, words);
    for (size_t i = 0; i + 1 < N; i++) {
        ones += xp_sign(words, i);
        equal_next += xp_sign(words, i) == xp_sign(words, i + 1);
    }
    /* Six standard deviations of a fair coin: 6 * sqrt(N) / 2 = 768. */
    cr_assert(labs(ones - N / 2) < 768, "%ld minus signs of %d", ones, N);
    cr_assert(labs(equal_next - N / 2) < 768, "%ld equal neighbours of %d", equal_next, N);
}

#ifdef XP_HAVE_CURAND
/* The host generator needs no GPU. */
static void curand_words(uint64_t seed, uint64_t offset, size_t n, unsigned *out)
{
    curandGenerator_t g;

    cr_assert_eq(curandCreateGeneratorHost(&g, CURAND_RNG_PSEUDO_PHILOX4_32_10), CURAND_STATUS_SUCCESS);
    cr_assert_eq(curandSetPseudoRandomGeneratorSeed(g, seed), CURAND_STATUS_SUCCESS);
    cr_assert_eq(curandSetGeneratorOffset(g, offset), CURAND_STATUS_SUCCESS);
    cr_assert_eq(curandGenerate(g, out, n), CURAND_STATUS_SUCCESS);
    curandDestroyGenerator(g);
}

Test(signs, equal_curand_words)
{
    enum { N = 300000 }; /* past the first round of the 65536 subsequences */
    static unsigned theirs[N];
    static uint32_t ours[N];

    curand_words(0x123456789abcdef0, 0, N, theirs);
    xp_philox_words(0x123456789abcdef0, 0, N, ours);
    cr_assert_arr_eq(ours, theirs, sizeof(ours));
}

Test(signs, equal_curand_streams)
{
    enum { SIGNS = 4096 };
    static const uint32_t streams[] = {XP_SIGNS_FOLD, XP_SIGNS_ROUND, XP_SIGNS_ROUND + 1, XP_SIGNS_QUANTISE, 4095};

    for (size_t s = 0; s < sizeof(streams) / sizeof(streams[0]); s++) {
        unsigned theirs[SIGNS / 32];
        uint32_t ours[SIGNS / 32];
        curand_words(42, (uint64_t)streams[s] << XP_SIGNS_STREAM_SHIFT, SIGNS / 32, theirs);
        xp_signs_fill(42, streams[s], SIGNS, ours);
        cr_assert_arr_eq(ours, theirs, sizeof(ours), "stream %u", streams[s]);
    }
}
#else
Test(signs, equal_curand_words)
{
    cr_skip_test("built without cuRAND");
}

Test(signs, equal_curand_streams)
{
    cr_skip_test("built without cuRAND");
}
#endif
