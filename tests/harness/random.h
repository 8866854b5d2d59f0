/*
 * random.h - random numbers of the tests; the seed is printed, and XP_TEST_SEED repeats a run
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef XP_TEST_RANDOM_H
#define XP_TEST_RANDOM_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct random {
    uint64_t state;
};

/* splitmix64. */
static inline uint64_t random_bits(struct random *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline struct random random_seeded(uint64_t seed)
{
    return (struct random){ seed };
}

/* A seed of the clock, or XP_TEST_SEED; printed on stderr with the name of the test. */
static inline struct random random_start(const char *test)
{
    const char *given = getenv("XP_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 1000003u ^ (uint64_t)clock();

    fprintf(stderr, "%s: XP_TEST_SEED=%llu\n", test, (unsigned long long)seed);
    return random_seeded(seed);
}

/* 0 .. n - 1. */
static inline size_t random_below(struct random *r, size_t n)
{
    return (size_t)(random_bits(r) % n);
}

/* 0 <= x < 1. */
static inline double random_unit(struct random *r)
{
    return (double)(random_bits(r) >> 11) * 0x1p-53;
}

static inline double random_normal(struct random *r)
{
    double u = random_unit(r), v = random_unit(r);

    return sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v);
}

#endif
